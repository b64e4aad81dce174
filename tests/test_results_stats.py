"""The rows of comparisons.csv: hand-worked cases, degenerate inputs and invariants."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results import resampling
from results.paired_tests import holm
from results.resampling import (
    bootstrap_means,
    crossed_bootstrap,
    nested_bootstrap,
    resample_counts,
)
from results.stats import (
    Comparison,
    StatsError,
    accuracy,
    adjust,
    cluster_lifts,
    compare,
    compare_many,
    comparison_rows,
    comparisons_table,
    mcnemar,
    no_harm_gate,
    noise_band,
    oracle_null,
    paired_lifts,
    reliability,
    seed_interval,
    shrink,
    spearman,
)

FAST = settings(max_examples=25, deadline=None)
ISSUE_COLUMNS = (
    "contrast, metric, n_users, mean_lift, ci_low, ci_high, bca_low, bca_high, t, p_t, p_wilcoxon, "
    "p_permutation, p_sign, helped, tied, hurt, dz, cliffs_delta, prob_improvement, p_tost, mde80, "
    "p_adjusted, family"
)
ODD = ("mean_lift", "t", "dz", "cliffs_delta")
EVEN = ("p_t", "p_wilcoxon", "p_permutation", "p_sign", "p_tost", "mde80", "tied", "n_users")
users_lifts = st.lists(
    st.integers(-20, 20).map(lambda step: step / 100), min_size=2, max_size=30
).map(np.array)


def row(lifts, seed=0, **options):
    settings_ = {"margin": 0.01, "noise_band": 0.0, "resamples": 300} | options
    return compare("a - b", "rouge_l", lifts, rng=np.random.default_rng(seed), **settings_)


def same(left, right):
    return comparison_rows([left]) == comparison_rows([right])


def test_a_row_by_hand():
    found = row([0.3, 0.1, 0.0, -0.2], noise_band=0.15)
    assert (found.helped, found.tied, found.hurt) == (1, 2, 1)
    assert found.p_sign == 1.0
    assert found.mean_lift == pytest.approx(0.05)
    assert found.prob_improvement == pytest.approx(2.5 / 4)
    assert found.cliffs_delta == pytest.approx(1 / 4)
    # Sums at least as far from 0 as 0.2, of ±.3 ±.1 ±.2: all but ±0 (.3 -.1 -.2).
    assert found.p_permutation == pytest.approx(6 / 8)
    assert 0 < found.share_helped_low < 0.25 < found.share_helped_high < 1


def test_the_columns_of_comparisons_csv_come_first_and_also_without_rows():
    names = [field.name for field in dataclasses.fields(Comparison)]
    assert ", ".join(names).startswith(ISSUE_COLUMNS)
    assert list(comparisons_table([]).columns) == names
    assert list(comparisons_table([row([0.1, 0.2])]).columns) == names


def test_lifts_are_oriented_so_that_positive_is_better():
    assert paired_lifts([3.0], [1.0], higher_is_better=True)[0] == 2.0
    assert paired_lifts([3.0], [1.0], higher_is_better=False)[0] == -2.0
    with pytest.raises(StatsError, match="join the two tables on the user id"):
        paired_lifts([1.0], [1.0, 2.0], higher_is_better=True)


def test_float_dust_makes_no_ranks():
    dusty = [0.3 - 0.2, 0.1, 0.4 - 0.3, -0.1, 0.7 - 0.6 - 0.1]
    assert same(row(dusty), row([0.1, 0.1, 0.1, -0.1, 0.0]))


@FAST
@given(users_lifts, st.integers(0, 99))
def test_the_opposite_contrast_mirrors_every_number(lifts, seed):
    one, other = row(lifts, seed), row(-lifts, seed)
    for name in EVEN:
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), atol=1e-9)
    for name in ODD:
        np.testing.assert_allclose(getattr(other, name), -np.float64(getattr(one, name)), atol=1e-9)
    assert (other.helped, other.hurt) == (one.hurt, one.helped)
    assert other.prob_improvement == pytest.approx(1 - one.prob_improvement)
    for kind in ("ci", "bca"):
        ends = [getattr(one, f"{kind}_low"), getattr(one, f"{kind}_high")]
        mirrored = [-getattr(other, f"{kind}_high"), -getattr(other, f"{kind}_low")]
        np.testing.assert_allclose(mirrored, ends, atol=1e-9)


@FAST
@given(users_lifts, st.integers(0, 99))
def test_the_order_of_users_changes_nothing_but_the_resamples(lifts, seed):
    shuffled = np.random.default_rng(seed).permutation(lifts)
    one, other = row(lifts), row(shuffled)
    drawn = {"ci_low", "ci_high", "bca_low", "bca_high", "flag"}
    drawn |= {"p_permutation"} if len(lifts) > 16 else set()
    for field in dataclasses.fields(Comparison):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if field.name in drawn:
            continue
        if isinstance(left, float):
            np.testing.assert_allclose(right, left, atol=1e-9)
        else:
            assert right == left


@FAST
@given(users_lifts)
def test_another_unit_changes_no_p(lifts):
    one, other = row(lifts), row(lifts * 1000, margin=10.0)
    for name in ("p_t", "p_wilcoxon", "p_permutation", "p_sign", "p_tost", "dz"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), atol=1e-9)
    np.testing.assert_allclose(other.bca_low, 1000 * np.float64(one.bca_low), atol=1e-9)


@FAST
@given(users_lifts)
def test_numbers_stay_in_their_ranges(lifts):
    found = row(lifts)
    assert found.helped + found.tied + found.hurt == found.n_users == len(lifts)
    assert lifts.min() - 1e-12 <= found.ci_low <= found.ci_high <= lifts.max() + 1e-12
    for name in ("p_t", "p_wilcoxon", "p_permutation", "p_sign", "p_tost"):
        assert np.isnan(getattr(found, name)) or 0 <= getattr(found, name) <= 1
    assert 0 <= found.prob_improvement <= 1


def test_the_same_generator_gives_the_same_row_and_another_one_does_not():
    lifts = np.random.default_rng(0).normal(size=40)
    assert same(row(lifts, 5), row(lifts, 5))
    assert row(lifts, 5).ci_low != row(lifts, 6).ci_low


def test_all_arms_share_the_resamples():
    table = np.random.default_rng(0).normal(size=(40, 2))
    table[:, 1] = table[:, 0] + 1
    first, second = compare_many(
        ["a", "b"], "m", table, margin=1.0, rng=np.random.default_rng(3), resamples=200
    )
    assert second.ci_low == pytest.approx(first.ci_low + 1)
    alone = row(table[:, 0], 3, noise_band=None, margin=1.0, resamples=200)
    assert alone.ci_low == pytest.approx(first.ci_low, abs=1e-12)


def test_how_resamples_are_cut_into_chunks_changes_nothing(monkeypatch):
    def draw():
        return np.vstack(list(resample_counts(7, rng=np.random.default_rng(0), resamples=50)))

    whole = draw()
    assert (whole.sum(axis=1) == 7).all()
    monkeypatch.setattr(resampling, "CELLS_PER_CHUNK", 21)
    np.testing.assert_array_equal(draw(), whole)


@pytest.mark.parametrize("value", [0.0, 0.1, -0.2])
def test_all_equal_lifts_say_why_there_is_no_t(value):
    found = row(np.full(12, value))
    assert np.isnan([found.t, found.p_t, found.dz, found.p_tost, found.mde80]).all()
    assert np.isnan([found.bca_low, found.bca_high]).all()
    assert "all differences are equal" in found.note
    assert found.ci_low == pytest.approx(value) == found.ci_high
    assert ("every difference is zero" in found.note) == (value == 0)
    if value:
        expected = 2 / 2**12
        assert found.p_permutation == found.p_sign == found.p_wilcoxon == pytest.approx(expected)
    else:
        assert found.p_permutation == 1.0
        assert np.isnan([found.p_sign, found.p_wilcoxon]).all()


def test_one_user_has_a_mean_and_a_reason():
    found = row([0.2])
    assert found.mean_lift == 0.2
    assert np.isnan([found.ci_low, found.bca_low, found.t, found.mde80]).all()
    assert "two users or more" in found.note


def test_no_user_is_a_row_of_reasons():
    found = row([])
    assert found.n_users == 0
    assert "no user has both scores" in found.note
    assert comparison_rows([found])[0]["mean_lift"] is None
    json.dumps(comparison_rows([found]), allow_nan=False)


def test_users_without_a_score_are_left_out_with_their_band_and_counted():
    found = row([0.2, np.nan, -0.1], noise_band=np.array([0.3, 0.0, 0.0]))
    assert (found.n_users, found.helped, found.hurt) == (2, 0, 1)
    assert "1 user(s) without a score left out" in found.note
    several = compare_many(
        ["a", "b"],
        "m",
        np.array([[0.1, np.nan], [0.2, 0.3], [0.4, 0.1]]),
        margin=0.01,
        rng=np.random.default_rng(0),
        resamples=50,
    )
    assert [one.n_users for one in several] == [3, 2]


def test_bad_input_says_what_is_allowed():
    with pytest.raises(StatsError, match="NaN or infinity"):
        row([np.inf, 1.0])
    with pytest.raises(StatsError, match="above 0 is allowed"):
        row([0.1, 0.2], margin=0.0)
    with pytest.raises(StatsError, match="Noise band of 3 numbers for 2 users"):
        row([0.1, 0.2], noise_band=np.zeros(3))
    with pytest.raises(StatsError, match=r"\[users, 2\] is needed"):
        compare_many(["a", "b"], "m", np.zeros((3, 1)), margin=1, rng=np.random.default_rng(0))
    with pytest.raises(StatsError, match="one of p_t"):
        adjust([], primary=[], test="p_magic")


def test_scores_give_cliffs_delta_over_all_pairs():
    arm, baseline = np.array([1.0, 5.0]), np.array([0.0, 4.0])
    assert row(arm - baseline).cliffs_delta == 1.0
    assert "within pairs" in row(arm - baseline).note
    over_all = row(arm - baseline, scores=(arm, baseline))
    assert over_all.cliffs_delta == 0.5
    assert over_all.note == "n/a: BCa, t, dz, TOST and MDE: all differences are equal"


def test_tests_that_disagree_are_flagged():
    skewed = np.concatenate([np.full(30, -0.01), np.full(5, 1.0)])
    found = row(skewed, resamples=2000)
    assert found.mean_lift > 0
    assert "p_sign" in found.flag.split(";")[0]
    assert "tests disagree" in found.flag
    assert row(np.linspace(0.1, 0.3, 30)).flag == row(-np.linspace(0.1, 0.3, 30)).flag == ""


def test_only_the_declared_family_gets_holm():
    rows = [row(np.full(n, 0.1) + np.arange(n) / 1e3) for n in (3, 5, 7, 9)]
    rows = [dataclasses.replace(one, contrast=name) for one, name in zip(rows, "abcd", strict=True)]
    done = adjust(rows, primary=[("a", "rouge_l"), ("c", "rouge_l")])
    p = [one.p_permutation for one in rows]
    assert [one.family.split()[0] for one in done] == ["primary", "secondary"] * 2
    np.testing.assert_allclose([done[0].p_adjusted, done[2].p_adjusted], holm([p[0], p[2]]))
    assert done[1].p_adjusted == pytest.approx(p[1])
    assert done[3].p_adjusted == pytest.approx(2 * p[3])


def test_missing_p_is_not_counted_as_a_question():
    np.testing.assert_allclose(holm([0.01, np.nan, 0.02]), [0.02, np.nan, 0.02])


def test_noise_band_is_the_seeds_difference():
    np.testing.assert_allclose(noise_band([[1.0, 1.5], [2.0, 1.0]]), [0.5, 1.0])
    with pytest.raises(StatsError, match="One seed has no noise band"):
        noise_band([[1.0], [2.0]])


def test_the_gate_keeps_gains_and_rolls_back_the_unknown():
    assert no_harm_gate([0.1, 0.0, -0.1, np.nan]).tolist() == [True, False, False, False]


def test_seeds_that_move_everybody_widen_the_crossed_interval_alone():
    rng = np.random.default_rng(0)
    common = rng.normal(0, 0.01, (200, 1)) + np.array([-1.0, 0.0, 1.0])
    crossed = crossed_bootstrap(common, rng=np.random.default_rng(1), resamples=2000)
    nested = nested_bootstrap(common, rng=np.random.default_rng(1), resamples=2000)
    # Var of the mean of three draws from {-1, 0, 1} is (2/3)/3.
    assert crossed.std() == pytest.approx(np.sqrt(2) / 3, rel=0.05)
    assert nested.std() < 0.01
    assert seed_interval(common[:, :1], nested=True, rng=rng, resamples=50).note.startswith(
        "1 seed"
    )


def test_nested_bootstrap_is_the_bootstrap_of_users_means():
    table = np.random.default_rng(0).normal(size=(30, 3))
    means = bootstrap_means(table.mean(axis=1), rng=np.random.default_rng(1), resamples=100)
    nested = nested_bootstrap(table, rng=np.random.default_rng(1), resamples=100)
    np.testing.assert_allclose(nested, means[:, 0])


def test_clusters_come_worst_first_and_a_single_user_does_not_pass():
    lifts = [0.1, 0.2, 0.3, -0.5, -0.4, -0.6, 0.0]
    found = cluster_lifts(lifts, ["a"] * 3 + ["b"] * 3 + ["c"], margin=0.01)
    assert [one.cluster for one in found] == ["b", "c", "a"]
    assert [one.passes for one in found] == [False, False, False]
    assert found[1].note == "n/a: one user"
    assert cluster_lifts(lifts[:3], ["a"] * 3, margin=0.2)[0].passes


def test_an_oracle_over_noise_is_no_better_than_its_null():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(60), 10)
    other = rng.normal(size=600)
    alike = oracle_null(user, other + rng.normal(size=600), other, rng=rng, permutations=300)
    assert alike.gain > 0.05
    assert alike.p > 0.05
    truth = rng.normal(0, 1, 60)[user]
    real = oracle_null(user, other + truth + rng.normal(size=600), other, rng=rng, permutations=300)
    assert real.p < 0.01
    assert real.gain > real.null_high
    by_hand = oracle_null([0, 1, 2], [1.0, 5.0, 3.0], [2.0, 1.0, 3.0], rng=rng, permutations=9)
    assert (by_hand.oracle, by_hand.gain) == pytest.approx((10 / 3, 4 / 3 - 1))
    single = oracle_null(np.arange(9), rng.normal(size=9), np.zeros(9), rng=rng, permutations=9)
    assert single.note.startswith("n/a")


def test_accuracy_resamples_users_and_not_queries():
    user = np.repeat(np.arange(20), 50)
    hits = (user % 2).astype(float)
    found = accuracy(user, hits, rng=np.random.default_rng(0), resamples=2000)
    assert found.value == 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(20), rel=0.15)
    uneven = accuracy([0, 0, 0, 1], [1, 1, 1, 0], rng=np.random.default_rng(0), macro=True)
    assert uneven.value == 0.5
    assert accuracy([0], [1.0], rng=np.random.default_rng(0)).note.startswith("n/a")
    assert accuracy([], [], rng=np.random.default_rng(0)).note == "n/a: no query"


def test_mcnemar_of_equal_answers():
    assert mcnemar([True, False], [True, False]) == (0, 0, 1.0)
    with pytest.raises(StatsError, match="same queries"):
        mcnemar([True], [True, False])


def test_degenerate_user_scores_give_reasons():
    rng = np.random.default_rng(0)
    assert reliability([0, 1], [1.0, 2.0], rng=rng).note.startswith("n/a")
    assert reliability([0, 0, 1, 1], [1.0] * 4, rng=rng).note.startswith("n/a")
    assert shrink([0.3], [0.1]).note.startswith("n/a")
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], rng=rng).note == "n/a: one side is constant"
    assert spearman([1.0, 2.0], [1.0, 2.0], rng=rng).note.startswith("n/a")
    with pytest.raises(StatsError, match="pool them"):
        shrink([0.3, 0.2], [0.0, 0.1])
