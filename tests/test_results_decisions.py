"""Decision rules at their thresholds, and the words that the numbers allow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from results.analysis import Thresholds, analyze
from results.decisions import decide, recommendation
from results.summary import recommendations_sections
from results.wording import arm_title, caution, contrast_title, finding, interval, number, verdict
from tests.results_study import LIFTS, fake_collected

NAN = float("nan")
ROW = {
    "contrast": "lora_all - baseline",
    "n_users": 100,
    "mean_lift": 0.02,
    "low": 0.01,
    "high": 0.03,
    "p_adjusted": 0.001,
    "p_tost": 0.5,
    "mde80": 0.012,
    "flag": "",
    "note": "",
}
WITHIN = {"low": -0.005, "high": 0.005, "p_tost": 0.01, "p_adjusted": 0.2}


@pytest.fixture(scope="module")
def analysis():
    return analyze(fake_collected(users=12), seed=0, margin=0.01, resamples=200)


def with_numbers(analysis, contrast, **numbers):
    """The analysis with some numbers of one contrast replaced."""
    table = analysis.comparisons.copy()
    chosen = (table["contrast"] == contrast) & (table["metric"] == "rouge_l")
    assert chosen.sum() == 1
    for name, value in numbers.items():
        table.loc[chosen, name] = value
    return replace(analysis, comparisons=table)


def one(decisions, rule, arm):
    return next(d for d in decisions if d.rule == rule and d.arm == arm)


@pytest.mark.parametrize(
    ("low", "hurt", "fired"),
    [(0.001, 0.09, True), (0.0, 0.09, False), (0.001, 0.10, False), (NAN, NAN, None)],
)
def test_all_persona_needs_a_gain_and_few_hurt_users(analysis, low, hurt, fired):
    changed = with_numbers(analysis, "lora_all - baseline", low=low, share_hurt_high=hurt)
    found = one(decide(changed), "all-persona for simplicity", "lora_all")
    assert found.fired is fired
    if fired is False:
        short = "lower bound from" if low == 0 else "share hurt from"
        assert short in found.would_change


@pytest.mark.parametrize(
    ("helped", "hurt", "fired"), [(0.11, 0.11, True), (0.5, 0.10, False), (0.10, 0.5, False)]
)
def test_high_variance_needs_both_shares(analysis, helped, hurt, fired):
    contrast = "lora_per_user - lora_all"
    changed = with_numbers(analysis, contrast, share_helped_low=helped, share_hurt_low=hurt)
    found = one(decide(changed), "high variance: cluster first", "lora_per_user")
    assert found.fired is fired
    assert any("cluster first" in line for line in recommendation([found])) is fired


def test_per_user_adapters_need_a_personal_part(analysis):
    step = with_numbers(analysis, "lora_per_user - lora_all", low=0.01, share_hurt_high=0.05)
    personal = "lora_per_user - lora_per_user_swapped"
    yes = decide(with_numbers(step, personal, low=0.001))
    no = decide(with_numbers(step, personal, low=-0.001))
    assert one(yes, "per-user adapters", "lora_per_user").fired is True
    found = one(no, "per-user adapters", "lora_per_user")
    assert found.fired is False
    assert "personal part" in found.verdict
    assert one(no, "personal part", "lora_per_user").fired is False


@pytest.mark.parametrize(("low", "fired"), [(-0.0099, True), (-0.01, False)])
def test_no_harm_is_a_lower_bound_above_minus_the_margin(analysis, low, fired):
    changed = with_numbers(analysis, "lora_per_user - baseline", low=low)
    assert one(decide(changed), "no harm", "lora_per_user").fired is fired


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.01, 0.1, "strengthens"), (-0.1, -0.01, "overfitting"), (-0.1, 0.1, "no evidence")],
)
def test_persona_prediction(analysis, low, high, word):
    found = decide(analysis, persona={"difference": 0.0, "low": low, "high": high})[-1]
    assert word in found.verdict
    assert decide(analysis)[-1].fired is None


@pytest.mark.parametrize(("p", "fired"), [(0.049, True), (0.05, False), (NAN, False)])
def test_rules_and_sentences_share_what_a_gain_is(analysis, p, fired):
    """What a sentence calls not confirmed, no rule recommends."""
    changed = analysis
    for arm, reference in (
        ("lora_per_user", "lora_per_user_swapped"),
        ("lora_per_user", "lora_all"),
        ("lora_all", "baseline"),
    ):
        changed = with_numbers(
            changed, f"{arm} - {reference}", low=0.01, high=0.03, p_adjusted=p, share_hurt_high=0.01
        )
    decisions = decide(changed)
    for rule, arm, reference in (
        ("personal part", "lora_per_user", "lora_per_user_swapped"),
        ("per-user adapters", "lora_per_user", "lora_all"),
        ("all-persona for simplicity", "lora_all", "baseline"),
    ):
        found = one(decisions, rule, arm)
        assert found.fired is fired
        assert (verdict(changed.row(f"{arm} - {reference}")) == "higher") is fired
        assert fired or "adjusted p" in found.would_change
    lora = [d for d in decisions if d.arm in ("lora_all", "lora_per_user")]
    told = " ".join(recommendation(lora))
    assert ("Per-user LoRA" in told) is fired
    assert ("All-persona LoRA" in told) is fired


def test_thresholds_are_settable_and_printed(analysis):
    wide = replace(analysis, thresholds=Thresholds(stable_share_hurt=0.3, high_variance_share=0.2))
    changed = with_numbers(wide, "lora_all - baseline", low=0.01, share_hurt_high=0.2)
    changed = with_numbers(
        changed, "lora_per_user - lora_all", share_helped_low=0.15, share_hurt_low=0.15
    )
    decisions = decide(changed)
    assert one(decisions, "all-persona for simplicity", "lora_all").fired is True
    assert one(decisions, "high variance: cluster first", "lora_per_user").fired is False
    told = str(recommendations_sections(changed, decisions, {}))
    assert "share hurt lies under 30 %" in told
    assert "lie above 20 %" in told
    usual = replace(changed, thresholds=Thresholds())
    assert one(decide(usual), "all-persona for simplicity", "lora_all").fired is False
    assert one(decide(usual), "high variance: cluster first", "lora_per_user").fired is True


def test_a_gate_that_was_measured_is_cited_with_its_numbers():
    arms = {**LIFTS, "lora_per_user_gated": 0.14}
    gated = analyze(fake_collected(users=12, arms=arms), seed=0, margin=0.01, resamples=200)
    shared = "lora_per_user_gated - lora_all"
    changed = with_numbers(gated, shared, mean_lift=0.02, low=0.01, high=0.03, p_adjusted=0.01)
    changed = with_numbers(
        changed, "lora_per_user_gated - lora_per_user", mean_lift=-0.01, low=-0.02, high=0.01
    )
    changed = with_numbers(changed, "lora_per_user - lora_all", share_hurt_high=0.5)
    decisions = [d for d in decide(changed) if d.arm == "lora_per_user"]
    assert one(decisions, "no-harm gate", "lora_per_user").fired is True
    tiny = decide(with_numbers(changed, shared, p_adjusted=0.0002))
    change = one(tiny, "no-harm gate", "lora_per_user").would_change
    assert "adjusted p from < 0.001 to 0.05 or above" in change
    told = " ".join(recommendation(decisions))
    assert "behind the gate − all-persona LoRA +0.020 [+0.010, +0.030]: evidence of a gain" in told
    assert "without the gate −0.010 [−0.020, +0.010]: no evidence of a difference" in told
    assert "next step" not in told
    choices = pd.DataFrame({"arm": "lora_per_user", "kept": [True] * 11 + [False]})
    for kept, words in (
        (choices, "no evidence of a difference (11 of 12 adapters kept)."),
        (choices[choices["kept"]], "it kept all 11 adapters, so the same arm scores the same"),
    ):
        here = replace(changed, gate=replace(changed.gate, choices=kept))
        assert words in one(decide(here), "no-harm gate", "lora_per_user").verdict
    ungated = [d for d in decisions if d.rule != "no-harm gate"]
    assert "is the next step" in " ".join(recommendation(ungated))


def test_there_is_always_advice(analysis):
    (weak,) = recommendation([one for one in decide(analysis) if one.rule == "no harm"][:1])
    assert "keep the baseline" in weak
    untrained = [one for one in decide(analysis) if one.rule == "persona prediction"]
    for decisions in ([], untrained):
        (none,) = recommendation(decisions)
        assert none.startswith("No adapter was trained in this study")


@pytest.mark.parametrize(
    ("changes", "expected", "words"),
    [
        ({}, "higher", "evidence of a gain"),
        ({"p_adjusted": 0.2}, "perhaps higher", "does not confirm"),
        ({"low": -0.03, "high": -0.01}, "lower", "evidence of a loss"),
        ({"low": -0.01, "p_adjusted": 0.2}, "no evidence", "smallest detectable lift was 0.012"),
        (WITHIN, "within margin", "TOST p = 0.010"),
        ({"low": -0.01}, "test alone", "the adjusted test finds a difference, but the interval"),
        (
            {"low": -0.01, "n_seeds": 3, "seeds_mde80": 0.2},
            "test alone",
            "for these seeds, but the interval over users and seeds holds 0: not confirmed; mean "
            "lift +0.020 ROUGE-L, 95 % interval [−0.010, +0.030] (n = 100, adjusted p = 0.001); "
            "the smallest detectable lift was 0.200 (80 % power, over users and seeds)",
        ),
        (WITHIN | {"n_seeds": 3, "seeds_p_tost": 0.3}, "no evidence", "no evidence"),
        (WITHIN | {"n_seeds": 3, "seeds_p_tost": 0.04}, "within margin", "TOST p = 0.040"),
        (WITHIN | {"n_seeds": 3}, "no evidence", "smallest detectable lift was n/a"),
        ({"low": NAN, "note": "n/a: one user; x"}, "n/a", "n/a, one user"),
        ({"flag": "tests disagree: effect by p_t; none found by p_sign"}, "higher", "sign test"),
    ],
)
def test_words_follow_the_statistics(changes, expected, words):
    row = ROW | changes
    assert verdict(row) == expected
    said = finding(row, metric="ROUGE-L", margin=0.01)
    assert words in said
    assert "no difference" not in said
    assert "nan" not in said


def test_numbers_and_names():
    assert number(-0.0004) == "0.000"
    assert number(-0.12345, signed=True) == "−0.123"
    assert number(NAN) == number(None) == number(np.inf) == "n/a"
    assert interval(0.1, NAN) == "n/a"
    assert arm_title("prefix_cluster_user") == "Cluster-then-user prefix"
    assert arm_title("my_arm") == "my arm"
    assert contrast_title("a_all - b_all") == "All-persona a − all-persona b"
    swapped = contrast_title("lora_per_user - lora_per_user_swapped")
    assert swapped == "Per-user LoRA, own − swapped"


def test_one_seed_and_few_users_are_told():
    assert "no claim about training noise" in caution(200, 1)
    assert "7 %" in caution(20, 3)
    assert caution(200, 3) == ""
