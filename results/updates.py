"""Validation gain against the number of updates: how each user's adapter comes to be what it is.

A micro-update is scored before its first step and after each epoch, by the likelihood of the true
replies on the earlier half of validation; the later half is the gate's, and test is never looked
at. These scores are in no other table, and they answer no declared question.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from results.cold_warm import MIN_USERS, too_few
from results.files import DECIMALS
from results.record import Record
from results.resampling import Floats, bootstrap_means, percentile_interval

PURPOSE = "trace"
METRIC = "nll"
SCORE_COLUMNS = ["arm", "seed", "user_id", "epochs", "updates", METRIC, "n_items"]
MISSING_COLUMNS = ["arm", "seed", "user_id", "reason"]
TABLE_COLUMNS = [
    *("arm", "seed", "epochs", "updates", "n_users", "gain", "low", "high"),
    *("share_gaining", "more", "more_low", "more_high", "note"),
]
USER_COLUMNS = ["arm", "user_id", "epochs", "updates", METRIC, "gain", "n_items"]


def _empty(columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=columns)


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What the cells gave: ``scores`` has ``SCORE_COLUMNS``, ``missing`` who has none and why."""

    scores: pd.DataFrame = field(default_factory=lambda: _empty(SCORE_COLUMNS))
    missing: pd.DataFrame = field(default_factory=lambda: _empty(MISSING_COLUMNS))


@dataclass(frozen=True, kw_only=True)
class Updates:
    """Numbers of the comparison; both tables are empty where no such cell was planned.

    ``table`` has ``TABLE_COLUMNS``, a row per arm and number of epochs: the mean over users of
    ``updates`` (steps taken by then) and of ``gain``, the fall of the user's mean negative
    log-likelihood since 0 updates, in nats per token; the share of users whose gain is above 0;
    ``more`` is the mean gain since the row before. Intervals are 95 % percentile intervals over
    users, NaN below ``MIN_USERS``, and then ``note`` says so. An arm without any scored user has
    one row, with the reason. ``users`` has ``USER_COLUMNS``, for every user and number of epochs.
    """

    table: pd.DataFrame
    users: pd.DataFrame

    @property
    def arms(self) -> list[str]:
        """Arms with scores, in the order of the plan."""
        return list(dict.fromkeys(self.users["arm"]))

    @property
    def seed(self) -> int | None:
        """The training seed that was traced; None without scores."""
        return int(self.table["seed"].iloc[0]) if len(self.table) else None

    def rows(self, arm: str) -> pd.DataFrame:
        """One arm's rows, ascending."""
        return self.table[self.table["arm"] == arm]


def traced_scores(record: Record, path: Path) -> pd.DataFrame:
    """Mean likelihood of each user and number of updates of one cell: ``SCORE_COLUMNS``."""
    items = pq.read_table(path, columns=["user_id", "epochs", "updates", METRIC]).to_pandas()
    groups = items.groupby(["user_id", "epochs"], sort=False)
    found = groups.agg(
        updates=("updates", "first"), nll=(METRIC, "mean"), n_items=(METRIC, "size")
    ).reset_index()
    named: pd.DataFrame = found.assign(arm=record.arm, seed=record.seed)
    return named[SCORE_COLUMNS]


def joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The scores of several cells as one table; empty where there are none."""
    parts = [frame for frame in frames if len(frame)]
    return pd.concat(parts, ignore_index=True) if parts else _empty(SCORE_COLUMNS)


def gain_by_updates(traced: Traced, *, seed: int, resamples: int) -> Updates:
    """Curves of all traced arms.

    Args:
        traced: The cells' scores, of one training seed per arm.
        seed: Seed of the resamples.
        resamples: Number of resamples of users.
    """
    users = _with_gains(traced.scores)
    rows = []
    for arm in dict.fromkeys([*traced.scores["arm"], *traced.missing["arm"]]):
        lost = traced.missing[traced.missing["arm"] == arm]
        mine = users[users["arm"] == arm]
        if len(mine):
            rows += _curve(mine, lost, seed=seed, resamples=resamples)
        else:
            note = f"n/a: {_reasons(lost)}"
            rows.append({"arm": arm, "seed": lost["seed"].iloc[0], "n_users": 0, "note": note})
    return Updates(table=pd.DataFrame(rows, columns=TABLE_COLUMNS), users=users)


def _with_gains(scores: pd.DataFrame) -> pd.DataFrame:
    """Each user's gain over no updates, arms in order, users and numbers ascending."""
    if not len(scores):
        return _empty([*USER_COLUMNS, "seed"])
    start = scores[scores["epochs"] == 0].set_index(["arm", "user_id"])[METRIC]
    keys = pd.MultiIndex.from_frame(scores[["arm", "user_id"]])
    gains = start.reindex(keys).to_numpy(dtype=np.float64) - scores[METRIC].to_numpy(np.float64)
    place = {arm: number for number, arm in enumerate(dict.fromkeys(scores["arm"]))}
    # As tables show it: a gain that none of them shows is float dust and helps nobody.
    frame = scores.assign(gain=np.round(gains, DECIMALS) + 0.0, place=scores["arm"].map(place))
    ordered = frame.sort_values(["place", "user_id", "epochs"], ignore_index=True)
    return ordered[[*USER_COLUMNS, "seed"]]


def _curve(
    users: pd.DataFrame, lost: pd.DataFrame, *, seed: int, resamples: int
) -> list[dict[str, Any]]:
    """Rows of one arm."""
    gains = users.pivot(index="user_id", columns="epochs", values="gain").to_numpy(np.float64)
    updates = users.groupby("epochs")["updates"].mean()
    steps = np.diff(gains, axis=1, prepend=np.nan)
    n = len(gains)
    whole = _intervals(gains, seed=seed, resamples=resamples)
    more = _intervals(steps[:, 1:], seed=seed, resamples=resamples)
    notes = [too_few(n)] if n < MIN_USERS else []
    notes += [f"not traced: {_reasons(lost)}"] if len(lost) else []
    return [
        {
            "arm": users["arm"].iloc[0], "seed": int(users["seed"].iloc[0]),
            "epochs": int(epochs), "updates": float(updates[epochs]), "n_users": n,
            "gain": gains[:, k].mean(), "low": whole[0][k], "high": whole[1][k],
            "share_gaining": float((gains[:, k] > 0).mean()) if k else np.nan,
            "more": steps[:, k].mean(),
            "more_low": more[0][k - 1] if k else np.nan,
            "more_high": more[1][k - 1] if k else np.nan,
            "note": "; ".join(notes),
        }
        for k, epochs in enumerate(updates.index)
    ]  # fmt: skip


def _intervals(columns: Floats, *, seed: int, resamples: int) -> tuple[Floats, Floats]:
    """Of the columns' means over the same resamples of users; NaN where users are too few."""
    if len(columns) < MIN_USERS or not columns.shape[1]:
        missing = np.full(columns.shape[1], np.nan)
        return missing, missing
    draws = bootstrap_means(columns, rng=np.random.default_rng(seed), resamples=resamples)
    return percentile_interval(draws)


def _reasons(lost: pd.DataFrame) -> str:
    """«2 users (no exchange to score in split choice)», the reasons in order."""
    counts = lost.groupby("reason", sort=False)["user_id"].nunique()
    return ", ".join(f"{n} user{'' if n == 1 else 's'} ({why})" for why, n in counts.items())
