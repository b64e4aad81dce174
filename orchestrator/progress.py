"""What a person sees of a running sweep: a live table, or plain lines without a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from orchestrator.live_board import LiveBoard
from orchestrator.plan import PlannedCell
from orchestrator.sweep_view import sweep_view, time_left
from orchestrator.tally import StageCount, SweepTally
from orchestrator.worker import NO_METRIC, CellReport

LINE_SECONDS = 15.0
"""Without a terminal: a line at the end of each stage, and else at most this often."""


class SweepDisplay:
    """Shows a tally and a leaderboard; an observer of the sweep, a context manager around it.

    It must come after both among the observers, so that it shows counts already updated.
    """

    def __init__(self, console: Console, tally: SweepTally, board: LiveBoard) -> None:
        self.console = console
        self.tally = tally
        self._live = Live(
            get_renderable=lambda: sweep_view(tally.snapshot(), board.rows()),
            console=console,
            refresh_per_second=2,
            transient=True,
        )
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def planned(self, cells: Sequence[PlannedCell], finished: Collection[str]) -> None:
        """Seen in the counts."""

    def started(self, cell: PlannedCell) -> None:
        """Nothing to say before it ends."""

    def finished(self, cell: PlannedCell, report: CellReport) -> None:
        """A line now and then, where no table is live."""
        stage = self.tally.stages[cell.stage]
        ended = stage.done + stage.failed + stage.blocked == stage.total
        self._line(stage, now=ended)

    def failed(self, cell: PlannedCell, error: str) -> None:
        """Always worth a line."""
        reason = self.tally.failures[-1]["reason"]
        text = f"{cell.arm} ({cell.cell_id}) failed: {reason}"
        self.console.print(escape(text), style="red", highlight=False)

    def blocked(self, cell: PlannedCell, cause: PlannedCell) -> None:
        """Shown in the table, and named in the report."""

    def _line(self, stage: StageCount, *, now: bool) -> None:
        if self.console.is_terminal:
            return
        if not now and self.tally.seconds - self._last_line < LINE_SECONDS:
            return
        self._last_line = self.tally.seconds
        self.console.print(progress_line(self.tally, stage), highlight=False, soft_wrap=True)


def progress_line(tally: SweepTally, stage: StageCount) -> str:
    """One line: where the sweep is."""
    left = tally.seconds_left()
    parts = [f"{stage.stage}: {stage.done}/{stage.total} done"]
    parts += [f"{stage.failed} failed"] if stage.failed else []
    parts += [f"all {tally.done}/{tally.total}"]
    parts += [f"best {_best(stage)}"] if stage.best_macro != NO_METRIC else []
    parts += [time_left(left)] if left else []
    return ", ".join(parts)


def _best(stage: StageCount) -> str:
    return "" if stage.best_macro == NO_METRIC else f"{stage.best_macro:.3f} ({stage.best_arm})"
