"""Which cell comes next: those whose parents are done, the longest way to the end first. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from orchestrator.plan import PlannedCell


class CellQueue:
    """The cells of a study that are not done yet.

    A cell is *waiting* until it is taken, then *running* until it is finished or failed. Cells
    that depend on a failed one are *blocked* and never run.
    """

    def __init__(self, cells: Sequence[PlannedCell], *, finished: Collection[str] = ()) -> None:
        self.cells = {cell.cell_id: cell for cell in cells}
        self.finished = {cell.cell_id for cell in cells if cell.cell_id in finished}
        self.running: set[str] = set()
        self.failed: set[str] = set()
        self.blocked: dict[str, str] = {}
        way = _way_to_the_end(cells)
        # sorted() is stable: equal ways keep the plan's order.
        order = sorted(cells, key=lambda cell: -way[cell.cell_id])
        self._waiting = {c.cell_id: c for c in order if c.cell_id not in self.finished}

    @property
    def exhausted(self) -> bool:
        """Whether every cell was taken, is done, or can never run."""
        return not self._waiting

    @property
    def waiting(self) -> tuple[PlannedCell, ...]:
        """Cells that were not taken yet, in the order they would be."""
        return tuple(self._waiting.values())

    def take(self, most: int = 1) -> list[PlannedCell]:
        """Up to ``most`` cells that can start now; they count as running."""
        taken: list[PlannedCell] = []
        for cell in self._waiting.values():
            if len(taken) == most:
                break
            if self.finished.issuperset(cell.depends_on):
                taken.append(cell)
        for cell in taken:
            del self._waiting[cell.cell_id]
            self.running.add(cell.cell_id)
        return taken

    def finish(self, cell_id: str) -> None:
        """A running cell is in the ledger."""
        self.running.discard(cell_id)
        self.finished.add(cell_id)

    def fail(self, cell_id: str) -> list[PlannedCell]:
        """A running cell failed; returns the cells that can now never run."""
        self.running.discard(cell_id)
        self.failed.add(cell_id)
        blocked = list(self._descendants(cell_id))
        for cell in blocked:
            del self._waiting[cell.cell_id]
            self.blocked[cell.cell_id] = cell_id
        return blocked

    def _descendants(self, cell_id: str) -> Iterable[PlannedCell]:
        dead = {cell_id}
        # The plan lists prerequisites first, so one pass over it finds all generations.
        for cell in self.cells.values():
            if cell.cell_id in self._waiting and not dead.isdisjoint(cell.depends_on):
                dead.add(cell.cell_id)
                yield cell


def _way_to_the_end(cells: Sequence[PlannedCell]) -> dict[str, float]:
    """Work of each cell plus the longest chain of cells that wait for it."""
    behind: dict[str, float] = {}
    way: dict[str, float] = {}
    for cell in reversed(cells):
        way[cell.cell_id] = cell.work + behind.get(cell.cell_id, 0.0)
        for parent in cell.depends_on:
            behind[parent] = max(behind.get(parent, 0.0), way[cell.cell_id])
    return way
