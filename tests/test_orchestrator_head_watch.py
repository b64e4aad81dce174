"""The watch over a cluster's head: it forgives a pause, and ends a run whose head is gone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from orchestrator.cluster_address import HeadAddress
from orchestrator.exit_codes import ExitCode, InfrastructureError
from orchestrator.head_watch import (
    GRACE_SECONDS,
    MARGIN_SECONDS,
    PROBE_SECONDS,
    RAY_PATIENCE,
    RAY_PATIENCE_SECONDS,
    HeadWatch,
    patience_seconds,
)
from orchestrator.signals import StopSignal
from tests.patience import PATIENCE_SECONDS

HEAD = HeadAddress("head", 6379)


def watched(answers: str) -> InfrastructureError | None:
    """What the watch says of a head that answers (.) or is silent (x), probe by probe."""
    now = 0.0
    left: Iterator[str] = iter(answers)

    def wait(seconds: float) -> bool:
        nonlocal now
        now += seconds
        return False

    def probe(address: HeadAddress) -> str | None:
        return "it is silent" if next(left) == "x" else None

    watch = HeadWatch(HEAD, on_lost=lambda error: None, probe=probe, clock=lambda: now)
    try:
        return watch.watch(wait)
    except StopIteration:
        return None


def test_a_head_that_comes_back_in_time_is_forgiven_and_a_silent_one_is_not() -> None:
    probes = round(patience_seconds() / PROBE_SECONDS)
    assert watched("." * 100) is None
    assert watched(("x" * probes + ".") * 3) is None
    error = watched("." + "x" * (probes + 2))
    assert error is not None
    assert "head at head:6379 is gone: it is silent" in str(error)
    assert "the same command with its address goes on" in str(error)


def test_the_run_ends_before_ray_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # A last probe may wait for its connection.
    latest = patience_seconds() + PROBE_SECONDS + 5 + GRACE_SECONDS
    assert latest < RAY_PATIENCE_SECONDS
    monkeypatch.setenv(RAY_PATIENCE, "600")
    assert patience_seconds() == 600 - MARGIN_SECONDS
    monkeypatch.setenv(RAY_PATIENCE, "soon")
    assert patience_seconds() == RAY_PATIENCE_SECONDS - MARGIN_SECONDS


def test_a_watch_that_was_told_to_stop_asks_no_more() -> None:
    watch = HeadWatch(HEAD, on_lost=lambda error: None, probe=lambda head: pytest.fail("asked"))
    assert watch.watch(lambda seconds: True) is None


def test_the_next_check_raises_what_another_thread_has_seen() -> None:
    stop = StopSignal()
    stop.check()
    stop.fail(InfrastructureError("the head is gone"))
    with pytest.raises(InfrastructureError, match="the head is gone"):
        stop.check(busy=True)


PROGRAM = """
import threading
from orchestrator import head_watch
from orchestrator.cluster_address import HeadAddress

for name in ("PROBE_SECONDS", "GRACE_SECONDS"):
    setattr(head_watch, name, 0.01)
head_watch.patience_seconds = lambda: 0.01
lost = threading.Event()
watch = head_watch.HeadWatch(
    HeadAddress("head", 1), on_lost=lambda error: lost.set(), probe=lambda head: "it is silent"
)
watch.start()
print("begun")
{then}
"""


@pytest.mark.parametrize(
    ("then", "told"),
    [
        # The main thread hangs, as in one of Ray's functions: the watch says why and ends it.
        ("threading.Event().wait()", "Error: the cluster's head at head:1 is gone: it is silent"),
        # It ends by itself; Ray's own handlers at exit, which would hang, come later than ours.
        (
            "head_watch.GRACE_SECONDS = 1e6\nlost.wait()\nwatch.stop()\nraise SystemExit(0)",
            "",
        ),
    ],
)
def test_a_process_without_its_head_ends_with_3(then: str, told: str) -> None:
    ahead = "import atexit, threading\natexit.register(threading.Event().wait)\n"
    done = subprocess.run(
        [sys.executable, "-c", ahead + PROGRAM.format(then=then)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == ExitCode.INFRASTRUCTURE, done.stderr
    assert done.stdout == "begun\n"
    assert told in done.stderr
    assert "Traceback" not in done.stderr
