"""A worker with an address of its own that is cut off in mid-cell: a partition, not a death."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode
from results.ledger import Ledger
from tests.cluster_study import Started
from tests.faults import CountRecords
from tests.netns_machines import NetnsMachine, machines, obstacle
from tests.patience import wait_for
from tests.shared_studies import BASELINE, finished_study, per_user_tables

REASON = obstacle()

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]

PORT = 6379
"""Nobody else listens in the head's own network."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    # A node that answers no check is given up after some five seconds, not after a minute.
    "RAY_health_check_period_ms": "300",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "3",
    # The node itself waits for the head, so that its processes outlive their being given up.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A head that takes no trials, and two workers with one CPU each; all share one disk."""

    head: NetnsMachine
    lost: NetnsMachine
    other: NetnsMachine
    folder: Path
    environment: dict[str, str]

    @property
    def address(self) -> str:
        return f"{self.head.address}:{PORT}"

    def start_ray(self, machine: NetnsMachine, *words: str) -> None:
        """A node in a folder of its own; back when it is up."""
        own = self.folder / machine.name
        own.mkdir()
        log = own / "start.log"
        ours = (f"--node-ip-address={machine.address}", f"--temp-dir={own}", "--block")
        ray = (sys.executable, "-u", "-m", "ray.scripts.scripts", "start")
        node = machine.start(
            [*ray, *words, *ours, "--object-store-memory=100000000"],
            environment=self.environment,
            log=log,
        )
        wait_for(
            lambda: "Ray runtime started" in log.read_text() or node.poll() is not None,
            what="a node of Ray",
        )
        assert node.poll() is None, log.read_text()

    def start_study(self, root: Path) -> Started:
        """By a person at the head."""
        through, environment = self.head.inside, self.environment
        return Started(self.address, root, through=through, environment=environment)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = kept | SETTINGS | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # Short, because sockets lie in it.
    folder = Path(tempfile.mkdtemp(prefix="netns-", dir="/tmp"))
    try:
        with machines("h", "a", "b") as (head, lost, other):
            found = Cluster(head, lost, other, folder, environment)
            as_head = ("--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false")
            found.start_ray(head, *as_head)
            for worker in (lost, other):
                found.start_ray(worker, f"--address={found.address}", "--num-cpus=1")
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def alone() -> dict[str, bytes]:
    return per_user_tables(finished_study(BASELINE))


def test_a_worker_that_is_cut_off_and_goes_on_is_never_heard(
    alone: dict[str, bytes],
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    count_records: CountRecords,
) -> None:
    root = tmp_path / "study"
    ledger = Ledger(root)
    lost, other = cluster.lost, cluster.other
    study = cluster.start_study(root)
    study.wait_for_records(1)
    actor = freeze_in_mid_cell(lost, study)
    stored = folders_of(lost, ledger.root)
    lost.pull_cable()
    # Its cell is tried again on the other machine. It goes on only then: the worst case.
    [again] = wait_for(lambda: tried_again(study), what="another try")
    # Meanwhile the study must not end, if there is anything left to do.
    with frozen(busy_actor(other)):
        os.kill(actor, signal.SIGCONT)
        [late] = wait_for(
            lambda: list(ledger.staging.glob(f"{again.name}-*/outcome.json")), what="the late cell"
        )
        assert lost.wrote(late)
        lost.plug_cable()
        # Ray tells the node that it was given up, and it ends.
        wait_for(lambda: not lost.processes(), what="the end of the node that was given up")
    assert "up to 2 trials at a time" in study.end()
    assert per_user_tables(root) == alone
    assert ledger.problems() == []
    assert other.wrote(again)
    assert folders_of(lost, ledger.root) == stored
    count = count_records(root, "baseline")
    assert (count.found, count.duplicated, count.lost) == (count.expected, 0, 0)
    # What it left behind disturbs nobody later, either.
    assert main(["run", "--workspace", str(root), *BASELINE]) == ExitCode.DONE
    assert f"0 cells run, {count.expected} found done" in capsys.readouterr().out
    assert per_user_tables(root) == alone


def freeze_in_mid_cell(machine: NetnsMachine, study: Started) -> int:
    """Stop a machine's actor while it runs a cell; returns its process.

    After each cell Tune asks an actor for one more, empty step, and its next cell comes only when
    the last one is in the ledger. So: busy for a while in which no cell of this machine came to
    the ledger, and with none on the way there.
    """
    ledger = Ledger(study.root)
    while study.process.poll() is None:
        actor, before = busy_actor(machine), folders_of(machine, ledger.root)
        time.sleep(0.3)
        if actor is None:
            continue
        os.kill(actor, signal.SIGSTOP)
        # Of several threads, the last one may take a moment to stop.
        time.sleep(0.1)
        same = busy_actor(machine) == actor and folders_of(machine, ledger.root) == before
        if same and not folders_of(machine, ledger.staging):
            return actor
        os.kill(actor, signal.SIGCONT)
    raise AssertionError(study.log.read_text())


def busy_actor(machine: NetnsMachine) -> int | None:
    """The process of a machine that runs a step of a trial right now, as Ray titles it."""
    for process in machine.processes():
        with suppress(OSError):
            if re.match(rb"ray::\w+Trial\.train", Path(f"/proc/{process}/cmdline").read_bytes()):
                return process
    return None


def folders_of(machine: NetnsMachine, place: Path) -> set[Path]:
    """The folders of cells in a place that a machine wrote."""
    found = set()
    for folder in place.glob("[!.]*"):
        # The driver may just have moved it.
        with suppress(FileNotFoundError):
            if machine.wrote(folder):
                found.add(folder)
    return found


def tried_again(study: Started) -> list[Path]:
    """The cells in the ledger that took more than one try."""
    assert study.process.poll() in (None, ExitCode.DONE), study.log.read_text()
    return [
        folder
        for folder in study.records()
        if json.loads((folder / "record.json").read_text())["attempts"] > 1
    ]


@contextmanager
def frozen(process: int | None) -> Iterator[None]:
    """A process stands still while the block runs; None is no process."""
    if process is None:
        yield
        return
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)
