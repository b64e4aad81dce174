"""Adapters that several users share: trained on whole sessions, stopped early on validation.

An epoch is better where its macro validation ROUGE-L is higher. Where that is the same in all
epochs, as it is when a weak base never meets a word of the true replies, their likelihood decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.schema import ItemId, Session, UserData
from data.words import has_words
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
from tasks.track import Score
from tasks.training import Example, SlotPlan, train_bank


def train_shared(trial: Trial, parent: AdapterState | None) -> CellOutcome:
    """Shared adapters from whole train sessions, stopped early on validation."""
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

    def after_epoch(epoch: int) -> Mapping[str, Score]:
        scores = _validation_scores(trial, bank, groups)
        macro, likelihood = (
            float(np.mean(column)) for column in zip(*scores.values(), strict=True)
        )
        told = {"epoch": float(epoch), "val_rouge_l": macro}
        curve().append(told | {"val_nll": -likelihood})
        trial.progress("validation", told)
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
) -> dict[str, tuple[float, float]]:
    """Macro validation ROUGE-L of every slot and, where that says nothing, minus their NLL.

    Both are means over the slot's users of means over items, the NLL per token. ROUGE-L leaves out
    true replies without a word. Users without a validation item do not count; a slot without any
    has the score 0 throughout, so its first epoch is kept.
    """
    adapter_of = {user.user_key: slot for slot, members in groups.items() for user in members}
    limit = trial.spec.evaluation.validation_sessions

    def sessions_of(user: UserData) -> Sequence[Session]:
        return choosing_sessions(user)[:limit]

    with trial.timed("validation"):
        replies = decode(trial, bank, decoding_jobs(trial, bank, adapter_of, sessions_of))
    overlaps: dict[str, list[float]] = {slot: [] for slot in groups}
    likelihoods: dict[str, list[float]] = {slot: [] for slot in groups}
    for key, slot in adapter_of.items():
        answered = [
            (session.messages[turn].text, replies[str(ItemId(key, session.session_id, turn))])
            for session in sessions_of(trial.users[key])
            for turn in session.item_turns
        ]
        scores = [
            rouge_l(reference, reply_text(trial, reply))
            for reference, reply in answered
            if has_words(reference)
        ]
        overlaps[slot] += [float(np.mean(scores))] if scores else []
        nlls = [reply.reference_nll / reply.reference_tokens for _, reply in answered]
        likelihoods[slot] += [-float(np.mean(nlls))] if nlls else []
    return {slot: (_mean(overlaps[slot]), _mean(likelihoods[slot])) for slot in groups}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


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
