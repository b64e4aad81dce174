"""Numbers with intervals beside the paired tests: clusters, oracles, accuracies, seeds, ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from results.paired_tests import t_interval
from results.resampling import (
    RESAMPLES,
    Floats,
    StatsError,
    as_columns,
    bootstrap_ratios,
    bootstrap_spearman,
    nested_bootstrap,
    percentile_interval,
)
from results.seed_spread import crossed_interval
from results.user_scores import by_user, user_means

NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval; NaN where there is none, and the reason in ``note``."""

    value: float
    low: float = NAN
    high: float = NAN
    p: float = NAN
    n_users: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ClusterLift:
    """Mean lift of one cluster with Student's 95 % interval, and whether it passes the gate."""

    cluster: str
    n_users: int
    mean_lift: float
    low: float
    high: float
    passes: bool
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class OracleNull:
    """Gain of picking each user's better arm by its score, and what noise alone would gain."""

    oracle: float
    gain: float
    null_mean: float
    null_high: float
    p: float
    n_users: int
    note: str = ""


def cluster_lifts(lifts: ArrayLike, clusters: ArrayLike, *, margin: float) -> list[ClusterLift]:
    """Lift of each cluster, worst mean first: the first one is the worst group.

    Student's intervals, because clusters are small and the percentile bootstrap is too short
    there. The gate of a cluster is ``low > -margin``; a cluster of one user has no interval and
    does not pass.
    """
    numbers = as_columns(lifts)[:, 0]
    labels = np.asarray(clusters)
    if labels.shape != numbers.shape:
        raise StatsError(f"{labels.shape} clusters for {numbers.shape} lifts; one each is needed.")
    found = []
    for label in np.unique(labels):
        members = numbers[labels == label]
        low, high = (float(end[0]) for end in t_interval(members))
        found.append(
            ClusterLift(
                cluster=str(label),
                n_users=len(members),
                mean_lift=float(members.mean()),
                low=low,
                high=high,
                passes=low > -margin,
                note="" if np.isfinite(low) else _why_no_interval(len(members)),
            )
        )
    return sorted(found, key=lambda cluster: cluster.mean_lift)


def _why_no_interval(n_users: int) -> str:
    """The reason for a missing interval, in words."""
    return "n/a: one user" if n_users < 2 else "n/a: all values are equal"


def oracle_null(
    user: ArrayLike,
    own: ArrayLike,
    other: ArrayLike,
    *,
    rng: np.random.Generator,
    permutations: int = 2_000,
) -> OracleNull:
    """Oracle that takes each user's better arm after the fact, against its permutation null.

    ``max(own, other)`` cannot lose, so its gain over the better single arm is compared with the
    gain when all users share one lift: each item's deviation from the mean lift gets a random
    sign within its user. It needs items: swapping a user's two scores leaves their maximum as
    it is.

    Args:
        user: ``[items]`` labels.
        own: ``[items]`` scores, higher is better.
        other: ``[items]`` scores of the same items.
        rng: Source of the signs.
        permutations: How many null draws.
    """
    codes, mine, n_users = by_user(user, own)
    _, others, _ = by_user(user, other)
    item_lifts = mine - others
    lifts = user_means(codes, item_lifts, n_users)
    gain = _oracle_gain(lifts)
    deviations = item_lifts - lifts.mean()
    null = np.empty(permutations)
    for number in range(permutations):
        signs = 2.0 * rng.integers(0, 2, size=len(codes)) - 1
        null[number] = _oracle_gain(lifts.mean() + user_means(codes, signs * deviations, n_users))
    several = len(codes) > n_users
    return OracleNull(
        oracle=float(user_means(codes, others, n_users).mean() + np.maximum(0, lifts).mean()),
        gain=gain,
        null_mean=float(null.mean()),
        null_high=float(np.quantile(null, 0.95)),
        p=float((1 + (null >= gain - 1e-12).sum()) / (permutations + 1)) if several else NAN,
        n_users=n_users,
        note="" if several else "n/a: one item per user cannot tell noise from gain",
    )


def _oracle_gain(lifts: Floats) -> float:
    """Mean of the better arm per user, less the better arm for all."""
    return float(np.maximum(0.0, lifts).mean() - max(0.0, float(lifts.mean())))


def accuracy(
    user: ArrayLike,
    values: ArrayLike,
    *,
    rng: np.random.Generator,
    macro: bool = False,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean of per-query values (hits, reciprocal ranks) with a user-bootstrap interval.

    Args:
        user: ``[queries]`` true users.
        values: ``[queries]``, hits (0 or 1) or reciprocal ranks.
        rng: Source of the resamples of users.
        macro: Mean over users of their means; otherwise over queries.
        resamples: How many.
    """
    codes, numbers, n_users = by_user(user, values)
    if not n_users:
        return Estimate(value=NAN, n_users=0, note="n/a: no query")
    counts = np.asarray(np.bincount(codes, minlength=n_users), dtype=np.float64)
    sums = np.asarray(np.bincount(codes, numbers, n_users), dtype=np.float64)
    if macro:
        sums = sums / counts
        counts = np.ones(n_users)
    value = float(sums.sum() / counts.sum())
    if n_users < 2:
        return Estimate(value=value, n_users=n_users, note="n/a: interval of one user")
    replicates = bootstrap_ratios(sums, counts, rng=rng, resamples=resamples)
    low, high = percentile_interval(replicates)
    return Estimate(value=value, low=float(low[0]), high=float(high[0]), n_users=n_users)


def seed_interval(
    lifts: ArrayLike,
    *,
    nested: bool,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean lift with an interval over users and seeds: ``[n_users, n_seeds]``.

    Args:
        lifts: One lift per user and seed.
        nested: True where a seed moves each user alone (the bootstrap of users' means), False
            where adapters are shared: then ``seed_spread.crossed_interval``.
        rng: Source of the resamples of users.
        resamples: How many.
    """
    table = as_columns(lifts)
    n_users, n_seeds = table.shape
    value = float(table.mean()) if table.size else NAN
    if n_users < 2:
        return Estimate(value=value, n_users=n_users, note="n/a: interval of fewer than two users")
    if nested or n_seeds < 2:
        draws = nested_bootstrap(table, rng=rng, resamples=resamples)
        low, high = (float(end[0]) for end in percentile_interval(draws))
    else:
        low, high = crossed_interval(table)
    few = f"{n_seeds} seed(s): too few to claim anything about training noise"
    note = few if n_seeds < 3 else ""
    return Estimate(value=value, low=low, high=high, n_users=n_users, note=note)


def spearman(
    x: ArrayLike, y: ArrayLike, *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Estimate:
    """Spearman's rank correlation ``[n]`` with ``[n]``, user-bootstrap interval and Student's p."""
    left, right = as_columns(x)[:, 0], as_columns(y)[:, 0]
    if left.shape != right.shape:
        raise StatsError(f"{left.shape} and {right.shape} values; one pair per user is needed.")
    n_users = len(left)
    if n_users < 3:
        return Estimate(value=NAN, n_users=n_users, note="n/a: fewer than three users")
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return Estimate(value=NAN, n_users=n_users, note="n/a: one side is constant")
    result = stats.spearmanr(left, right)
    replicates = bootstrap_spearman(left, right, rng=rng, resamples=resamples)
    low, high = percentile_interval(replicates[np.isfinite(replicates)])
    return Estimate(
        value=float(result.statistic),
        low=float(low[0]),
        high=float(high[0]),
        p=float(result.pvalue),
        n_users=n_users,
    )
