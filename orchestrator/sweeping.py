"""A sweep inside a run: Ray, ledger, status file and display around the bare sweep."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.cluster import RaySession
from orchestrator.keeper import LedgerKeeper
from orchestrator.live_board import LiveBoard
from orchestrator.placement import Placement
from orchestrator.plan import PlannedCell
from orchestrator.redaction import redacted
from orchestrator.settings import TrackingSettings
from orchestrator.signals import StopSignal
from orchestrator.status import StatusFile
from orchestrator.tally import SweepTally
from orchestrator.tracking import Tracking, openers_of
from orchestrator.worker import ask_to_save
from orchestrator.workspace import Workspace, remove_empty_folders
from results.ledger import Ledger

if TYPE_CHECKING:
    from orchestrator.arm_search import Trail
    from orchestrator.stored_workspace import StoredWorkspace
    from orchestrator.sweep import More


@dataclass(frozen=True, slots=True)
class Screen:
    """The command line's side of a run: where words go, and what shows a sweep.

    ``watch`` gives a context manager that is also an observer of the sweep.
    """

    say: Callable[[str], None]
    watch: Callable[[SweepTally, LiveBoard], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Sweeper:
    """Runs cells of a run; one for the search and for the study itself."""

    workspace: Workspace
    placement: Placement
    screen: Screen
    stop: StopSignal
    status: StatusFile
    start_ray: Callable[[], RaySession]
    study: str
    tracking: TrackingSettings
    checkpoint_seconds: float
    fence: Callable[[], None] = lambda: None
    """Raises LockError once the workspace is another driver's; asked before every write."""
    stored: StoredWorkspace | None = None
    """The workspace in a bucket; None for a folder."""
    searches: list[SweepTally] = field(default_factory=list)
    """Counts of the sweeps that a search has had."""

    def run(
        self,
        cells: Sequence[PlannedCell],
        *,
        finished: Collection[str],
        ledger: Ledger,
        more: More | None = None,
        trail: Trail | None = None,
    ) -> None:
        """Run the cells that are not finished, with the ledger and the display looking on.

        ``trail``: of a search; the counts of later sweeps go on from those of this one.
        """
        session = self.start_ray()
        if self.stored is not None:
            # Workers on other nodes read the data, and what was adopted, from there.
            self.stored.files.push()
        # Tune takes a second to import, which a finished study need not wait for.
        from orchestrator.metrics import SweepMetrics
        from orchestrator.sweep import SweepOptions, run_sweep

        shutil.rmtree(self.workspace.tune, ignore_errors=True)
        options = SweepOptions(
            places=self.workspace.places(),
            placement=self.placement,
            tune_folder=self.workspace.tune,
            study=self.study,
            checkpoint_seconds=self.checkpoint_seconds,
        )
        earlier = self.searches[-1] if self.searches else None
        tally = SweepTally(cells, finished=set(finished), earlier=earlier, trail=trail)
        if trail is not None:
            self.searches.append(tally)
        board = LiveBoard(ledger)
        board.planned(cells, finished)
        metrics = SweepMetrics(tally, board, ledger)
        tracking = Tracking(
            openers_of(self.tracking, self.workspace.root, study=self.study),
            ledger,
            board,
            warn=self.screen.say,
        )
        self.status.follow(tally, board)
        self.status.update("running", dashboard=session.dashboard, reused=len(finished))
        self._announce(cells, len(finished))
        try:
            with self.screen.watch(tally, board) as display, self.stop.polled():
                run_sweep(
                    cells,
                    finished=set(finished),
                    options=options,
                    keeper=LedgerKeeper(
                        ledger,
                        fence=self.fence,
                        stored=None if self.stored is None else self.stored.cells,
                    ),
                    observers=[tally, board, metrics, tracking, self.status, display],  # type: ignore[list-item]
                    stop=self.stop,
                    on_notice=self._drain,
                    more=more,
                )
        except BaseException as error:
            tracking.close()
            self.status.update("stopped", reason=redacted(f"{type(error).__name__}: {error}"))
            raise
        board.read()
        tracking.close()
        remove_empty_folders(self.workspace.tune)

    def _drain(self, running: int) -> None:
        """The machine is to go: tell it, and have long trainings save their state now."""
        ask_to_save(self.workspace.places().training)
        cells = "1 cell" if running == 1 else f"{running} cells"
        self.screen.say(
            f"Asked to stop: {cells} may run on for {self.stop.drain_seconds:.0f} s, nothing new "
            "is begun; a second signal stops at once"
        )
        self.status.update("draining")

    def _announce(self, cells: Sequence[PlannedCell], reused: int) -> None:
        actors = self.placement.actors
        done = f", {reused} of them done before" if reused else ""
        stages = " → ".join(dict.fromkeys(cell.stage for cell in cells))
        trials = "1 trial" if actors == 1 else f"up to {actors} trials"
        self.screen.say(f"{len(cells)} cells{done}; {stages}; {trials} at a time")
