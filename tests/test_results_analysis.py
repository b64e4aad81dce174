"""Contrasts, families, pairing, seeds, drift: from the collected table to the numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from results.analysis import analyze
from results.contrasts import Contrast, declared_contrasts
from results.effect_sizes import helped_tied_hurt
from results.files import DECIMALS
from results.item_tables import item_lifts, sample_examples
from results.pairing import pair_up, wide_scores
from results.record import RecordError
from tests.results_study import LIFTS, fake_collected


def analysis_of(**changes):
    collected = fake_collected(**changes)
    return analyze(collected, seed=0, margin=0.01, resamples=300)


def test_every_declared_contrast_is_there_and_the_personal_one_leads():
    names = [contrast.name for contrast in declared_contrasts(list(LIFTS))]
    assert names[0] == "lora_per_user - lora_per_user_swapped"
    assert {
        "lora_all - baseline",
        "prefix_per_user - prefix_all",
        "lora_all - prefix_all",
        "lora_per_user - prefix_per_user",
        "lora_per_user_swapped - baseline",
    } <= set(names)
    assert len(names) == len(set(names))
    primary = {contrast.name for contrast in declared_contrasts(list(LIFTS)) if contrast.primary}
    assert primary == {
        "lora_all - baseline",
        "prefix_all - baseline",
        "lora_per_user - lora_per_user_swapped",
        "prefix_per_user - prefix_per_user_swapped",
        "lora_per_user - lora_all",
        "prefix_per_user - prefix_all",
    }


def test_cluster_arms_are_compared_with_the_coarser_and_the_finer_grouping():
    arms = ["baseline", "lora_all", "lora_cluster", "lora_cluster_user", "lora_per_user"]
    names = {contrast.name for contrast in declared_contrasts(arms)}
    assert {
        "lora_cluster - lora_all",
        "lora_cluster_user - lora_cluster",
        "lora_cluster_user - lora_all",
        "lora_per_user - lora_cluster_user",
        "lora_per_user - lora_cluster",
    } <= names
    sides = [frozenset(name.split(" - ")) for name in names]
    assert len(sides) == len(set(sides))
    declared = {contrast.name: contrast.primary for contrast in declared_contrasts(arms)}
    assert not any(primary for name, primary in declared.items() if "cluster" in name)


def test_the_few_shot_prompt_is_asked_about_where_it_is_there_and_never_primary():
    before = [contrast.name for contrast in declared_contrasts(list(LIFTS))]
    assert not any("few_shot" in name for name in before)
    after = declared_contrasts([*LIFTS, "few_shot"])
    new = {c.name: (c.question, c.primary) for c in after if c.name not in before}
    assert new == {
        "few_shot - baseline": ("adapted", False),
        "lora_per_user - few_shot": ("prompted", False),
        "prefix_per_user - few_shot": ("prompted", False),
    }
    arms = {**LIFTS, "few_shot": 0.06}
    found = analysis_of(arms=arms)
    assert found.arms[:3] == ("baseline", "few_shot", "lora_all")
    row = found.row("lora_per_user - few_shot")
    assert row["n_users"] == 12
    assert row["mean_lift"] == pytest.approx(0.10, abs=0.04)
    assert row["family"] != "primary"


def test_mean_lift_and_t_equal_scipys_on_the_pivoted_table():
    collected = fake_collected(users=9)
    found = analyze(collected, seed=0, margin=0.01, resamples=300)
    table = collected.table.query("slice == 'all' and metric == 'verbosity_error'")
    wide = table.pivot(index="user_id", columns="arm", values="value")
    row = found.row("lora_all - baseline", "verbosity_error")
    # Fewer words off is better, so the lift is baseline minus arm.
    expected = stats.ttest_rel(wide["baseline"], wide["lora_all"])
    assert row["mean_lift"] == pytest.approx((wide["baseline"] - wide["lora_all"]).mean())
    assert row["t"] == pytest.approx(expected.statistic)
    assert row["mean_lift"] > 0


def test_holm_corrects_the_primary_family_alone():
    table = analysis_of().comparisons
    primary = table[table["family"].str.startswith("primary")]
    assert set(primary["metric"]) == {"rouge_l"}
    raw = np.sort(primary["p_permutation"].to_numpy())
    expected = np.minimum(1, np.maximum.accumulate(raw * np.arange(len(raw), 0, -1)))
    assert np.sort(primary["p_adjusted"].to_numpy()) == pytest.approx(expected)


def test_same_seed_same_numbers_and_another_seed_other_intervals():
    collected = fake_collected()
    first, again = (analyze(collected, seed=3, margin=0.01, resamples=200) for _ in range(2))
    other = analyze(collected, seed=4, margin=0.01, resamples=200)
    pd.testing.assert_frame_equal(first.comparisons, again.comparisons)
    assert not first.comparisons["ci_low"].equals(other.comparisons["ci_low"])


def test_users_in_one_arm_only_are_left_out_and_named():
    collected = fake_collected(users=8)
    gone = (collected.table["arm"] == "lora_all") & (collected.table["user_id"] == "user_003")
    found = analyze(
        replace(collected, table=collected.table[~gone]), seed=0, margin=0.01, resamples=200
    )
    row = found.row("lora_all - baseline")
    assert row["n_users"] == 7
    assert "1 user(s) without both scores" in row["note"]
    named = found.missing[found.missing["contrast"] == "lora_all - baseline"]
    assert list(named["user_id"]) == ["user_003"]
    assert list(named["arm"]) == ["lora_all"]
    assert found.row("prefix_all - baseline")["n_users"] == 8


def test_absent_partner_is_a_row_without_numbers_and_a_reason():
    found = analysis_of(arms={"baseline": 0.0, "lora_per_user": 0.1})
    row = found.row("lora_per_user - lora_all")
    assert row["n_users"] == 0
    assert "no score of lora_all" in row["note"]
    assert np.isnan(row["p_adjusted"])
    assert "lora_all" in set(found.missing["arm"])


def test_one_seed_counts_signs_and_three_count_outside_the_noise_band():
    one, three = analysis_of(), analysis_of(seeds=(0, 1, 2))
    assert one.lifts["noise_band"].isna().all()
    assert "signs" in one.row("lora_all - baseline")["note"]
    row = three.row("lora_all - baseline")
    lifts = three.lifts_of("lora_all - baseline")
    assert row["helped"] == (lifts["lift"] > lifts["noise_band"]).sum()
    assert row["hurt"] == (lifts["lift"] < -lifts["noise_band"]).sum()
    assert "signs" not in row["note"]


def test_users_equal_to_the_baseline_in_every_seed_are_tied():
    collected = fake_collected(users=60, seeds=(0, 1, 2), noise=0.0)
    table = collected.table.copy()
    # A mean of three equal scores is often not that score.
    scores = dict(zip(sorted(set(table["user_id"])), np.linspace(0.1, 0.7, 60), strict=True))
    own = table["arm"].isin(["baseline", "lora_all"])
    table.loc[own, "value"] = table.loc[own, "user_id"].map(scores)
    assert any(np.mean([value] * 3) != value for value in scores.values())
    first = table["seed"].eq(0) | table["arm"].ne("baseline")
    found = analyze(replace(collected, table=table[first]), seed=0, margin=0.01, resamples=200)
    row = found.row("lora_all - baseline")
    assert (row["helped"], row["tied"], row["hurt"]) == (0, 60, 0)
    assert np.isnan(row["p_sign"])
    assert np.isnan(row["p_wilcoxon"])
    assert "no user is helped or hurt" in row["note"]
    assert row["flag"] == ""


SCORES = st.lists(
    st.tuples(*[st.integers(0, 12).map(lambda count: count / 12)] * 4), min_size=2, max_size=25
)


@settings(deadline=None, max_examples=60)
@given(scores=SCORES, scale=st.sampled_from([1.0, 0.3, 7.0]))
def test_counts_are_those_of_the_written_lifts(scores, scale):
    names = [f"u{number}" for number in range(len(scores))]
    rows = [
        (arm, seed, name, "m", scale * value)
        for name, (base, *own) in zip(names, scores, strict=True)
        for arm, seed, value in [
            ("baseline", 0, base),
            *(("a_all", k, v) for k, v in enumerate(own)),
        ]
    ]
    table = pd.DataFrame(rows, columns=["arm", "seed", "user_id", "metric", "value"])
    contrast = Contrast(arm="a_all", reference="baseline", question="adapted")
    pair = pair_up(wide_scores(table), contrast, "m", higher_is_better=True)
    helped, tied, hurt = (
        int(n[0]) for n in helped_tied_hurt(*pair.counted()[:1], noise_band=pair.counted()[1])
    )
    lifts, band = (
        np.array([float(f"{value:.{DECIMALS}f}") for value in values])
        for values in (pair.lifts, pair.band)
    )
    assert (helped, hurt) == ((lifts > band).sum(), (lifts < -band).sum())
    # In twelfths everything is exact: that is what must be counted.
    exact = [(round(12 * sum(own)) - 36 * base, round(12 * (max(own) - min(own))) * 3)
             for base, *own in scores]  # fmt: skip
    assert helped == sum(round(lift) > edge for lift, edge in exact)
    assert hurt == sum(round(lift) < -edge for lift, edge in exact)
    assert helped + tied + hurt == len(scores)


def test_a_seed_that_moves_all_users_widens_the_reported_interval():
    collected = fake_collected(users=20, seeds=(0, 1, 2), noise=0.01)
    moved = collected.table.copy()
    shared = (moved["arm"] == "lora_all") & (moved["metric"] == "rouge_l")
    moved.loc[shared, "value"] += moved.loc[shared, "seed"].map({0: -0.05, 1: 0.0, 2: 0.05})
    found = analyze(replace(collected, table=moved), seed=0, margin=0.01, resamples=500)
    row = found.row("lora_all - baseline")
    assert row["high"] - row["low"] > 3 * (row["ci_high"] - row["ci_low"])
    assert (row["low"], row["high"]) == (row["seeds_low"], row["seeds_high"])


def test_drift_levels_follow_shift_norms_and_steps_are_kept():
    found = analysis_of(users=12).drift
    assert set(found.users["arm"]) == {"lora_per_user", "prefix_per_user"}
    for _, part in found.users.groupby("arm"):
        norms = part.set_index("level")["shift_norm"]
        assert norms["low"].max() < norms["middle"].min()
        assert norms["middle"].max() < norms["high"].min()
    assert set(found.steps["step"]) == set(range(1, 13))
    assert found.correlations["rho"].between(-1, 1).all()


def test_item_lifts_are_signed_by_the_metrics_direction():
    collected = fake_collected(users=3, noise=0.0)
    up, down = (
        item_lifts(collected, "lora_per_user", "baseline", metric="rouge_l", higher_is_better=b)
        for b in (True, False)
    )
    assert len(up) == 9
    assert up["lift"].to_numpy() == pytest.approx(-down["lift"].to_numpy())


def test_examples_are_drawn_by_item_and_not_by_score():
    collected = fake_collected(users=4, items=6)
    options = {"metric": "rouge_l", "users": ["user_001", "user_002"], "per_user": 2}
    first = sample_examples(collected, "lora_per_user", **options)
    collected.texts["rouge_l"] = -collected.texts["rouge_l"]
    again = sample_examples(collected, "lora_per_user", **options)
    assert list(first["item_id"]) == list(again["item_id"])
    assert first.groupby("user_id").size().to_dict() == {"user_001": 2, "user_002": 2}
    assert first["before"].str.startswith("[baseline]").all()
    assert first["after"].str.startswith("[lora_per_user]").all()


def test_clusters_come_worst_first_and_slices_keep_their_sign():
    collected = fake_collected(users=12)
    clusters = {f"user_{number:03d}": number % 3 for number in range(12)}
    found = analyze(collected, seed=0, margin=0.01, resamples=200, clusters=clusters)
    part = found.clusters[found.clusters["contrast"] == "lora_all - baseline"]
    assert list(part["mean_lift"]) == sorted(part["mean_lift"])
    lifts = found.slices.set_index(["contrast", "slice"])["mean_lift"]
    own = lifts["lora_all - baseline"]
    assert own["routine_driven"] - own["spontaneous"] == pytest.approx(0.03)
    assert own["first_turn"] - own["later_turns"] == pytest.approx(0.04)


def test_no_scores_or_two_values_for_one_user_are_refused():
    collected = fake_collected(users=2)
    with pytest.raises(RecordError, match="No scores"):
        analyze(replace(collected, table=collected.table[:0]), seed=0, margin=0.01, resamples=10)
    twice = pd.concat([collected.table, collected.table[:1]], ignore_index=True)
    with pytest.raises(RecordError, match="two values"):
        analyze(replace(collected, table=twice), seed=0, margin=0.01, resamples=10)
    with pytest.raises(RecordError, match=r"'bleu' was not scored; one of .*rouge_l"):
        analyze(collected, seed=0, margin=0.01, resamples=10, primary_metric="bleu")
