"""The search's table, importance, figures and section."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from results.document import Bullets, Table, Text
from results.files import write_csv
from results.record import RecordError
from results.report import render_html, render_markdown
from results.report_search import finish_search
from results.search import (
    COLUMNS,
    importance,
    last_rung,
    places,
    read_history,
    scored_configs,
    search_path,
)

RATE, RANK = "shared.lora.learning_rate", "lora.rank"
USER_RATE = "personal.lora.learning_rate"


def row(arm: str, candidate: int, rung: int, nll: float | None, **own: Any) -> dict[str, Any]:
    usual = {"users": 20, "lacking_users": 0, "promoted": False, "chosen": False, "seconds": 1.5}
    return {"arm": arm, "candidate": candidate, "rung": rung, "nll": nll} | usual | own


def lora_all(candidate: int, rate: float, rank: int, nll: float | None, **own: Any) -> Any:
    settings = json.dumps({RATE: rate, RANK: rank})
    return row("lora_all", candidate, 0, nll, settings=settings, epochs=1, rouge_l=0.5) | own


def per_user(candidate: int, rung: int, nll: float, **own: Any) -> dict[str, Any]:
    settings = json.dumps({USER_RATE: 1e-3 * (candidate + 1)})
    found = row("lora_per_user", candidate, rung, nll, settings=settings, epochs=None, **own)
    return found | {"rouge_l": None, "users": (20, 60)[rung]}


HISTORY = [
    lora_all(0, 1e-3, 8, 0.60, promoted=True),
    lora_all(1, 2e-3, 16, 0.50, promoted=True),
    lora_all(2, 3e-3, 8, 0.55),
    lora_all(3, 4e-3, 8, 0.70),
    lora_all(4, 9e-3, 16, None, users=0, lacking_users=20),
    lora_all(0, 1e-3, 8, 0.52, rung=1, epochs=3),
    lora_all(1, 2e-3, 16, 0.48, rung=1, epochs=3, chosen=True, rouge_l=0.61),
    *(per_user(n, 0, 0.5 + n / 100, promoted=n < 2) for n in range(4)),
    per_user(0, 1, 0.5, chosen=True),
    per_user(1, 1, 0.51),
]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    table = pd.DataFrame(HISTORY)[list(COLUMNS)]
    write_csv(search_path(tmp_path, "per_persona"), table)
    return tmp_path


@pytest.fixture
def history(workspace: Path) -> pd.DataFrame:
    return read_history(search_path(workspace, "per_persona"))


def test_a_history_comes_back_as_it_was_written(history: pd.DataFrame) -> None:
    assert list(history.columns) == list(COLUMNS)
    assert history["settings"].iloc[1] == {RATE: 2e-3, RANK: 16}
    assert list(last_rung(history, "lora_all")["candidate"]) == [0, 1]
    assert list(history.loc[history["chosen"], "candidate"]) == [1, 0]


def test_no_search_is_an_empty_history_and_another_file_is_refused(tmp_path: Path) -> None:
    assert read_history(search_path(tmp_path, "global")).empty
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(RecordError, match="run the search again"):
        read_history(path)


def test_importance_is_the_rank_correlation_over_whole_candidates(history: pd.DataFrame) -> None:
    configs = scored_configs(history, "lora_all")
    assert list(configs["candidate"]) == [0, 1, 2, 3], "a candidate that lacks users is left out"
    table = importance(history, "lora_all").set_index("setting")["correlation"]
    assert table[RATE] == pytest.approx(spearmanr([1, 2, 3, 4], [0.6, 0.5, 0.55, 0.7]).statistic)
    assert table[RANK] == pytest.approx(spearmanr([8, 16, 8, 8], [0.6, 0.5, 0.55, 0.7]).statistic)
    assert list(table.index) == [RANK, RATE], "the strongest first"
    personal = importance(history, "lora_per_user").set_index("setting")["correlation"]
    assert personal[USER_RATE] == pytest.approx(1.0)


def test_few_candidates_or_a_setting_that_never_varied_have_no_importance(
    history: pd.DataFrame,
) -> None:
    few = history[history["candidate"] < 3]
    assert importance(few, "lora_all")["correlation"].isna().all()
    same = history.assign(settings=[{RATE: 1.0} for _ in range(len(history))])
    assert importance(same, "lora_all")["correlation"].isna().all()


def test_what_is_no_number_has_a_place() -> None:
    assert list(places(pd.Series(["linear", "constant", "linear"]))) == [1.0, 0.0, 1.0]
    assert list(places(pd.Series([8, 16]))) == [8.0, 16.0]


def test_the_section_tells_every_choice_with_its_numbers(workspace: Path) -> None:
    found = finish_search(workspace, study="per_persona", method="optuna")
    assert found.section is not None
    text, bullets, table = found.section.blocks[:3]
    assert isinstance(text, Text)
    assert "up to 5 configs" in text.text
    assert "Optuna" in text.text
    assert isinstance(bullets, Bullets)
    shared, personal = bullets.items
    assert "`shared.lora.learning_rate` 0.001 → 0.002, `lora.rank` 8 → 16" in shared
    assert "NLL 0.4800 on 20 users against 0.5200 of the default" in shared
    assert "5 on 20 users after 1 epoch → 2 on 20 users after 3 epochs" in shared
    assert "the default config stays, NLL 0.5000 on 60 users" in personal
    assert "4 on 20 users → 2 on 60 users" in personal
    assert isinstance(table, Table)
    assert len(table.rows) == 5 + 4, "every candidate once, on its last rung"
    first = [cell.text for cell in table.rows[0]]
    assert first[1] == "1"
    assert first[-1] == "chosen"
    assert first[3:6] == ["3", "0.4800", "0.610"]
    lost = next(row for row in table.rows if row[1].text == "4")
    assert lost[4].text == "n/a"


def test_the_figures_are_drawn_and_repeat_to_the_byte(workspace: Path) -> None:
    found = finish_search(workspace, study="per_persona", method="random")
    assert [figure.name for figure in found.figures] == ["search_importance", "search_parallel"]
    before = [figure.svg.read_bytes() for figure in found.figures]
    again = finish_search(workspace, study="per_persona", method="random")
    assert [figure.svg.read_bytes() for figure in again.figures] == before
    for figure in found.figures:
        text = figure.svg.read_text()
        assert "learning rate" in text
        assert np.all([path.stat().st_size > 0 for path in figure.paths])
    assert "chosen" in found.figures[1].svg.read_text()
    assert "validation NLL" in found.figures[1].svg.read_text()


def test_the_section_renders_in_both_forms(workspace: Path) -> None:
    found = finish_search(workspace, study="per_persona", method="grid")
    assert found.section is not None
    assert found.told({"sections": {"x": found.section}})["sections"].keys() == {"x", "search"}
    page = render_markdown("Report", [found.section], root=workspace)
    assert "## Search: how settings were chosen" in page
    assert "results/figures/search/per_persona_parallel" in page
    users = {"headers": [], "rows": [], "arm": "", "metric": ""}
    html = render_html("R", [found.section], figures=found.figures, users=users, subtitle="")
    assert "Search: how settings were chosen" in html


def test_without_a_search_there_is_nothing_to_tell(workspace: Path, tmp_path: Path) -> None:
    assert finish_search(workspace, study="per_persona", method="none").told({}) == {}
    # The table of an earlier search with other settings is not told as this study's.
    assert finish_search(tmp_path, study="global", method="grid").section is None
