"""A search as a person sees it while it runs, after it has ended, and when it is broken off."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.arm_search import Trail, told_candidates
from orchestrator.live_board import LiveBoard
from orchestrator.plan import PlannedCell
from orchestrator.progress import progress_line
from orchestrator.search import Search, search_study
from orchestrator.status import StatusFile, present_progress, read_status, settled
from orchestrator.status_view import status_view
from orchestrator.sweep_view import sweep_view, time_left
from orchestrator.tally import SweepTally
from orchestrator.worker import NO_METRIC, CellReport
from results.ledger import Ledger
from search_spaces.catalog import STUDIES
from tests.test_orchestrator_search import World, facts, wanted

STUDY = STUDIES["global"]


def shown(what: object, width: int = 80) -> str:
    """What a terminal of so many columns shows."""
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    return text


def view(tally: SweepTally) -> str:
    """The sweep's view without a leaderboard."""
    return shown(sweep_view(tally.snapshot(), ()))


def report(cell: PlannedCell) -> CellReport:
    return CellReport(cell.cell_id, True, "", "", NO_METRIC, 1.0)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A search of two arms over a world without a model, followed by a tally."""

    def __init__(self, samples: int = 3) -> None:
        self.world = World()
        own = wanted("grid", samples=samples)
        trail = Trail()
        steps = search_study(
            own, study=STUDY, facts=facts(22), read=self.world.done.get, trail=trail
        )
        done = self.world.done
        self.search = Search(steps, finished=lambda names: done.keys() & set(names), trail=trail)
        self.clock = Clock()
        cells, finished = self.search.next_cells()
        self.cells = list(cells)
        self.tally = SweepTally(cells, finished=finished, clock=self.clock, trail=trail)

    def run(self, cell: PlannedCell) -> None:
        self.tally.started(cell)
        self.world.run([cell])
        self.clock.now += 1.0
        self.tally.finished(cell, report(cell))

    def finish(self) -> None:
        while self.cells:
            for cell in self.cells:
                if cell.cell_id not in self.world.specs:
                    self.run(cell)
            cells, finished = self.search.next_cells()
            self.tally.planned([c for c in cells if c.cell_id not in self.world.specs], finished)
            self.cells = list(cells)


def test_running_cells_of_a_search_say_which_candidate_they_try_on_which_rung() -> None:
    watched = Watched()
    trained = [cell for cell in watched.cells if cell.spec.purpose == "train"][:3]
    for cell in trained:
        watched.tally.started(cell)
    lines = [line for line in view(watched.tally).splitlines() if line.startswith("now:")]
    assert lines == [
        "now: train prefix_all, the default, rung 1 of 2, 22 users",
        "now: train prefix_all, candidate 1, rung 1 of 2, 22 users",
        "now: train prefix_all, candidate 2, rung 1 of 2, 22 users",
    ]
    assert told_candidates([0, 1, 2, 3]) == "the default and candidates 1–3"
    assert told_candidates([4, 2]) == "candidates 2, 4"


def test_the_best_candidate_so_far_is_shown_before_its_rung_has_ended() -> None:
    watched = Watched()
    assert watched.tally.search == []
    for cell in watched.cells:
        if cell.arm == "prefix_all":
            watched.run(cell)
            if len(watched.tally.search) and watched.tally.search[0]["tried"] == 1:
                (row,) = watched.tally.search
                assert (row["best"], row["candidates"], row["rung"]) == (0, 3, 1)
                assert row["nll"] == row["default_nll"]
    (row,) = watched.tally.search
    assert (row["arm"], row["tried"], row["rung"], row["rungs"]) == ("prefix_all", 3, 1, 2)
    assert row["nll"] == min(row["nll"], row["default_nll"])
    text = view(watched.tally)
    assert "Search so far: validation NLL per token" in text
    assert "1 of 2" in text
    assert "3 of 3" in text
    assert "searching" in text
    assert "left" not in text, "of a search only the next step is known"


def test_after_a_search_its_cells_stay_counted_and_time_goes_on() -> None:
    watched = Watched()
    watched.finish()
    result = watched.search.result
    assert result is not None
    best = {row["arm"]: row["best"] for row in watched.tally.search}
    assert best == {one.arm: one.candidate for one in result.history if one.chosen}
    search = watched.tally.stages["search"]
    assert search.done == search.total == len(watched.world.specs)
    cells = [replace(cell, stage="global") for cell in study_cells()]
    watched.clock.now = 100.0
    study = SweepTally(cells, finished=(), clock=watched.clock, earlier=watched.tally)
    assert study.total == search.total + len(cells)
    assert study.done == search.total
    assert [stage["stage"] for stage in study.snapshot()["stages"]] == ["search", "global"]
    # The time so far is the run's; the speed is the study's own.
    assert study.seconds == 100.0
    assert study.seconds_left() is None
    study.started(cells[0])
    watched.clock.now = 110.0
    study.finished(cells[0], report(cells[0]))
    assert study.seconds_left() == pytest.approx(10.0 * (len(cells) - 1), rel=0.5)
    # Counting on must not count in the search's own tally.
    assert watched.tally.stages.keys() == {"search"}
    assert "searching" not in view(study)
    assert "searching" in view(watched.tally)


def study_cells() -> list[PlannedCell]:
    """Some cells to stand for a study."""
    return [cell for cell in Watched().cells if cell.spec.purpose == "train"][:3]


def a_status(root: Path, state: str, **values: Any) -> Mapping[str, Any]:
    """The status file of a sweep in which one cell runs."""
    watched = Watched()
    tally = SweepTally(watched.cells, finished=(), clock=watched.clock)
    tally.started(watched.cells[0])
    status = StatusFile(root, study="global")
    status.follow(tally, LiveBoard(Ledger(root)))
    status.update("running")
    status.update(state, **values)
    found = read_status(root)
    assert found is not None
    return found


@pytest.mark.parametrize("state", ["stopped", "failed", "done"])
def test_a_run_that_has_ended_shows_nothing_that_runs_or_is_to_come(
    tmp_path: Path, state: str
) -> None:
    status = a_status(tmp_path, state)
    assert status["progress"]["now"] == []
    assert [stage["running"] for stage in status["progress"]["stages"]] == [0]
    text = shown(status_view(status))
    assert "now:" not in text
    assert "estimating" not in text
    assert "cells, 0 s in all" in text


def test_a_run_whose_process_died_shows_nothing_that_runs_either(tmp_path: Path) -> None:
    status = a_status(tmp_path, "running")
    assert "now:" in shown(status_view(status))
    text = shown(status_view({**status, "state": "died; give the same command again"}))
    assert "now:" not in text
    assert "estimating" not in text
    assert settled({}) == {"stages": [], "now": [], "seconds_left": None, "ended": True}


def test_the_time_of_a_live_run_goes_on_between_two_writes() -> None:
    began = datetime(2026, 1, 1, 12, tzinfo=UTC)
    status = {
        "started_utc": began.isoformat(),
        "updated_utc": (began + timedelta(seconds=30)).isoformat(),
        "progress": {"stages": [], "seconds": 28.0, "seconds_left": 100.0},
    }
    later = began + timedelta(seconds=90)
    now = present_progress(status, running=True, now=later)
    assert (now["seconds"], now["seconds_left"]) == (90.0, 40.0)
    assert present_progress(status, running=True, now=began)["seconds"] == 28.0
    much = present_progress(status, running=True, now=began + timedelta(hours=9))
    assert much["seconds_left"] == 0.0
    ended = present_progress(status, running=False, now=later)
    assert (ended["seconds"], ended["seconds_left"]) == (28.0, None)
    assert present_progress({}, running=True) == {}
    broken = {**status, "started_utc": "long ago"}
    assert present_progress(broken, running=True, now=later)["seconds"] == 28.0


def test_the_last_seconds_are_not_counted_down() -> None:
    assert time_left(0.2) == time_left(4.9) == "almost done"
    assert time_left(61) == "about 1 min 1 s left"
    watched = Watched()
    tally = SweepTally(watched.cells, finished=(), clock=watched.clock)
    for cell in watched.cells:
        tally.started(cell)
        watched.clock.now += 0.001
        tally.finished(cell, report(cell))
        if cell is watched.cells[-2]:
            line = progress_line(tally, tally.stages["search"])
            assert line.endswith("almost done")
    assert "left" not in progress_line(tally, tally.stages["search"])


def test_a_cell_whose_trial_never_started_is_not_taken_from_those_that_run() -> None:
    watched = Watched()
    tally = SweepTally(watched.cells, finished=())
    tally.started(watched.cells[0])
    tally.failed(watched.cells[1], "ValueError: the trial ended without a result")
    stage = tally.stages["search"]
    assert (stage.running, stage.failed) == (1, 1)
