"""A cluster whose head dies under a run: words and exit code 3 before Ray ends the process."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.exit_codes import ExitCode
from orchestrator.head_watch import RAY_PATIENCE
from results.ledger import Ledger
from tests.cluster_study import Started


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    for name, value in {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    folder = tempfile.mkdtemp(prefix="head-", dir="/tmp")
    head = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args=head | {"temp_dir": folder})
    try:
        yield found
    finally:
        found.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.cluster
@pytest.mark.slow
def test_a_head_that_dies_ends_the_run_with_words_and_3(cluster: Any, tmp_path: Path) -> None:
    # Ray's own end comes after half of its usual minute, so that ours must come before that.
    environment = {**os.environ, RAY_PATIENCE: "30"}
    study = Started(cluster.address, tmp_path / "study", environment=environment)
    study.wait_for_records(1)
    head = cluster.head_node.all_processes["gcs_server"][0].process
    os.kill(head.pid, signal.SIGKILL)
    code = study.process.wait(timeout=300)
    told = study.log.read_text()
    assert code == ExitCode.INFRASTRUCTURE, told
    assert f"Error: the cluster's head at {cluster.address} is gone" in told
    assert "the same command with its address goes on from there" in told
    for sign in ("Failed to connect to GCS", "(raylet)", "Traceback", "rpc_client", "\x1b["):
        assert sign not in told, told
    ledger = Ledger(tmp_path / "study")
    assert ledger.problems() == []
    assert list(ledger.records())
