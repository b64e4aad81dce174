"""Adapters that several users share: trained on whole sessions, stopped early on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.schema import ItemId, Session, UserData
from tasks.adapters.bank import AdapterBank, AdapterState
from tasks.cell import CellOutcome, SlotReport
from tasks.context import (
    Trial,
    as_example,
    bank_for,
    count_tokens,
    padding_id,
    render,
    slot_seed,
    training_of,
)
from tasks.grouping import slots_of
from tasks.metrics.rouge import rouge_l
from tasks.scoring import decode, decoding_jobs, reply_text
from tasks.splits import choosing_sessions
from tasks.training import Example, SlotPlan, train_bank


def train_shared(trial: Trial, parent: AdapterState | None) -> CellOutcome:
    """Shared adapters from whole train sessions, stopped early on validation ROUGE-L."""
    spec = trial.spec
    config = training_of(spec)
    groups = slots_of(list(trial.users.values()), spec.grouping)
    with trial.timed("setup"):
        bank = bank_for(trial, slots=tuple(groups), parent=parent)
        plans = [
            SlotPlan(slot, config, slot_seed(spec, slot), _session_examples(trial, members))
            for slot, members in groups.items()
        ]
    without_checkpoint: dict[str, Any] = {}

    def curve() -> list[dict[str, float]]:
        # Looked up each time: a checkpoint brings the curve of the epochs before when it is opened.
        kept = trial.checkpoint
        notes = without_checkpoint if kept is None else kept.notes
        found: list[dict[str, float]] = notes.setdefault("curve", [])
        return found

    def after_epoch(epoch: int) -> Mapping[str, float]:
        scores = _validation_scores(trial, bank, groups)
        macro = float(np.mean(list(scores.values())))
        curve().append({"epoch": float(epoch), "val_rouge_l": macro})
        trial.progress("validation", {"epoch": float(epoch), "val_rouge_l": macro})
        return scores

    with trial.timed("train"):
        slots = train_bank(
            trial.runtime,
            bank,
            plans,
            pad_token_id=padding_id(trial.base),
            after_epoch=after_epoch,
            checkpoint=trial.checkpoint,
        )
    _add_epoch_losses(curve(), plans, slots)
    count_tokens(trial, slots)
    return CellOutcome(
        spec, slots=slots, adapters=bank.state(base=trial.base.fingerprint), curve=curve()
    )


def _session_examples(trial: Trial, members: Sequence[UserData]) -> tuple[Example, ...]:
    """Whole train sessions: all replies of a session in one pass over it."""
    return tuple(
        as_example(rendered)
        for user in members
        for session in user.of_split("train")
        if session.item_turns
        for rendered in render(trial, session, session.item_turns)
    )


def _validation_scores(
    trial: Trial, bank: AdapterBank, groups: Mapping[str, Sequence[UserData]]
) -> dict[str, float]:
    """Macro validation ROUGE-L of every slot: mean over its users of the mean over items.

    Users without a validation item do not count; a slot without any has the score 0 throughout,
    so its first epoch is kept.
    """
    adapter_of = {user.user_key: slot for slot, members in groups.items() for user in members}
    limit = trial.spec.evaluation.validation_sessions

    def sessions_of(user: UserData) -> Sequence[Session]:
        return choosing_sessions(user)[:limit]

    with trial.timed("validation"):
        replies = decode(trial, bank, decoding_jobs(trial, bank, adapter_of, sessions_of))
    means: dict[str, list[float]] = {slot: [] for slot in groups}
    for key, slot in adapter_of.items():
        scores = [
            rouge_l(
                session.messages[turn].text,
                reply_text(trial, replies[str(ItemId(key, session.session_id, turn))]),
            )
            for session in sessions_of(trial.users[key])
            for turn in session.item_turns
        ]
        if scores:
            means[slot].append(float(np.mean(scores)))
    return {slot: float(np.mean(own)) if own else 0.0 for slot, own in means.items()}


def _add_epoch_losses(
    curve: list[dict[str, float]], plans: Sequence[SlotPlan], slots: Sequence[SlotReport]
) -> None:
    """Beside each epoch's validation score: its mean training loss, and the steps done by then."""
    for row in curve:
        epoch = int(row["epoch"])
        losses: list[float] = []
        for plan, report in zip(plans, slots, strict=True):
            steps = plan.steps_per_epoch
            losses += report.losses[epoch * steps : (epoch + 1) * steps]
        row["train_loss"] = float(np.mean(losses))
        row["step"] = float((epoch + 1) * max(plan.steps_per_epoch for plan in plans))
