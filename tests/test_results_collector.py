"""The collector's table against sums worked out from the items, and what it refuses or misses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results.collector import collect
from results.ledger import Ledger
from results.record import RecordError
from results.tables import TableFacts, write_tables
from tests.results_fixtures import ITEMS_PER_USER, commit, fake_ledger, items_of, slot, spec_of

FACTS = TableFacts(commit="abc", folder_name=lambda user: user)


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


def test_tables_have_the_agreed_columns_first(tmp_path: Path) -> None:
    collected = collect(*fake_ledger(tmp_path, seeds=2))
    write_tables(collected, tmp_path, facts=FACTS)
    results = tmp_path / "results"
    scores = pd.read_csv(results / "lora_all" / "per_user_scores.csv")
    assert scores.columns[:7].tolist() == [
        *("user_id", "rouge_l", "verbosity_error", "embedding_similarity", "output_length_std"),
        *("n_items", "delta_vs_baseline"),
    ]
    summary = pd.read_csv(results / "lora_per_user" / "per_user_summary.csv")
    assert summary.columns[:5].tolist() == [
        "user_id", "ROUGE-L", "verbosity_error", "delta_vs_baseline", "adapter_shift_norm",
    ]  # fmt: skip
    prefix = pd.read_csv(results / "prefix_per_user" / "per_user_summary.csv")
    assert prefix.columns[4] == "prefix_shift_norm"
    baseline = pd.read_csv(results / "baseline" / "per_user_scores.csv").set_index("user_id")
    both = scores.set_index("user_id")
    lift = both["rouge_l"] - baseline["rouge_l"]
    assert np.allclose(both["delta_vs_baseline"], lift, atol=2e-6)
    one = json.loads((results / "lora_per_user" / "user_2" / "eval.json").read_text())
    assert {"ROUGE-L", "delta_vs_baseline", "adapter_shift_norm", "swapped"} <= one.keys()
    whole = json.loads((results / "lora_all" / "lora_all_eval.json").read_text())
    assert whole["macro"]["rouge_l"] == pytest.approx(scores["rouge_l"].mean(), abs=2e-6)


def test_samples_are_the_same_items_for_all_arms(tmp_path: Path) -> None:
    write_tables(collect(*fake_ledger(tmp_path)), tmp_path, facts=FACTS)
    chosen = []
    for arm in ("baseline", "lora_all", "prefix_per_user"):
        lines = (tmp_path / "results" / arm / "sample_outputs.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == 20
        assert {"query", "reference", "output", "metrics"} <= rows[0].keys()
        chosen.append([row["item_id"] for row in rows])
    assert chosen[0] == chosen[1] == chosen[2]


def test_equal_records_write_equal_bytes_and_the_registry_only_grows(tmp_path: Path) -> None:
    def tables(folder: Path) -> dict[str, bytes]:
        write_tables(collect(*fake_ledger(folder)), folder, facts=FACTS)
        names = [*folder.glob("results/*/*.csv"), *folder.glob("results/*/*.jsonl")]
        return {str(path.relative_to(folder)): path.read_bytes() for path in names}

    assert tables(tmp_path / "a") == tables(tmp_path / "b")
    registry = tmp_path / "a" / "experiment_registry.csv"
    first = registry.read_text()
    assert first.startswith("arm,split,date,commit,macro_rouge_l,macro_verbosity_error,")
    write_tables(collect(*_again(tmp_path / "a")), tmp_path / "a", facts=FACTS)
    assert registry.read_text() == first
    write_tables(collect(*_again(tmp_path / "a", seeds=2)), tmp_path / "a", facts=FACTS)
    assert registry.read_text().startswith(first)
    assert len(registry.read_text()) > len(first)


def _again(folder: Path, *, seeds: int = 1):  # type: ignore[no-untyped-def]
    """The plan for an existing ledger; committing again keeps what is there."""
    return fake_ledger(folder, seeds=seeds)
