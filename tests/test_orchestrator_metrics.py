"""Ray's metrics endpoint while a sweep runs: our numbers are there, and no user's id is."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
import ray

from orchestrator.live_board import LiveBoard
from orchestrator.metrics import SweepMetrics, tokens_of
from orchestrator.plan import Facts, PlannedCell, make_plan
from orchestrator.settings import Settings
from orchestrator.tally import SweepTally
from orchestrator.worker import CellReport
from results.ledger import Ledger
from search_spaces.catalog import STUDIES
from tests.patience import PATIENCE_SECONDS

SECRET_USERS = ("user_hidden_1", "user_hidden_2")
PLAN = make_plan(
    Settings(),
    study=STUDIES["global"],
    facts=Facts("d", {"val": "v", "test": "t"}, SECRET_USERS, "m", "p", "float32"),
)


def kept(ledger: Ledger, cell: PlannedCell) -> CellReport:
    path = ledger.path(cell.cell_id, "items.parquet")
    path.parent.mkdir(parents=True)
    scores = {"user_id": cell.spec.users, "rouge_l": 0.5, "control": "own"}
    pd.DataFrame(scores).to_parquet(path)
    counts = {"trained_tokens": 100, "generated_tokens": 20, "steps": 7}
    path.with_name("record.json").write_text(json.dumps({"counts": counts}))
    return CellReport(cell.cell_id, True, "", "", 0.5, 1.0)


def endpoint() -> str:
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.ray
def test_the_endpoint_shows_our_metrics_and_no_user(tiny_ray: None, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    tally, board = SweepTally(PLAN.cells, finished=()), LiveBoard(ledger)
    metrics = SweepMetrics(tally, board, ledger)
    scored = next(
        cell for cell in PLAN.cells if (cell.spec.purpose, cell.spec.split) == ("evaluate", "test")
    )
    report = kept(ledger, scored)
    for observer in (tally, board, metrics):
        observer.finished(scored, report)
    metrics.failed(PLAN.cells[0], "planted")
    wanted = [
        "sweep_trials_done_total{",
        "sweep_trials_failed_total{",
        "sweep_users_done{",
        "sweep_macro_rouge_l{",
        "sweep_tokens_per_second{",
    ]
    until = time.monotonic() + PATIENCE_SECONDS
    text = ""
    while not all(name in text for name in wanted) and time.monotonic() < until:
        time.sleep(1)
        text = endpoint()
    mine = [line for line in text.splitlines() if "sweep_" in line and not line.startswith("#")]
    found = {line.partition("{")[0].removeprefix("ray_"): line for line in mine}
    assert found["sweep_trials_done_total"].endswith(" 1.0")
    assert 'stage="baseline"' in found["sweep_trials_done_total"]
    assert found["sweep_users_done"].endswith(" 2.0")
    assert found["sweep_macro_rouge_l"].endswith(" 0.5")
    assert 'arm="baseline"' in found["sweep_macro_rouge_l"]
    assert float(found["sweep_tokens_per_second"].rpartition(" ")[2]) > 0
    assert found["sweep_trials_failed_total"].endswith(" 1.0")
    assert "user_hidden" not in text


def test_tokens_are_those_trained_on_and_generated(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text('{"counts": {"trained_tokens": 5, "generated_tokens": 3, "steps": 9}}')
    assert tokens_of(path) == 8
    path.write_text("{")
    assert tokens_of(path) == 0
