"""What a search reads of the ledger's files, and what it writes and says at the end."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from orchestrator.arm_search import Shown
from orchestrator.search import Searched
from orchestrator.search_stage import ONLY, history_table, told_choices, user_means, write_history
from results.search import COLUMNS, read_history, search_path

CONFIGS = [{"lora.rank": 8, "x.learning_rate": 1e-3}, {"lora.rank": 16, "x.learning_rate": 2e-3}]


def shown(candidate: int, rung: int, scores: dict[str, float], **own: object) -> Shown:
    found = Shown("lora_all", candidate, CONFIGS[candidate], rung, epochs=3, scores=scores)
    for name, value in own.items():
        setattr(found, name, value)
    return found


SEARCHED = Searched(
    {"lora_all": CONFIGS[1]},
    (
        shown(0, 0, {"a": 1.0, "b": 3.0}, seconds=2.0, best_rouge_l=0.5, promoted=True),
        shown(1, 0, {"a": 1.0}, promoted=True),
        shown(0, 1, {"a": 1.0, "b": 2.0}),
        shown(1, 1, {"a": 1.0, "b": 1.0}, chosen=True, replies={"a": 0.2, "b": 0.4}),
    ),
)


def test_a_users_mean_is_over_items_of_one_variant(tmp_path: Path) -> None:
    rows = [
        *(("a", 0, 1.0, 0.1), ("a", 0, 3.0, 0.3), ("b", 0, 5.0, 0.5)),
        *(("a", 1, 7.0, 0.7), ("b", 1, 9.0, 0.9)),
    ]
    items = pd.DataFrame(rows, columns=["user_id", "variant", "nll", "rouge_l"])
    items.to_parquet(tmp_path / "both.parquet")
    assert user_means(tmp_path / "both.parquet") == {
        "nll": {0: {"a": 2.0, "b": 5.0}, 1: {"a": 7.0, "b": 9.0}},
        "rouge_l": {0: {"a": 0.2, "b": 0.5}, 1: {"a": 0.7, "b": 0.9}},
    }
    items.drop(columns=["variant", "rouge_l"]).to_parquet(tmp_path / "plain.parquet")
    means = user_means(tmp_path / "plain.parquet")
    assert means == {"nll": {ONLY: {"a": pytest.approx(11 / 3), "b": 7.0}}}


def test_the_history_is_one_row_per_candidate_and_rung(tmp_path: Path) -> None:
    table = history_table(SEARCHED)
    assert list(table.columns) == list(COLUMNS)
    assert table["nll"].tolist() == [2.0, 1.0, 1.5, 1.0]
    assert table["users"].tolist() == [2, 1, 2, 2]
    assert table["lacking_users"].tolist() == [0, 1, 0, 0]
    assert table["rouge_l"].tolist()[::3] == pytest.approx([0.5, 0.3])
    path = write_history(SEARCHED, tmp_path, study="global")
    assert path == search_path(tmp_path, "global")
    again = read_history(path)
    assert again["settings"].tolist() == [CONFIGS[0], CONFIGS[1]] * 2
    assert again["chosen"].tolist() == [False, False, False, True]


def test_a_choice_is_said_with_its_score_and_the_defaults() -> None:
    (line,) = told_choices(SEARCHED)
    assert line == (
        "lora_all: lora.rank=16, x.learning_rate=0.002; validation NLL 1.0000, the default's 1.5000"
    )
    kept = shown(0, 0, {"a": 1.0}, chosen=True)
    (line,) = told_choices(Searched({"lora_all": CONFIGS[0]}, (kept,)))
    assert line == "lora_all: the default; validation NLL 1.0000, the default's 1.0000"
