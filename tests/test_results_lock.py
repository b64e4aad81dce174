"""One driver per workspace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from results.files import write_json
from results.lock import NOTE_FILE, STALE_SECONDS, LockError, read_holder, workspace_lock

TRY = (
    "import sys; from pathlib import Path; from results.lock import LockError, workspace_lock\n"
    "try:\n    with workspace_lock(Path(sys.argv[1])): print('held')\n"
    "except LockError as error: print('refused', error)\n"
)


def attempt(workspace: Path, code: str = TRY) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, str(workspace)], capture_output=True, text=True, check=False
    )
    return done.stdout


def test_a_second_driver_is_refused_by_name_and_may_come_after(tmp_path: Path) -> None:
    with workspace_lock(tmp_path, host="here"):
        answer = attempt(tmp_path)
        assert answer.startswith("refused")
        assert f"process {os.getpid()} on here" in answer
    assert attempt(tmp_path).startswith("held")
    assert list((tmp_path / "results").iterdir()) == []


def test_a_killed_drivers_lock_is_free_at_once(tmp_path: Path) -> None:
    attempt(tmp_path, TRY.replace("print('held')", "import os; os._exit(9)"))
    assert read_holder(tmp_path) is not None
    assert attempt(tmp_path).startswith("held")


@pytest.mark.parametrize(
    ("age", "refused"), [(STALE_SECONDS - 1, True), (STALE_SECONDS + 1, False)]
)
def test_a_holder_on_another_host_counts_while_its_heart_beats(tmp_path, age, refused) -> None:  # type: ignore[no-untyped-def]
    now = 1_000_000.0
    note = {"host": "there", "pid": 1, "since": now - 999, "heartbeat": now - age}
    write_json(tmp_path / NOTE_FILE, note)

    def enter() -> None:
        with workspace_lock(tmp_path, host="here", clock=lambda: now):
            assert read_holder(tmp_path).host == "here"  # type: ignore[union-attr]

    if refused:
        with pytest.raises(LockError, match="process 1 on there"):
            enter()
        assert read_holder(tmp_path).host == "there"  # type: ignore[union-attr]
    else:
        enter()


def test_the_heartbeat_moves_while_the_lock_is_held(tmp_path: Path) -> None:
    times = iter(range(1, 10_000))
    with workspace_lock(tmp_path, clock=lambda: float(next(times)), heartbeat_seconds=0.01):
        first = read_holder(tmp_path)
        for _ in range(10_000):
            later = read_holder(tmp_path)
            if later is not None and first is not None and later.heartbeat > first.heartbeat:
                break
        else:
            pytest.fail("the heartbeat stood still")
