"""A cluster whose head dies under a run: words and exit code 3 before Ray ends the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.exit_codes import ExitCode
from orchestrator.head_watch import RAY_PATIENCE
from results.ledger import Ledger
from tests.cluster_study import Started, ray_nodes
from tests.patience import PATIENCE_SECONDS


@pytest.fixture
def cluster() -> Iterator[Any]:
    with ray_nodes(head_cpus=1) as found:
        yield found


@pytest.mark.cluster
@pytest.mark.slow
def test_a_head_that_dies_ends_the_run_with_words_and_3(cluster: Any, tmp_path: Path) -> None:
    # Ray's own end comes after half of its usual minute, so that ours must come before that.
    environment = {**os.environ, RAY_PATIENCE: "30"}
    study = Started(cluster.address, tmp_path / "study", environment=environment)
    study.wait_for_records(1)
    head = cluster.head_node.all_processes["gcs_server"][0].process
    os.kill(head.pid, signal.SIGKILL)
    code = study.process.wait(timeout=PATIENCE_SECONDS)
    told = study.log.read_text()
    assert code == ExitCode.INFRASTRUCTURE, told
    assert f"Error: the cluster's head at {cluster.address} is gone" in told
    assert "the same command with its address goes on from there" in told
    for sign in ("Failed to connect to GCS", "(raylet)", "Traceback", "rpc_client", "\x1b["):
        assert sign not in told, told
    ledger = Ledger(tmp_path / "study")
    assert ledger.problems() == []
    assert list(ledger.records())
