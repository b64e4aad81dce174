"""Experiment trackers: training curves and macro scores for TensorBoard and MLflow.

A tracker never stops a study: its first failure is one warning, and nothing more is sent to it.
No user's id is sent; what per-user adapters are trained with is averaged over the block's users.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

from orchestrator.exit_codes import InputError
from orchestrator.live_board import LiveBoard
from orchestrator.plan import PlannedCell
from orchestrator.settings import TrackingSettings
from orchestrator.worker import CellReport
from results.ledger import Ledger
from results.record_files import RECORD_FILE

TENSORBOARD_FOLDER, MLFLOW_FILE = Path("results/tensorboard"), Path("results/mlflow.db")


@dataclass(frozen=True, slots=True)
class Point:
    """One number of one run: ``name`` at ``step``."""

    name: str
    value: float
    step: int


class Tracker(Protocol):
    """Where points go."""

    name: str

    def log(self, run: str, points: Sequence[Point]) -> None:
        """Add points to a run, which is made when it is first named."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class TensorBoard:
    """Event files that ``tensorboard --logdir`` reads, a folder per run."""

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._open = partial(SummaryWriter, write_to_disk=True)
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def log(self, run: str, points: Sequence[Point]) -> None:
        """Add scalars to the run's event file."""
        if run not in self._writers:
            self._writers[run] = self._open(logdir=str(self._folder / run))
        for point in points:
            self._writers[run].add_scalar(point.name, point.value, point.step)
        self._writers[run].flush()

    def close(self) -> None:
        """Close the event files."""
        for writer in self._writers.values():
            writer.close()


class MLflow:
    """Runs of one experiment, by default in a sqlite file of the workspace."""

    name = "MLflow"

    def __init__(self, uri: str, *, study: str) -> None:
        # It would report its use to its makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._metric = Metric
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(study)
        self._experiment = (
            found.experiment_id if found is not None else self._client.create_experiment(study)
        )
        self._runs: dict[str, str] = {}

    def log(self, run: str, points: Sequence[Point]) -> None:
        """Add metrics to the run."""
        if run not in self._runs:
            made = self._client.create_run(self._experiment, run_name=run)
            self._runs[run] = made.info.run_id
        metrics = [self._metric(p.name, p.value, 0, p.step) for p in points]
        self._client.log_batch(self._runs[run], metrics=metrics)

    def close(self) -> None:
        """Mark the runs as finished."""
        for run in self._runs.values():
            self._client.set_terminated(run)


class Tracking:
    """Sends what a sweep finds to trackers; an observer, after the board."""

    def __init__(
        self,
        openers: Sequence[tuple[str, Callable[[], Tracker]]],
        ledger: Ledger,
        board: LiveBoard,
        *,
        warn: Callable[[str], None],
    ) -> None:
        self._warn, self._ledger, self._board = warn, ledger, board
        self._trackers: list[Tracker] = []
        self._sent: dict[str, int] = {}
        for name, opener in openers:
            with _Guarded(self, name):
                self._trackers.append(opener())

    def planned(self, cells: Sequence[PlannedCell], finished: Collection[str]) -> None:
        """What was done before was tracked before."""

    def started(self, cell: PlannedCell) -> None:
        """Nothing is known yet."""

    def finished(self, cell: PlannedCell, report: CellReport) -> None:
        """Training curves of the cell, and the macro scores of all arms as they are now."""
        run = f"{cell.arm}-seed{cell.spec.seed}"
        if points := list(training_points(self._ledger.path(cell.cell_id, RECORD_FILE))):
            self._send(run, points)
        for row in self._board.standings:
            if self._sent.get(row.arm) != row.users:
                self._sent[row.arm] = row.users
                self._send(row.arm, [Point("macro_rouge_l", row.mean, row.users)])

    def failed(self, cell: PlannedCell, error: str) -> None:
        """Told elsewhere."""

    def blocked(self, cell: PlannedCell, cause: PlannedCell) -> None:
        """Told elsewhere."""

    def close(self) -> None:
        """End all runs."""
        for tracker in list(self._trackers):
            with _Guarded(self, tracker.name):
                tracker.close()

    def _send(self, run: str, points: Sequence[Point]) -> None:
        for tracker in list(self._trackers):
            with _Guarded(self, tracker.name):
                tracker.log(run, points)

    def give_up(self, name: str, error: BaseException) -> None:
        """One warning, and the tracker is asked for nothing more."""
        self._trackers = [one for one in self._trackers if one.name != name]
        told = str(error).splitlines()
        self._warn(
            f"Warning: {name} does not take the study's curves ({type(error).__name__}: "
            f"{told[0] if told else 'no reason given'}); the study goes on without it"
        )


class _Guarded:
    """Whatever a tracker raises ends the tracker alone."""

    def __init__(self, tracking: Tracking, name: str) -> None:
        self.tracking, self.name = tracking, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self.tracking.give_up(self.name, error)
        return True


def training_points(record: Path) -> Iterator[Point]:
    """A record's curve, or the mean loss of its adapters step by step."""
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for row in values.get("curve", ()):
        for name in ("train_loss", "val_rouge_l"):
            if name in row:
                yield Point(name, float(row[name]), int(row["step"]))
    if values.get("purpose") == "personalize":
        tracks = [slot["losses"] for slot in values.get("slots", ()) if slot.get("losses")]
        for step, losses in enumerate(zip_longest(*tracks), start=1):
            known = [loss for loss in losses if loss is not None]
            yield Point("train_loss_mean_of_users", sum(known) / len(known), step)


def check_trackers(settings: TrackingSettings) -> None:
    """Before anything starts: a tracker that is asked for must be installed.

    Raises:
        InputError: it is not.
    """
    if settings.mlflow and find_spec("mlflow") is None:
        raise InputError(
            "tracking.mlflow=true needs the extra: pip install 'persona-sweep[mlflow]'"
        )


def openers_of(
    settings: TrackingSettings, root: Path, *, study: str
) -> list[tuple[str, Callable[[], Tracker]]]:
    """What the settings ask for: names, and how each is opened."""
    found: list[tuple[str, Callable[[], Tracker]]] = []
    if settings.tensorboard:
        found.append((TensorBoard.name, lambda: TensorBoard(root / TENSORBOARD_FOLDER / study)))
    if settings.mlflow:
        uri = settings.mlflow_uri or f"sqlite:///{(root / MLFLOW_FILE).resolve()}"
        found.append((MLflow.name, lambda: MLflow(uri, study=study)))
    return found
