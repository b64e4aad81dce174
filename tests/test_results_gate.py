"""The no-harm gate on a table small enough to work out by hand."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.gate import gate_choices, gated_scores

TEXT = ("arm", "user_id", "metric", "split", "slice")


def table(scores: dict[tuple[str, str, str], float], *, metric: str = "rouge_l") -> pd.DataFrame:
    """(arm, split, user) → score, as the collector has it."""
    rows = [
        {"arm": arm, "seed": 0, "user_id": user, "metric": metric, "split": split}
        | {"slice": "all", "value": value, "n_items": 5}
        for (arm, split, user), value in scores.items()
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(TEXT, "category"))


SCORES = {
    # Ann gains on the gate and on test, Bob gains on the gate alone, Cid loses on the gate alone,
    # Dora's adapter failed, Eve has no exchange left for the gate.
    ("lora_all", "gate", "ann"): 0.5,
    ("lora_all", "gate", "bob"): 0.5,
    ("lora_all", "gate", "cid"): 0.5,
    ("lora_all", "gate", "dora"): 0.5,
    ("lora_per_user", "gate", "ann"): 0.6,
    ("lora_per_user", "gate", "bob"): 0.7,
    ("lora_per_user", "gate", "cid"): 0.4,
    **{("lora_all", "test", user): 0.5 for user in ("ann", "bob", "cid", "dora", "eve")},
    ("lora_per_user", "test", "ann"): 0.8,
    ("lora_per_user", "test", "bob"): 0.3,
    ("lora_per_user", "test", "cid"): 0.9,
    ("lora_per_user", "test", "eve"): 0.9,
}


def test_the_gate_decides_on_its_own_exchanges_alone() -> None:
    choices = gate_choices(table(SCORES), "rouge_l", higher_is_better=True).set_index("user_id")
    assert choices["kept"].to_dict() == {
        "ann": True, "bob": True, "cid": False, "dora": False, "eve": False
    }  # fmt: skip
    assert choices.loc["ann", "gain"] == pytest.approx(0.1)
    assert choices.loc["bob", "lift"] == pytest.approx(-0.2)
    assert choices["n_items"].to_dict() == {"ann": 5, "bob": 5, "cid": 5, "dora": 0, "eve": 0}
    assert set(choices["fallback"]) == {"lora_all"}


def test_gated_users_have_the_chosen_adapter_s_test_scores() -> None:
    whole = table(SCORES)
    choices = gate_choices(whole, "rouge_l", higher_is_better=True)
    found = gated_scores(whole, choices)
    gated = found[found["arm"] == "lora_per_user_gated"].set_index("user_id")["value"]
    assert gated.to_dict() == {"ann": 0.8, "bob": 0.3, "cid": 0.5, "dora": 0.5, "eve": 0.5}
    assert set(found["split"]) == {"test"}
    kept = found[found["arm"] != "lora_per_user_gated"]
    assert len(kept) == sum(split == "test" for _, split, _ in SCORES)


def test_where_lower_is_better_a_gain_is_a_fall() -> None:
    scores = {
        ("prefix_cluster", "gate", "ann"): 3.0,
        ("prefix_cluster_user", "gate", "ann"): 2.0,
        ("prefix_cluster", "test", "ann"): 3.0,
        ("prefix_cluster_user", "test", "ann"): 2.5,
    }
    choices = gate_choices(table(scores, metric="nll"), "nll", higher_is_better=False)
    assert choices[["gain", "kept", "lift"]].to_numpy().tolist() == [[1.0, True, 0.5]]


def test_without_gate_scores_nothing_is_gated() -> None:
    scores = {key: value for key, value in SCORES.items() if key[1] == "test"}
    choices = gate_choices(table(scores), "rouge_l", higher_is_better=True)
    assert choices.empty
    pd.testing.assert_frame_equal(gated_scores(table(scores), choices), table(scores))


@given(
    st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])] * 4), min_size=1, max_size=8)
)
def test_a_change_on_test_never_changes_a_choice(rows: list[tuple[float, ...]]) -> None:
    def scored(flip: bool) -> pd.DataFrame:
        scores = {}
        for place, (own_gate, all_gate, own_test, all_test) in enumerate(rows):
            user = f"user_{place}"
            scores["lora_per_user", "gate", user] = own_gate
            scores["lora_all", "gate", user] = all_gate
            scores["lora_per_user", "test", user] = 1 - own_test if flip else own_test
            scores["lora_all", "test", user] = 1 - all_test if flip else all_test
        return table(scores)

    one, other = (
        gate_choices(scored(flip), "rouge_l", higher_is_better=True) for flip in (False, True)
    )
    assert one["kept"].tolist() == other["kept"].tolist()
    assert one["kept"].tolist() == [own > shared for own, shared, _, _ in rows]
