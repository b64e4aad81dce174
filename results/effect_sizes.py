"""How large an effect is, beside whether it is there."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from results.paired_tests import spread
from results.resampling import LEVEL, Floats, StatsError, as_columns

POWER = 0.8
ALPHA = 0.05


def cohens_dz(lifts: ArrayLike) -> Floats:
    """Mean lift over the lifts' standard deviation (Cohen 1988): ``[n, k]`` to ``[k]``."""
    table = as_columns(lifts)
    if len(table) < 2:
        return np.full(table.shape[1], np.nan)
    dz: Floats = table.mean(axis=0) / spread(table)
    return dz


def prob_improvement(lifts: ArrayLike) -> Floats:
    """P(arm > baseline) + P(tie)/2 over users, each against itself: ``[n, k]`` to ``[k]``.

    The probability of improvement of rliable (Agarwal et al. 2021, NeurIPS), in its paired form:
    there runs of a task are compared with each other, here a user's two scores.
    """
    table = as_columns(lifts)
    if not len(table):
        return np.full(table.shape[1], np.nan)
    net: Floats = np.sign(table).mean(axis=0)
    return (net + 1) / 2


def cliffs_delta(arm: ArrayLike, baseline: ArrayLike) -> float:
    """P(arm > baseline) - P(arm < baseline) over all pairs of users (Cliff 1993).

    Args:
        arm: ``[n]`` scores, higher is better.
        baseline: ``[m]`` scores.

    Returns:
        A number in [-1, 1]; NaN without scores. It is 2 U/(n m) - 1 with Mann and Whitney's U.
    """
    ordered = np.sort(as_columns(baseline)[:, 0])
    scores = as_columns(arm)[:, 0]
    if not len(ordered) or not len(scores):
        return float("nan")
    below = np.searchsorted(ordered, scores, side="left")
    above = len(ordered) - np.searchsorted(ordered, scores, side="right")
    return float((below - above).mean() / len(ordered))


def cliffs_delta_within(lifts: ArrayLike) -> Floats:
    """Cliff's delta within pairs, d_w = P(lift > 0) - P(lift < 0): ``[n, k]`` to ``[k]``."""
    return 2 * prob_improvement(lifts) - 1


@lru_cache(maxsize=4096)
def _detectable_noncentrality(n_users: int, power: float, alpha: float) -> float:
    """Noncentrality at which a two-sided paired t test has the power."""
    degrees = n_users - 1
    critical = float(special.stdtrit(degrees, 1 - alpha / 2))

    def short_of_power(shift: float) -> float:
        # The lower tail as the upper one of -shift: scipy gives NaN for some far lower tails.
        missed = special.nctdtr(degrees, shift, critical)
        wrong_side = 1 - special.nctdtr(degrees, -shift, critical)
        return float(1 - missed + wrong_side - power)

    high = 10.0
    while short_of_power(high) < 0:
        high *= 2
    return float(optimize.brentq(short_of_power, 0.0, high, xtol=1e-13, rtol=1e-13))


def minimal_detectable_effect(
    lifts: ArrayLike, *, power: float = POWER, alpha: float = ALPHA
) -> Floats:
    """Mean lift that a two-sided paired t test finds with the given power: ``[n, k]`` to ``[k]``.

    From the noncentral t distribution and the lifts' own standard deviation, in the lifts' unit;
    NaN below two users or where all lifts are equal.
    """
    table = as_columns(lifts)
    n_users = len(table)
    if n_users < 2:
        return np.full(table.shape[1], np.nan)
    shift = _detectable_noncentrality(n_users, power, alpha)
    return np.asarray(shift * spread(table) / np.sqrt(n_users))


def wilson_interval(
    successes: ArrayLike, trials: int, *, level: float = LEVEL
) -> tuple[Floats, Floats]:
    """Wilson's interval of a share (1927): successes ``[k]`` to low ``[k]``, high ``[k]``.

    NaN without trials.
    """
    share = np.atleast_1d(np.asarray(successes, dtype=np.float64))
    if not trials:
        return np.full(share.shape, np.nan), np.full(share.shape, np.nan)
    share = share / trials
    z = float(special.ndtri((1 + level) / 2))
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * np.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    half = half / (1 + z * z / trials)
    return np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)


def helped_tied_hurt(
    lifts: ArrayLike, *, noise_band: ArrayLike | None = None
) -> tuple[Floats, Floats, Floats]:
    """Users above, inside and below the noise band: ``[n, k]`` to three ``[k]``.

    Args:
        lifts: ``[n]`` or ``[n, k]``, positive is better.
        noise_band: One width for all, or ``[n]``, one for each user; ``None`` counts signs.

    Raises:
        StatsError: The band is negative, NaN or of another length.
    """
    table = as_columns(lifts)
    band = np.zeros(1) if noise_band is None else np.asarray(noise_band, dtype=np.float64)
    if band.size not in (1, len(table)) or not (band >= 0).all():
        raise StatsError(
            f"Noise band of {band.size} numbers for {len(table)} users; one number, or one for "
            "each user, none below 0 and none NaN, is allowed."
        )
    edge = band.reshape(-1, 1)
    helped = (table > edge).sum(axis=0).astype(np.float64)
    hurt = (table < -edge).sum(axis=0).astype(np.float64)
    return helped, len(table) - helped - hurt, hurt
