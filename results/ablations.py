"""Ablations: what one quantity does to an arm, each variant against the arm's default. Pure.

Variants answer no declared question, so they stand outside the families of tests and in no table
of the main arms. Likelihoods are scored for all seeds and replies are generated for the first one
alone: a variant and its default are compared on the seeds that both have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from results.estimates import seed_interval
from results.pairing import seed_scores, wide_scores
from results.record import MetricInfo
from results.resampling import Floats

LIKELIHOOD = "nll"
"""The metric that needs no generated reply."""
TABLE_COLUMNS = [
    *("ablation", "default", "arm", "value", "metric", "scored", "seeds", "n_users"),
    *("mean", "default_mean", "lift", "ci_low", "ci_high", "mean_examples", "users_with_fewer"),
    "note",
]
NAN = float("nan")


def is_variant(arm: str) -> bool:
    """Whether an arm is an ablation's variant, ``<default arm>.<name>``."""
    return "." in arm


@dataclass(frozen=True, slots=True)
class Point:
    """An arm's place on an ablation's axis."""

    ablation: str
    arm: str
    default: str
    """The arm that it is compared with; its own name for the default itself."""
    value: float | str
    """The ablated quantity."""
    nested: bool = False
    """Whether arm and default start from the same adapter: then a seed moves each user alone."""
    examples: int | None = None
    """Exchanges that a user's adapter is trained on, where that is the ablated quantity."""
    detail: str = ""
    """What else sets the default apart from its variants."""

    @property
    def is_default(self) -> bool:
        """Whether the others of its line are compared with this one."""
        return self.arm == self.default


def ablation_table(
    points: Sequence[Point],
    scores: pd.DataFrame,
    slots: pd.DataFrame,
    *,
    metrics: Mapping[str, MetricInfo],
    seed: int,
    resamples: int,
) -> pd.DataFrame:
    """Every point on every metric: ``TABLE_COLUMNS``.

    Means are over the seeds that variant and default both have; the default's own row is over
    those of its variants. ``lift`` is the mean over users of variant minus default, positive
    where the variant is better, with a 95 % interval over users and seeds: seeds nest in users
    where both start from the same adapter, and are crossed with them otherwise.
    ``mean_examples`` and ``users_with_fewer`` count the exchanges that adapters were trained on,
    and the users whose online slice holds fewer than asked for; NaN where that is not the
    quantity.

    Args:
        points: in the order of the table.
        scores: the collector's table, of variants and defaults.
        slots: the collector's slots, of variants and defaults.
        metrics: those to compare, by name.
        seed: of the resamples.
        resamples: how many.
    """
    whole = scores[(scores["slice"] == "all") & (scores["split"] == "test")]
    wide = wide_scores(whole)
    common = _common_seeds(points, wide, metrics)
    rows = []
    for point in points:
        trained = _trained(point, slots)
        for metric, info in metrics.items():
            own, default = (seed_scores(wide, arm, metric) for arm in (point.arm, point.default))
            if point.is_default:
                kept = own.columns.isin(list(common[point.ablation, point.default, metric]))
                own = default = own.loc[:, kept] if kept.any() else own
            row: dict[str, Any] = {
                "ablation": point.ablation,
                "default": point.default,
                "arm": point.arm,
                "value": point.value,
                "metric": metric,
                "scored": "likelihood" if metric == LIKELIHOOD else "generated",
            }
            sign = 1.0 if info.higher_is_better else -1.0
            row |= _compared(point, own, default, sign=sign, seed=seed, resamples=resamples)
            rows.append(row | trained)
    return pd.DataFrame(rows, columns=TABLE_COLUMNS)


def _common_seeds(
    points: Sequence[Point], wide: Mapping[str, pd.DataFrame], metrics: Mapping[str, MetricInfo]
) -> dict[tuple[str, str, str], set[int]]:
    """Ablation, default and metric → seeds that any variant of the line has."""
    found: dict[tuple[str, str, str], set[int]] = {}
    for point in points:
        for metric in metrics:
            seeds = found.setdefault((point.ablation, point.default, metric), set())
            if not point.is_default:
                seeds.update(map(int, seed_scores(wide, point.arm, metric).columns))
    return found


def _compared(
    point: Point,
    own: pd.DataFrame,
    default: pd.DataFrame,
    *,
    sign: float,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """Means and lift on the users and seeds that both sides have."""
    seeds = own.columns.intersection(default.columns)
    left, right = own[seeds].dropna(), default[seeds].dropna()
    users = left.index.intersection(right.index)
    left, right = left.loc[users], right.loc[users]
    row: dict[str, Any] = {"seeds": " ".join(map(str, sorted(seeds))), "n_users": len(users)}
    row |= {"mean": _macro(left), "default_mean": _macro(right)}
    row |= dict.fromkeys(("lift", "ci_low", "ci_high"), NAN)
    if not len(users):
        return row | {"note": "n/a: no user has both scores"}
    if point.is_default:
        return row | {"lift": 0.0, "note": ", ".join(filter(None, ("default", point.detail)))}
    lifts: Floats = sign * (left.to_numpy(dtype=np.float64) - right.to_numpy(dtype=np.float64))
    rng = np.random.default_rng(seed)
    found = seed_interval(lifts, nested=point.nested, rng=rng, resamples=resamples)
    ends = {"lift": found.value, "ci_low": found.low, "ci_high": found.high}
    lost = len(own.index.union(default.index)) - len(users)
    left_out = f"{lost} user(s) without both scores left out" if lost else ""
    return row | ends | {"note": "; ".join(filter(None, (found.note, left_out)))}


def _macro(frame: pd.DataFrame) -> float:
    return float(frame.to_numpy(dtype=np.float64).mean()) if frame.size else NAN


def _trained(point: Point, slots: pd.DataFrame) -> dict[str, float]:
    """Exchanges that were trained on; who had fewer than asked for, skipped users among them."""
    if point.examples is None or not len(slots):
        return {"mean_examples": NAN, "users_with_fewer": NAN}
    own = slots[slots["arm"] == point.arm]
    used = own[own["status"] == "ok"]
    # With a token budget an adapter may stop short of exchanges that are there.
    had = own.groupby("user_id")["examples"].max()
    fewer = NAN if point.is_default else float((had < point.examples).sum())
    return {"mean_examples": float(used["examples"].mean()), "users_with_fewer": fewer}


def lines_of(table: pd.DataFrame, ablation: str, metric: str) -> dict[str, pd.DataFrame]:
    """Default arm → its rows in one ablation and metric, in the order of values."""
    chosen = table[(table["ablation"] == ablation) & (table["metric"] == metric)]
    return {str(arm): rows for arm, rows in chosen.groupby("default", sort=False)}
