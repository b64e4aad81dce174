"""One cell from start to end on one machine: train what it asks for, decode, score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from data.schema import UserData
from tasks.adapters.bank import AdapterState
from tasks.adapters.peft_io import save_state
from tasks.base_model import BaseModel
from tasks.cell import CellOutcome, CellSpec, SlotReport
from tasks.checkpoint import TrainingCheckpoint
from tasks.config import TaskError
from tasks.context import Progress, Trial, bank_for, silent
from tasks.encoder import Encoder
from tasks.identify import identify, write_identification
from tasks.metrics.catalog import METRICS
from tasks.personal_training import adapt_from_few, personalize
from tasks.runtime import Runtime
from tasks.scoring import evaluate
from tasks.shared_training import train_shared
from tasks.trace import trace_updates
from tasks.variants import try_variants

LIKELIHOOD_ALONE = ("evaluate", "personalize", "try", "trace")
"""Purposes that may score the true replies' likelihood and generate nothing."""


def run_cell(
    spec: CellSpec,
    *,
    users: Sequence[UserData],
    base: BaseModel,
    encoder: Encoder,
    parent: AdapterState | None = None,
    progress: Progress = silent,
    checkpoint: TrainingCheckpoint | None = None,
) -> CellOutcome:
    """Run one cell; a pure function of its arguments (times apart).

    Args:
        spec: what to do; ``spec.users`` names the block.
        users: the block's users, in the order of ``spec.users``.
        base: the frozen base model that ``spec.model`` names.
        encoder: the sentence encoder that ``spec.evaluation`` names.
        parent: adapters of ``spec.parent`` or of all ``spec.parents``, or those to be adopted.
        progress: called with a stage's name and its numbers.
        checkpoint: where a ``train`` cell keeps its state and goes on from.

    Raises:
        TaskError: the arguments do not fit the spec.
    """
    if tuple(user.user_key for user in users) != spec.users:
        raise TaskError("the users given are not those of the cell's block")
    # Blocks in which nobody got an adapter are parents without one.
    if not spec.parents and (spec.parent is None and spec.adopted_sha256 is None) != (
        parent is None
    ):
        raise TaskError(f"cell of arm {spec.arm!r} names parent {spec.parent}; given: {parent}")
    if not spec.generate and spec.purpose not in LIKELIHOOD_ALONE:
        raise TaskError(
            f"cell of arm {spec.arm!r} asks to {spec.purpose} without generating replies; "
            f"only {', '.join(LIKELIHOOD_ALONE)} can score likelihoods alone"
        )
    torch.set_num_threads(spec.threads)
    trial = Trial(
        spec,
        {user.user_key: user for user in users},
        base,
        encoder,
        Runtime.of(base.model),
        progress,
        checkpoint,
    )
    steps = {
        "train": train_shared,
        "evaluate": evaluate,
        "repeat": evaluate,
        "personalize": personalize,
        "adapt_from_few": adapt_from_few,
        "adopt": _adopt,
        "identify": _identify,
        "try": try_variants,
        "trace": trace_updates,
    }
    with trial.timed("total"):
        outcome = steps[spec.purpose](trial, parent)
    return replace(outcome, seconds=trial.seconds, counts=trial.counts)


def _identify(trial: Trial, parent: AdapterState | None) -> CellOutcome:
    """Whose message is this? See ``tasks.identify``."""
    outcome = identify(
        trial.spec,
        users=list(trial.users.values()),
        base=trial.base,
        encoder=trial.encoder,
        runtime=trial.runtime,
        adapters=parent,
        timed=trial.timed,
    )
    trial.counts |= outcome.counts
    return outcome


def _adopt(trial: Trial, parent: AdapterState | None) -> CellOutcome:
    """Adapters from elsewhere, once they have been put into a bank of this base."""
    assert parent is not None
    bank = bank_for(trial, slots=parent.slots, parent=parent)
    slots = [SlotReport(slot=slot, status="ok") for slot in bank.slots]
    return CellOutcome(trial.spec, slots=slots, adapters=bank.state(base=trial.base.fingerprint))


def write_outcome(outcome: CellOutcome, folder: Path) -> None:
    """Write ``outcome.json`` and, where there are any, items, adapters and scores of queries."""
    folder.mkdir(parents=True, exist_ok=True)
    if outcome.items is not None:
        outcome.items.to_parquet(folder / "items.parquet", index=False)
    if outcome.adapters is not None:
        save_state(outcome.adapters, folder / "adapters.safetensors")
    if outcome.identification is not None:
        write_identification(outcome.identification, folder)
    summary = {
        "spec": outcome.spec.model_dump(mode="json"),
        "slots": [asdict(report) for report in outcome.slots],
        "curve": outcome.curve,
        "seconds": {name: round(value, 3) for name, value in outcome.seconds.items()},
        "counts": outcome.counts,
        "metrics": {
            name: {
                "higher_is_better": metric.higher_is_better,
                "unit": metric.unit,
                "title": metric.title,
            }
            for name, metric in METRICS.items()
        },
    }
    (folder / "outcome.json").write_text(json.dumps(summary, allow_nan=False), encoding="utf-8")
