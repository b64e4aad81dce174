"""One study in several places gives one table: CPUs, logical GPUs, another cluster."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.cluster import cluster_nodes
from orchestrator.exit_codes import ExitCode
from orchestrator.placement import Machine, deciding_node, place
from orchestrator.probe import measure
from search_spaces.catalog import STUDIES
from search_spaces.space import (
    BASELINE,
    LORA_ALL,
    LORA_PER_USER,
    PREFIX_ALL,
    PREFIX_PER_USER,
    Study,
)
from tasks.base_model import EMBEDDED_FOLDER
from tests.patience import wait_for
from tests.shared_studies import few_figures, take_prepared_data

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (EMBEDDED_FOLDER / "model.safetensors").is_file(), reason="the model is not built"
    ),
]

ARMS = (BASELINE, LORA_ALL, PREFIX_ALL, LORA_PER_USER, PREFIX_PER_USER)
TINY = Study("tiny", "Every stage, both kinds of adapter.", ARMS)
WORDS = (
    *("--study", "tiny", "--users", "4", "--no-dashboard", "--set", "data.sessions=8"),
    *("--set", "data.cold_start_share=0.0", "--set", "block_users=2"),
    *("--set", "shared.lora.epochs=1", "--set", "shared.prefix.epochs=1"),
    *("--set", "decoding.max_new_tokens=12", "--set", "statistics.resamples=100"),
)

Tables = dict[str, bytes]


def table_of(root: Path, *words: str) -> Tables:
    """Per-user arm → its per-user table after a run into ``root``."""
    take_prepared_data(root, WORDS)
    with few_figures():
        assert main(["run", "--workspace", str(root), *WORDS, *words]) == ExitCode.DONE
    return {
        arm: (root / "results" / arm / "per_user_summary.csv").read_bytes()
        for arm in ("lora_per_user", "prefix_per_user")
    }


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STUDIES, "tiny", TINY)
        yield patch


@pytest.fixture(scope="module")
def on_one_cpu(patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    with pytest.MonkeyPatch.context() as here:
        here.setattr("orchestrator.placement.this_machine", lambda: Machine(1, 0))
        return table_of(tmp_path_factory.mktemp("one"))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def other_cluster() -> Iterator[str]:
    """A Ray of its own, with two logical GPUs, started as a person would."""
    folder = tempfile.mkdtemp(prefix="other-", dir="/tmp")
    address = f"127.0.0.1:{free_port()}"
    root = str(Path(__file__).resolve().parent.parent)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--port", address.partition(":")[2], "--num-cpus", "2", "--num-gpus", "2"),
        *("--node-ip-address", "127.0.0.1", "--include-dashboard", "false"),
        *("--temp-dir", folder, "--object-store-memory", str(200 << 20), "--disable-usage-stats"),
        *("--min-worker-port", "0", "--max-worker-port", "0"),
    ]
    environment = os.environ | {"PYTHONPATH": root, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    log = Path(folder) / "start.log"
    with log.open("wb") as out:
        head = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_for(address, head, log)
        yield address
    finally:
        # All of it at once: asked to end, it waits for its own nodes for half a minute.
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(address: str, head: subprocess.Popen[bytes], log: Path) -> None:
    def up() -> bool:
        assert head.poll() is None, log.read_text()
        return "Ray runtime started" in log.read_text()

    wait_for(up, what=f"a Ray at {address}", every_seconds=0.5)


@pytest.mark.thorough
def test_two_cpus(
    on_one_cpu: Tables, patch: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("orchestrator.placement.this_machine", lambda: Machine(2, 0))
    assert table_of(tmp_path) == on_one_cpu
    assert all(len(table.splitlines()) > 4 for table in on_one_cpu.values())
    assert on_one_cpu["lora_per_user"] != on_one_cpu["prefix_per_user"]


def test_two_logical_gpus_at_a_quarter(
    on_one_cpu: Tables,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    node = Machine(2, 2, logical=True)
    monkeypatch.setattr("orchestrator.placement.this_machine", lambda: node)
    assert table_of(tmp_path, "--gpu-fraction", "0.25") == on_one_cpu
    assert place([node], threads=1, gpu_fraction=0.25).resources() == {"CPU": 1.0, "GPU": 0.25}


@pytest.mark.thorough
def test_a_trial_of_two_gpus_trains_in_one_process(
    on_one_cpu: Tables, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    node = Machine(2, 2, logical=True)
    monkeypatch.setattr("orchestrator.placement.this_machine", lambda: node)
    assert table_of(tmp_path, "--gpu-fraction", "2") == on_one_cpu


@pytest.mark.parametrize(
    "command", [("plan",), pytest.param(("run", "--dry-run"), marks=pytest.mark.thorough)]
)
def test_time_and_money_are_measured_on_the_cluster_that_is_to_run_it(
    patch: pytest.MonkeyPatch,
    other_cluster: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
) -> None:
    monkeypatch.setattr("orchestrator.placement.this_machine", lambda: Machine(64, 8))
    here = f"orchestrator.probe.{measure.__name__}"
    monkeypatch.setattr(here, lambda *_, **__: pytest.fail("measured on the driver"))
    words = [word for word in WORDS if word != "--no-dashboard"]
    words += ["--address", other_cluster, "--gpu-fraction", "0.25", "--price-per-gpu-hour", "3"]
    place = ("--workspace", str(tmp_path / "w"), "--json")
    assert main([*command, *words, *place]) == ExitCode.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["estimate"]["sweep_seconds"] > 1
    assert told["cost"] == pytest.approx(told["estimate"]["total_seconds"] * 2 * 3 / 3600)
    assert list(tmp_path.iterdir()) == []


def test_another_cluster(
    on_one_cpu: Tables,
    other_cluster: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nodes = cluster_nodes(other_cluster)
    # What the cluster counts, not what this machine has; its GPUs are no devices.
    assert [(node.cpus, node.gpus, node.logical) for node in nodes] == [(2, 2, True)]
    assert deciding_node(nodes).device == "cpu"
    monkeypatch.setattr("orchestrator.placement.this_machine", lambda: Machine(64, 8))
    words = ("--address", other_cluster, "--gpu-fraction", "0.25")
    assert table_of(tmp_path, *words) == on_one_cpu
    refused = ["run", "--workspace", str(tmp_path / "new"), *WORDS, "--address", other_cluster]
    assert main([*refused, "--set", "threads=3"]) == ExitCode.BAD_INPUT
    told = " ".join(capsys.readouterr().err.split())
    assert "threads is 3, but this machine has 2 CPUs and 2 GPUs" in told
    assert not (tmp_path / "new").exists()
