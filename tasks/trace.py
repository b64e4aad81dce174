"""How a user's micro-update goes on: scores before its first step and after each epoch."""

from __future__ import annotations

import pandas as pd

from tasks.adapters.bank import AdapterState
from tasks.cell import CellOutcome
from tasks.context import Trial, count_tokens, padding_id
from tasks.personal_training import own_slots
from tasks.scoring import score_adapters
from tasks.training import train_bank
from tasks.variants import not_scored


def trace_updates(trial: Trial, parent: AdapterState | None) -> CellOutcome:
    """Train each user's adapter as ``personalize`` does, and score it all the way; none is kept.

    No updates is the adapter that a user starts from. What is scored after an epoch is the very
    adapter on its way to the arm's own, not one whose schedule would have ended there. A user
    whose adapter fails has no scores at all, so that all numbers of updates have the same users.
    """
    spec = trial.spec
    skipped = [report for key in spec.users for report in not_scored(trial, trial.users[key])]
    able = [key for key in spec.users if key not in {report.slot for report in skipped}]
    if not able:
        return CellOutcome(spec, slots=skipped)
    with trial.timed("setup"):
        bank, plans = own_slots(trial, able, parent)
    steps = {plan.slot: plan.steps_per_epoch for plan in plans}
    frames: list[pd.DataFrame] = []

    def score(epochs: int) -> None:
        frame = score_adapters(trial, bank, {key: key for key in able}, "own")
        updates = frame["user_id"].map(steps) * epochs
        frames.append(frame.assign(epochs=epochs, updates=updates))

    def after_epoch(epoch: int) -> dict[str, float]:
        score(epoch + 1)
        return {}

    score(0)
    with trial.timed("train"):
        reports = train_bank(
            trial.runtime, bank, plans, pad_token_id=padding_id(trial.base), after_epoch=after_epoch
        )
    count_tokens(trial, reports)
    good = {report.slot for report in reports if report.status == "ok"}
    every = pd.concat(frames, ignore_index=True)
    items = every[every["user_id"].isin(good)].reset_index(drop=True)
    return CellOutcome(spec, slots=reports + skipped, items=items if len(items) else None)
