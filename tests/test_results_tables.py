"""Tables as files: agreed columns, equal bytes for equal numbers, nothing outside the workspace."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results.collector import Collected, collect
from results.files import CRASH_CODE, CRASH_VARIABLE
from results.ledger import Ledger
from results.record import RecordError
from results.registry import append_registry
from results.tables import TableFacts, write_tables
from tests.results_fixtures import commit, fake_ledger, items_of, slot, spec_of

FACTS = TableFacts(commit="abc", folder_name=lambda user: user)
REGISTRY = "experiment_registry.csv"


def files_of(workspace: Path) -> dict[str, bytes]:
    names = [
        p for p in (workspace / "results").rglob("*") if p.is_file() and "ledger" not in p.parts
    ]
    return {str(path.relative_to(workspace)): path.read_bytes() for path in names}


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
    assert math.log(whole["perplexity"]) == pytest.approx(whole["macro"]["nll"], abs=2e-6)


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


def test_equal_records_write_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tables(collect(*fake_ledger(tmp_path / name)), tmp_path / name, facts=FACTS)
    written = files_of(tmp_path / "a")
    assert len(written) > 20
    assert written == files_of(tmp_path / "b")
    # Writing again, over what is there, changes nothing either.
    write_tables(collect(*fake_ledger(tmp_path / "a")), tmp_path / "a", facts=FACTS)
    assert files_of(tmp_path / "a") == written


def test_the_registry_only_grows(tmp_path: Path) -> None:
    registry = tmp_path / REGISTRY
    write_tables(collect(*fake_ledger(tmp_path)), tmp_path, facts=FACTS)
    first = registry.read_text()
    assert first.startswith("arm,split,date,commit,macro_rouge_l,macro_verbosity_error,seed,data_")
    rows = list(csv.DictReader(first.splitlines()))
    arms = ["baseline", "lora_all", "lora_per_user", "lora_per_user_swapped", "prefix_all"]
    assert [row["arm"] for row in rows] == [*arms, "prefix_per_user", "prefix_per_user_swapped"]
    scores = pd.read_csv(tmp_path / "results" / "lora_all" / "per_user_scores.csv")
    assert float(rows[1]["macro_rouge_l"]) == pytest.approx(scores["rouge_l"].mean(), abs=2e-6)
    write_tables(collect(*fake_ledger(tmp_path)), tmp_path, facts=FACTS)
    assert registry.read_text() == first
    write_tables(collect(*fake_ledger(tmp_path, seeds=2)), tmp_path, facts=FACTS)
    assert registry.read_text().startswith(first)
    assert len(registry.read_text().splitlines()) == len(first.splitlines()) + 6


def test_the_registry_names_the_commits_that_ran_the_cells(tmp_path: Path) -> None:
    found = collect(*fake_ledger(tmp_path))
    ran = {"lora_all": ["one"], "prefix_all": ["two", "one"]}
    records = {}
    for name, record in found.records.items():
        commits = ran.get(record.arm, [])
        own = {"commit": commits[len(records) % len(commits)]} if commits else {}
        records[name] = record.model_copy(update={"environment": own})
    path = append_registry(replace(found, records=records), tmp_path / "r.csv", commit="later")
    told = pd.read_csv(path).set_index("arm")["commit"].to_dict()
    assert told["lora_all"] == "one"
    assert told["prefix_all"] == "one two"
    assert told["baseline"] == "later"


def test_the_registry_has_the_gated_arms_too(tmp_path: Path) -> None:
    found = collect(*fake_ledger(tmp_path, users=4, arms=["lora_all", "lora_per_user"]))
    chosen = found.table["arm"].isin(["lora_all", "lora_per_user"])
    gate = found.table[chosen & (found.table["slice"] == "all")].assign(split="gate", value=0.0)
    kept = (gate["arm"] == "lora_per_user") & (gate["user_id"].isin(["user_0", "user_2"]))
    gate.loc[kept & (gate["metric"] == "rouge_l"), "value"] = 1.0
    records = dict(found.records)
    for name, record in found.records.items():
        if record.arm in ("lora_all", "lora_per_user"):
            there = {"cell_id": f"gate-{name}", "split": "gate"}
            records[f"gate-{name}"] = record.model_copy(update=there)
    both = replace(found, table=pd.concat([found.table, gate]), records=records)
    rows = pd.read_csv(append_registry(both, tmp_path / "r.csv", commit="c"))
    gated = rows[rows["arm"] == "lora_per_user_gated"]
    assert gated["split"].tolist() == ["test"]
    test = found.table[(found.table["metric"] == "rouge_l") & (found.table["slice"] == "all")]
    score = test.astype({"arm": str}).set_index(["arm", "user_id"])["value"]
    means = [score["lora_per_user"][["user_0", "user_2"]], score["lora_all"][["user_1", "user_3"]]]
    assert gated["macro_rouge_l"].item() == pytest.approx(pd.concat(means).mean(), abs=1e-6)
    of = rows.set_index(["arm", "split"])["n_cells"]
    parts = [(arm, split) for arm in ("lora_all", "lora_per_user") for split in ("test", "gate")]
    assert gated["n_cells"].item() == sum(of[part] for part in parts)


def test_a_registry_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / REGISTRY).write_text("arm,score\nx,1\n")
    with pytest.raises(RecordError, match="no column 'split'"):
        write_tables(collect(*fake_ledger(tmp_path)), tmp_path, facts=FACTS)
    assert (tmp_path / REGISTRY).read_text() == "arm,score\nx,1\n"


def one_user(workspace: Path, user: str, **changes: object) -> Collected:
    """A baseline and a per-user arm of one user, whose items may lack columns or rows."""
    ledger = Ledger(workspace)
    cells = fake_ledger(workspace / "plan", users=3, arms=["baseline", "lora_per_user"])[1][:2]
    expected = []
    for cell in cells:
        purpose = "evaluate" if cell.arm == "baseline" else "personalize"
        spec = spec_of(cell.arm, purpose=purpose, seed=0, users=[user], split="test")
        items = items_of(cell.arm, 0, "user_1", "own").assign(user_id=user)
        if cell.arm == "lora_per_user":
            items = items.drop(**changes) if changes else items
        commit(ledger, cell.cell_id, spec, slots=[slot(user)], items=items)
        expected.append(type(cell)(cell.cell_id, cell.arm, 0, (user,), "test", purpose))
    return collect(ledger, expected)


def test_deltas_come_from_the_items_that_both_arms_answered(tmp_path: Path) -> None:
    write_tables(one_user(tmp_path, "user_1", index=[0, 1]), tmp_path, facts=FACTS)
    base, own = (items_of(arm, 0, "user_1", "own")["rouge_l"][2:] for arm in
                 ("baseline", "lora_per_user"))  # fmt: skip
    table = pd.read_csv(tmp_path / "results" / "lora_per_user" / "per_user_summary.csv")
    assert table["delta_vs_baseline"][0] == pytest.approx((own - base).mean(), abs=2e-6)


def test_a_missing_metric_is_an_empty_column_and_no_error(tmp_path: Path) -> None:
    collected = one_user(tmp_path, "user_1", columns=["rouge_l", "verbosity_error"])
    write_tables(collected, tmp_path, facts=FACTS)
    table = pd.read_csv(tmp_path / "results" / "lora_per_user" / "per_user_summary.csv")
    assert table[["ROUGE-L", "verbosity_error", "delta_vs_baseline"]].isna().all(axis=None)
    rows = list(csv.DictReader((tmp_path / REGISTRY).read_text().splitlines()))
    assert [row["macro_rouge_l"] == "" for row in rows] == [False, True]


@pytest.mark.parametrize("user", ["=cmd()", "+1", "@x", '<script>"', "A,b\nc", "emoji \U0001f600"])
def test_hostile_user_ids_are_harmless_text(tmp_path: Path, user: str) -> None:
    facts = TableFacts(commit="abc", folder_name=lambda _: "user-0123")
    write_tables(one_user(tmp_path, user), tmp_path, facts=facts)
    folder = tmp_path / "results" / "lora_per_user"
    with (folder / "per_user_summary.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["user_id"] == (f"'{user}" if user[0] in "=+@" else user)
    assert json.loads((folder / "user-0123" / "eval.json").read_text())["user_id"] == user


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", ".hidden", "a\\b", "/etc"])
def test_a_folder_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    facts = TableFacts(commit="abc", folder_name=lambda _: name)
    workspace = tmp_path / "workspace"
    with pytest.raises(RecordError, match="plain name"):
        write_tables(one_user(workspace, "user_1"), workspace, facts=facts)
    assert [path.name for path in tmp_path.iterdir()] == ["workspace"]


def test_past_a_thousand_users_there_are_no_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("results.tables.MOST_USER_FOLDERS", 5)
    write_tables(collect(*fake_ledger(tmp_path)), tmp_path, facts=FACTS)
    folder = tmp_path / "results" / "lora_per_user"
    assert not [path for path in folder.iterdir() if path.is_dir()]
    assert len(pd.read_csv(folder / "per_user_summary.csv")) == 6


@pytest.mark.parametrize(
    "name", ["per_user_scores.csv", "lora_all_eval.json", "eval.json", REGISTRY]
)
def test_a_driver_killed_while_writing_leaves_no_trace_in_the_end(
    tmp_path: Path, name: str
) -> None:
    code = (
        "from pathlib import Path; from tests.test_results_tables import *; "
        f"p = Path({str(tmp_path / 'a')!r}); write_tables(collect(*fake_ledger(p)), p, facts=FACTS)"
    )
    environment = {**os.environ, CRASH_VARIABLE: f"temporary:{name}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == CRASH_CODE
    assert list((tmp_path / "a").rglob("*.tmp-*"))
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_tables(collect(*fake_ledger(folder)), folder, facts=FACTS)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert not list((tmp_path / "a").rglob("*.tmp-*"))
