"""A study over several nodes that come and go: the tables are those of a single machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode
from orchestrator.shipping import PACKAGES, ROOT, code_files, copy_code
from results.ledger import Ledger
from tests.cluster_study import Started, add_worker, ray_nodes
from tests.faults import CountRecords
from tests.patience import PATIENCE_SECONDS, wait_for
from tests.shared_studies import BASELINE, finished_study, per_user_tables


def test_code_travels_without_what_runs_make(tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(ROOT / "data", root / "data", ignore=shutil.ignore_patterns("__pycache__"))
    for made in ("data/raw/x.py", "data/shards/0.parquet", "data/manifest.json"):
        (root / made).parent.mkdir(parents=True, exist_ok=True)
        (root / made).write_text("made by a run")
    for package in (*PACKAGES[1:], "tasks/embedded_base", "results/templates"):
        (root / package).mkdir(parents=True, exist_ok=True)
    (root / "results" / "__init__.py").touch()
    (root / "results" / "templates" / "page.j2").touch()
    (root / "results" / "ledger" / "cell").mkdir(parents=True)
    (root / "results" / "ledger" / "cell" / "record.json").touch()
    found = {path.as_posix() for path in code_files(root)}
    ours = {f"data/{path.name}" for path in (ROOT / "data").glob("*.py")}
    assert found == ours | {"results/__init__.py", "results/templates/page.j2"}
    folders = copy_code(tmp_path / "copy")
    assert [folder.name for folder in folders] == list(PACKAGES)
    # All of our own code, as Python itself finds it.
    code = "import orchestrator.cli, orchestrator.trainable, results.report, tasks.trial"
    where = "; import sys; print(sys.modules['tasks.trial'].__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code + where],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "copy")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(tmp_path / "copy" / "tasks" / "trial.py")


@pytest.fixture(scope="module")
def alone() -> dict[str, bytes]:
    return per_user_tables(finished_study(BASELINE))


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that takes no trials and two workers with one CPU each."""
    with ray_nodes(head_cpus=0, workers=2) as found:
        yield found


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.thorough
def test_two_workers_write_the_tables_of_one_machine(
    alone: dict[str, bytes], cluster: Any, tmp_path: Path
) -> None:
    told = Started(cluster.address, tmp_path / "study").end()
    assert "up to 2 trials at a time" in told
    assert per_user_tables(tmp_path / "study") == alone
    assert not list((tmp_path / "study").glob(".storage-probe*"))


@pytest.mark.cluster
@pytest.mark.slow
def test_nodes_that_go_and_come_back_lose_nothing(
    alone: dict[str, bytes],
    cluster: Any,
    tmp_path: Path,
    count_records: CountRecords,
) -> None:
    root = tmp_path / "study"
    study = Started(cluster.address, root)
    first, second = cluster.worker_nodes
    study.wait_for_records(1)
    cluster.remove_node(first, allow_graceful=False)
    study.wait_for_records(2)
    cluster.remove_node(second, allow_graceful=False)
    # Nobody is left to work; then one comes back.
    time.sleep(1)
    add_worker(cluster)
    study.end()
    assert per_user_tables(root) == alone
    ledger = Ledger(root)
    assert ledger.problems() == []
    assert max(record.attempts for record in ledger.records()) > 1
    assert not any(ledger.staging.glob("*"))
    count_records(root, "baseline")


@pytest.mark.cluster
@pytest.mark.slow
def test_a_folder_that_a_node_does_not_share_is_refused_before_the_start(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can give a process file systems of its own")
    root = tmp_path / "study"
    root.mkdir()
    script = (
        f"mount -t tmpfs none {root} && exec {sys.executable} -m ray.scripts.scripts start "
        f"--address={cluster.address} --num-cpus=1 --object-store-memory=100000000 --block"
    )
    node = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for_nodes(cluster, 4, node)
        code = main(["run", "--workspace", str(root), "--address", cluster.address, *BASELINE])
        told = " ".join(capsys.readouterr().err.split())
        assert code == ExitCode.INFRASTRUCTURE, told
        assert "is not on storage that all 4 nodes share" in told
        assert "does not see it" in told
        assert not (root / "results").exists()
    finally:
        node.terminate()
        node.wait(timeout=PATIENCE_SECONDS)


def wait_for_nodes(cluster: Any, number: int, node: subprocess.Popen[bytes]) -> None:
    from orchestrator.cluster import cluster_nodes

    def joined() -> bool:
        assert node.poll() is None, node.stderr and node.stderr.read().decode()
        return len(cluster_nodes(cluster.address)) == number

    wait_for(joined, what=f"{number} nodes at {cluster.address}", every_seconds=0.5)
