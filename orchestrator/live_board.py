"""The leaderboard of a running sweep: an observer that reads each scored cell once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.plan import PlannedCell
from orchestrator.worker import CellReport
from results.leaderboard import Leaderboard, Standing
from results.ledger import Ledger
from results.record import ARM_PURPOSES

ITEMS_FILE = "items.parquet"
EVERY_SECONDS = 2.0
CELLS_AT_ONCE = 200
"""A sweep that finds 50,000 cells done must not wait for its own display."""


class LiveBoard:
    """Follows the test scores of the study's arms; an ablation's variants are left out."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.standings: list[Standing] = []
        self._ledger = ledger
        self._board = Leaderboard()
        self._waiting: list[PlannedCell] = []
        self._clock = clock
        self._read = float("-inf")

    def planned(self, cells: Sequence[PlannedCell], finished: Collection[str]) -> None:
        """Those that were done before have scores already."""
        self._waiting += [cell for cell in cells if cell.cell_id in finished and _is_scored(cell)]
        self._now_and_then()

    def started(self, cell: PlannedCell) -> None:
        """It has no score yet."""

    def finished(self, cell: PlannedCell, report: CellReport) -> None:
        """A cell is in the ledger."""
        if _is_scored(cell):
            self._waiting.append(cell)
        self._now_and_then()

    def failed(self, cell: PlannedCell, error: str) -> None:
        """It will have no score."""

    def blocked(self, cell: PlannedCell, cause: PlannedCell) -> None:
        """It will have no score."""

    def read(self, *, most: int | None = None) -> None:
        """Take in cells that are waiting, all of them unless there is a limit."""
        now, self._waiting = self._waiting[:most], self._waiting[len(self._waiting[:most]) :]
        for cell in now:
            path = self._ledger.path(cell.cell_id, ITEMS_FILE)
            if path.is_file():
                self._board.add(cell.arm, path)
        self.standings = self._board.standings()
        self._read = self._clock()

    def rows(self) -> list[dict[str, Any]]:
        """Standings as plain JSON values, for the screen and the status file."""
        return [asdict(one) for one in self.standings]

    def _now_and_then(self) -> None:
        if self._waiting and self._clock() - self._read >= EVERY_SECONDS:
            self.read(most=CELLS_AT_ONCE)


def _is_scored(cell: PlannedCell) -> bool:
    spec = cell.spec
    return spec.split == "test" and spec.purpose in ARM_PURPOSES and cell.variant is None
