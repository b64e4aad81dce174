"""What single items tell beside the users' means: lifts per item, reliability, examples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from results.contrasts import BASELINE, arm_order, is_swapped
from results.pairing import CollectedTables, scored_split
from results.stats import reliability

EXAMPLE_COLUMNS = ["arm", "user_id", "item_id", "query", "reference"]
EXAMPLE_COLUMNS += ["before", "after", "before_score", "after_score"]
RELIABILITY_COLUMNS = ["arm", "of", "icc", "reliability", "split_half", "n_users"]
RELIABILITY_COLUMNS += ["items_per_user", "note"]
MANY_ITEMS = 100_000


def item_scores(collected: CollectedTables, arm: str, *, metric: str) -> pd.Series:
    """Scores of an arm's items, mean over seeds, indexed by user_id and item_id."""
    split, table = scored_split(collected.table)
    parts = [
        _with_columns(collected, arm, int(seed), split, ["user_id", "item_id", metric])
        for seed in sorted(set(table.loc[table["arm"] == arm, "seed"]))
    ]
    frames = [part for part in parts if len(part)]
    if not frames:
        empty = pd.MultiIndex.from_arrays([[], []], names=["user_id", "item_id"])
        return pd.Series(index=empty, dtype=float, name=metric)
    stacked = pd.concat(frames, ignore_index=True).dropna(subset=[metric])
    return stacked.groupby(["user_id", "item_id"], sort=True)[metric].mean()


def _with_columns(
    collected: CollectedTables, arm: str, seed: int, split: str, columns: Sequence[str]
) -> pd.DataFrame:
    """Items by column; an empty table where they lack one of the columns."""
    try:
        return collected.items(arm, seed=seed, split=split, columns=columns)[list(columns)]
    except (KeyError, ValueError):
        return pd.DataFrame(columns=list(columns))


def item_lifts(
    collected: CollectedTables, arm: str, reference: str, *, metric: str, higher_is_better: bool
) -> pd.DataFrame:
    """``user_id, lift`` of every item that both arms answered, positive where the arm is better."""
    own, other = (item_scores(collected, name, metric=metric) for name in (arm, reference))
    both = pd.concat([own, other], axis=1, join="inner", keys=["own", "other"])
    lift = both["own"] - both["other"]
    signed = lift if higher_is_better else -lift
    return signed.rename("lift").reset_index()[["user_id", "lift"]]


def reliability_table(
    collected: CollectedTables, arms: Sequence[str], *, metric: str, seed: int
) -> pd.DataFrame:
    """How reliable a user's mean score and lift over the baseline are, for each arm."""
    rows = []
    base = item_scores(collected, BASELINE, metric=metric)
    for arm in sorted((arm for arm in arms if not is_swapped(arm)), key=arm_order):
        scores = item_scores(collected, arm, metric=metric)
        tables = {"score": scores}
        if arm != BASELINE:
            tables["lift"] = (scores - base).dropna()
        for name, values in tables.items():
            if not len(values):
                continue
            found = reliability(
                values.index.get_level_values("user_id"),
                values.to_numpy(dtype=np.float64),
                rng=np.random.default_rng(seed),
                splits=50 if len(values) < MANY_ITEMS else 5,
            )
            numbers = (found.icc, found.reliability, found.split_half, found.n_users)
            rows.append((arm, name, *numbers, found.items_per_user, found.note))
    return pd.DataFrame(rows, columns=RELIABILITY_COLUMNS)


def sample_examples(
    collected: CollectedTables,
    arm: str,
    *,
    metric: str,
    users: Sequence[str],
    per_user: int,
    reference_arm: str = BASELINE,
) -> pd.DataFrame:
    """Items before (baseline) and after (own adapter) of some users, drawn by hash, not by score.

    Returns ``EXAMPLE_COLUMNS``; empty where either arm kept no texts. The first seed is shown.
    """
    split, table = scored_split(collected.table)
    sides = []
    columns = ["user_id", "item_id", "query", "reference", "output", metric]
    for name in (arm, reference_arm):
        seeds = sorted(set(table.loc[table["arm"] == name, "seed"]))
        found = _with_columns(collected, name, int(seeds[0]), split, columns) if seeds else None
        if found is None or found.empty:
            return pd.DataFrame(columns=EXAMPLE_COLUMNS)
        sides.append(found[found["user_id"].isin(list(users))])
    after, before = sides
    both = after.merge(
        before[["user_id", "item_id", "output", metric]],
        on=["user_id", "item_id"],
        suffixes=("_after", "_before"),
    )
    names = {f"{what}_{side}": f"{side}{to}" for side in ("before", "after")
             for what, to in (("output", ""), (metric, "_score"))}  # fmt: skip
    both = both.rename(columns=names).assign(arm=arm, draw=both["item_id"].map(_draw))
    both = both.sort_values(["user_id", "draw"], kind="stable")
    return both.groupby("user_id").head(per_user)[EXAMPLE_COLUMNS].reset_index(drop=True)


def _draw(item_id: object) -> str:
    """A fixed place in a shuffled order that no score can influence."""
    return hashlib.sha256(str(item_id).encode()).hexdigest()
