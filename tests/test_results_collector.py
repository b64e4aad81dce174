"""The collector's table against sums worked out from the items, and what it refuses or misses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.collector import collect
from results.ledger import Ledger
from results.record import RecordError
from results.score_table import TABLE_COLUMNS, group_means, group_stds
from tests.results_fixtures import ITEMS_PER_USER, commit, fake_ledger, items_of, slot, spec_of


def value(
    collected, *, arm: str, user: str, metric: str, part: str = "all", seed: int = 0
) -> float:  # type: ignore[no-untyped-def]
    table = collected.table
    row = table[
        (table["arm"] == arm) & (table["user_id"] == user) & (table["metric"] == metric)
        & (table["slice"] == part) & (table["seed"] == seed)
    ]  # fmt: skip
    assert len(row) == 1
    return float(row["value"].iloc[0])


def test_a_users_value_is_the_mean_over_the_users_items(tmp_path: Path) -> None:
    collected = collect(*fake_ledger(tmp_path, seeds=2))
    for arm, control in (("lora_per_user", "own"), ("lora_per_user_swapped", "swapped")):
        items = items_of("lora_per_user", 1, "user_4", control)
        found = value(collected, arm=arm, user="user_4", metric="rouge_l", seed=1)
        assert found == pytest.approx(items["rouge_l"].mean(), abs=1e-12)
        spread = value(collected, arm=arm, user="user_4", metric="output_length_std", seed=1)
        assert spread == pytest.approx(np.std(items["output_words"]), abs=1e-12)
        driven = items[items["routine_driven"]]
        found = value(
            collected, arm=arm, user="user_4", metric="nll", part="routine_driven", seed=1
        )
        assert found == pytest.approx(driven["nll"].mean(), abs=1e-12)
    assert collected.missing.empty


def test_items_without_a_score_are_left_out_and_counted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    items = items_of("baseline", 0, "user_1", "own")
    items.loc[:3, "embedding_similarity"] = np.nan
    spec = spec_of("baseline", purpose="evaluate", seed=0, users=["user_1"], split="test")
    commit(ledger, "cell", spec, slots=[slot("user_1")], items=items)
    _, expected = fake_ledger(tmp_path / "plan", users=3, arms=["baseline"])
    cell = expected[0].__class__("cell", "baseline", 0, ("user_1",), "test", "evaluate")
    table = collect(ledger, [cell]).table.set_index(["metric", "slice"])
    row = table.loc[("embedding_similarity", "all")]
    assert row["n_items"] == ITEMS_PER_USER - 4
    assert row["value"] == pytest.approx(items["embedding_similarity"][4:].mean())
    # All of the routine-driven items lack it: no row rather than a NaN.
    assert ("embedding_similarity", "routine_driven") not in table.index


def test_what_is_missing_is_named_with_its_reason(tmp_path: Path) -> None:
    ledger, expected = fake_ledger(tmp_path, arms=["baseline", "lora_all"])
    lost, never = expected[1], expected[-1]
    (ledger.root / lost.cell_id / "items.parquet").write_bytes(b"")
    spec = spec_of(never.arm, purpose="evaluate", seed=0, users=never.users, split="test")
    (ledger.root / never.cell_id).rename(tmp_path / "elsewhere")
    ledger.fail(never.cell_id, spec=spec, error="Traceback\nTaskError: too bad", attempts=1)
    missing = collect(ledger, expected).missing
    assert set(missing["user_id"]) == {*lost.users, *never.users}
    reasons = dict(zip(missing["arm"], missing["reason"], strict=True))
    assert reasons == {lost.arm: "not run", never.arm: "failed: TaskError: too bad"}


def test_failed_and_skipped_users_are_missing_and_their_neighbors_are_not(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    users = ("user_1", "user_2", "user_3")
    spec = spec_of("lora_per_user", purpose="personalize", seed=0, users=users, split="test")
    slots = [
        slot("user_1"),
        slot("user_2", status="failed", reason="non-finite loss at step 3"),
        slot("user_3", status="skipped", reason="2 exchanges"),
    ]
    items = items_of("lora_per_user", 0, "user_1", "own")
    commit(ledger, "cell", spec, slots=slots, items=items)
    _, plan = fake_ledger(tmp_path / "plan", users=3, arms=["baseline"])
    cell = plan[0].__class__("cell", "lora_per_user", 0, users, "test", "personalize")
    collected = collect(ledger, [cell])
    assert set(collected.table["user_id"]) == {"user_1"}
    assert dict(collected.missing[["user_id", "reason"]].to_numpy().tolist()) == {
        "user_2": "failed: non-finite loss at step 3",
        "user_3": "skipped: 2 exchanges",
    }


@pytest.mark.parametrize("name", ["items_sha256", "data_sha256", "decoding", "model_sha256"])
def test_arms_scored_on_different_things_are_refused_by_name(tmp_path: Path, name: str) -> None:
    ledger, expected = fake_ledger(tmp_path, users=3, arms=["baseline"])
    spec = spec_of("lora_all", purpose="evaluate", seed=0, users=["user_1"], split="test")
    items = items_of("lora_all", 0, "user_1", "own")
    commit(ledger, "other", {**spec, name: "other"}, slots=[slot("user_1")], items=items)
    cell = expected[0].__class__("other", "lora_all", 0, ("user_1",), "test", "evaluate")
    with pytest.raises(RecordError, match=f"'baseline' and 'lora_all'.*{name}"):
        collect(ledger, [*expected, cell])


def test_the_table_is_sorted_and_repeats_no_text(tmp_path: Path) -> None:
    table = collect(*fake_ledger(tmp_path, seeds=2)).table
    keys = ["slice", "arm", "seed", "split", "user_id", "metric"]
    for name in ("arm", "user_id", "metric", "split", "slice"):
        assert isinstance(table[name].dtype, pd.CategoricalDtype)
    assert table.equals(table.sort_values(keys, kind="stable", ignore_index=True))
    assert not table.duplicated(keys).any()


def test_the_plans_order_does_not_matter_and_a_cell_counts_once(tmp_path: Path) -> None:
    ledger, expected = fake_ledger(tmp_path)
    first, again = collect(ledger, expected), collect(ledger, [*reversed(expected), expected[-1]])
    pd.testing.assert_frame_equal(first.table, again.table)
    assert len(first.slots) == len(again.slots)


def test_a_user_scored_by_two_cells_is_refused(tmp_path: Path) -> None:
    ledger, expected = fake_ledger(tmp_path, users=3, arms=["baseline"])
    spec = spec_of("baseline", purpose="evaluate", seed=0, users=["user_1"], split="test")
    commit(ledger, "twice", spec, items=items_of("baseline", 0, "user_1", "own"))
    cell = replace(expected[0], cell_id="twice", users=("user_1",))
    with pytest.raises(RecordError, match="two cells score user 'user_1' of arm 'baseline'"):
        collect(ledger, [*expected, cell])


def test_sessions_of_unknown_origin_are_in_no_slice_but_all(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    items = items_of("baseline", 0, "user_1", "own")
    items["routine_driven"] = pd.array([True, None, None, None, None, False], dtype="boolean")
    spec = spec_of("baseline", purpose="evaluate", seed=0, users=["user_1"], split="test")
    commit(ledger, "cell", spec, items=items)
    _, plan = fake_ledger(tmp_path / "plan", users=3, arms=["baseline"])
    collected = collect(ledger, [replace(plan[0], cell_id="cell", users=("user_1",))])
    rows = collected.table[collected.table["metric"] == "rouge_l"].set_index("slice")
    assert rows["n_items"].loc[["all", "routine_driven", "spontaneous"]].to_list() == [6, 1, 1]
    assert rows.loc["spontaneous", "value"] == pytest.approx(items["rouge_l"].iloc[-1])


def test_first_replies_and_later_ones_are_slices_of_their_own(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    items = items_of("baseline", 0, "user_1", "own")
    # Three sessions: one of a single reply, one of two, and one whose first reply is no item.
    items["turn"] = [1, 1, 3, 3, 5, 7]
    items["rouge_l"] = [0.2, 0.4, 0.6, 0.8, 1.0, 0.0]
    items["output_words"] = [4, 8, 5, 5, 7, 7]
    spec = spec_of("baseline", purpose="evaluate", seed=0, users=["user_1"], split="test")
    commit(ledger, "cell", spec, items=items)
    _, plan = fake_ledger(tmp_path / "plan", users=3, arms=["baseline"])
    table = collect(ledger, [replace(plan[0], cell_id="cell", users=("user_1",))]).table
    rows = table.set_index(["metric", "slice"])[["value", "n_items"]]
    assert tuple(rows.loc[("rouge_l", "first_turn")]) == (pytest.approx(0.3), 2)
    assert tuple(rows.loc[("rouge_l", "later_turns")]) == (pytest.approx(0.6), 4)
    assert tuple(rows.loc[("output_length_std", "first_turn")]) == (2.0, 2)
    assert tuple(rows.loc[("output_length_std", "later_turns")]) == (1.0, 4)


def test_items_that_do_not_say_their_turn_are_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    items = items_of("baseline", 0, "user_1", "own").drop(columns="turn")
    spec = spec_of("baseline", purpose="evaluate", seed=0, users=["user_1"], split="test")
    commit(ledger, "cell", spec, items=items)
    _, plan = fake_ledger(tmp_path / "plan", users=3, arms=["baseline"])
    with pytest.raises(RecordError, match="has no column turn"):
        collect(ledger, [replace(plan[0], cell_id="cell", users=("user_1",))])


def test_a_user_without_any_item_is_named_for_the_arm_and_for_its_control(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    users = ("user_1", "user_2")
    spec = spec_of("lora_per_user", purpose="personalize", seed=0, users=users, split="test")
    items = [items_of("lora_per_user", 0, "user_1", side) for side in ("own", "swapped")]
    items.append(items_of("lora_per_user", 0, "user_2", "own"))
    commit(ledger, "cell", spec, slots=[slot(u) for u in users], items=pd.concat(items))
    _, plan = fake_ledger(tmp_path / "plan", users=3, arms=["baseline"])
    missing = collect(
        ledger, [replace(plan[0], cell_id="cell", arm="lora_per_user", users=users)]
    ).missing
    assert missing.to_numpy().tolist() == [
        ["lora_per_user_swapped", 0, "user_2", "no item was scored on test"]
    ]


def test_items_are_read_by_column_control_and_id(tmp_path: Path) -> None:
    collected = collect(*fake_ledger(tmp_path))
    swapped = collected.items("lora_per_user_swapped", seed=0, columns=["item_id", "rouge_l"])
    assert len(swapped) == 6 * ITEMS_PER_USER
    theirs = items_of("lora_per_user", 0, "user_2", "swapped").set_index("item_id")["rouge_l"]
    found = swapped.set_index("item_id")["rouge_l"]
    assert found[theirs.index].tolist() == theirs.tolist()
    chosen = collected.items("lora_per_user", seed=0, item_ids=theirs.index[:2])
    assert set(chosen["item_id"]) == set(theirs.index[:2])
    assert set(chosen["control"]) == {"own"}
    assert collected.items("no_such_arm", seed=0).empty


def test_nothing_at_all_collects_to_empty_tables(tmp_path: Path) -> None:
    collected = collect(Ledger(tmp_path), [])
    assert collected.table.empty
    assert collected.table.columns.tolist() == TABLE_COLUMNS
    assert collected.missing.empty
    assert collected.slots.empty


NUMBERS = st.one_of(st.floats(-1e3, 1e3), st.just(float("nan")))


@given(st.lists(st.tuples(st.integers(0, 4), NUMBERS), min_size=1, max_size=40))
def test_group_statistics_equal_those_of_pandas(rows: list[tuple[int, float]]) -> None:
    frame = pd.DataFrame(rows, columns=["group", "value"])
    values, groups = frame["value"].to_numpy(), frame["group"].to_numpy(np.int32)
    by = frame.groupby("group")["value"]
    found, means, counts = group_means(values[:, None], groups)
    assert found.tolist() == sorted(set(groups.tolist()))
    assert counts[:, 0].tolist() == by.count().tolist()
    np.testing.assert_allclose(means[:, 0], by.mean(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(group_stds(values, groups), by.std(ddof=0), rtol=1e-6, atol=1e-6)
