"""Bootstrap over users: one set of resamples for all arms, in bounded memory.

Columns of a two-dimensional input are arms (or simulated studies); rows are users. Every function
takes the generator, so the same generator gives the same interval.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from results.record import RecordError

Floats = NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
# Count tables of this many cells stay in cache, which is what the time of 100,000 users hangs on.
CELLS_PER_CHUNK = 2**19


class StatsError(RecordError):
    """Numbers that the statistics cannot take."""


def as_columns(lifts: ArrayLike) -> Floats:
    """``[n]`` or ``[n, k]`` as ``[n, k]`` of float64; other shapes and NaN are refused."""
    table = np.asarray(lifts, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2:
        raise StatsError(f"Lifts of shape {table.shape}; [users] or [users, arms] are allowed.")
    if not np.isfinite(table).all():
        raise StatsError("Lifts hold NaN or infinity; leave users without a score out first.")
    return table


def chunk_rows(n_users: int, total: int) -> Iterator[int]:
    """Row counts that add up to ``total``, each small enough to stay in cache."""
    rows = max(1, CELLS_PER_CHUNK // max(1, n_users))
    for start in range(0, total, rows):
        yield min(rows, total - start)


def resample_counts(n_users: int, *, rng: np.random.Generator, resamples: int) -> Iterator[Floats]:
    """How often each user is drawn: chunks ``[rows, n_users]`` whose rows add up to n_users.

    These are the exact counts of drawing n_users indices with replacement, neither a multinomial
    nor a Poisson stand-in; how rows are cut into chunks does not change them.
    """
    for rows in chunk_rows(n_users, resamples):
        drawn = rng.integers(0, n_users, size=(rows, n_users))
        drawn += np.arange(rows)[:, None] * n_users
        counts = np.bincount(drawn.ravel(), minlength=rows * n_users)
        yield counts.reshape(rows, n_users).astype(np.float64)


def column_means(table: Floats) -> Floats:
    """Means of columns, never outside their values: ``[n, k]`` to ``[k]``, NaN without rows.

    The mean of three times 0.1 would be 0.10000000000000002.
    """
    if not len(table):
        return np.full(table.shape[1], np.nan)
    return np.asarray(np.clip(table.mean(axis=0), table.min(axis=0), table.max(axis=0)))


def bootstrap_means(
    lifts: ArrayLike, *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Floats:
    """Means over resampled users: ``[n, k]`` to ``[resamples, k]``, same resamples for all k."""
    table = as_columns(lifts)
    n_users = table.shape[0]
    # Centered, so that all-equal columns stay equal to the last bit.
    center = column_means(table)
    chunks = resample_counts(n_users, rng=rng, resamples=resamples)
    sums = np.concatenate([counts @ (table - center) for counts in chunks])
    return np.asarray(sums / n_users + center)


def bootstrap_ratios(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Floats:
    """Σ numerators / Σ denominators over resampled users: two ``[n]`` to ``[resamples]``."""
    pair = np.column_stack([np.asarray(numerators), np.asarray(denominators)])
    sums = bootstrap_means(pair, rng=rng, resamples=resamples)
    positive = sums[:, 1] > 0
    missing = np.full(len(sums), np.nan)
    return np.asarray(np.divide(sums[:, 0], sums[:, 1], out=missing, where=positive))


def crossed_bootstrap(
    lifts: ArrayLike, *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Floats:
    """Users and seeds resampled apart: ``[n_users, n_seeds]`` to means ``[resamples]``.

    For arms that all users share: one seed moves everybody together, so seeds are a second
    sampled factor (the pigeonhole bootstrap, Owen 2007, Annals of Applied Statistics 1).
    With S seeds it sees (S - 1)/S of the seeds' variance: too short an interval at three seeds
    where seeds move more than users. That is why no report is made of it: see
    ``seed_spread.crossed_interval``, which ``benchmarks.statistics`` compares it with.
    """
    table = as_columns(lifts)
    n_users, n_seeds = table.shape
    seeds = np.concatenate(list(resample_counts(n_seeds, rng=rng, resamples=resamples)))
    users = resample_counts(n_users, rng=rng, resamples=resamples)
    per_seed = np.concatenate([counts @ table for counts in users]) / n_users
    means: Floats = (per_seed * seeds).sum(axis=1) / n_seeds
    return means


def nested_bootstrap(
    lifts: ArrayLike, *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Floats:
    """Users resampled, each with all of its seeds: ``[n_users, n_seeds]`` to ``[resamples]``.

    For per-user arms, where a seed of one user says nothing about another user's. Seeds are kept
    and not drawn again: the users' means carry the seeds' noise already, and a second draw would
    count it twice (Davison & Hinkley 1997, Bootstrap Methods, section 3.8).
    """
    per_user = as_columns(lifts).mean(axis=1)
    return bootstrap_means(per_user, rng=rng, resamples=resamples)[:, 0]


def _midranks(counts: Floats, order: NDArray[np.intp], starts: NDArray[np.intp]) -> Floats:
    """Ranks of every user's value within each resample, ties shared, without sorting again."""
    sizes = np.add.reduceat(counts[:, order], starts, axis=1)
    ranks = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
    place = np.empty(len(order), dtype=np.intp)
    place[order] = group
    result: Floats = ranks[:, place]
    return result


def _tie_groups(values: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Sorting order, and where each run of equal values starts in it."""
    order = np.argsort(values, kind="stable")
    return order, np.flatnonzero(np.append(True, np.diff(values[order]) != 0))


def bootstrap_spearman(
    x: ArrayLike, y: ArrayLike, *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Floats:
    """Spearman's rho over resampled users: two ``[n]`` to ``[resamples]``.

    A resample in which one side is constant has no rho: NaN.
    """
    left, right = as_columns(x)[:, 0], as_columns(y)[:, 0]
    groups = [_tie_groups(left), _tie_groups(right)]
    middle = (len(left) + 1) / 2
    parts = []
    for counts in resample_counts(len(left), rng=rng, resamples=resamples):
        a, b = (_midranks(counts, *group) - middle for group in groups)
        scale = np.sqrt((counts * a * a).sum(axis=1) * (counts * b * b).sum(axis=1))
        product = (counts * a * b).sum(axis=1)
        parts.append(np.divide(product, scale, out=np.full(len(scale), np.nan), where=scale > 1e-9))
    return np.concatenate(parts)


def sorted_quantiles(ordered: Floats, shares: Floats) -> Floats:
    """Linear quantiles of columns sorted upwards: ``[R, k]``, shares ``[k]`` to ``[k]``."""
    place = np.clip(shares, 0, 1) * (len(ordered) - 1)
    below = np.floor(place).astype(np.intp)
    above = np.minimum(below + 1, len(ordered) - 1)
    column = np.arange(ordered.shape[1])
    low: Floats = ordered[below, column]
    return low + (place - below) * (ordered[above, column] - low)


def percentile_interval(replicates: ArrayLike, *, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Percentile interval of each column: ``[R, k]`` (or ``[R]``) to low ``[k]``, high ``[k]``."""
    ordered = np.sort(as_columns(replicates), axis=0)
    tail = np.full(ordered.shape[1], (1 - level) / 2)
    return sorted_quantiles(ordered, tail), sorted_quantiles(ordered, 1 - tail)


def bca_interval(
    lifts: ArrayLike, replicates: ArrayLike, *, level: float = LEVEL
) -> tuple[Floats, Floats]:
    """Bias-corrected and accelerated interval of means (Efron 1987, JASA 82).

    Args:
        lifts: ``[n, k]``, the users' lifts.
        replicates: ``[R, k]`` from ``bootstrap_means`` of the same lifts.
        level: Coverage aimed at.

    Returns:
        low ``[k]``, high ``[k]``; NaN where all lifts are equal.
    """
    table = as_columns(lifts)
    return bca_from_sorted(table, np.sort(as_columns(replicates), axis=0), level=level)


def bca_from_sorted(
    table: Floats, ordered: Floats, *, level: float = LEVEL
) -> tuple[Floats, Floats]:
    """``bca_interval`` for replicates that are sorted already."""
    center = table.mean(axis=0)
    away = table - center
    spread = np.sqrt((away**2).sum(axis=0))
    varied = spread > 1e-12 * np.abs(table).max(axis=0, initial=0.0)
    # The jackknife of a mean in closed form.
    scaled = np.divide(away, spread, out=np.zeros_like(away), where=varied)
    acceleration = (scaled**3).sum(axis=0) / 6
    # Replicates that equal the mean count half; float dust must not decide on which side they lie.
    dust = 1e-13 * np.abs(table).max(axis=0, initial=0.0)
    below = ((ordered < center - dust).mean(axis=0) + (ordered <= center + dust).mean(axis=0)) / 2
    usable = varied & (below > 0) & (below < 1)
    bias = special.ndtri(np.where(usable, below, 0.5))
    ends = []
    for normal in special.ndtri([(1 - level) / 2, (1 + level) / 2]):
        shift = bias + normal
        share = special.ndtr(bias + shift / (1 - acceleration * shift))
        ends.append(np.where(usable, sorted_quantiles(ordered, share), np.nan))
    return ends[0], ends[1]
