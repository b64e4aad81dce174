"""Counts, time left, status file and what a person sees of a sweep."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.live_board import LiveBoard
from orchestrator.plan import Facts, PlannedCell, make_plan
from orchestrator.progress import SweepDisplay, progress_line
from orchestrator.settings import Settings
from orchestrator.status import StatusFile, is_alive, read_status
from orchestrator.status_view import DIED, known_status, status_json, watch_json, watch_status
from orchestrator.sweep_view import duration, sweep_view
from orchestrator.tally import SweepTally
from orchestrator.worker import NO_METRIC, CellReport
from orchestrator.workspace import Workspace
from results.ledger import Ledger
from search_spaces.catalog import STUDIES

PLAN = make_plan(
    Settings(),
    study=STUDIES["global"],
    facts=Facts("d", {"val": "v", "test": "t"}, ("user_1", "user_2"), "m", "p", "float32"),
)


def report(cell: PlannedCell, macro: float = NO_METRIC) -> CellReport:
    return CellReport(cell.cell_id, True, "", "", macro, 1.0)


def cell(arm: str, purpose: str, split: str = "test") -> PlannedCell:
    wanted = (arm, purpose, split)
    return next(c for c in PLAN.cells if (c.arm, c.spec.purpose, c.spec.split) == wanted)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_tally_counts_stages_and_names_the_best_arm() -> None:
    clock = Clock()
    before = {cell("baseline", purpose, "val").cell_id for purpose in ("evaluate", "repeat")}
    tally = SweepTally(PLAN.cells, finished=before, clock=clock)
    assert (tally.total, tally.done, tally.reused) == (7, 2, 2)
    assert tally.seconds_left() is None
    for arm, macro in (("lora_all", 0.6), ("prefix_all", 0.7)):
        for purpose, split, value in (("train", "val", 0.9), ("evaluate", "test", macro)):
            tally.started(cell(arm, purpose, split))
            tally.finished(cell(arm, purpose, split), report(cell(arm, purpose, split), value))
    stage = tally.stages["global"]
    # A training's own value is of validation and says nothing here.
    assert (stage.done, stage.running, stage.best_arm) == (4, 0, "prefix_all")
    assert stage.best_macro == 0.7
    baseline = cell("baseline", "evaluate")
    clock.now += 10
    share = baseline.work / sum(c.work for c in PLAN.cells if c.stage == "global")
    left = tally.seconds_left()
    assert left is not None
    assert abs(left - 10 * share) < 1e-9
    tally.started(baseline)
    tally.failed(baseline, "Traceback\n  File\nValueError: planted\n")
    assert tally.failures[0]["reason"] == "ValueError: planted"
    assert tally.seconds_left() == 0


def test_blocks_of_one_arm_are_averaged_over_their_users() -> None:
    one = cell("lora_all", "evaluate")
    bigger = replace(
        one, spec=one.spec.model_copy(update={"users": ("a", "b", "c", "d", "e", "f")})
    )
    tally = SweepTally(PLAN.cells, finished=())
    tally.finished(one, report(one, 0.4))
    tally.finished(bigger, report(bigger, 0.8))
    assert abs(tally.stages["global"].best_macro - 0.7) < 1e-12


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    tally = SweepTally(PLAN.cells, finished=())
    with SweepDisplay(console, tally, LiveBoard(Ledger(tmp_path))) as display:
        for one in PLAN.of_stage("baseline"):
            tally.started(one)
            tally.finished(one, report(one, 0.5))
            display.finished(one, report(one, 0.5))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "baseline: 3/3 done, all 3/7, best 0.500 (baseline)" in text
    assert "\x1b" not in text


def test_a_terminal_shows_a_table(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    tally = SweepTally(PLAN.cells, finished=())
    with SweepDisplay(console, tally, LiveBoard(Ledger(tmp_path))):
        pass
    console.print(sweep_view(tally.snapshot(), ()))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0 of 7 cells" in text
    assert "global" in text
    assert "0/4" in progress_line(tally, tally.stages["global"])


def test_durations_read_well() -> None:
    assert [duration(s) for s in (0.4, 59, 61, 3601, 7500)] == [
        *("0 s", "59 s", "1 min 1 s", "1 h 0 min", "2 h 5 min"),
    ]


def test_the_status_file_tells_how_a_run_stands(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    status = StatusFile(tmp_path, study="global")
    tally = SweepTally(PLAN.cells, finished=())
    status.follow(tally, LiveBoard(Ledger(tmp_path)))
    status.update("running", dashboard=None)
    found = read_status(tmp_path)
    assert found is not None
    assert (found["state"], found["pid"]) == ("running", os.getpid())
    assert is_alive(found, tmp_path)
    assert [stage["total"] for stage in found["progress"]["stages"]] == [3, 4]
    assert not is_alive({**found, "pid": 2**22 + 1}, tmp_path)
    (tmp_path / "results" / "status.json").write_text("{")
    assert read_status(tmp_path) is None
    assert json.dumps(tally.snapshot())


def test_a_tally_takes_in_cells_that_a_search_plans_later() -> None:
    tally = SweepTally((), finished=())
    tally.planned(PLAN.cells[:3], {PLAN.cells[0].cell_id})
    tally.planned(PLAN.cells[3:], ())
    whole = SweepTally(PLAN.cells, finished={PLAN.cells[0].cell_id})
    assert tally.stages == whole.stages
    assert (tally.total, tally.done, tally.reused) == (whole.total, 1, 1)
    for counted in (tally, whole):
        counted.started(PLAN.cells[1])
        counted.finished(PLAN.cells[1], report(PLAN.cells[1]))
    left, expected = tally.seconds_left(), whole.seconds_left()
    assert left is not None
    assert expected is not None


def running(root: Path, **values: object) -> None:
    tally = SweepTally(PLAN.cells, finished={PLAN.cells[0].cell_id})
    tally.started(PLAN.cells[1])
    tally.failed(PLAN.cells[1], "ValueError: planted [red]")
    status = {
        "study": "global",
        "state": "running",
        "pid": os.getpid(),
        "dashboard": "127.0.0.1:8265",
        "progress": tally.snapshot(),
        "leaderboard": [
            {"arm": "lora_all", "users": 3, "mean": 0.5, "lift": 0.1, "low": 0.0, "high": 0.2},
            {"arm": "baseline", "users": 3, "mean": 0.4, "lift": None, "low": None, "high": None},
        ],
    }
    path = root / "results" / "status.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(status | values))


def test_watching_shows_counts_leaderboard_and_reasons_until_the_run_has_ended(
    tmp_path: Path,
) -> None:
    running(tmp_path)
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            running(tmp_path, state="done")

    console = Console(file=io.StringIO(), width=80)
    watch_status(Workspace(tmp_path), console, wait=wait)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert len(waits) == 2
    # Nothing changed in the first two seconds, so that there are two views.
    assert text.count("study global: running") == text.count("study global: done") == 1
    assert "Ray dashboard: http://127.0.0.1:8265 (token: ray get-auth-token)" in text
    assert "1 of 7 cells" in text
    assert "+0.000 … +0.200" in text
    assert "ValueError: planted [red]" in text
    assert max(map(len, text.splitlines())) <= 80


def test_programs_watch_one_document_a_line(tmp_path: Path) -> None:
    running(tmp_path)
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            running(tmp_path, state="done")

    lines: list[str] = []
    watch_json(Workspace(tmp_path), lines.append, wait=wait)
    assert len(waits) == 2
    assert not any("\n" in line for line in lines)
    first, last = map(json.loads, lines)
    assert (first["state"], last["state"]) == ("running", "done")
    # Nothing has been scored yet: that is no score of -1.
    assert {stage["best_macro"] for stage in first["progress"]["stages"]} == {None}
    told = json.loads(status_json({"progress": {"stages": [{"best_macro": 0.5}]}}))
    assert told["progress"]["stages"] == [{"best_macro": 0.5}]
    assert json.loads(status_json({"state": "starting"})) == {"state": "starting"}


def test_a_terminal_is_watched_in_place(tmp_path: Path) -> None:
    running(tmp_path)
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    watch_status(Workspace(tmp_path), console, wait=lambda _: running(tmp_path, state="done"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "study global: done" in text
    assert "\x1b[" in text


def test_a_run_whose_process_is_gone_has_died_and_is_not_waited_for(tmp_path: Path) -> None:
    running(tmp_path, pid=2**22 + 1)
    before = (tmp_path / "results" / "status.json").read_bytes()
    assert known_status(Workspace(tmp_path))["state"] == DIED
    console = Console(file=io.StringIO(), width=80)
    watch_status(Workspace(tmp_path), console, wait=lambda _: pytest.fail("it waited"))
    assert DIED in console.file.getvalue()  # type: ignore[attr-defined]
    assert (tmp_path / "results" / "status.json").read_bytes() == before
