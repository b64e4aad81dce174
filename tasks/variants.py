"""Training variants side by side: a search's trial over users × variants in one bank."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from data.schema import UserData
from tasks.adapters.bank import AdapterBank, AdapterState
from tasks.cell import CellOutcome, SlotReport
from tasks.config import TaskError
from tasks.context import (
    Trial,
    bank_for,
    count_tokens,
    item_count,
    padding_id,
    slot_seed,
)
from tasks.personal_training import online_of, sources_of, too_few
from tasks.scoring import score_adapters
from tasks.splits import scored_sessions
from tasks.training import Example, SlotPlan, train_bank, within_budget


def try_variants(trial: Trial, parent: AdapterState | None) -> CellOutcome:
    """One adapter per user and training variant, in one bank; each is scored, none is kept.

    A user has the same stream of chance under every variant, the one of ``personalize``: variants
    differ by what they say alone, and each equals the adapter that it would be by itself.

    Raises:
        TaskError: no variants, or ones that no bank can hold together.
    """
    spec = trial.spec
    if not spec.variants:
        raise TaskError(f"cell of arm {spec.arm!r} is to try trainings but names none")
    skipped = [report for key in spec.users for report in not_scored(trial, trial.users[key])]
    able = [key for key in spec.users if key not in {report.slot for report in skipped}]
    if not able:
        return CellOutcome(spec, slots=skipped)
    with trial.timed("setup"):
        bank = _bank(trial, able, parent)
        plans = [
            SlotPlan(_slot(key, k), spec.variants[k], slot_seed(spec, key), examples)
            for key in able
            for k, examples in enumerate(_examples_of_each(trial, trial.users[key]))
        ]
    with trial.timed("train"):
        reports = train_bank(trial.runtime, bank, plans, pad_token_id=padding_id(trial.base))
    count_tokens(trial, reports)
    good = {report.slot for report in reports if report.status == "ok"}
    frames = [
        score_adapters(trial, bank, adapter_of, "own").assign(variant=k)
        for k in range(len(spec.variants))
        if (adapter_of := {key: _slot(key, k) for key in able if _slot(key, k) in good})
    ]
    items = pd.concat(frames, ignore_index=True) if frames else None
    return CellOutcome(spec, slots=reports + skipped, items=items)


def _slot(user: str, variant: int) -> str:
    return f"{user}@{variant}"


def not_scored(trial: Trial, user: UserData) -> list[SlotReport]:
    """The report of a user without an own adapter or an exchange to score; nothing otherwise."""
    if reports := too_few(user):
        return reports
    split = trial.spec.split
    if item_count(scored_sessions(user, split)):
        return []
    return [SlotReport(user.user_key, "skipped", f"no exchange to score in split {split}")]


def _bank(trial: Trial, users: Sequence[str], parent: AdapterState | None) -> AdapterBank:
    """Slots of user × variant, all variants of a user from the same start."""
    places = range(len(trial.spec.variants))
    slots = {_slot(key, k): key for key in users for k in places}
    starts = sources_of(trial, users, parent)
    source_of = None if starts is None else {slot: starts[key] for slot, key in slots.items()}
    return bank_for(trial, slots=tuple(slots), parent=parent, source_of=source_of)


def _examples_of_each(trial: Trial, user: UserData) -> list[tuple[Example, ...]]:
    """The user's examples under each variant; nested, so the longest list is rendered for all."""
    variants, sessions = trial.spec.variants, len(user.of_split("online"))
    wanted = [sessions if one.examples is None else one.examples for one in variants]
    whole = variants[0].model_copy(update={"examples": max(wanted), "token_budget": None})
    every = online_of(trial, user, whole)
    return [
        within_budget(every[:number], one.token_budget)
        for number, one in zip(wanted, variants, strict=True)
    ]
