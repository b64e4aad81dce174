"""A searched study from the command line to its report, killed between rungs and not."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode
from results.files import CRASH_CODE, CRASH_VARIABLE
from results.ledger import Ledger
from results.search import cells_path, read_cells, read_history, search_path
from tasks.base_model import EMBEDDED_FOLDER
from tests.shared_studies import run_short

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (EMBEDDED_FOLDER / "model.safetensors").is_file(), reason="the model is not built"
    ),
]

SMALL = (
    *("--users", "4", "--no-dashboard", "--set", "data.sessions=10"),
    *("--set", "data.cold_start_share=0.0", "--set", "block_users=2"),
    *("--set", "shared.lora.epochs=2", "--set", "shared.prefix.epochs=1"),
    *("--set", "decoding.max_new_tokens=8", "--set", "statistics.resamples=100"),
    *("--set", "cold_warm.warm_users=0"),
)
WORDS = ("run", "--study", "per_persona", *SMALL, "--search", "optuna", "--samples", "5")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a finished study that was searched."""
    root = tmp_path_factory.mktemp("searched")
    screen = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.cli.out", Console(file=screen, width=200))
        assert run_short(root, WORDS[1:]) == ExitCode.DONE
    # Each cell counts once, as run: also a training of the search that the study then finds.
    cells = len(list(Ledger(root).records()))
    assert f"\n{cells} cells run, 0 found done" in screen.getvalue()
    return root


def choices(root: Path) -> dict[str, dict[str, object]]:
    stored = json.loads((root / "configs" / "study_per_persona.json").read_text())
    return dict(stored["choices"])


def test_the_choice_is_at_least_the_default_on_validation_and_alone_on_test(
    finished: Path,
) -> None:
    history = read_history(search_path(finished, "per_persona"))
    assert set(history["arm"]) == {"prefix_all", "lora_all", "prefix_per_user", "lora_per_user"}
    for arm, rows in history.groupby("arm"):
        last = rows[rows["rung"] == rows["rung"].max()].set_index("candidate")
        (best,) = last.index[last["chosen"]]
        assert last.loc[best, "nll"] <= last.loc[0, "nll"]
        assert last.loc[best, "settings"] == choices(finished)[str(arm)]
        assert set(rows.loc[rows["rung"] == 0, "candidate"]) == set(range(5))
    # On test items each arm was run with one config, the chosen one.
    tested = [r for r in Ledger(finished).records() if r.split == "test"]
    for arm in choices(finished):
        configs = {json.dumps([r.spec["adapter"], r.spec["training"]]) for r in tested
                   if r.arm == arm}  # fmt: skip
        assert len(configs) == 1
    (own,) = {r.spec["training"]["learning_rate"] for r in tested if r.arm == "lora_per_user"}
    assert own == choices(finished)["lora_per_user"]["personal.lora.learning_rate"]


def test_the_log_of_choices_is_in_the_report(finished: Path) -> None:
    report = (finished / "REPORT.md").read_text()
    assert "## Search: how settings were chosen" in report
    assert "Optuna's tree-structured Parzen estimator" in report
    log = report.split("## Search")[1].split("\n## ")[0]
    for arm in ("All-persona prefix", "All-persona LoRA", "Per-user prefix", "Per-user LoRA"):
        assert f"**{arm}**" in log
    assert "results/figures/search/per_persona_parallel" in log
    assert "search.method" in (finished / "REPRODUCIBILITY.md").read_text()
    page = (finished / "results" / "report.html").read_text()
    assert "Search: how settings were chosen" in page


def test_the_same_command_again_runs_nothing_and_report_knows_the_choice(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started although nothing is to do")

    monkeypatch.setattr("orchestrator.study.ray_session", never)
    before = search_path(finished, "per_persona").read_bytes()
    assert main([*WORDS, "--workspace", str(finished)]) == ExitCode.DONE
    assert "cells of study per_persona are done." in capsys.readouterr().out
    assert search_path(finished, "per_persona").read_bytes() == before
    assert main(["report", "--workspace", str(finished), "--study", "per_persona"]) == 0
    assert "\n0 cells run, 21 found done" in capsys.readouterr().out


def test_the_search_is_counted_after_it_has_ended(finished: Path) -> None:
    status = json.loads((finished / "results" / "status.json").read_text())
    stages = {stage["stage"]: stage for stage in status["progress"]["stages"]}
    cells = read_cells(cells_path(finished, "per_persona"))
    assert stages["search"]["done"] == stages["search"]["total"] == len(cells)
    assert status["progress"]["now"] == []
    report = (finished / "REPORT.md").read_text()
    told = report.split("## Time: planned against spent")[1].split("\n## ")[0]
    # Foretold before the first candidate was tried.
    assert re.search(r"\n\| search \| \d+ \| 0 \| \d+ \| \d+ \| \d+\.\d\d \|\n", told)
    assert "each like the default config" in told
    assert "Time: planned against spent" in (finished / "results" / "report.html").read_text()
    history = search_path(finished, "per_persona").read_text().splitlines()
    assert {line.split(",")[3] for line in history[1:]} <= {"", "1", "2"}


@pytest.mark.thorough
def test_killed_between_rungs_it_ends_with_the_same_choice(finished: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "orchestrator", *WORDS, "--workspace", str(tmp_path)]
    killed = subprocess.run(
        words,
        cwd=Path(__file__).resolve().parent.parent,
        env={**os.environ, CRASH_VARIABLE: "search-step:2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == CRASH_CODE, killed.stderr
    half = {record.cell_id: record.attempt for record in Ledger(tmp_path).records()}
    assert half
    assert not search_path(tmp_path, "per_persona").exists()
    assert main([*WORDS, "--workspace", str(tmp_path)]) == ExitCode.DONE
    assert choices(tmp_path) == choices(finished)
    whole = {record.cell_id: record.attempt for record in Ledger(tmp_path).records()}
    assert half.items() < whole.items(), "what was done before the kill was done again"
    assert whole.keys() == {record.cell_id for record in Ledger(finished).records()}
    columns = ["arm", "candidate", "rung", "users", "nll", "promoted", "chosen"]
    pd.testing.assert_frame_equal(
        read_history(search_path(tmp_path, "per_persona"))[columns],
        read_history(search_path(finished, "per_persona"))[columns],
    )
