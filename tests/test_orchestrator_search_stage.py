"""What a search reads of the ledger's files, and what it writes and says at the end."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from orchestrator import forecast
from orchestrator.arm_search import Shown
from orchestrator.estimate import Speeds, UserSizes
from orchestrator.exit_codes import InfrastructureError
from orchestrator.forecast import Probed
from orchestrator.layers import resolve_settings
from orchestrator.placement import Machine, Placement
from orchestrator.plan import Facts
from orchestrator.search import Search, Searched
from orchestrator.search_stage import (
    ONLY,
    history_table,
    told_choices,
    user_means,
    write_cells,
    write_history,
)
from orchestrator.study import Request, _choices
from orchestrator.workspace import Workspace
from results.ledger import Ledger
from results.record import Record, RecordError
from results.search import COLUMNS, cells_path, read_cells, read_history, search_path
from search_spaces.catalog import STUDIES

SPLITS = ("val", "test", "gate", "choice")

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
    assert [line.split(",")[3] for line in path.read_text().splitlines()] == ["epochs", *"3333"]
    again = read_history(path)
    assert again["settings"].tolist() == [CONFIGS[0], CONFIGS[1]] * 2
    assert again["chosen"].tolist() == [False, False, False, True]


def test_rungs_of_users_have_no_epochs(tmp_path: Path) -> None:
    own = Searched({}, tuple(replace(one, epochs=None) for one in SEARCHED.history))
    path = write_history(own, tmp_path, study="per_user")
    assert [line.split(",")[3] for line in path.read_text().splitlines()] == ["epochs", *[""] * 4]
    assert read_history(path)["epochs"].isna().all()


def test_the_cells_of_a_search_are_listed_with_what_they_took(tmp_path: Path) -> None:
    class Known(Ledger):
        def load(self, cell_id: str, *, thorough: bool = False) -> Record | None:
            made = Record.model_construct(seconds={"total": 2.5})
            return made if cell_id == "12e5" else None

    search = Search(iter(()), finished=lambda _: ())  # type: ignore[arg-type]
    search.tried = {"12e5": "lora_all", "x": "prefix_all"}
    path = write_cells(search, tmp_path, study="s", ledger=Known(tmp_path))
    assert path == cells_path(tmp_path, "s")
    table = read_cells(path)
    assert table["cell_id"].tolist() == ["12e5", "x"]
    assert table["seconds"].tolist()[0] == 2.5
    assert table["seconds"].isna().tolist() == [False, True]
    assert read_cells(cells_path(tmp_path, "none")).empty
    path.write_text("a,b\n1,2\n")
    with pytest.raises(RecordError, match="run the search again"):
        read_cells(path)


def test_what_a_search_takes_is_said_before_its_first_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tuple(f"user_{n}" for n in range(40))
    facts = Facts("d", {"val": "v", "test": "t"}, users, "m", "p", "float32", ("cold_1",))
    study = STUDIES["per_persona"]
    settings = resolve_settings(study, flags={"search.method": "grid", "search.samples": 4})
    request = Request(study, settings, Workspace(tmp_path), Machine(2, 0))
    said: list[str] = []
    sizes = UserSizes(20.0, (100.0,) * 9, (100.0,) * 9, dict.fromkeys(SPLITS, 20.0))
    probed = Probed(sizes, Speeds({("reply", "none"): 0.05, ("session", "none"): 0.1}))
    real = forecast.forecast_plan
    monkeypatch.setattr(
        "orchestrator.study.forecast_plan", lambda *a, **k: real(*a, **k | {"probed": probed})
    )

    def begin(*_: object, **__: object) -> None:
        assert len(said) == 2, "the search began before anything was said of its time"
        raise InfrastructureError("far enough")

    sweeper = SimpleNamespace(
        screen=SimpleNamespace(say=said.append), placement=Placement(1.0, 0.0, 2), run=begin
    )
    with pytest.raises(InfrastructureError, match="far enough"):
        _choices(request, facts=facts, sweeper=sweeper, prepared=None)  # type: ignore[arg-type]
    assert re.fullmatch(r"Expected: about .+, of which up to .+ for the search \(.+\)", said[1])
    planned = forecast.planned_stages(tmp_path, study="per_persona")
    assert planned.keys() == {"search", "baseline", "few_shot", "global", "per_user", "cold_start"}
    assert all(seconds > 0 for seconds in planned.values())


def test_a_choice_is_said_with_its_score_and_the_defaults() -> None:
    (line,) = told_choices(SEARCHED)
    assert line == (
        "lora_all: lora.rank=16, x.learning_rate=0.002; validation NLL 1.0000, the default's 1.5000"
    )
    kept = shown(0, 0, {"a": 1.0}, chosen=True)
    (line,) = told_choices(Searched({"lora_all": CONFIGS[0]}, (kept,)))
    assert line == "lora_all: the default; validation NLL 1.0000, the default's 1.0000"
