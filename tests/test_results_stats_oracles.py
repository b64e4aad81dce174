"""Every deterministic statistic against scipy, statsmodels or all sign patterns by hand."""

from itertools import product

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from results.effect_sizes import (
    cliffs_delta,
    cohens_dz,
    minimal_detectable_effect,
    prob_improvement,
    wilson_interval,
)
from results.paired_tests import (
    benjamini_hochberg,
    holm,
    mcnemar,
    paired_t,
    sign_flip,
    sign_test,
    t_interval,
    tost,
    wilcoxon,
)
from results.resampling import (
    bca_interval,
    bootstrap_means,
    bootstrap_spearman,
    percentile_interval,
)
from results.stats import item_lift_variances, reliability, shrink, spearman

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def lifts(n, k=3, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1.0, (n, k))


def tied(n, k=3, seed=0):
    chances = [0.1, 0.2, 0.4, 0.2, 0.1]
    return np.random.default_rng(seed).choice([-2.0, -1.0, 0.0, 1.0, 2.0], (n, k), p=chances)


@pytest.mark.parametrize("n", [2, 3, 20, 200])
def test_t_dz_and_tost_equal_scipy_and_statsmodels(n):
    table = lifts(n)
    t, p = paired_t(table)
    oracle = scipy_stats.ttest_1samp(table, 0.0)
    np.testing.assert_allclose(t, oracle.statistic, **TIGHT)
    np.testing.assert_allclose(p, oracle.pvalue, **TIGHT)
    interval = oracle.confidence_interval(0.95)
    np.testing.assert_allclose(t_interval(table), (interval.low, interval.high), **TIGHT)
    np.testing.assert_allclose(cohens_dz(table), t / np.sqrt(n), **TIGHT)
    for k in range(table.shape[1]):
        expected = DescrStatsW(table[:, k]).ttost_mean(-0.4, 0.4)[0]
        np.testing.assert_allclose(tost(table, margin=0.4)[k], expected, **TIGHT)


@pytest.mark.parametrize("n", [1, 2, 9, 20, 50, 51, 300])
def test_wilcoxon_without_ties_equals_scipy(n):
    oracle = scipy_stats.wilcoxon(lifts(n), zero_method="pratt")
    np.testing.assert_allclose(wilcoxon(lifts(n)), oracle.pvalue, **TIGHT)


def test_wilcoxon_with_many_ties_and_zeros_equals_scipys_normal_form():
    oracle = scipy_stats.wilcoxon(tied(300), zero_method="pratt", method="asymptotic")
    np.testing.assert_allclose(wilcoxon(tied(300)), oracle.pvalue, **TIGHT)


def test_wilcoxon_with_ties_is_exact_over_all_sign_patterns():
    table = tied(10, k=6)
    for k, column in enumerate(table.T):
        ranks = np.where(column == 0, 0, scipy_stats.rankdata(np.abs(column)))
        signs = np.array(list(product((-1, 1), repeat=10)))
        expected = np.mean(np.abs(signs @ ranks) >= abs(np.sign(column) @ ranks))
        np.testing.assert_allclose(wilcoxon(table)[k], expected, **TIGHT)


@pytest.mark.parametrize("make", [lifts, tied])
@pytest.mark.parametrize("n", [2, 11])
def test_sign_flip_of_few_users_equals_scipys_exact_permutation(make, n):
    table = make(n)
    oracle = scipy_stats.permutation_test(
        (table,),
        lambda values, axis: values.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    np.testing.assert_allclose(
        sign_flip(table, rng=np.random.default_rng(0)), oracle.pvalue, **TIGHT
    )


def test_sign_flip_of_many_users_comes_near_the_exact_one_and_is_never_zero():
    table = lifts(16, seed=3)
    exact = sign_flip(table, rng=np.random.default_rng(0))
    # A zero row changes no sum, but takes the seventeenth place and so the Monte Carlo path.
    drawn = sign_flip(np.vstack([table, np.zeros(3)]), rng=np.random.default_rng(0))
    np.testing.assert_allclose(drawn, exact, atol=0.02)
    far = sign_flip(np.ones(100), rng=np.random.default_rng(0), permutations=99)
    assert far[0] == 1 / 100


@pytest.mark.parametrize(("helped", "hurt"), [(7, 2), (0, 3), (5, 5), (130, 70), (1, 0)])
def test_sign_test_equals_scipys_binomial(helped, hurt):
    expected = scipy_stats.binomtest(helped, helped + hurt).pvalue
    np.testing.assert_allclose(sign_test(helped, hurt)[0], expected, **TIGHT)


def test_mcnemar_equals_statsmodels():
    rng = np.random.default_rng(0)
    first, second = rng.random(60) < 0.6, rng.random(60) < 0.8
    table = [
        [np.sum(first & second), np.sum(first & ~second)],
        [np.sum(~first & second), np.sum(~first & ~second)],
    ]
    only_first, only_second, p = mcnemar(first, second)
    assert (only_first, only_second) == (table[0][1], table[1][0])
    np.testing.assert_allclose(p, statsmodels_mcnemar(table, exact=True).pvalue, **TIGHT)


@pytest.mark.parametrize(("ours", "theirs"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])
def test_adjusted_p_equal_statsmodels(ours, theirs):
    p = np.random.default_rng(0).beta(0.3, 1.0, 25)
    np.testing.assert_allclose(ours(p), multipletests(p, method=theirs)[1], **TIGHT)


@pytest.mark.parametrize("n", [3, 10, 20, 200, 5000])
def test_minimal_detectable_effect_equals_statsmodels(n):
    table = lifts(n)
    dz = minimal_detectable_effect(table) / table.std(axis=0, ddof=1)
    power = TTestPower().power(effect_size=dz[0], nobs=n, alpha=0.05)
    np.testing.assert_allclose(power, 0.8, rtol=1e-9)


@pytest.mark.parametrize(("hits", "trials"), [(0, 7), (7, 7), (60, 200), (1, 1)])
def test_wilson_equals_statsmodels(hits, trials):
    expected = proportion_confint(hits, trials, method="wilson")
    np.testing.assert_allclose(np.ravel(wilson_interval(hits, trials)), expected, **TIGHT)


def test_cliffs_delta_is_mann_whitneys_u():
    rng = np.random.default_rng(0)
    arm, baseline = rng.integers(0, 9, 40) * 1.0, rng.integers(0, 8, 30) * 1.0
    u = scipy_stats.mannwhitneyu(arm, baseline).statistic
    np.testing.assert_allclose(cliffs_delta(arm, baseline), 2 * u / (40 * 30) - 1, **TIGHT)


def test_prob_improvement_counts_ties_half():
    assert prob_improvement([1.0, 2.0, 0.0, -1.0])[0] == pytest.approx(2.5 / 4)


@pytest.mark.parametrize(("method", "n"), [("percentile", 5), ("percentile", 40), ("BCa", 40)])
def test_intervals_equal_scipys_bootstrap_of_the_same_generator(method, n):
    table = np.random.default_rng(1).exponential(size=(n, 2))
    replicates = bootstrap_means(table, rng=np.random.default_rng(7), resamples=2_000)
    ours = percentile_interval(replicates)
    if method == "BCa":
        ours = bca_interval(table, replicates)
    oracle = scipy_stats.bootstrap(
        (table,),
        np.mean,
        axis=0,
        n_resamples=2_000,
        method=method,
        rng=np.random.default_rng(7),
    )
    np.testing.assert_allclose(np.array(ours), oracle.confidence_interval, **TIGHT)


def test_spearman_and_its_bootstrap_equal_scipy_resample_by_resample():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 25) * 1.0, rng.normal(size=25)
    found = spearman(x, y, rng=np.random.default_rng(1), resamples=50)
    oracle = scipy_stats.spearmanr(x, y)
    np.testing.assert_allclose((found.value, found.p), oracle, **TIGHT)
    replicates = bootstrap_spearman(x, y, rng=np.random.default_rng(1), resamples=50)
    rows = np.random.default_rng(1).integers(0, 25, (50, 25))
    expected = [scipy_stats.spearmanr(x[row], y[row]).statistic for row in rows]
    np.testing.assert_allclose(replicates, expected, **TIGHT)


def test_icc_equals_the_analysis_of_variance():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 1)) + rng.normal(size=(30, 8))
    found = reliability(np.repeat(np.arange(30), 8), scores.ravel(), rng=rng)
    f = scipy_stats.f_oneway(*scores).statistic
    np.testing.assert_allclose(found.icc, (f - 1) / (f + 7), **TIGHT)
    np.testing.assert_allclose(found.reliability, 1 - 1 / f, **TIGHT)
    assert found.split_half == pytest.approx(found.reliability, abs=0.05)


def test_halves_that_contradict_each_other_are_told_as_they_are():
    # A user's two items are k and -k: whichever comes first, one half is the other's negative.
    scores = np.outer(np.arange(1, 7), [1.0, -1.0])
    found = reliability(np.repeat(np.arange(6), 2), scores.ravel(), rng=np.random.default_rng(0))
    assert found.split_half == pytest.approx(-1)


def test_shrinkage_equals_statsmodels_random_effects():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(40), rng.integers(2, 12, 40))
    means, variances = item_lift_variances(
        user, rng.normal(0.2, 1, 40)[user] + rng.normal(size=len(user))
    )
    found = shrink(means, variances)
    oracle = combine_effects(means, variances, method_re="dl")
    np.testing.assert_allclose(found.variance_between, oracle.tau2, **TIGHT)
    np.testing.assert_allclose(found.mean, oracle.mean_effect_re, **TIGHT)
    kept = oracle.tau2 / (oracle.tau2 + variances)
    np.testing.assert_allclose(found.values, found.mean + kept * (means - found.mean), **TIGHT)
