"""Paired tests on per-user lifts, and corrections for asking more than once.

``lifts`` is ``[n]`` or ``[n, k]``: rows are users, columns are arms (or simulated studies), each
column tested by itself. Results are ``[k]``; a test that cannot be made gives NaN, never a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from results.resampling import RESAMPLES, Floats, StatsError, as_columns, chunk_rows

WILCOXON_ZERO_RULE = "pratt"
WILCOXON_EXACT_USERS = 50
# Few changed users among very many zeros have huge ranks, and the exact table grows with them.
WILCOXON_EXACT_SUM = 2_000_000
SIGN_FLIP_EXACT_USERS = 16


def spread(lifts: ArrayLike) -> Floats:
    """Standard deviation (n - 1) of each column; NaN below two users or where all are equal."""
    table = as_columns(lifts)
    if len(table) < 2:
        return np.full(table.shape[1], np.nan)
    deviation = table.std(axis=0, ddof=1)
    varied = deviation > 1e-12 * np.abs(table).max(axis=0)
    return np.where(varied, deviation, np.nan)


def paired_t(lifts: ArrayLike) -> tuple[Floats, Floats]:
    """Student's paired t and its two-sided p: ``[n, k]`` to ``[k]``, ``[k]``."""
    table = as_columns(lifts)
    n_users = len(table)
    t = _mean(table) / (spread(table) / np.sqrt(max(1, n_users)))
    return t, 2 * special.stdtr(max(1, n_users - 1), -np.abs(t))


def _mean(table: Floats) -> Floats:
    """Column means; NaN without users."""
    if len(table):
        return np.asarray(table.mean(axis=0))
    return np.full(table.shape[1], np.nan)


def t_interval(lifts: ArrayLike, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Student's interval of the mean: ``[n, k]`` to low ``[k]``, high ``[k]``."""
    table = as_columns(lifts)
    n_users = max(2, len(table))
    half = special.stdtrit(n_users - 1, (1 + level) / 2) * spread(table) / np.sqrt(n_users)
    return _mean(table) - half, _mean(table) + half


def tost(lifts: ArrayLike, *, margin: float) -> Floats:
    """p of two one-sided t tests for |mean| < margin (Schuirmann 1987): ``[n, k]`` to ``[k]``.

    Raises:
        StatsError: The margin is not above 0.
    """
    if not margin > 0:
        raise StatsError(f"Margin {margin}; a number above 0 is allowed.")
    table = as_columns(lifts)
    n_users = len(table)
    error = spread(table) / np.sqrt(max(1, n_users))
    degrees = max(1, n_users - 1)
    not_below = special.stdtr(degrees, -(_mean(table) + margin) / error)
    not_above = special.stdtr(degrees, (_mean(table) - margin) / error)
    return np.asarray(np.maximum(not_below, not_above))


def _signed_rank_tails(doubled_ranks: tuple[int, ...]) -> Floats:
    """P(W ≥ w) for every doubled rank sum w, each rank counted with probability one half."""
    chances = np.zeros(sum(doubled_ranks) + 1)
    chances[0] = 1.0
    for rank in doubled_ranks:
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[: len(chances) - rank]
        chances = (chances + shifted) / 2
    tails: Floats = chances[::-1].cumsum()[::-1]
    return tails


def _exact_signed_rank(ranks: Floats, positive: Floats, columns: NDArray[np.intp]) -> Floats:
    """Two-sided exact p of the given columns; columns with equal ranks share one distribution."""
    doubled = np.rint(2 * ranks[:, columns]).astype(np.int64)
    sums = np.rint(2 * positive[columns]).astype(np.int64)
    patterns, which = np.unique(np.sort(doubled, axis=0), axis=1, return_inverse=True)
    p = np.empty(len(columns))
    for number, pattern in enumerate(patterns.T):
        members = np.flatnonzero(which == number)
        tails = _signed_rank_tails(tuple(int(rank) for rank in pattern if rank))
        larger = np.maximum(sums[members], len(tails) - 1 - sums[members])
        p[members] = np.minimum(1.0, 2 * tails[larger])
    return p


def wilcoxon(lifts: ArrayLike) -> Floats:
    """Two-sided p of Wilcoxon's signed-rank test: ``[n, k]`` to ``[k]``; NaN if all are zero.

    Zeros follow Pratt (1959): they are ranked with the others and then dropped, so that a few tiny
    lifts among many unchanged users do not count as much as large ones. Exact, ties included, up
    to 50 users with a non-zero lift; above, normal with the ties' variance and no continuity
    correction.
    """
    table = as_columns(lifts)
    if not len(table):
        return np.full(table.shape[1], np.nan)
    ranks = np.where(table == 0, 0.0, stats.rankdata(np.abs(table), axis=0))
    positive = np.where(table > 0, ranks, 0.0).sum(axis=0)
    changed = (table != 0).sum(axis=0)
    variance = (ranks**2).sum(axis=0) / 4
    deviation = np.sqrt(np.where(changed > 0, variance, np.nan))
    p: Floats = 2 * special.ndtr(-np.abs(positive - ranks.sum(axis=0) / 2) / deviation)
    small = (changed <= WILCOXON_EXACT_USERS) & (2 * ranks.sum(axis=0) <= WILCOXON_EXACT_SUM)
    exact = np.flatnonzero((changed > 0) & small)
    if exact.size:
        p[exact] = _exact_signed_rank(ranks, positive, exact)
    return p


def sign_flip(
    lifts: ArrayLike, *, rng: np.random.Generator, permutations: int = RESAMPLES
) -> Floats:
    """Two-sided p of the mean under random signs (Fisher 1935): ``[n, k]`` to ``[k]``.

    All 2^n sign patterns up to 16 users; above, Monte Carlo with the observed pattern counted in
    (Phipson & Smyth 2010), so that p is never 0 and never too small on average.
    All columns share the same flips.
    """
    table = as_columns(lifts)
    n_users = len(table)
    if not n_users:
        return np.full(table.shape[1], np.nan)
    total = table.sum(axis=0)
    # Sums that tie with the observed one must count, whatever order they were added in.
    bar = np.abs(total) - 1e-12 * np.abs(table).sum(axis=0)
    if n_users <= SIGN_FLIP_EXACT_USERS:
        # A pattern and its opposite have the same |sum|: half of them are enough.
        patterns = np.array(list(product((0.0, 1.0), repeat=n_users - 1)))
        kept = np.column_stack([np.ones(len(patterns)), patterns])
        exact: Floats = (np.abs(2 * (kept @ table) - total) >= bar).mean(axis=0)
        return exact
    extreme = np.ones(table.shape[1])
    for rows in chunk_rows(n_users, permutations):
        packed = rng.integers(0, 256, size=(rows, -(-n_users // 8)), dtype=np.uint8)
        kept = np.unpackbits(packed, axis=1, count=n_users).astype(np.float64)
        extreme += (np.abs(2 * (kept @ table) - total) >= bar).sum(axis=0)
    return extreme / (permutations + 1)


def sign_test(helped: ArrayLike, hurt: ArrayLike) -> Floats:
    """Two-sided exact binomial p of helped against hurt users: ``[k]``, ``[k]`` to ``[k]``.

    Tied users are left out; NaN where nobody is helped or hurt.
    """
    up = np.atleast_1d(np.asarray(helped, dtype=np.int64))
    down = np.atleast_1d(np.asarray(hurt, dtype=np.int64))
    p = np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(up, down), np.maximum(1, up + down), 0.5))
    return np.where(up + down > 0, p, np.nan)


def mcnemar(first: ArrayLike, second: ArrayLike) -> tuple[int, int, float]:
    """Exact McNemar test of two sets of answers to the same queries.

    It takes queries as independent: with several queries a user, read it beside a comparison of
    per-user accuracies.

    Args:
        first: ``[n]`` of bool, correct or not.
        second: ``[n]`` of bool, the same queries.

    Returns:
        Queries that only the first got right, queries that only the second got right, p
        (1 where they never differ).

    Raises:
        StatsError: The two differ in shape.
    """
    left, right = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if left.shape != right.shape:
        raise StatsError(f"{left.shape} and {right.shape} answers; the same queries are needed.")
    only_first, only_second = int((left & ~right).sum()), int((right & ~left).sum())
    p = float(sign_test(only_first, only_second)[0])
    return only_first, only_second, p if only_first + only_second else 1.0


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Holm's step-down adjusted p (1979): ``[m]`` to ``[m]``; NaN stays NaN and is not counted."""
    return _adjusted(p_values, _holm_sorted)


def benjamini_hochberg(p_values: Sequence[float] | Floats) -> Floats:
    """Benjamini & Hochberg's adjusted p (1995): ``[m]`` to ``[m]``; NaN stays NaN."""
    return _adjusted(p_values, _benjamini_hochberg_sorted)


def _holm_sorted(ordered: Floats) -> Floats:
    """Adjusted p of sorted p."""
    steps = np.arange(len(ordered), 0, -1)
    return np.maximum.accumulate(ordered * steps)


def _benjamini_hochberg_sorted(ordered: Floats) -> Floats:
    """Adjusted p of sorted p."""
    m = len(ordered)
    scaled: Floats = ordered * m / np.arange(1, m + 1)
    return np.minimum.accumulate(scaled[::-1])[::-1]


def _adjusted(p_values: Sequence[float] | Floats, rule: Callable[[Floats], Floats]) -> Floats:
    """Apply a rule for sorted p to the p that exist, in their own places."""
    p = np.array(p_values, dtype=np.float64)
    asked = np.flatnonzero(~np.isnan(p))
    order = asked[np.argsort(p[asked], kind="stable")]
    if order.size:
        p[order] = np.minimum(1.0, rule(p[order]))
    return p
