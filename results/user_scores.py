"""What one user's score is worth: reliability, shrinkage, noise band, no-harm gate.

Item-level inputs are flat and parallel: ``user [items]`` (any labels) and ``values [items]``.
Seeds, permutations and resamples come from the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from results.resampling import Floats, StatsError, as_columns

NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How much of the spread between users' mean scores is the users'."""

    icc: float
    reliability: float
    split_half: float
    n_users: int
    items_per_user: float
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Shrunken:
    """Empirical-Bayes lifts ``values [n]`` and what they were made from."""

    values: Floats
    weights: Floats
    mean: float
    variance_between: float
    note: str = ""


def by_user(user: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.intp], Floats, int]:
    """User codes ``[items]``, values ``[items]`` and the number of users."""
    labels, numbers = np.asarray(user), as_columns(values)[:, 0]
    if labels.shape != numbers.shape:
        raise StatsError(f"{labels.shape} users for {numbers.shape} values; one each is needed.")
    names, codes = np.unique(labels, return_inverse=True)
    return codes.reshape(-1), numbers, len(names)


def user_means(codes: NDArray[np.intp], values: Floats, n_users: int) -> Floats:
    """Mean value of each user ``[n_users]``."""
    return np.bincount(codes, values, n_users) / np.bincount(codes, minlength=n_users)


def reliability(
    user: ArrayLike, values: ArrayLike, *, rng: np.random.Generator, splits: int = 50
) -> Reliability:
    """Reliability of users' mean scores from their items.

    ICC(1) of a one-way analysis of variance (Shrout & Fleiss 1979), stepped up to the mean number
    of items by Spearman and Brown (1910); beside it the correlation of random halves, averaged
    over splits and stepped up to whole users. A negative ICC is given as it is and counts as
    reliability 0; a negative correlation of halves is not stepped up, which could lead below -1.
    """
    codes, numbers, n_users = by_user(user, values)
    items = np.bincount(codes, minlength=n_users)
    n_items = len(numbers)
    if n_users < 2 or n_items <= n_users:
        reason = "n/a: reliability needs two users or more and several items each"
        return Reliability(
            icc=NAN,
            reliability=NAN,
            split_half=NAN,
            n_users=n_users,
            items_per_user=n_items / max(1, n_users),
            note=reason,
        )
    typical = float((n_items - (items**2).sum() / n_items) / (n_users - 1))
    between, within = _mean_squares(codes, numbers, items)
    effect = (between - within) / typical
    total = effect + within
    icc = effect / total if total > 0 else NAN
    known = max(0.0, icc) if total > 0 else NAN
    return Reliability(
        icc=icc,
        reliability=typical * known / (1 + (typical - 1) * known),
        split_half=_split_half(codes, numbers, n_users, rng=rng, splits=splits),
        n_users=n_users,
        items_per_user=typical,
        note="" if total > 0 else "n/a: all items have the same value",
    )


def _mean_squares(
    codes: NDArray[np.intp], values: Floats, items: NDArray[np.intp]
) -> tuple[float, float]:
    """Mean squares between and within users."""
    means = user_means(codes, values, len(items))
    between = float((items * (means - values.mean()) ** 2).sum() / (len(items) - 1))
    within = float(((values - means[codes]) ** 2).sum() / (len(values) - len(items)))
    return between, within


def _split_half(
    codes: NDArray[np.intp],
    values: Floats,
    n_users: int,
    *,
    rng: np.random.Generator,
    splits: int,
) -> float:
    """Mean correlation of random halves, stepped up if above 0; NaN where a half is constant."""
    found = []
    for _ in range(splits):
        order = np.lexsort((rng.random(len(codes)), codes))
        position = np.arange(len(codes)) - np.searchsorted(codes[order], codes[order])
        halves = []
        for parity in (0, 1):
            half = order[position % 2 == parity]
            counts = np.bincount(codes[half], minlength=n_users)
            sums = np.bincount(codes[half], values[half], n_users)
            halves.append(np.divide(sums, counts, out=np.full(n_users, np.nan), where=counts > 0))
        both = np.isfinite(halves[0]) & np.isfinite(halves[1])
        first, second = halves[0][both], halves[1][both]
        if len(first) > 1 and np.ptp(first) > 0 and np.ptp(second) > 0:
            found.append(float(np.corrcoef(first, second)[0, 1]))
    r = float(np.mean(found)) if found else NAN
    return 2 * r / (1 + r) if r > 0 else r


def item_lift_variances(user: ArrayLike, item_lifts: ArrayLike) -> tuple[Floats, Floats]:
    """Users' mean lifts and the variances of these means: ``[n_users]`` each, in label order.

    The item variance is pooled over users, because one from ten items is mostly noise itself;
    NaN where no user has a second item.
    """
    codes, numbers, n_users = by_user(user, item_lifts)
    items = np.bincount(codes, minlength=n_users)
    means = user_means(codes, numbers, n_users)
    freedom = len(numbers) - n_users
    pooled = float(((numbers - means[codes]) ** 2).sum() / freedom) if freedom else NAN
    return means, pooled / items


def shrink(lifts: ArrayLike, variances: ArrayLike) -> Shrunken:
    """Empirical-Bayes lifts: each user's pulled to the mean as far as its noise says.

    ``mean + τ²/(τ² + v) · (lift - mean)`` with τ² by DerSimonian & Laird (1986).

    Args:
        lifts: ``[n]`` mean lifts of users.
        variances: ``[n]`` variances of these means, from ``item_lift_variances``.

    Raises:
        StatsError: A variance is negative, or only some are 0.
    """
    means = as_columns(lifts)[:, 0]
    noise = np.asarray(variances, dtype=np.float64)
    if noise.shape != means.shape:
        raise StatsError(f"{noise.shape} variances for {means.shape} lifts; one each is needed.")
    if len(means) < 2 or np.isnan(noise).any() or not noise.any():
        reason = "n/a: no shrinkage without two users and items' noise; lifts are as measured"
        mean = float(means.mean()) if len(means) else NAN
        ones = np.ones(len(means))
        return Shrunken(values=means, weights=ones, mean=mean, variance_between=NAN, note=reason)
    if not (noise > 0).all():
        raise StatsError("Variances must be above 0; pool them over users (item_lift_variances).")
    weight = 1 / noise
    fixed = (weight * means).sum() / weight.sum()
    excess = (weight * (means - fixed) ** 2).sum() - (len(means) - 1)
    between = max(0.0, float(excess / (weight.sum() - (weight**2).sum() / weight.sum())))
    weight = 1 / (noise + between)
    mean = float((weight * means).sum() / weight.sum())
    kept = between / (between + noise)
    return Shrunken(
        values=mean + kept * (means - mean), weights=kept, mean=mean, variance_between=between
    )


def noise_band(scores: ArrayLike) -> Floats:
    """Per-user difference between training seeds of one arm: ``[n_users, n_seeds]`` to ``[n]``.

    With two seeds |a - b|; with more, the largest difference between any two.

    Raises:
        StatsError: There is one seed, which tells nothing about noise.
    """
    table = as_columns(scores)
    if table.shape[1] < 2:
        raise StatsError("One seed has no noise band; count signs (noise_band=None) and say so.")
    return np.asarray(np.ptp(table, axis=1))


def no_harm_gate(validation_lifts: ArrayLike, *, threshold: float = 0.0) -> NDArray[np.bool_]:
    """Which users keep their personal adapter: gain on unused validation items above threshold.

    A user without a validation lift (NaN) does not keep it: no evidence, no change.
    """
    lifts = np.asarray(validation_lifts, dtype=np.float64)
    return np.where(np.isnan(lifts), -np.inf, lifts) > threshold
