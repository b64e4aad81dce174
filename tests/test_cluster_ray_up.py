"""``ray up`` over a real sshd, a study submitted as a job, its results, ``ray down``."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.cluster_check import check_cluster_file
from tests.patience import PATIENCE_SECONDS
from tests.shared_studies import GLOBAL, finished_study, per_user_tables, take_prepared_data
from tests.ssh_machine import SshMachine, obstacle, ssh_machine

ROOT = Path(__file__).resolve().parent.parent
REASON = obstacle()

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def machine(port: int) -> Iterator[SshMachine]:
    folder = Path(tempfile.mkdtemp(prefix="up-", dir="/tmp"))
    try:
        with ssh_machine(folder, dashboard_port=port, agent_port=free_port()) as found:
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def environment(machine: SshMachine) -> dict[str, str]:
    """Of the person who types the commands: a home of their own, with the token in it."""
    home = machine.folder / "mine"
    token = home / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def cluster_file(machine: SshMachine) -> Path:
    """``cluster.local.yaml`` filled in as its head says, and nothing else changed."""
    text = (ROOT / "cluster.local.yaml").read_text(encoding="utf-8")
    study = machine.folder / "study"
    study.mkdir()
    tree = yaml.safe_load(text)
    tree["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": []}
    tree["auth"] = {"ssh_user": "root", "ssh_private_key": str(machine.key)}
    tree["file_mounts"]["~/persona-sweep"] = str(ROOT)
    # One machine alone shares its folder with itself.
    tree["initialization_commands"] = [f"mountpoint -q {study} || test -d {study}"]
    # What is installed already is not installed again.
    version = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()[:16]
    (machine.home / f".installed-{version}").touch()
    path = machine.folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def ray(*words: str, environment: dict[str, str]) -> str:
    program = Path(sys.executable).parent / "ray"
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        done = subprocess.run(
            [str(program), *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        told = done.stdout + done.stderr
        # On a busy machine the head's agent comes up after its dashboard; Ray asks to try again.
        if "No available agent" not in told or time.monotonic() > until:
            break
        time.sleep(1)
    assert done.returncode == 0, told[-6000:]
    return told


def test_a_study_on_a_cluster_that_was_brought_up_by_ssh(
    machine: SshMachine,
    environment: dict[str, str],
    cluster_file: Path,
    port: int,
) -> None:
    assert check_cluster_file(cluster_file) == []
    ray("up", "-y", "--no-config-cache", str(cluster_file), environment=environment)
    assert (machine.home / "persona-sweep" / "cluster.yaml").is_file()
    assert (machine.home / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
    address = f"http://127.0.0.1:{port}"
    stranger = {**environment, "HOME": str(machine.folder / "nobody"), "RAY_AUTH_TOKEN": "wrong"}
    with pytest.raises(AssertionError, match=r"(?i)authenticat|unauthorized|token"):
        ray("job", "list", "--address", address, environment=stranger)
    workspace = machine.folder / "study" / "first"
    take_prepared_data(workspace, GLOBAL)
    command = [str(machine.python), "-m", "orchestrator", "run", "--address", "auto"]
    words = [*command, "--workspace", str(workspace), *GLOBAL]
    told = ray(
        *("job", "submit", "--address", address, "--", *words),
        environment=environment,
    )
    assert "succeeded" in told.lower()
    found = per_user_tables(workspace)
    assert (workspace / "REPORT.md").is_file()
    ray("down", "-y", str(cluster_file), environment=environment)
    assert machine.processes() == []
    assert found == per_user_tables(finished_study(GLOBAL))
