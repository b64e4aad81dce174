"""A sweep that is told to stop: at once by a person, after what runs by a machine's notice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster import ray_session
from orchestrator.exit_codes import Interrupted
from orchestrator.placement import Machine
from orchestrator.signals import StopSignal
from tests.test_orchestrator_sweep import cell, sweep

pytestmark = pytest.mark.ray


@pytest.fixture
def own_ray() -> Iterator[None]:
    """A sweep that is broken off leaves actors that hold their CPUs until Ray ends."""
    with ray_session(Machine(cpus=2, gpus=0), dashboard=False):
        yield


def signalled(folder: Path, number: signal.Signals, *, arm: str, drain_seconds: float) -> int:
    """A sweep that gets a signal once two cells run; how many were told to be running then."""
    stop, told, over = StopSignal(), [0], threading.Event()
    stop.drain_seconds = drain_seconds

    def notice() -> None:
        while len(list(folder.glob("began-*"))) < 2:
            if over.wait(0.02):
                return
        os.kill(os.getpid(), number)

    def go(running: int) -> None:
        told[0] = running
        (folder / "go").touch()

    sender = threading.Thread(target=notice)
    sender.start()
    cells = [cell(f"cell{i}", arm=arm) for i in range(6)]
    try:
        with stop.installed(), pytest.raises(Interrupted), stop.polled():
            sweep(folder, cells, stop=stop, on_notice=go)
    finally:
        over.set()
        sender.join()
    return told[0]


def test_an_interrupt_ends_a_running_sweep_at_once(own_ray: None, tmp_path: Path) -> None:
    began = time.monotonic()
    assert signalled(tmp_path, signal.SIGINT, arm="slow", drain_seconds=60.0) == 0
    assert list((tmp_path / "ledger").iterdir()) == []
    # Slow cells take ten minutes.
    assert time.monotonic() - began < 300


def test_after_a_notice_what_runs_is_kept_and_nothing_else(own_ray: None, tmp_path: Path) -> None:
    assert signalled(tmp_path, signal.SIGTERM, arm="brief", drain_seconds=60.0) == 2
    kept = {path.name for path in (tmp_path / "ledger").iterdir()}
    assert len(kept) == 2
    assert {f"began-{name}" for name in kept} <= {path.name for path in tmp_path.glob("began-*")}


def test_a_notice_is_waited_for_no_longer_than_it_is_given(own_ray: None, tmp_path: Path) -> None:
    assert signalled(tmp_path, signal.SIGTERM, arm="slow", drain_seconds=0.5) == 2
    assert list((tmp_path / "ledger").iterdir()) == []
