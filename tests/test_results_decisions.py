"""Decision rules at their thresholds, and the words that the numbers allow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from results.analysis import analyze
from results.decisions import decide, recommendation
from results.wording import arm_title, caution, contrast_title, finding, interval, number, verdict
from tests.results_study import fake_collected

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
        ({"low": -0.01}, "no evidence", "smallest detectable lift was 0.012"),
        ({"low": -0.005, "high": 0.005, "p_tost": 0.01}, "within margin", "TOST p = 0.010"),
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
