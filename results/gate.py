"""The no-harm gate: a user's adapter is kept only where it gains on exchanges nothing else used.

The gate's exchanges are the later half of each user's validation part; training, early stopping and
searches never see them, and the decision never sees the test part. So the gated arm is an arm like
any other, with test scores of its own: the personal adapter's where it was kept, the shared
adapter's (rollback) where it was not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from results.contrasts import GATED, gate_fallback
from results.estimates import OracleNull, oracle_null
from results.pairing import CollectedTables
from results.record import GATE_SPLIT, MetricInfo

GATE_COLUMNS = ["arm", "fallback", "seed", "user_id", "gain", "n_items", "kept", "lift"]
ORACLE_COLUMNS = ["arm", "fallback", "seed", "n_users", "kept", "gated_lift", "own_lift"]
ORACLE_COLUMNS += ["oracle_gain", "null_mean", "null_high"]


@dataclass(frozen=True, slots=True)
class Gate:
    """What the gate decided and what it brought.

    Attributes:
        choices: ``GATE_COLUMNS``: per gated arm, seed and user the mean gain over the fallback on
            ``n_items`` gate items (NaN without any), whether the adapter was kept, and the lift on
            test that it would have had (no part of the decision).
        oracles: ``ORACLE_COLUMNS``: per gated arm and seed the share kept, mean test lifts of the
            gated and of the ungated arm over the fallback, and the oracle that picks each user's
            better arm after the fact, with its permutation null.
    """

    choices: pd.DataFrame
    oracles: pd.DataFrame


def gate_choices(table: pd.DataFrame, metric: str, *, higher_is_better: bool) -> pd.DataFrame:
    """Whose adapter is kept: ``GATE_COLUMNS``, empty where no arm was scored on the gate.

    Args:
        table: the collector's scores; the split ``gate`` decides, ``test`` gives ``lift``.
        metric: the primary metric.
        higher_is_better: its direction.

    A user without a gate item, or without an adapter that came out well, falls back.
    """
    sign = 1.0 if higher_is_better else -1.0
    chosen = table[(table["metric"] == metric) & (table["slice"] == "all")]
    gate, test = (_by_user(chosen[chosen["split"] == split]) for split in (GATE_SPLIT, "test"))
    arms = sorted({str(arm) for arm in gate.index.get_level_values("arm")})
    parts = [
        _choices(arm, fallback, gate, test, sign=sign)
        for arm in arms
        if (fallback := gate_fallback(arm)) in arms
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=GATE_COLUMNS)


def _by_user(rows: pd.DataFrame) -> pd.DataFrame:
    """``value, n_items`` by arm, seed and user, all as plain values."""
    plain = rows.astype({"arm": str, "user_id": str})
    return plain.set_index(["arm", "seed", "user_id"])[["value", "n_items"]].sort_index()


def _choices(
    arm: str, fallback: str, gate: pd.DataFrame, test: pd.DataFrame, *, sign: float
) -> pd.DataFrame:
    """Every user that the fallback has a test score of, in order."""
    users = _rows_of(test, fallback).index

    def of(source: pd.DataFrame, name: str, column: str = "value") -> pd.Series[float]:
        return _rows_of(source, name)[column].reindex(users)

    gain = sign * (of(gate, arm) - of(gate, fallback))
    lift = sign * (of(test, arm) - of(test, fallback))
    found = pd.DataFrame(
        {
            "arm": arm,
            "fallback": fallback,
            "gain": gain.to_numpy(),
            "n_items": of(gate, arm, "n_items").fillna(0).astype(int).to_numpy(),
            # No test score, no adapter to keep.
            "kept": ((gain > 0) & lift.notna()).to_numpy(),
            "lift": lift.to_numpy(),
        },
        index=users,
    ).reset_index()
    return found[GATE_COLUMNS]


def _rows_of(rows: pd.DataFrame, arm: str) -> pd.DataFrame:
    """One arm's rows by seed and user."""
    there = rows[rows.index.get_level_values("arm") == arm]
    return there.reset_index("arm", drop=True)


def gated_scores(table: pd.DataFrame, choices: pd.DataFrame) -> pd.DataFrame:
    """The table with the gated arms' test scores, each user's from the adapter that was chosen.

    Rows of the split ``gate`` have done their work and are left out.
    """
    plain = table[table["split"] != GATE_SPLIT]
    if choices.empty:
        return _without_gate(plain)
    plain = plain.astype({"arm": str, "user_id": str})
    test = plain[plain["split"] == "test"]
    parts = [plain]
    for arm, rows in choices.groupby("arm", sort=True):
        used = pd.DataFrame(
            {
                "seed": rows["seed"],
                "user_id": rows["user_id"],
                "arm": np.where(rows["kept"], rows["arm"], rows["fallback"]),
            }
        )
        parts.append(test.merge(used, on=["arm", "seed", "user_id"]).assign(arm=f"{arm}{GATED}"))
    whole = pd.concat(parts, ignore_index=True)[list(table.columns)]
    for name in ("arm", "user_id", "metric", "split", "slice"):
        whole[name] = whole[name].astype("category")
    order = ["slice", "arm", "seed", "split", "user_id", "metric"]
    return whole.sort_values(order, kind="stable", ignore_index=True)


def _without_gate(table: pd.DataFrame) -> pd.DataFrame:
    if isinstance(table["split"].dtype, pd.CategoricalDtype):
        table = table.assign(split=table["split"].cat.remove_unused_categories())
    return table.reset_index(drop=True)


def gate_outcome(
    collected: CollectedTables, choices: pd.DataFrame, metric: str, *, seed: int
) -> Gate:
    """The choices, and what they brought beside the oracle and its null.

    Args:
        collected: gives the items of both arms; the oracle's null needs them.
        choices: from ``gate_choices``.
        metric: the primary metric.
        seed: of the permutations.
    """
    rows = []
    for key, part in choices.groupby(["arm", "fallback", "seed"], sort=True):
        arm, fallback, number = str(key[0]), str(key[1]), int(str(key[2]))
        oracle = _oracle(collected, arm, fallback, number, metric, seed=seed)
        lifts = part["lift"].fillna(0.0)
        rows.append(
            {
                "arm": arm,
                "fallback": fallback,
                "seed": number,
                "n_users": len(part),
                "kept": int(part["kept"].sum()),
                "gated_lift": float(lifts.where(part["kept"], 0.0).mean()),
                "own_lift": float(part["lift"].mean()),
                "oracle_gain": oracle.gain,
                "null_mean": oracle.null_mean,
                "null_high": oracle.null_high,
            }
        )
    return Gate(choices, pd.DataFrame(rows, columns=ORACLE_COLUMNS))


def _oracle(
    collected: CollectedTables, arm: str, fallback: str, number: int, metric: str, *, seed: int
) -> OracleNull:
    info: Mapping[str, MetricInfo] = collected.metrics
    sign = 1.0 if info[metric].higher_is_better else -1.0
    columns = ["item_id", "user_id", metric]
    own, other = (
        collected.items(name, seed=number, columns=columns).set_index("item_id")
        for name in (arm, fallback)
    )
    both = own.join(other[metric].rename("fallback"), how="inner").dropna()
    return oracle_null(
        both["user_id"].to_numpy(),
        sign * both[metric].to_numpy(),
        sign * both["fallback"].to_numpy(),
        rng=np.random.default_rng(seed),
    )
