"""Which cell comes next: those whose parents are done, the longest way to the end first. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from orchestrator.plan import PlannedCell


class CellQueue:
    """The cells of a study that are not done yet.

    A cell is *waiting* until it is taken, then *running* until it is finished or failed. Cells
    that depend on a failed one are *blocked* and never run. While the queue is ``open``, more
    cells may be added: what a search tries next depends on what came out.
    """

    def __init__(
        self, cells: Sequence[PlannedCell], *, finished: Collection[str] = (), open_: bool = False
    ) -> None:
        self.cells: dict[str, PlannedCell] = {}
        self.finished: set[str] = set()
        self.running: set[str] = set()
        self.failed: set[str] = set()
        self.blocked: dict[str, str] = {}
        self.open = open_
        self._waiting: dict[str, PlannedCell] = {}
        self.add(cells, finished=finished)

    def add(
        self, cells: Sequence[PlannedCell], *, finished: Collection[str] = ()
    ) -> list[PlannedCell]:
        """Take in the cells that are new; returns those that need one that failed before.

        Args:
            cells: prerequisites first, or in the queue already.
            finished: ids of those in the ledger.
        """
        new = [cell for cell in cells if cell.cell_id not in self.cells]
        self.cells |= {cell.cell_id: cell for cell in new}
        self.finished |= {cell.cell_id for cell in new if cell.cell_id in finished}
        way = _way_to_the_end(new)
        # sorted() is stable: equal ways keep the plan's order.
        order = sorted(new, key=lambda cell: -way[cell.cell_id])
        self._waiting |= {c.cell_id: c for c in order if c.cell_id not in self.finished}
        return [cell for dead in [*self.failed] for cell in self._block(dead)]

    @property
    def exhausted(self) -> bool:
        """Whether nothing waits, and nothing more will come."""
        return not self._waiting and not self.open

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self.running

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

    def give_back(self, cell_id: str) -> None:
        """A running cell was broken off through no fault of its own: it comes first again."""
        self.running.discard(cell_id)
        self._waiting = {cell_id: self.cells[cell_id], **self._waiting}

    def finish(self, cell_id: str) -> None:
        """A running cell is in the ledger."""
        self.running.discard(cell_id)
        self.finished.add(cell_id)

    def fail(self, cell_id: str) -> list[PlannedCell]:
        """A running cell failed; returns the cells that can now never run."""
        self.running.discard(cell_id)
        self.failed.add(cell_id)
        return self._block(cell_id)

    def _block(self, cell_id: str) -> list[PlannedCell]:
        """Put away what waits for a failed cell."""
        blocked = list(self._descendants(cell_id))
        for cell in blocked:
            del self._waiting[cell.cell_id]
            self.blocked[cell.cell_id] = cell_id
        return blocked

    def _descendants(self, cell_id: str) -> Iterable[PlannedCell]:
        # Cells that were added later may need one that was put away then.
        dead = {cell_id, *(name for name, cause in self.blocked.items() if cause == cell_id)}
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
