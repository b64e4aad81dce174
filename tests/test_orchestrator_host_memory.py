"""A worker that Ray kills because the host's memory is full: tried again, and told by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.shipping import ROOT

SCRIPT = """
import json, sys
from pathlib import Path
from orchestrator.cluster import ray_session
from orchestrator.placement import Machine
from tests.test_orchestrator_sweep import cell, sweep

with ray_session(Machine(cpus=2, gpus=0), dashboard=False):
    cells = [cell("once", arm="hungry"), cell("ever", arm="always hungry"), cell("calm")]
    book, _ = sweep(Path(sys.argv[1]), cells)
print(json.dumps({"kept": book.attempts, "lost": book.failed_cells}))
"""


def memory_bytes() -> dict[str, int]:
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_killed_for_host_memory_is_tried_again_and_the_message_names_memory(
    tmp_path: Path,
) -> None:
    host = memory_bytes()
    if host["MemAvailable"] < 6 << 30:
        pytest.skip("needs 6 GiB of free memory")
    used = host["MemTotal"] - host["MemAvailable"]
    limits = {
        "RAY_memory_usage_threshold": f"{(used + (3 << 29)) / host['MemTotal']:.4f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, **limits, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
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
