"""The record: what the ledger keeps of one cell, as a strict and versioned schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1


ARM_PURPOSES = ("train", "evaluate", "personalize")
"""Purposes of cells that belong to an arm; scores of others never meet the arms' scores."""


GATE_SPLIT = "gate"
"""The part of validation that the no-harm gate alone may look at."""


class RecordError(ValueError):
    """A record that cannot be read or does not fit its files."""


class Strict(BaseModel):
    """Base of the record's parts: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Strict):
    """One file beside the record, to be found again by size and hash."""

    bytes: int
    sha256: str


class MetricInfo(Strict):
    """How to read a metric: its direction and unit travel with the numbers."""

    higher_is_better: bool
    unit: str
    title: str


class SlotRecord(Strict):
    """What became of one adapter (a user's, a cluster's, everybody's)."""

    slot: str
    status: Literal["ok", "failed", "skipped"]
    reason: str | None = None
    steps: int = 0
    examples: int = 0
    trained_tokens: int = 0
    losses: tuple[float, ...] = ()
    shift_norms: tuple[float, ...] = ()


class ParentRef(Strict):
    """The cell that this one starts from, pinned by the hash of its adapters."""

    cell_id: str
    adapters_sha256: str


class Record(Strict):
    """``results/ledger/<cell_id>/record.json``.

    ``spec`` is the canonical config whose hash is ``cell_id``. ``status`` is ``ok``, ``partial``
    (some slots failed) or ``failed``. Files: ``items.parquet`` (one row per item × control),
    ``adapters.safetensors``, ``scores.parquet`` and ``queries.jsonl`` (one row per query × way of
    ranking), ``profiles.json``, each optional.
    """

    schema_version: Literal[1] = 1
    cell_id: str
    arm: str
    purpose: Literal[
        "train",
        "evaluate",
        "repeat",
        "personalize",
        "adapt_from_few",
        "adopt",
        "identify",
        "try",
        "trace",
    ]
    grouping: str
    adapter: str
    """``none``, ``lora`` or ``prefix``."""
    seed: int
    split: str
    users: tuple[str, ...]
    status: Literal["ok", "partial", "failed"]
    error: str | None = None
    spec: dict[str, Any]
    parent: ParentRef | None = None
    parents: tuple[ParentRef, ...] = ()
    """Cells whose per-user adapters were used together; those without an adapter left out."""
    slots: tuple[SlotRecord, ...] = ()
    curve: tuple[dict[str, float], ...] = ()
    metrics: dict[str, MetricInfo] = {}
    counts: dict[str, int] = {}
    seconds: dict[str, float] = {}
    files: dict[str, FileEntry] = {}
    attempt: str
    """Unique name of the attempt that produced this record."""
    attempts: int = 1
    finished_utc: str
    environment: dict[str, str] = {}
    """Versions, commit, hardware class of the worker; no host names, no paths."""
