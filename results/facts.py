"""What the report tells but cannot know: the caller's facts about data, model and stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from results.document import Section
from results.repetition import Repetition


class Facts(TypedDict, total=False):
    """All optional; what is not given is told as not recorded, never guessed.

    ``stages`` names the stages that were run (``prepare, baseline, few_shot, global, per_persona,
    cluster, cold_start, persona_prediction, ablation``). ``splits_valid`` and ``splits_detail``
    come from the validation of the split; ``time_order`` says by what sessions were ordered,
    ``left_out`` how many users can get an adapter of their own, and who gets none, or is in no
    split, and why. ``baseline_repeat`` compares two runs of a cell of the baseline.
    ``persona_prediction`` has ``accuracy, low, chance, null_99`` and, with adaptation,
    ``difference, difference_low, difference_high``; ``persona_findings`` are its sentences for
    the summary. ``warnings`` stand above all else; ``data_warnings`` are of the preparation.
    ``few_shot`` has ``offered`` (exchanges per user) and ``shown`` (mean per item).
    ``sections`` replaces the blocks of a section by key: ``cold_warm``, ``persona_prediction``,
    ``ablations``, ``clusters``; ``search`` and ``spent`` are sections of their own.
    """

    study: str
    command: str
    report_command: str
    dataset: str
    dataset_license: str
    model: str
    model_revision: str
    data_sha256: str
    items_sha256: str
    split_counts: Mapping[str, int]
    split_rule: str
    time_order: str
    left_out: Sequence[str]
    warnings: Sequence[str]
    data_warnings: Sequence[str]
    prompt: str
    prompt_changes: Sequence[str]
    decoding: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, str]
    seconds: Mapping[str, float]
    stages: Sequence[str]
    splits_valid: bool
    splits_detail: str
    baseline_repeat: Repetition
    persona_prediction: Mapping[str, float]
    persona_findings: Sequence[str]
    few_shot: Mapping[str, float]
    sections: Mapping[str, Section]
    finished_utc: str
