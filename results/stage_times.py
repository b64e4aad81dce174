"""Seconds of trials by stage: planned before a run, and spent in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SEARCH = "search"
"""The stage of a search's cells."""


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """Seconds of one stage's trials, summed over its cells.

    ``planned`` is None where no forecast was made; ``failed`` counts cells without a record, whose
    seconds nobody has.
    """

    stage: str
    cells: int
    failed: int = 0
    planned: float | None = None
    spent: float = 0.0

    @property
    def factor(self) -> float | None:
        """Spent over planned."""
        return self.spent / self.planned if self.planned else None


def total_of(times: Sequence[StageTime]) -> StageTime:
    """All stages together; planned only where every stage was."""
    planned = [time.planned for time in times if time.planned is not None]
    return StageTime(
        stage="all",
        cells=sum(time.cells for time in times),
        failed=sum(time.failed for time in times),
        planned=sum(planned) if len(planned) == len(times) else None,
        spent=sum(time.spent for time in times),
    )
