"""SIGINT and SIGTERM: the first waits for a place where nothing is half-done, the second does not.

In processes of their own, that signal themselves: no sleeps, and pytest keeps its handlers.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.exit_codes import ExitCode
from tests.patience import PATIENCE_SECONDS

PROGRAM = """
import os, signal, sys
from orchestrator.exit_codes import Interrupted
from orchestrator.signals import StopSignal

def ask():
    os.kill(os.getpid(), signal.{name})

with StopSignal().installed() as stop:
    try:
        {body}
    except Interrupted:
        print("in order", flush=True)
        sys.exit(130)
    finally:
        print("cleaned up", flush=True)
print("went on", flush=True)
"""
IN_A_SWEEP = """
        with stop.polled():
            ask()
            print("saved", flush=True)
            {then}
"""


def ended(name: str, body: str) -> tuple[int, list[str]]:
    code = PROGRAM.format(name=name, body=body)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def test_after_sigterm_what_is_busy_may_come_to_its_end_for_a_while() -> None:
    then = "stop.check(busy=True); print(stop.draining, flush=True); stop.check()"
    for number, shown in (("SIGTERM", ["saved", "True"]), ("SIGINT", ["saved"])):
        body = "stop.drain_seconds = 60\n" + IN_A_SWEEP.format(then=then)
        assert ended(number, body) == (ExitCode.INTERRUPTED, [*shown, "in order", "cleaned up"])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("ask()", ["in order", "cleaned up"]),
        (IN_A_SWEEP.format(then="stop.check()"), ["saved", "in order", "cleaned up"]),
        # The sweep came to its end by itself: the stop is not forgotten.
        (IN_A_SWEEP.format(then="pass"), ["saved", "in order", "cleaned up"]),
        # The second one is immediate: nothing is waited for, not even what would clean up.
        (IN_A_SWEEP.format(then="ask()"), ["saved"]),
    ],
    ids=["at once outside a sweep", "at the next check", "at the sweep's end", "twice"],
)
def test_a_signal_ends_the_program_with_130(name: str, body: str, shown: list[str]) -> None:
    assert ended(name, body) == (ExitCode.INTERRUPTED, shown)
