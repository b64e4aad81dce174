"""The board of a sweep: scored cells read once, few at a time, whether new or found done."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from orchestrator import live_board
from orchestrator.live_board import LiveBoard
from orchestrator.plan import Facts, PlannedCell, make_plan
from orchestrator.settings import Settings
from orchestrator.worker import CellReport
from results.ledger import Ledger
from search_spaces.catalog import STUDIES

USERS = tuple(f"user_{n}" for n in range(4))
PLAN = make_plan(
    Settings(),
    study=STUDIES["global"],
    facts=Facts("d", {"val": "v", "test": "t"}, USERS, "m", "p", "float32"),
)


def kept(ledger: Ledger, cell: PlannedCell, score: float) -> CellReport:
    path = ledger.path(cell.cell_id, "items.parquet")
    path.parent.mkdir(parents=True)
    columns = {"user_id": cell.spec.users, "rouge_l": score, "control": "own"}
    pd.DataFrame(columns).to_parquet(path)
    return CellReport(cell.cell_id, True, "", "", score, 1.0)


def test_cells_that_are_done_and_that_become_done_are_ranked(tmp_path: Path) -> None:
    ledger, clock = Ledger(tmp_path), [0.0]
    board = LiveBoard(ledger, clock=lambda: clock[0])
    scored = [c for c in PLAN.cells if c.spec.purpose == "evaluate" and c.spec.split == "test"]
    baseline, *others = scored
    kept(ledger, baseline, 0.25)
    board.planned(PLAN.cells, {baseline.cell_id})
    assert [row["arm"] for row in board.rows()] == ["baseline"]
    for place, cell in enumerate(others):
        board.finished(cell, kept(ledger, cell, 0.5 + place / 4))
    assert len(board.rows()) == 1  # Not every cell is worth a look of its own.
    clock[0] = live_board.EVERY_SECONDS
    board.finished(PLAN.cells[0], CellReport(PLAN.cells[0].cell_id, True, "", "", 0.9, 1.0))
    assert [(row["arm"], row["users"], row["mean"]) for row in board.rows()] == [
        (others[1].arm, 4, 0.75),
        (others[0].arm, 4, 0.5),
        ("baseline", 4, 0.25),
    ]
    assert board.rows()[0]["lift"] == 0.5


def test_many_cells_found_done_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    board = LiveBoard(ledger, clock=lambda: 0.0)
    scored = [c for c in PLAN.cells if c.spec.purpose == "evaluate" and c.spec.split == "test"]
    for cell in scored:
        kept(ledger, cell, 0.5)
    board._waiting = list(scored)
    board.read(most=2)
    assert len(board.rows()) == 2
    board.read()
    assert len(board.rows()) == 3
