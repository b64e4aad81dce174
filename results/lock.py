"""One driver per workspace: an operating-system lock, and a note of who holds it.

The lock itself is released by the system when its process ends, however it ends. The note (host,
process, heartbeat) names the holder, and speaks for file systems on which locks do not reach
other hosts: a holder on another host counts as alive while its heartbeat is young.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from results.files import write_json

LOCK_FILE, NOTE_FILE = Path("results/.lock"), Path("results/.lock-holder.json")
HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


class LockError(RuntimeError):
    """Another driver works in the workspace; the message says which."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a workspace; times are UTC seconds since the epoch."""

    host: str
    pid: int
    since: float
    heartbeat: float


@contextmanager
def workspace_lock(
    workspace: Path,
    *,
    host: str | None = None,
    clock: Callable[[], float] = time.time,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> Iterator[None]:
    """Hold a workspace until the block ends.

    Raises:
        LockError: another process of this host holds it, or another host's heartbeat is young.
    """
    host = host or socket.gethostname()
    path = workspace / LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise LockError(_busy(workspace, read_holder(workspace))) from error
    note = workspace / NOTE_FILE
    try:
        holder = read_holder(workspace)
        if (
            holder is not None
            and holder.host != host
            and clock() - holder.heartbeat < STALE_SECONDS
        ):
            raise LockError(_busy(workspace, holder))
        with _beating(note, host, clock, heartbeat_seconds):
            yield
        note.unlink(missing_ok=True)
    finally:
        # The file goes before the lock does, so that nobody can lock a file that is going away.
        path.unlink(missing_ok=True)
        lock.release()


def read_holder(workspace: Path) -> Holder | None:
    """The holder's note; None if there is none that can be read."""
    with suppress(OSError, ValueError, TypeError):
        return Holder(**json.loads((workspace / NOTE_FILE).read_text(encoding="utf-8")))
    return None


@contextmanager
def _beating(
    note: Path, host: str, clock: Callable[[], float], every_seconds: float
) -> Iterator[None]:
    since = clock()
    done = threading.Event()

    def beat() -> None:
        write_json(note, asdict(Holder(host, os.getpid(), since, clock())))

    def keep_beating() -> None:
        while not done.wait(every_seconds):
            with suppress(OSError):  # A full disk must not end a run for want of a heartbeat.
                beat()

    beat()
    thread = threading.Thread(target=keep_beating, name="workspace-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _busy(workspace: Path, holder: Holder | None) -> str:
    who = f"process {holder.pid} on {holder.host}" if holder else "another process"
    return (
        f"{workspace} is in use by {who}; wait for it to end, or take another --workspace "
        f"(a holder that died is noticed after {STALE_SECONDS:.0f} s at most)"
    )
