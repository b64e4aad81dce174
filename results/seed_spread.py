"""The mean over users and training seeds where a seed moves all users together.

``lifts`` is ``[n_users, n_seeds]``. The mean has two sources of error, users and seeds, each with a
spread of its own and few degrees of freedom: with three seeds a resampling of seeds sees two thirds
of their variance and covers too seldom (``benchmarks/RESULTS.md``). So the half-width is that of
Howe (1974, Journal of the American Statistical Association 69) for a sum of two means: Student's
half-widths over users and over seeds, added in squares. The noise of single scores counts in both,
so the interval errs on the wide side.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from results.paired_tests import spread
from results.resampling import LEVEL, Floats, StatsError, as_columns

POWER = 0.8
NAN = float("nan")


def crossed_interval(lifts: ArrayLike, *, level: float = LEVEL) -> tuple[float, float]:
    """Interval of the mean over users and seeds; NaN below two users.

    Raises:
        StatsError: There are fewer than two seeds.
    """
    table = _several(lifts)
    half = _half_width(table, (1 + level) / 2)
    return float(table.mean()) - half, float(table.mean()) + half


def crossed_tost(lifts: ArrayLike, *, margin: float) -> float:
    """Equivalence over users and seeds: below 0.05 where the 90 % interval is inside the margin.

    It is the smallest a at which the interval of level 1 - 2a lies inside ``±margin``.

    Raises:
        StatsError: The margin is not above 0, or there are fewer than two seeds.
    """
    if not margin > 0:
        raise StatsError(f"Margin {margin}; a number above 0 is allowed.")
    table = _several(lifts)
    room = margin - abs(float(table.mean()))
    if len(table) < 2 or _half_width(table, 0.75) == 0:
        return NAN

    def short(tail: float) -> float:
        return _half_width(table, 1 - tail) - abs(room)

    least = 1e-12
    tail = least if short(least) < 0 else float(optimize.brentq(short, least, 0.5))
    return tail if room > 0 else 1 - tail


def crossed_detectable(lifts: ArrayLike) -> float:
    """Lift that the interval over users and seeds leaves 0 out for, four times in five.

    The half-widths at 97.5 % and at 80 %, one-sided, added; NaN where all lifts are equal.
    """
    table = _several(lifts)
    found = _half_width(table, (1 + LEVEL) / 2) + _half_width(table, POWER)
    return found if found > 0 else NAN


def _several(lifts: ArrayLike) -> Floats:
    table = as_columns(lifts)
    if table.shape[1] < 2:
        raise StatsError(f"Lifts of {table.shape[1]} seed(s); two or more are needed.")
    return table


def _half_width(table: Floats, quantile: float) -> float:
    """Student's half-widths over users' means and over seeds' means, added in squares."""
    if len(table) < 2:
        return NAN
    squares = 0.0
    for means in (table.mean(axis=1), table.mean(axis=0)):
        error = float(np.nan_to_num(spread(means)[0])) / math.sqrt(len(means))
        squares += (float(special.stdtrit(len(means) - 1, quantile)) * error) ** 2
    return math.sqrt(squares)
