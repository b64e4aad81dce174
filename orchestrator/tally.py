"""How far a sweep is: counts per stage, best metric so far, time left. No clock of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.plan import PlannedCell
from orchestrator.worker import NO_METRIC, CellReport

if TYPE_CHECKING:
    from orchestrator.arm_search import Trail

MOST_NOW = 32
"""Of so many running cells the snapshot tells more than that they run."""


@dataclass(slots=True)
class StageCount:
    """One stage's cells by what became of them; ``best`` names the arm with the best macro."""

    stage: str
    total: int = 0
    done: int = 0
    running: int = 0
    failed: int = 0
    blocked: int = 0
    best_arm: str | None = None
    best_macro: float = NO_METRIC


class SweepTally:
    """Counts a sweep's events.

    ``reused`` cells were in the ledger before; they count as done but say nothing about speed.

    Args:
        cells: that are known now.
        finished: ids of those in the ledger.
        clock: seconds.
        earlier: of the sweep before in the same run, the study's search: counts go on from it.
        trail: of a search that this sweep serves.
    """

    def __init__(
        self,
        cells: Sequence[PlannedCell],
        *,
        finished: Collection[str],
        clock: Callable[[], float] = time.monotonic,
        earlier: SweepTally | None = None,
        trail: Trail | None = None,
    ) -> None:
        before = earlier.stages.items() if earlier else ()
        self.stages: dict[str, StageCount] = {name: replace(stage) for name, stage in before}
        self.reused: int = earlier.reused if earlier else 0
        self.failures: list[dict[str, str]] = [*earlier.failures] if earlier else []
        self.now: dict[str, PlannedCell] = {}
        """Cells whose trials have started, by id."""
        self.trail = trail
        self.search: list[dict[str, Any]] = []
        """How the arms stand that are searched."""
        self._clock = clock
        self._here = clock()
        self._began: float = earlier._began if earlier else self._here
        self._work_done = 0.0
        self._work_left = 0.0
        self._scores: dict[tuple[str, str], list[tuple[float, int]]] = {}
        self.planned(cells, finished)

    def planned(self, cells: Sequence[PlannedCell], finished: Collection[str]) -> None:
        """Count cells that are to run, or were done before."""
        for cell in cells:
            stage = self.stages.setdefault(cell.stage, StageCount(cell.stage))
            stage.total += 1
            if cell.cell_id in finished:
                stage.done += 1
                self.reused += 1
            else:
                self._work_left += cell.work
        self._look()

    def started(self, cell: PlannedCell) -> None:
        """A cell's trial has started; it counts once, also where another takes it up."""
        if cell.cell_id not in self.now:
            self.stages[cell.stage].running += 1
            self.now[cell.cell_id] = cell

    def finished(self, cell: PlannedCell, report: CellReport) -> None:
        """A cell is in the ledger."""
        stage = self._leave(cell)
        stage.done += 1
        self._spend(cell)
        self._look()
        # Only macros of the same split compare, and those of a training are of validation.
        if cell.spec.split == "test" and report.macro != NO_METRIC:
            scores = self._scores.setdefault((cell.stage, cell.arm), [])
            scores.append((report.macro, len(cell.spec.users)))
            macro = sum(value * n for value, n in scores) / sum(n for _, n in scores)
            if stage.best_arm in (None, cell.arm) or macro > stage.best_macro:
                stage.best_arm, stage.best_macro = cell.arm, macro

    def failed(self, cell: PlannedCell, error: str) -> None:
        """A cell failed."""
        stage = self._leave(cell)
        stage.failed += 1
        self._spend(cell)
        self.failures.append({"cell_id": cell.cell_id, "arm": cell.arm, "reason": _last(error)})

    def blocked(self, cell: PlannedCell, cause: PlannedCell) -> None:
        """A cell will never run."""
        self.stages[cell.stage].blocked += 1
        self._spend(cell)

    def _leave(self, cell: PlannedCell) -> StageCount:
        """A cell runs no more; its stage. One whose trial never started did not count."""
        stage = self.stages[cell.stage]
        if self.now.pop(cell.cell_id, None) is not None:
            stage.running -= 1
        return stage

    def _look(self) -> None:
        """Take in how a search stands; here and not at each showing, as it reads results."""
        if self.trail is not None:
            self.search = self.trail.rows()

    def _spend(self, cell: PlannedCell) -> None:
        self._work_done += cell.work
        self._work_left -= cell.work

    @property
    def total(self) -> int:
        """Cells of the plan."""
        return sum(stage.total for stage in self.stages.values())

    @property
    def done(self) -> int:
        """Cells in the ledger."""
        return sum(stage.done for stage in self.stages.values())

    @property
    def seconds(self) -> float:
        """Seconds since the run's first sweep began."""
        return self._clock() - self._began

    def seconds_left(self) -> float | None:
        """Estimate from the speed so far.

        None before the first cell of this sweep is done, and in a search, of which only the next
        step is known.
        """
        if self._work_done == 0 or self.trail is not None:
            return None
        here = self._clock() - self._here
        return max(self._work_left, 0.0) * here / self._work_done

    def snapshot(self) -> dict[str, Any]:
        """As plain JSON values, for the status file."""
        left = self.seconds_left()
        return {
            "stages": [asdict(stage) for stage in self.stages.values()],
            "now": [self._told(cell) for cell in list(self.now.values())[:MOST_NOW]],
            "searching": self.trail is not None,
            "search": self.search,
            "failures": self.failures,
            "seconds": round(self.seconds, 1),
            "seconds_left": None if left is None else round(left, 1),
        }

    def _told(self, cell: PlannedCell) -> dict[str, Any]:
        """What a trial is about, for people: the arm, what is done, for whom; what it tries."""
        spec = cell.spec
        tries = self.trail.tries.get(cell.cell_id) if self.trail is not None else None
        return {
            "arm": cell.arm,
            "purpose": spec.purpose,
            "split": spec.split,
            "seed": spec.seed,
            "users": len(spec.users),
            "first_user": spec.users[0],
            "last_user": spec.users[-1],
            "tries": tries,
        }


def _last(error: str) -> str:
    """The last line of a traceback: what was raised."""
    lines = [line for line in error.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason is known"
