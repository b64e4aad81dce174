"""Mean over users and seeds that move all users together: interval, equivalence, power."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from results.estimates import seed_interval
from results.resampling import StatsError
from results.seed_spread import crossed_detectable, crossed_interval, crossed_tost

ERROR = {"rel": 1e-9, "abs": 1e-12}


def table(*, users: int = 8, seeds: int = 3, shared: float = 0.5, mean: float = 0.1):
    rng = np.random.default_rng(3)
    lifts = rng.normal(mean, 1, (users, 1)) + rng.normal(0, 0.5, (users, seeds))
    return lifts + shared * np.arange(seeds)


def half(means, quantile: float) -> float:
    """Student's half-width, from scipy's standard error."""
    return float(stats.t.ppf(quantile, len(means) - 1) * stats.sem(means))


def test_half_widths_over_users_and_over_seeds_add_in_squares():
    lifts = table()
    low, high = crossed_interval(lifts)
    parts = [half(means, 0.975) for means in (lifts.mean(axis=1), lifts.mean(axis=0))]
    assert (low + high) / 2 == pytest.approx(lifts.mean(), **ERROR)
    assert (high - low) / 2 == pytest.approx(np.hypot(*parts), **ERROR)
    found = seed_interval(lifts, nested=False, rng=np.random.default_rng(0), resamples=10)
    assert (found.low, found.high) == (low, high)


def test_without_a_shared_part_it_is_students_interval_of_the_users():
    lifts = np.repeat(np.random.default_rng(0).normal(size=(9, 1)), 3, axis=1)
    found = crossed_interval(lifts, level=0.9)
    expected = stats.t.interval(0.9, 8, lifts[:, 0].mean(), stats.sem(lifts[:, 0]))
    assert found == pytest.approx(expected, **ERROR)


@settings(deadline=None)
@given(
    mean=st.floats(-0.3, 0.3), shared=st.floats(0, 0.2), margin=st.floats(0.05, 0.5),
    seeds=st.integers(2, 4),
)  # fmt: skip
def test_equivalence_is_claimed_just_where_the_90_interval_is_inside(mean, shared, margin, seeds):
    rng = np.random.default_rng(1)
    lifts = rng.normal(mean, 0.2, (30, seeds)) + shared * np.arange(seeds)
    low, high = crossed_interval(lifts, level=0.9)
    p = crossed_tost(lifts, margin=margin)
    assert 0 < p < 1
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == (-margin < low and high < margin)


def test_seeds_that_move_everybody_take_equivalence_and_power_away():
    calm, moved = (
        np.random.default_rng(2).normal(0, 0.02, (100, 3)) + shared * np.array([-1.0, 0.0, 1.0])
        for shared in (0.0, 0.03)
    )
    assert crossed_tost(calm, margin=0.01) < 0.05 < crossed_tost(moved, margin=0.01)
    assert crossed_detectable(calm) < 0.01 < 0.03 < crossed_detectable(moved)


def test_equal_lifts_have_no_width_and_few_seeds_or_margins_are_refused():
    same = np.full((4, 2), 0.25)
    assert crossed_interval(same) == (0.25, 0.25)
    assert np.isnan(crossed_detectable(same))
    assert np.isnan(crossed_tost(same, margin=0.1))
    assert np.isnan(crossed_interval(same[:1])).all()
    with pytest.raises(StatsError, match="two or more"):
        crossed_interval(same[:, :1])
    with pytest.raises(StatsError, match="above 0"):
        crossed_tost(same, margin=0)
