"""A worker that Ray kills because the host's memory is full: tried again, and told by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cell_queue import CellQueue
from orchestrator.shipping import ROOT
from orchestrator.signals import StopSignal
from orchestrator.sweep import MAX_FAILURES, StudySearch, _Watch
from tests.patience import PATIENCE_SECONDS
from tests.test_orchestrator_sweep import Book, cell, sweep_options

SCRIPT = """
import json, sys
from pathlib import Path
from orchestrator.cluster import ray_session
from orchestrator.placement import Machine
from tests.test_orchestrator_sweep import cell, sweep

with ray_session(Machine(cpus=2, gpus=0), dashboard=False):
    cells = [cell("once", arm="hungry"), cell("ever", arm="hungry always"), cell("calm")]
    cells.append(cell("both", arm="hungry, dies always"))
    book, _ = sweep(Path(sys.argv[1]), cells)
print(json.dumps({"kept": book.attempts, "lost": book.failed_cells}))
"""


def memory_bytes() -> dict[str, int]:
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.alone
def test_a_worker_killed_for_host_memory_is_tried_again_and_the_message_names_memory(
    tmp_path: Path,
) -> None:
    host = memory_bytes()
    if host["MemAvailable"] < 9 << 30:
        pytest.skip("needs 9 GiB of free memory")
    used = host["MemTotal"] - host["MemAvailable"]
    limits = {
        "RAY_memory_usage_threshold": f"{(used + (5 << 29)) / host['MemTotal']:.4f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, **limits, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    # A neighbor of one that takes too much is charged for the first time alone.
    assert told["kept"]["calm"] in (1, 2)
    assert told["kept"]["once"] >= 2
    error, attempts = told["lost"]["ever"]
    assert attempts == 4
    assert "memory" in error.lower()
    # Tries count alike, whether Ray's memory monitor ended them or the process died by itself.
    assert told["lost"]["both"][1] == 4


def search_of(
    queue: CellQueue, book: Book, folder: Path, *, cells_per_trial: int = 1
) -> StudySearch:
    options = replace(sweep_options(folder), cells_per_trial=cells_per_trial)
    return StudySearch(
        queue, options=options, attempt="a", keeper=book, observers=[book], stop=StopSignal()
    )


def test_tries_of_a_broken_off_experiment_count_in_the_next_one(tmp_path: Path) -> None:
    queue = CellQueue([cell("live"), cell("restarting"), cell("ready")])
    book = Book(tmp_path)
    search = search_of(queue, book, tmp_path)
    for trial in ("a", "b", "c"):
        assert search.suggest(trial) is not None
    search.attempts["a"] = 3
    search.attempts["b"] = 2
    search.break_off("out of memory", live={"a"})
    # The one without an actor had one try and waits for its second; the last one had none.
    assert search.broken_off == {"live": 3, "restarting": 1}
    assert not book.failed_cells
    search.suspects.clear()
    retries = {}
    for trial in ("d", "e", "f"):
        assert search.suggest(trial) is not None
        retries[next(iter(search.handed[trial]))] = search.retries(trial)
    assert retries == {"live": 0, "restarting": 2, "ready": 3}
    search.break_off("out of memory", live={"d", "e", "f"})
    assert book.failed_cells == {"live": ("worker died 4 times: out of memory", 4)}
    assert queue.failed == {"live"}


def test_an_actor_that_dies_while_it_is_created_has_no_further_tries(tmp_path: Path) -> None:
    """Tune tells of no start then, and would count from nothing in every new experiment."""
    search = search_of(CellQueue([cell("one")]), Book(tmp_path), tmp_path)
    search.broken_off = {"one": 2}
    assert search.suggest("a") is not None
    watch = _Watch(search, on_notice=lambda running: None, stall_seconds=60.0)
    trial = SimpleNamespace(trial_id="a", max_failures=MAX_FAILURES)
    watch.on_step_begin(0, [trial])
    assert trial.max_failures == 1
    watch.on_trial_recover(1, [trial], trial)
    watch.on_step_begin(1, [trial])
    assert trial.max_failures == 1


def test_the_reason_of_an_earlier_experiment_stays_in_the_message(tmp_path: Path) -> None:
    book = Book(tmp_path)
    search = search_of(CellQueue([cell("one")]), book, tmp_path)
    assert search.suggest("a") is not None
    search.break_off("out of memory: 7.5 GB of 8 GB", live={"a"})
    assert search.suggest("b") is not None
    search.lose("b", "worker died 2 times: the actor died unexpectedly")
    error, _ = book.failed_cells["one"]
    assert error.startswith("worker died 2 times: the actor died unexpectedly")
    assert "out of memory: 7.5 GB of 8 GB" in error


def test_suspects_are_tried_again_alone(tmp_path: Path) -> None:
    queue = CellQueue([cell("one"), cell("two"), cell("three")])
    search = search_of(queue, Book(tmp_path), tmp_path, cells_per_trial=2)
    assert search.suggest("a") is not None
    search.break_off("out of memory", live={"a"})
    assert search.suggest("b") is not None
    assert len(search.handed["b"]) == 1
    assert search.suggest("c") is None
