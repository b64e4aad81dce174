"""One row of ``comparisons.csv``: columns, reasons, flag, and forms for CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from results.effect_sizes import ALPHA
from results.resampling import Floats

NAN = float("nan")
NOBODY = "n/a: sign test: no user is helped or hurt"
TESTS = ("p_t", "p_wilcoxon", "p_permutation", "p_sign")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One contrast on one metric, over users; lifts are oriented so that positive is better.

    ``ci_*`` is the percentile and ``bca_*`` the BCa interval, both 95 %. ``p_permutation`` is the
    sign-flip test of the mean, ``p_sign`` the sign test outside the noise band. ``mde80`` is the
    lift that a t test finds four times in five. ``flag`` says which tests disagree; ``note`` gives
    the reason for each NaN.
    """

    contrast: str
    metric: str
    n_users: int
    mean_lift: float
    ci_low: float
    ci_high: float
    bca_low: float
    bca_high: float
    t: float
    p_t: float
    p_wilcoxon: float
    p_permutation: float
    p_sign: float
    helped: int
    tied: int
    hurt: int
    dz: float
    cliffs_delta: float
    prob_improvement: float
    p_tost: float
    mde80: float
    p_adjusted: float = NAN
    family: str = ""
    share_helped_low: float
    share_helped_high: float
    share_hurt_low: float
    share_hurt_high: float
    flag: str = ""
    note: str = ""


def noted(row: Comparison, remark: str) -> Comparison:
    """The row with one more remark in its note."""
    return replace(row, note="; ".join(filter(None, (row.note, remark))))


def comparison_from(
    contrast: str, metric: str, lifts: Floats, numbers: Mapping[str, float], remark: str
) -> Comparison:
    """One row from one column's numbers, with reasons and the disagreement flag."""
    counts = {name: int(numbers[name]) for name in ("helped", "tied", "hurt")}
    rest: dict[str, Any] = {name: value for name, value in numbers.items() if name not in counts}
    return Comparison(
        contrast=contrast,
        metric=metric,
        n_users=len(lifts),
        **(rest | counts),
        flag=disagreement(numbers),
        note="; ".join(filter(None, (_why_not(lifts, counts), remark))),
    )


def _why_not(lifts: Floats, counts: Mapping[str, int]) -> str:
    """Reasons for the numbers that cannot be had."""
    if not len(lifts):
        return "n/a: no user has both scores"
    reasons = []
    if len(lifts) == 1:
        reasons.append("n/a: intervals, t, dz, TOST and MDE need two users or more")
    elif np.ptp(lifts) == 0:
        reasons.append("n/a: BCa, t, dz, TOST and MDE: all differences are equal")
    if not lifts.any():
        reasons.append("n/a: Wilcoxon: every difference is zero")
    if not counts["helped"] + counts["hurt"]:
        reasons.append(NOBODY)
    return "; ".join(reasons)


def disagreement(numbers: Mapping[str, float], *, alpha: float = ALPHA) -> str:
    """Which tests find an effect and which do not; empty where all agree.

    Args:
        numbers: A row's numbers by name: the p of ``TESTS``, ``ci_low/high``, ``bca_low/high``.
        alpha: Level of the tests; the intervals have their own 95 %.
    """
    verdicts = {name: numbers[name] < alpha for name in TESTS if not np.isnan(numbers[name])}
    for name in ("ci", "bca"):
        low, high = numbers[f"{name}_low"], numbers[f"{name}_high"]
        if not np.isnan(low):
            verdicts[name] = low > 0 or high < 0
    found = [name for name, verdict in verdicts.items() if verdict]
    rest = [name for name, verdict in verdicts.items() if not verdict]
    if not found or not rest:
        return ""
    return f"tests disagree: effect by {', '.join(found)}; none found by {', '.join(rest)}"


def comparisons_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Rows as a table with the columns of ``comparisons.csv``, also when there are none."""
    columns = [field.name for field in fields(Comparison)]
    return pd.DataFrame([asdict(row) for row in comparisons], columns=columns)


def comparison_rows(comparisons: Sequence[Comparison]) -> list[dict[str, str | int | float | None]]:
    """Rows for JSON, which has no NaN: missing numbers are ``None``."""
    return [
        {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in asdict(row).items()
        }
        for row in comparisons
    ]
