"""``cluster-check``: our own files are good, and every rule has a file that breaks it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.cluster_check import check_cluster_file
from orchestrator.exit_codes import ExitCode, InputError

ROOT = Path(__file__).resolve().parent.parent
OURS = ("cluster.yaml", "cluster.local.yaml", "deploy/kuberay.yaml")
START = "export RAY_AUTH_MODE=token; ray start --head --dashboard-host=127.0.0.1"


def ours(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def problems_of(tmp_path: Path, tree: Any) -> list[str]:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return check_cluster_file(path)


def changed(name: str, place: str, value: Any) -> dict[str, Any]:
    """Our file with one value changed; ``None`` takes it out."""
    tree = deepcopy(ours(name))
    *way, last = place.split(".")
    node = tree
    for key in way:
        node = node[int(key)] if isinstance(node, list) else node[key]
    if value is None:
        del node[last]
    else:
        node[int(last) if isinstance(node, list) else last] = value
    return tree


@pytest.mark.parametrize("name", OURS)
def test_our_own_files_are_good(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster-check", str(ROOT / name)]) == ExitCode.DONE
    shown = capsys.readouterr()
    assert shown.out.endswith(f"{name}: good\n")
    assert shown.err == ""


HEAD, NODE = "spec.rayClusterSpec.headGroupSpec", "available_node_types"
BROKEN = [
    ("cluster.yaml", "head_start_ray_commands.1", f"{START}=0.0.0.0".replace("=127.0.0.1", ""),
     "the dashboard is exposed on 0.0.0.0"),
    ("cluster.yaml", "head_start_ray_commands.1",
     "export RAY_AUTH_MODE=token; ray start --head", "say --dashboard-host=127.0.0.1"),
    ("cluster.yaml", "head_start_ray_commands", None, "no `ray start`; Ray's own default opens"),
    ("cluster.yaml", "head_start_ray_commands.1", "ray start --head --dashboard-host=127.0.0.1",
     "head_start_ray_commands: no token"),
    ("cluster.yaml", "worker_start_ray_commands.1", "ray start --address=$RAY_HEAD_IP:6379",
     "worker_start_ray_commands: no token"),
    ("cluster.yaml", "worker_start_ray_commands", None, "starts workers without a token"),
    ("cluster.yaml", "file_mounts", {"~/persona-sweep": "."}, "all nodes need the same token"),
    ("cluster.yaml", f"{NODE}.gpu_worker.resources", {"CPU": 8, "GPU": 0.5},
     "gpu_worker.resources.GPU: 0.5 is no whole number"),
    ("cluster.yaml", "docker.image", "rayproject/ray:latest-gpu", "is not pinned"),
    ("cluster.yaml", "docker.image", "rayproject/ray", "is not pinned"),
    ("cluster.yaml", f"{NODE}.head.node_config.ImageId", "latest_dlami", "no fixed machine image"),
    ("cluster.yaml", "setup_commands", ["pip install 'ray[default]>=2.59'"],
     "ray[default]>=2.59 is not pinned"),
    ("cluster.local.yaml", "setup_commands", ["true"], "no Ray of a fixed version"),
    ("cluster.yaml", "initialization_commands", ["true"], "no shared storage"),
    ("cluster.yaml", "setup_commands.0", "export HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz",
     "setup_commands[0]: this looks like a secret"),
    ("cluster.yaml", "provider.aws_secret_access_key", "wJalrXUtnFEMIK7MDENGbPxRfiCY",
     "provider.aws_secret_access_key: this looks like a secret"),
    ("cluster.yaml", "max_workers", "many", "Ray does not take it"),
    ("cluster.yaml", "no_such_setting", 1, "Ray does not take it"),
    ("cluster.local.yaml", "provider.worker_ips", None, "Ray does not take it"),
    ("deploy/kuberay.yaml", "spec.rayClusterSpec.authOptions", {"mode": "disabled"},
     "authOptions: no token"),
    ("deploy/kuberay.yaml", f"{HEAD}.serviceType", "LoadBalancer", "the dashboard is exposed"),
    ("deploy/kuberay.yaml", f"{HEAD}.enableIngress", True, "the dashboard is exposed"),
    ("deploy/kuberay.yaml", "spec.rayClusterSpec.rayVersion", "latest", "is not pinned"),
    ("deploy/kuberay.yaml", f"{HEAD}.template.spec.volumes", [], "no shared storage"),
    ("deploy/kuberay.yaml", f"{HEAD}.template.spec.containers.0.image", "mine/image",
     "is not pinned"),
    ("deploy/kuberay.yaml",
     "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.resources.limits",
     {"nvidia.com/gpu": "0.5"}, "'0.5' is no whole number"),
    ("deploy/kuberay.yaml", "spec.rayClusterSpec", None, "no cluster in spec"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "place", "value", "told"), BROKEN)
def test_every_rule_finds_its_fault(
    tmp_path: Path, name: str, place: str, value: Any, told: str
) -> None:
    found = problems_of(tmp_path, changed(name, place, value))
    assert any(told in problem for problem in found), found


def test_all_faults_are_told_at_once_and_nothing_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    tree = ours("cluster.yaml")
    tree["head_start_ray_commands"] = ["ray start --head --dashboard-host=0.0.0.0"]
    tree["docker"]["image"] = "rayproject/ray:nightly"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert main(["cluster-check", str(path)]) == ExitCode.BAD_INPUT
    shown = capsys.readouterr().err
    assert "has 3 problems" in shown
    for told in ("exposed on 0.0.0.0", "no token", "is not pinned"):
        assert told in shown


@pytest.mark.parametrize(
    ("text", "told"),
    [("a: [", "is no YAML"), ("[1]", "holds no settings"), ("a: 1", "is no cluster file")],
)
def test_what_is_no_cluster_file_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=told):
        check_cluster_file(path)
    with pytest.raises(InputError, match="cannot be read"):
        check_cluster_file(tmp_path / "nowhere.yaml")
