"""One Tune experiment for a whole study.

Tune asks its search algorithm for trials; ours hands out the cells whose parents are in the
ledger. So an actor, with the base model in it, is kept through all stages, and no stage waits for
a cell that it does not need. What comes back is committed by the driver, the only writer of
records; Tune's own state is never read.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ray.exceptions import OutOfMemoryError
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.search import Searcher

from orchestrator.cell_queue import CellQueue
from orchestrator.exit_codes import InfrastructureError
from orchestrator.placement import Placement
from orchestrator.plan import PlannedCell
from orchestrator.redaction import redacted
from orchestrator.signals import StopSignal
from orchestrator.trainable import trial_class, trial_config
from orchestrator.worker import CHECKPOINT_SECONDS, CellReport, Places

MAX_FAILURES = 3
"""How often a trial whose process died is started again."""

STALL_SECONDS = 300.0
"""So long may trials wait for resources while none runs; then something is wrong."""

CELL_WORKER = "orchestrator.worker:CellWorker"


class Keeper(Protocol):
    """Writes what came back; in a study the ledger's only writer."""

    def keep(
        self, cell: PlannedCell, report: CellReport, environment: dict[str, str], attempts: int
    ) -> str | None:
        """Take over a cell's files from staging; the reason if they are nothing to build upon."""

    def lose(self, cell: PlannedCell, error: str, attempts: int) -> None:
        """Note a cell that failed."""


class Observer(Protocol):
    """Follows a sweep: counts and displays."""

    def planned(self, cells: Sequence[PlannedCell], finished: Collection[str]) -> None:
        """More cells are to run; those named in ``finished`` are done."""

    def started(self, cell: PlannedCell) -> None:
        """A cell's trial has started; a second time if its first one was broken off."""

    def finished(self, cell: PlannedCell, report: CellReport) -> None:
        """A cell is kept."""

    def failed(self, cell: PlannedCell, error: str) -> None:
        """A cell raised, or its process died more often than is retried."""

    def blocked(self, cell: PlannedCell, cause: PlannedCell) -> None:
        """A cell can never run, because one that it needs failed."""


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """How trials run; nothing here can change a number."""

    places: Places
    placement: Placement
    tune_folder: Path
    """Tune's own files; a new folder inside for each attempt, removed after a clean end."""
    cells_per_trial: int = 1
    worker: str = CELL_WORKER
    stall_seconds: float = STALL_SECONDS
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    study: str = ""
    """Named by the actors' class in Ray's dashboard."""


More = Callable[[], tuple[Sequence[PlannedCell], Collection[str]]]
"""Asked for cells when all known ones have ended: them (none: the end) and ids of those done."""


class StudySearch(Searcher):
    """Tune's search algorithm over a table of cells, which ``more`` may extend."""

    def __init__(
        self,
        queue: CellQueue,
        *,
        options: SweepOptions,
        attempt: str,
        keeper: Keeper,
        observers: Sequence[Observer],
        stop: StopSignal,
        more: More | None = None,
    ) -> None:
        super().__init__()
        self.stop = stop
        self.queue = queue
        self.options = options
        self.attempt = attempt
        self.keeper = keeper
        self.observers = observers
        self.more = more
        self.handed: dict[str, dict[str, PlannedCell]] = {}
        self.attempts: dict[str, int] = {}
        self.broken_off: dict[str, int] = {}
        """Cell → how often it ran in an experiment that Tune gave up."""
        self.broken_off_by: dict[str, str] = {}
        """Cell → why Tune gave up the last of those experiments."""
        self.suspects: set[str] = set()
        """Cells that ran when the host's memory was full. Each is tried again alone, so that one
        that takes too much costs its neighbors no further try."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A trial of cells that can start now; None while all wait; FINISHED at the end."""
        if self.queue.exhausted:
            return str(Searcher.FINISHED)
        if self.stop.draining or (self.suspects and any(self.handed.values())):
            return None
        cells = self.queue.take(1 if self.suspects else self.options.cells_per_trial)
        if not cells:
            return None
        self.handed[trial_id] = {cell.cell_id: cell for cell in cells}
        self.attempts[trial_id] = 1 + self._broken_off(trial_id)
        specs = [cell.spec for cell in cells]
        return trial_config(
            [(cell.cell_id, cell.spec) for cell in cells],
            places=self.options.places,
            attempt=self.attempt,
            worker=self.options.worker,
            resources=self.options.placement.resources_for(specs),
            processes=self.options.placement.processes_for(specs),
            checkpoint_seconds=self.options.checkpoint_seconds,
        )

    def _broken_off(self, trial_id: str) -> int:
        """How many tries a trial's cells had in earlier experiments."""
        cells = self.handed.get(trial_id, ())
        return max((self.broken_off.get(name, 0) for name in cells), default=0)

    def retries(self, trial_id: str) -> int:
        """How often Tune may start a trial again: tries of earlier experiments count too."""
        return MAX_FAILURES - self._broken_off(trial_id)

    def begin(self, trial_id: str) -> None:
        """A trial has its actor; Tune takes one more trial than can run, which waits until then."""
        for cell in self.handed.get(trial_id, {}).values():
            for observer in self.observers:
                observer.started(cell)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Absorb one cell's result; the same result twice (a retried trial) counts once."""
        cell = self.handed.get(trial_id, {}).pop(result["cell_id"], None)
        if cell is None:
            return
        report = CellReport(**{field.name: result[field.name] for field in fields(CellReport)})
        attempts = self.attempts[trial_id]
        environment = json.loads(result["environment"])
        error: str | None = report.error
        if report.ok:
            error = self.keeper.keep(cell, report, environment, attempts)
        if error is not None:
            self.give_up(cell, error, attempts=attempts)
            return
        self.queue.finish(cell.cell_id)
        self.suspects.discard(cell.cell_id)
        for observer in self.observers:
            observer.finished(cell, report)
        self.grow()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to do: results came one by one, and errors come with their text elsewhere."""

    def lose(self, trial_id: str, error: str) -> None:
        """A trial is over; cells of it that gave no result failed."""
        for cell in self.handed.pop(trial_id, {}).values():
            earlier = self.broken_off_by.get(cell.cell_id)
            told = error if earlier is None else f"{error}\nAn earlier try ended so: {earlier}"
            self.give_up(cell, told, attempts=self.attempts[trial_id])

    def give_up(self, cell: PlannedCell, error: str, *, attempts: int) -> None:
        """Fail a cell, and block what needs it."""
        error = redacted(error)
        self.suspects.discard(cell.cell_id)
        self.keeper.lose(cell, error, attempts)
        for observer in self.observers:
            observer.failed(cell, error)
        self._block(self.queue.fail(cell.cell_id))
        self.grow()

    def break_off(self, error: str, *, live: Collection[str]) -> None:
        """The experiment is over before its time: its cells wait again, or have had their tries.

        A trial without its actor, among those ``live``, was not in the middle of a try.
        """
        handed, self.handed = self.handed, {}
        for trial_id, cells in handed.items():
            tries = self.attempts[trial_id] - (trial_id not in live)
            for cell in cells.values():
                if tries > MAX_FAILURES:
                    self.give_up(cell, f"worker died {tries} times: {error}", attempts=tries)
                    continue
                if tries:
                    self.broken_off[cell.cell_id] = tries
                    self.broken_off_by[cell.cell_id] = error
                    self.suspects.add(cell.cell_id)
                self.queue.give_back(cell.cell_id)

    def _block(self, cells: Iterable[PlannedCell]) -> None:
        for blocked in cells:
            cause = self.queue.cells[self.queue.blocked[blocked.cell_id]]
            reason = f"needs {cause.arm} ({cause.cell_id}), which failed"
            self.keeper.lose(blocked, reason, 0)
            for observer in self.observers:
                observer.blocked(blocked, cause)

    def grow(self) -> None:
        """Once all known cells have ended: ask for more, while there are any."""
        while self.more is not None and self.queue.open and self.queue.idle:
            cells, finished = self.more()
            if not cells:
                self.queue.open = False
            new = [cell for cell in cells if cell.cell_id not in self.queue.cells]
            for observer in self.observers:
                observer.planned(new, finished)
            self._block(self.queue.add(cells, finished=finished))

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Tune pickles its parts at the start, to restore them; ours are not to be restored."""
        return (object, ())

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshots hold nothing of ours: the ledger is what a resumed run reads."""

    def restore(self, checkpoint_path: str) -> None:
        """Never asked for: every attempt is a new experiment."""
        raise NotImplementedError("a study goes on from its ledger, in a new experiment")


class _Watch(Callback):
    """Tells the search about dead trials, and ends a run that is stopped or stalled."""

    def __init__(
        self, search: StudySearch, *, on_notice: Callable[[int], None], stall_seconds: float
    ) -> None:
        self.search = search
        self.stop = search.stop
        self.on_notice = on_notice
        self.waited_for: set[str] | None = None
        """Trials that ran when the sweep began to drain; Tune has one more ready to start."""
        self.stall_seconds = stall_seconds
        self.live: set[str] = set()
        self.limited = 0
        """How many of Tune's trials know how often they may be started again."""
        self.moved = time.monotonic()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (object, ())

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        # Not in on_trial_start: Tune does not call it for an actor that dies while it is created.
        for trial in trials[self.limited :]:
            trial.max_failures = self.search.retries(trial.trial_id)
        self.limited = len(trials)
        if self.stop.draining and self.waited_for is None:
            self.waited_for = set(self.live)
            self.on_notice(self._running(self.live))
        self.stop.check(busy=self._running(self.waited_for or ()) > 0)
        if self.live:
            self.moved = time.monotonic()
        elif self.search.handed and time.monotonic() - self.moved > self.stall_seconds:
            wanted = self.search.options.placement.resources()
            raise InfrastructureError(
                f"no trial could start within {self.stall_seconds:.0f} s; each asks for {wanted}; "
                "is something else using this Ray, or did a node go away?"
            )

    def _running(self, trials: Collection[str]) -> int:
        """How many cells of these trials have not ended."""
        return sum(len(self.search.handed.get(trial, ())) for trial in trials)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.live.add(trial.trial_id)
        self.search.begin(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.live.discard(trial.trial_id)
        self.search.attempts[trial.trial_id] = self.search.attempts.get(trial.trial_id, 1) + 1

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.live.discard(trial.trial_id)
        self.search.lose(trial.trial_id, "the trial ended without a result")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.live.discard(trial.trial_id)
        attempts = self.search.attempts.get(trial.trial_id, 1)
        self.search.lose(trial.trial_id, f"worker died {attempts} times: {_cause(trial)}")


def _cause(trial: Any) -> str:
    """What Tune knows about a trial's error, or that it knows nothing.

    ``Trial.get_error`` reads the storage, where Tune's file of errors arrives only with its next
    snapshot: the file that Tune has just written is here.
    """
    here = trial.error_file
    if here is not None and Path(here).is_file():
        return Path(here).read_text(encoding="utf-8", errors="replace")
    error = trial.get_error()
    return str(error) if error is not None else "no reason is known"


def _inside(error: BaseException | None) -> InfrastructureError | None:
    """The infrastructure error among an exception's causes."""
    while error is not None and not isinstance(error, InfrastructureError):
        error = error.__cause__ or error.__context__
    return error


def _host_memory(error: BaseException | None) -> str | None:
    """What Ray says of a worker that it killed because the host's memory was full; else None.

    Ray 2.60's Tune knows dead actors and failed tasks, and ends the whole experiment over this
    third kind (``RayActorManager._actor_task_failed``), instead of starting the trial again.
    """
    while error is not None and not isinstance(error, OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return None if error is None else f"out of memory: {str(error).strip().splitlines()[0]}"


def run_sweep(
    cells: Sequence[PlannedCell],
    *,
    finished: set[str],
    options: SweepOptions,
    keeper: Keeper,
    observers: Sequence[Observer] = (),
    stop: StopSignal | None = None,
    on_notice: Callable[[int], None] = lambda running: None,
    more: More | None = None,
) -> CellQueue:
    """Run all cells that are not finished; Ray must be up. Returns what became of them.

    Args:
        cells: of the whole plan, prerequisites first.
        finished: ids of cells in the ledger.
        options: how trials run.
        keeper: writes what came back.
        observers: told of every cell.
        stop: asked several times a second; raises to end the sweep, or lets it drain first.
        on_notice: told once, with the number of running cells, when it begins to drain.
        more: asked for further cells whenever all known ones have ended.

    Raises:
        InfrastructureError: no trial can start, or a result cannot be written.
    """
    queue = CellQueue(cells, finished=finished, open_=more is not None)
    attempt = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    search = StudySearch(
        queue, options=options, attempt=attempt, keeper=keeper, observers=observers,
        stop=stop or StopSignal(), more=more,
    )  # fmt: skip
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    experiment = 0
    while not (queue.exhausted and not queue.running):
        experiment += 1
        watch = _Watch(search, on_notice=on_notice, stall_seconds=options.stall_seconds)
        try:
            _tuner(search, watch, name=f"{attempt}-{experiment}").fit()
            break
        except Exception as error:
            # Tune wraps what our own code raises inside its loop.
            inside, memory = _inside(error), _host_memory(error)
            if inside is not None or memory is None:
                raise (inside or error) from None
            search.break_off(memory, live=watch.live)
    for trial_id in list(search.handed):
        search.lose(trial_id, "the trial ended without a result")
    if not queue.failed:
        for folder in options.tune_folder.glob(f"{attempt}-*"):
            shutil.rmtree(folder, ignore_errors=True)
    return queue


def _tuner(search: StudySearch, watch: _Watch, *, name: str) -> Tuner:
    """One experiment over what the search hands out."""
    return Tuner(
        trial_class(search.options.study),
        tune_config=TuneConfig(
            search_alg=search,
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.trial_id),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(search.options.tune_folder.resolve()),
            verbose=0,
            callbacks=[watch],
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            # Results lie in the ledger; by default Tune would checkpoint each trial at its end.
            checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
