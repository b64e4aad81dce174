"""One driver per workspace: a lock file with host, pid and heartbeat.

The holder keeps an operating system's lock on ``.persona-sweep.lock`` (gone with the process,
however it dies) and renews the file's time. So a lock of this host is free as soon as its holder
is dead; one of another host, where the storage does not carry locks from host to host, is free
once its heartbeat stands still. The file goes away with a clean end.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

LOCK_FILE = ".persona-sweep.lock"
HEARTBEAT_SECONDS = 10.0
TIMEOUT_SECONDS = 90.0
"""A heartbeat that is older than this belongs to a dead host; also NFS's own lease time."""
TRIES = 20
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class LockError(RuntimeError):
    """The workspace is in use, or cannot be locked; nothing was started."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, as its file says."""

    host: str
    pid: int
    token: str
    started_utc: str


class WorkspaceLock:
    """A held lock. ``check`` raises once another driver has taken it over."""

    def __init__(self, path: Path, holder: Holder, handle: int) -> None:
        self.path = path
        self.holder = holder
        self.lost = False
        self._handle = handle

    def beat(self) -> bool:
        """Renew the heartbeat; False if the lock is no longer ours.

        A storage that fails for a moment does not lose the lock.
        """
        try:
            found = read_holder(self.path)
            if found is not None and found.token == self.holder.token:
                os.utime(self.path)
            else:
                self.lost = True
        except OSError:
            pass
        return not self.lost

    def check(self) -> None:
        """Raise LockError if another driver has taken the lock over."""
        if self.lost:
            raise LockError(taken_over(self.path.parent))

    def confirm(self) -> None:
        """Look now whether the lock is still ours, before a write that must not be another's.

        Raises:
            LockError: it is not.
        """
        self.beat()
        self.check()

    def release(self) -> None:
        """Remove the file if it is ours, then let the system's lock go, in this order."""
        with suppress(OSError):
            found = read_holder(self.path)
            if found is not None and found.token == self.holder.token:
                self.path.unlink()
        os.close(self._handle)


@contextmanager
def workspace_lock(
    workspace: Path,
    *,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    timeout_seconds: float = TIMEOUT_SECONDS,
    now: Callable[[], float] | None = None,
) -> Iterator[WorkspaceLock]:
    """Hold the workspace's lock inside the block.

    Args:
        workspace: an existing folder.
        heartbeat_seconds: time between two signs of life.
        timeout_seconds: age of the last sign after which another host's lock is taken over.
        now: the time that heartbeats are compared with; by default the storage's own, so that
            hosts whose clocks differ agree.

    Raises:
        LockError: another driver holds it, or the folder cannot be written.
    """
    lock = acquire(workspace, timeout_seconds=timeout_seconds, now=now)
    with beating(lock, every_seconds=heartbeat_seconds):
        yield lock


class Beating(Protocol):
    """A lock that gives signs of life."""

    def beat(self) -> bool:
        """Give one; False if the lock is no longer ours."""
        ...

    def release(self) -> None:
        """Let it go."""
        ...


@contextmanager
def beating(lock: Beating, *, every_seconds: float) -> Iterator[None]:
    """Give a held lock's signs of life inside the block, and let it go at the end."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(every_seconds) and lock.beat():
            pass

    thread = threading.Thread(target=beat, name="workspace-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        lock.release()


def acquire(
    workspace: Path,
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
    now: Callable[[], float] | None = None,
) -> WorkspaceLock:
    """Take the lock without a heartbeat of its own; see ``workspace_lock``."""
    path = workspace / LOCK_FILE
    try:
        for _ in range(TRIES):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                lock = _take(path, handle, timeout_seconds=timeout_seconds, now=now)
            except BaseException:
                os.close(handle)
                raise
            if lock is not None:
                return lock
            os.close(handle)
    except OSError as error:
        raise LockError(
            f"{workspace} cannot be locked ({error}): make it writable and make room, "
            "or take another --workspace"
        ) from error
    raise LockError(f"{path} changes hands too fast; try again")


def _take(
    path: Path, handle: int, *, timeout_seconds: float, now: Callable[[], float] | None
) -> WorkspaceLock | None:
    """The lock; None if its file was removed between opening and locking it."""
    locked = _system_lock(path, handle)
    if not _same_file(path, handle):
        return None
    holder = read_holder(path)
    if holder is not None:
        time_now = (now or (lambda: storage_time(path.parent)))()
        age_seconds = time_now - os.fstat(handle).st_mtime
        if not is_stale(holder, age_seconds, locked=locked, timeout_seconds=timeout_seconds):
            raise LockError(in_use(path.parent, holder))
    mine = Holder(
        socket.gethostname(), os.getpid(), secrets.token_hex(8),
        datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    os.ftruncate(handle, 0)
    os.pwrite(handle, (json.dumps(asdict(mine)) + "\n").encode(), 0)
    os.fsync(handle)
    return WorkspaceLock(path, mine, handle)


def _system_lock(path: Path, handle: int) -> bool:
    """Whether the system's lock is ours; False where the storage knows no locks.

    Raises:
        LockError: a living process has it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LockError(in_use(path.parent, read_holder(path))) from error
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _same_file(path: Path, handle: int) -> bool:
    """Whether the name still leads to the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def is_stale(holder: Holder, age_seconds: float, *, locked: bool, timeout_seconds: float) -> bool:
    """Whether a holder is dead.

    Args:
        holder: as its file says.
        age_seconds: time since its last sign of life.
        locked: whether we have the system's lock; a holder on this host then cannot live.
        timeout_seconds: longest time between two signs of life of a living holder.
    """
    if holder.host == socket.gethostname():
        return locked or not _is_alive(holder.pid)
    return age_seconds > timeout_seconds


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def read_holder(path: Path) -> Holder | None:
    """Who the file names; None without it, or where nobody has finished writing it.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return parsed_holder(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def parsed_holder(text: str) -> Holder | None:
    """Who a lock's text names; None where it names nobody."""
    try:
        values = json.loads(text)
        return Holder(
            str(values["host"]),
            int(values["pid"]),
            str(values["token"]),
            str(values["started_utc"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def heartbeat_age(workspace: Path) -> float | None:
    """Seconds since a workspace's lock was renewed; None without a lock."""
    try:
        renewed = (workspace / LOCK_FILE).stat().st_mtime
    except OSError:
        return None
    return storage_time(workspace) - renewed


def storage_time(folder: Path) -> float:
    """Seconds since 1970 by the clock that stamps the folder's files."""
    probe = folder / f"{LOCK_FILE}.{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        probe.unlink(missing_ok=True)


def in_use(place: Path | str, holder: Holder | None) -> str:
    """That a living driver has a workspace: who, since when, and what to do."""
    who = "another driver" if holder is None else f"process {holder.pid} on {holder.host}"
    since = "" if holder is None else f" since {holder.started_utc}"
    return (
        f"{place} is in use by {who}{since}: wait for it or stop it, or take another "
        f"--workspace; the lock of a dead driver on another host is free {TIMEOUT_SECONDS:.0f} s "
        f"after its last sign of life"
    )


def taken_over(place: Path | str) -> str:
    """That this driver has lost its workspace, and what becomes of its work."""
    return (
        f"another driver took over {place}, because this one gave no sign of life; this one "
        "stops, and what it finished is kept"
    )
