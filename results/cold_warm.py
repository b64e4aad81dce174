"""Cold start against warm start: scores after none, few and all of a user's first exchanges.

Cold-start users are in no other table: their cells are told from the arms' by their purpose. The
numbers here answer no declared question, so they stand outside the families of tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from results.record import Record
from results.resampling import Floats, bootstrap_means, percentile_interval
from results.stats import without_dust

PURPOSE = "adapt_from_few"
METRIC = "rouge_l"
NONE, ALL = "0", "all"
STARTS = ("cold", "warm")
MIN_USERS = 6
"""A percentile interval of n users lies between their lowest and highest value, which covers the
median with probability 1 - 2 ** (1 - n): below six users that is less than 95 %."""
SCORE_COLUMNS = [
    *("adapter", "seed", "start", "exchanges", "used", "user_id"),
    *("score", "n_items"),
]
TABLE_COLUMNS = [
    *("adapter", "start", "exchanges", "mean_used", "n_users", "n_seeds", "mean", "low", "high"),
    *("lift", "lift_low", "lift_high", "helped", "tied", "hurt"),
    *("minus_warm", "minus_warm_low", "minus_warm_high", "note"),
]
_ITEM_COLUMNS = ["user_id", "exchanges", "exchanges_used", "cold_start", METRIC]


@dataclass(frozen=True, kw_only=True)
class ColdWarm:
    """Numbers of the comparison; both tables are empty where no such cell was run.

    ``table`` has ``TABLE_COLUMNS``: per adapter, start (cold or warm) and number of exchanges the
    mean over users of their mean ROUGE-L, the mean lift over no exchanges (same users), and, for
    cold users, their mean lift minus that of the warm ones. Intervals are 95 % percentile
    intervals over users; NaN below ``MIN_USERS``, and then ``note`` says so. ``users`` has
    adapter, start, exchanges, user_id, score, lift (means over seeds).
    """

    table: pd.DataFrame
    users: pd.DataFrame

    def rows(self, adapter: str, start: str) -> pd.DataFrame:
        """One curve: its rows in the order of numbers of exchanges."""
        table = self.table
        return table[(table["adapter"] == adapter) & (table["start"] == start)]

    @property
    def adapters(self) -> list[str]:
        """Adapters with scores, sorted."""
        return sorted(set(self.table["adapter"]))

    def n_users(self, start: str) -> int:
        """Users of one start that were scored."""
        return int(self.users.loc[self.users["start"] == start, "user_id"].nunique())


def few_scores(record: Record, path: Path) -> pd.DataFrame:
    """Mean score of each user and number of exchanges of one cell: ``SCORE_COLUMNS``."""
    items = pq.read_table(path, columns=_ITEM_COLUMNS).to_pandas()
    groups = items.groupby(["cold_start", "exchanges", "user_id"], sort=False)
    found = groups.agg(
        used=("exchanges_used", "first"), score=(METRIC, "mean"), n_items=(METRIC, "count")
    ).reset_index()
    # A user none of whose true replies has a word has no score.
    found = found[found["n_items"] > 0]
    start = np.where(found["cold_start"], *STARTS)
    named: pd.DataFrame = found.assign(adapter=record.adapter, seed=record.seed, start=start)
    return named[SCORE_COLUMNS]


def compare_starts(scores: pd.DataFrame, *, seed: int, resamples: int) -> ColdWarm:
    """Curves of all adapters and both starts.

    Args:
        scores: ``SCORE_COLUMNS``, any number of cells.
        seed: Seed of the resamples.
        resamples: Number of resamples of users.
    """
    users = _with_lifts(scores)
    seeds = {key: part["seed"].nunique() for key, part in scores.groupby(["adapter", "start"])}
    rows = []
    for (adapter, start), curve in users.groupby(["adapter", "start"], sort=True):
        for number in sorted(set(curve["exchanges"]), key=_place):
            part = curve[curve["exchanges"] == number]
            warm = users[
                (users["adapter"] == adapter)
                & (users["start"] == "warm")
                & (users["exchanges"] == number)
            ]
            against = _lifts(warm) if start == "cold" else np.empty(0)
            row = _row(part, against, seed=seed, resamples=resamples)
            named = {"adapter": adapter, "start": start, "exchanges": number}
            rows.append(named | {"n_seeds": seeds[adapter, start]} | row)
    columns = ["adapter", "start", "exchanges", "user_id", "score", "lift"]
    return ColdWarm(table=pd.DataFrame(rows, columns=TABLE_COLUMNS), users=users[columns])


def _with_lifts(scores: pd.DataFrame) -> pd.DataFrame:
    """Each user's mean over seeds, and the lift over no exchanges."""
    keys = ["adapter", "start", "user_id"]
    means = scores.groupby([*keys, "exchanges"], sort=False)[["score", "used"]].mean()
    frame = means.reset_index()
    none = frame[frame["exchanges"] == NONE].set_index(keys)["score"]
    base = none.reindex(pd.MultiIndex.from_frame(frame[keys])).to_numpy(dtype=np.float64)
    score = frame["score"].to_numpy(dtype=np.float64)
    # Means over seeds of equal scores may differ by their last bits.
    scale = float(np.abs(score).max(initial=0.0))
    return frame.assign(lift=without_dust(score - base, scale=scale))


def _place(number: str) -> float:
    return float("inf") if number == ALL else float(number)


def _lifts(part: pd.DataFrame) -> Floats:
    return np.asarray(part["lift"], dtype=np.float64)


def _row(part: pd.DataFrame, warm: Floats, *, seed: int, resamples: int) -> dict[str, Any]:
    """Numbers of one point of a curve."""
    lifts, n = _lifts(part), len(part)
    both = np.column_stack([part["score"].to_numpy(dtype=np.float64), lifts])
    low = high = np.full(2, np.nan)
    draws = np.empty((0, 2))
    if n >= MIN_USERS:
        draws = bootstrap_means(both, rng=np.random.default_rng(seed), resamples=resamples)
        low, high = percentile_interval(draws)
    mean, lift = both.mean(axis=0)
    return {
        "mean_used": float(part["used"].mean()), "n_users": n,
        "mean": mean, "low": low[0], "high": high[0],
        "lift": lift, "lift_low": low[1], "lift_high": high[1],
        "helped": int((lifts > 0).sum()), "tied": int((lifts == 0).sum()),
        "hurt": int((lifts < 0).sum()),
        **_minus_warm(lift, draws[:, 1], warm, seed=seed, resamples=resamples),
        "note": "" if n >= MIN_USERS else too_few(n),
    }  # fmt: skip


def _minus_warm(
    lift: float, draws: Floats, warm: Floats, *, seed: int, resamples: int
) -> dict[str, float]:
    """Mean lift of cold users minus that of warm ones, who are resampled apart."""
    low = high = np.full(1, np.nan)
    if len(draws) and len(warm) >= MIN_USERS:
        others = bootstrap_means(warm, rng=np.random.default_rng(seed + 1), resamples=resamples)
        low, high = percentile_interval(draws - others[:, 0])
    size = lift - float(warm.mean()) if len(warm) else float("nan")
    ends = {"minus_warm_low": float(low[0]), "minus_warm_high": float(high[0])}
    return {"minus_warm": size, **ends}


def too_few(n_users: int) -> str:
    """Why there is no interval."""
    users = f"{n_users} user" + ("" if n_users == 1 else "s")
    return f"n/a: {users}; an interval needs {MIN_USERS}"


def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The scores of several cells as one table; empty where there are none."""
    if not frames:
        return pd.DataFrame(columns=SCORE_COLUMNS)
    return pd.concat(frames, ignore_index=True)
