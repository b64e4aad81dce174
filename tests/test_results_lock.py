"""One driver per workspace, whatever became of the last one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from results import lock as lock_module
from results.lock import LOCK_FILE, LockError, acquire, read_holder, workspace_lock
from tests.patience import PATIENCE_SECONDS

HOLD = (
    "import os, sys; from pathlib import Path; from results.lock import acquire; "
    "acquire(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
)


def write_lock(workspace: Path, *, host: str, pid: int, age_seconds: float = 0.0) -> Path:
    path = workspace / LOCK_FILE
    path.write_text(json.dumps({"host": host, "pid": pid, "token": "t", "started_utc": "before"}))
    os.utime(path, (1000.0 - age_seconds, 1000.0 - age_seconds))
    return path


def hold_elsewhere(workspace: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(workspace)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_lock_names_its_holder_and_goes_away(tmp_path: Path) -> None:
    with workspace_lock(tmp_path) as lock:
        found = read_holder(tmp_path / LOCK_FILE)
        assert found == lock.holder
        assert (found.host, found.pid) == (socket.gethostname(), os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_it_goes_away_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(KeyError), workspace_lock(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_second_driver_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    with workspace_lock(tmp_path):
        before = (tmp_path / LOCK_FILE).read_text()
        with pytest.raises(LockError, match=f"process {os.getpid()} on .*--workspace"):
            acquire(tmp_path)
        assert (tmp_path / LOCK_FILE).read_text() == before
    with workspace_lock(tmp_path):
        pass


def test_a_killed_drivers_lock_is_free_at_once(tmp_path: Path) -> None:
    process = hold_elsewhere(tmp_path)
    with pytest.raises(LockError, match=f"process {process.pid}"):
        acquire(tmp_path)
    process.kill()
    process.wait()
    # No waiting for the heartbeat: the file is seconds old.
    with workspace_lock(tmp_path) as lock:
        assert read_holder(tmp_path / LOCK_FILE) == lock.holder


def test_a_pid_used_again_does_not_keep_a_dead_lock(tmp_path: Path) -> None:
    write_lock(tmp_path, host=socket.gethostname(), pid=os.getpid())
    with workspace_lock(tmp_path, now=lambda: 1000.0):
        pass


@pytest.mark.parametrize(("age_seconds", "free"), [(89.0, False), (91.0, True)])
def test_another_hosts_lock_is_free_when_its_heart_stands_still(
    tmp_path: Path, age_seconds: float, free: bool
) -> None:
    write_lock(tmp_path, host="elsewhere", pid=1, age_seconds=age_seconds)
    if free:
        acquire(tmp_path, now=lambda: 1000.0).release()
        assert list(tmp_path.iterdir()) == []
    else:
        with pytest.raises(LockError, match="process 1 on elsewhere since before"):
            acquire(tmp_path, now=lambda: 1000.0)
        assert (tmp_path / LOCK_FILE).exists()


def test_a_heartbeat_is_compared_with_the_storages_clock(tmp_path: Path) -> None:
    path = write_lock(tmp_path, host="elsewhere", pid=1)
    os.utime(path)
    with pytest.raises(LockError):
        acquire(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [LOCK_FILE]


def test_the_heart_beats(tmp_path: Path) -> None:
    with workspace_lock(tmp_path) as lock:
        os.utime(lock.path, (1.0, 1.0))
        assert lock.beat()
        assert lock.path.stat().st_mtime > 1.0


def test_a_thread_keeps_the_heart_beating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beaten = threading.Event()
    beat = lock_module.WorkspaceLock.beat
    monkeypatch.setattr(lock_module.WorkspaceLock, "beat", lambda self: beaten.set() or beat(self))
    with workspace_lock(tmp_path, heartbeat_seconds=0.001):
        assert beaten.wait(timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize("how", ["taken", "removed"])
def test_a_driver_learns_that_it_was_taken_over(tmp_path: Path, how: str) -> None:
    with workspace_lock(tmp_path) as lock:
        lock.check()
        if how == "taken":
            write_lock(tmp_path, host="elsewhere", pid=1)
        else:
            lock.path.unlink()
        assert not lock.beat()
        with pytest.raises(LockError, match="took over"):
            lock.check()
    # What the other one wrote is not ours to remove.
    assert (tmp_path / LOCK_FILE).exists() == (how == "taken")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "x"}'])
def test_a_lock_that_was_never_finished_is_free(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_FILE).write_text(content)
    with workspace_lock(tmp_path):
        pass


@pytest.mark.parametrize(("pid", "free"), [(os.getpid(), False), (-1, True)], ids=["runs", "gone"])
def test_storage_without_locks_goes_by_the_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: int, free: bool
) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(lock_module.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock_module.fcntl, "flock", no_locks)
    write_lock(tmp_path, host=socket.gethostname(), pid=pid)
    if free:
        acquire(tmp_path, now=lambda: 1000.0).release()
    else:
        with pytest.raises(LockError):
            acquire(tmp_path, now=lambda: 1000.0)


def test_a_folder_that_cannot_be_written_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(LockError, match=r"cannot be locked .*--workspace"):
        acquire(tmp_path / "missing")


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    held, refused, barrier = [], [], threading.Barrier(8)

    def contend() -> None:
        barrier.wait()
        try:
            held.append(acquire(tmp_path))
        except LockError:
            refused.append(1)

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)
    held[0].release()
