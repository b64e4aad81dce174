"""``results/status.json``: how a run stands, for another terminal and for the next run."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.writing import write_json
from orchestrator.live_board import LiveBoard
from orchestrator.plan import PlannedCell
from orchestrator.tally import SweepTally
from orchestrator.worker import CellReport
from results.lock import TIMEOUT_SECONDS, heartbeat_age

STATUS_FILE = Path("results/status.json")
RUNNING = ("starting", "running", "draining", "reporting")
"""States of a run that has not ended."""
WRITE_SECONDS = 1.0
TELL_SECONDS = 10.0


class StatusFile:
    """Keeps the status file of one run; an observer of its sweep."""

    def __init__(
        self, root: Path, *, study: str, tell: Callable[[Path], None] | None = None
    ) -> None:
        """``tell``: takes the file to where other machines see it, every ``TELL_SECONDS``."""
        self.path = root / STATUS_FILE
        self._tell = tell
        self._told = float("-inf")
        self.values: dict[str, Any] = {
            "study": study,
            "state": "starting",
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started_utc": _now(),
        }
        self._tally: SweepTally | None = None
        self._board: LiveBoard | None = None
        self._written = 0.0

    def follow(self, tally: SweepTally, board: LiveBoard) -> None:
        """Take the counts and the leaderboard of this sweep."""
        self._tally, self._board = tally, board

    def update(self, state: str, **values: Any) -> None:
        """Write a new state, and what else is known by now."""
        self.values |= {"state": state, **values}
        self._told = float("-inf")
        self._write()

    def planned(self, cells: Sequence[PlannedCell], finished: Collection[str]) -> None:
        """A search goes on."""
        self._now_and_then()

    def started(self, cell: PlannedCell) -> None:
        """A cell's trial has started."""
        self._now_and_then()

    def finished(self, cell: PlannedCell, report: CellReport) -> None:
        """A cell is kept."""
        self._now_and_then()

    def failed(self, cell: PlannedCell, error: str) -> None:
        """A cell failed."""
        self._write()

    def blocked(self, cell: PlannedCell, cause: PlannedCell) -> None:
        """Written with the failure that caused it."""

    def _now_and_then(self) -> None:
        if time.monotonic() - self._written >= WRITE_SECONDS:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._tally is not None:
            progress = self._tally.snapshot()
            ended = self.values["state"] not in RUNNING
            self.values["progress"] = settled(progress) if ended else progress
        if self._board is not None:
            self.values["leaderboard"] = self._board.rows()
        write_json(self.path, self.values | {"updated_utc": _now()}, depth=2)
        if self._tell is not None and time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            self._tell(self.path)


def read_status(root: Path) -> Mapping[str, Any] | None:
    """The last run's status; None where there was none, or the file is broken."""
    try:
        values = json.loads((root / STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def settled(progress: Mapping[str, Any]) -> dict[str, Any]:
    """The progress of a run that has ended: nothing runs in it, and nothing is to come."""
    stages = [{**stage, "running": 0} for stage in progress.get("stages", ())]
    return {**progress, "stages": stages, "now": [], "seconds_left": None, "ended": True}


def present_progress(
    status: Mapping[str, Any], *, running: bool, now: datetime | None = None
) -> Mapping[str, Any]:
    """The progress as it is at the time of reading.

    The file is written when something happens: in a long cell its times stand still.
    """
    progress = status.get("progress", {})
    if not progress or not running:
        return settled(progress) if progress else progress
    now = now or datetime.now(UTC)
    try:
        began, updated = (
            datetime.fromisoformat(status[name]) for name in ("started_utc", "updated_utc")
        )
        seconds = max(progress["seconds"], (now - began).total_seconds())
        left = progress["seconds_left"]
        if left is not None:
            left = max(0.0, left - max(0.0, (now - updated).total_seconds()))
    except (KeyError, TypeError, ValueError):
        return progress
    return {**progress, "seconds": seconds, "seconds_left": left}


def is_alive(status: Mapping[str, Any], root: Path) -> bool:
    """Whether the process that wrote the status still runs.

    One of another machine lives as long as it renews the workspace's lock; in a bucket, where the
    folder here holds none of its, it is believed.
    """
    if status.get("host", socket.gethostname()) != socket.gethostname():
        age_seconds = heartbeat_age(root)
        return age_seconds is None or age_seconds < TIMEOUT_SECONDS
    try:
        os.kill(int(status["pid"]), 0)
    except PermissionError:
        return True
    except (OSError, KeyError, TypeError, ValueError):
        return False
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
