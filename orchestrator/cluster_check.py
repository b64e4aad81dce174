"""``cluster-check``: a cluster file against Ray's own schema and against our rules, offline.

A Ray that others can reach runs whatever they send it, so what matters most is who can reach it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.cluster import ray_schema_problem
from orchestrator.exit_codes import InputError

Tree = Mapping[str, Any]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
STORAGE_WORDS = ("mount ", "mountpoint ", "s3://", "gs://", "--storage")
_DASHBOARD = re.compile(r"--dashboard-host[= ]+['\"]?([^\s'\"]+)")
_SECRET_NAME = re.compile(r"(secret|password|passwd|token|api_?key|access_?key)", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|(?i:secret|password|passwd|token|api_?key|access_?key)[A-Z_a-z]*=(?!\$)['\"]?[^\s'\";]{8,}"
)
_RAY_INSTALL = re.compile(r"pip3? install\b[^;&|]*?['\" ](ray(?:\[[\w,]*\])?)([^\s'\";]*)")


def check_cluster_file(path: Path) -> list[str]:
    """Everything that is wrong with a cluster file, one line each; an empty list is a good one.

    Args:
        path: a file for ``ray up``, or a RayJob or RayCluster of KubeRay.

    Raises:
        InputError: it cannot be read, or is neither of them.
    """
    tree = _read(path)
    if "kind" in tree and "apiVersion" in tree:
        return [*_kuberay_problems(tree), *_secrets(tree)]
    if "provider" not in tree:
        raise InputError(
            f"{path} is no cluster file: `ray up` wants `provider`, KubeRay `apiVersion` and `kind`"
        )
    rules = (_schema, _head, _tokens, _resources, _versions, _storage, _secrets)
    return [problem for rule in rules for problem in rule(tree)]


def _read(path: Path) -> Tree:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is no YAML: {error}") from error
    if not isinstance(tree, Mapping):
        raise InputError(f"{path} holds no settings but {type(tree).__name__}")
    return tree


def _schema(tree: Tree) -> Iterator[str]:
    problem = ray_schema_problem(tree)
    if problem is not None:
        yield f"Ray does not take it: {problem}"


def _head(tree: Tree) -> Iterator[str]:
    """The dashboard can run code: it listens on the head's own address alone."""
    starts = [text for text in _commands(tree, "head_start_ray_commands") if "ray start" in text]
    if not starts:
        yield (
            "head_start_ray_commands: no `ray start`; Ray's own default opens the dashboard to "
            "everybody, so write the command with --dashboard-host=127.0.0.1"
        )
    for text in starts:
        yield from _dashboard(_DASHBOARD.findall(text), "head_start_ray_commands")


def _dashboard(hosts: Sequence[str], where: str) -> Iterator[str]:
    if not hosts:
        yield f"{where}: say --dashboard-host=127.0.0.1 (reach it through `ray dashboard`)"
    for host in hosts:
        if host not in LOOPBACK:
            yield (
                f"{where}: the dashboard is exposed on {host}; it runs code for whoever reaches "
                "it. Take 127.0.0.1 and `ray dashboard`"
            )


def _tokens(tree: Tree) -> Iterator[str]:
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        texts = [text for text in _commands(tree, name) if "ray start" in text]
        if name.startswith("worker") and not texts and _has_workers(tree):
            yield f"{name}: no `ray start`; Ray's own default starts workers without a token"
        for text in texts:
            if "RAY_AUTH_MODE=token" not in text:
                yield f"{name}: no token; put `export RAY_AUTH_MODE=token;` before `ray start`"
    if not any("auth_token" in str(target) for target in tree.get("file_mounts") or {}):
        yield (
            "file_mounts: all nodes need the same token; add "
            '"~/.ray/auth_token": "~/.ray/auth_token" (made by `ray get-auth-token --generate`)'
        )


def _has_workers(tree: Tree) -> bool:
    provider = tree.get("provider") or {}
    return provider.get("type") != "local" or bool(provider.get("worker_ips"))


def _resources(tree: Tree) -> Iterator[str]:
    """Nodes have whole CPUs and GPUs; shares of a GPU are what trials ask for."""
    for name, node in (tree.get("available_node_types") or {}).items():
        for resource, amount in ((node or {}).get("resources") or {}).items():
            if isinstance(amount, bool) or not isinstance(amount, int):
                yield (
                    f"available_node_types.{name}.resources.{resource}: {amount!r} is no whole "
                    "number; a node has whole ones, shares of a GPU are `run --gpu-fraction`'s"
                )


def _versions(tree: Tree) -> Iterator[str]:
    docker = tree.get("docker") or {}
    for key in ("image", "head_image", "worker_image"):
        if docker.get(key):
            yield from _image(str(docker[key]), f"docker.{key}")
    provider = (tree.get("provider") or {}).get("type")
    for name, node in (tree.get("available_node_types") or {}).items():
        machine = str(((node or {}).get("node_config") or {}).get("ImageId", ""))
        if provider == "aws" and not machine.startswith("ami-"):
            yield (
                f"available_node_types.{name}.node_config.ImageId: {machine or 'nothing'!r} is no "
                "fixed machine image; give an ami-… so that all nodes stay the same"
            )
    setup = [text for name in _SETUP for text in _commands(tree, name)]
    installs = [found for text in setup for found in _RAY_INSTALL.findall(text)]
    for package, pin in installs:
        if not pin.startswith("=="):
            yield f"setup_commands: {package}{pin} is not pinned; write {package}=={_RAY_EXAMPLE}"
    if not installs and not docker.get("image"):
        yield "setup_commands: no Ray of a fixed version is installed, and there is no docker.image"


_SETUP = ("setup_commands", "head_setup_commands", "worker_setup_commands")
_RAY_EXAMPLE = "2.60.0"


def _image(image: str, where: str) -> Iterator[str]:
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in image and (not tag or "latest" in tag or "nightly" in tag):
        yield f"{where}: {image} is not pinned; name a version, as rayproject/ray:2.60.0-py311-gpu"


def _storage(tree: Tree) -> Iterator[str]:
    names = ("initialization_commands", *_SETUP, *_STARTS)
    told = [text for name in names for text in _commands(tree, name)]
    if not any(word in text for text in told for word in STORAGE_WORDS):
        yield (
            "no shared storage: nothing is mounted or checked before Ray starts. Workers and "
            "driver must see one folder; mount it in initialization_commands, or check it with "
            "`mountpoint -q FOLDER`"
        )


_STARTS = ("head_start_ray_commands", "worker_start_ray_commands")


def _commands(tree: Tree, name: str) -> list[str]:
    found = tree.get(name) or []
    return [str(text) for text in found] if isinstance(found, list) else [str(found)]


def _secrets(tree: Tree) -> Iterator[str]:
    """Secrets come by the environment or a file of mode 600, never in a file of settings."""
    for place, value in _leaves(tree):
        key = place.rpartition(".")[2]
        named = _SECRET_NAME.search(key) and isinstance(value, str) and _looks_secret(value)
        if named or (isinstance(value, str) and _SECRET_VALUE.search(value)):
            yield f"{place}: this looks like a secret; take it out and hand it over by environment"


def _looks_secret(value: str) -> bool:
    return len(value) >= 8 and not value.startswith(("$", "~", "/")) and " " not in value


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _leaves(entry, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _leaves(entry, f"{place}[{index}]")
    else:
        yield place, value


def _kuberay_problems(tree: Tree) -> Iterator[str]:
    spec = tree.get("spec") or {}
    cluster = spec.get("rayClusterSpec") if tree.get("kind") == "RayJob" else spec
    if not isinstance(cluster, Mapping):
        yield f"{tree.get('kind')}: no cluster in spec; a RayJob or a RayCluster is known here"
        return
    if (cluster.get("authOptions") or {}).get("mode") != "token":
        yield "authOptions: no token; write `authOptions: {mode: token}`"
    if not re.fullmatch(r"\d+\.\d+\.\d+", str(cluster.get("rayVersion", ""))):
        yield f"rayVersion: {cluster.get('rayVersion')!r} is not pinned; write as {_RAY_EXAMPLE!r}"
    head = cluster.get("headGroupSpec") or {}
    groups = {"headGroupSpec": head}
    groups |= {
        f"workerGroupSpecs[{index}]": group
        for index, group in enumerate(cluster.get("workerGroupSpecs") or [])
    }
    # The operator itself asks the dashboard how the job is: it cannot listen on loopback alone.
    service = head.get("serviceType", "ClusterIP")
    if service != "ClusterIP" or head.get("enableIngress"):
        yield (
            f"headGroupSpec: the dashboard is exposed by serviceType {service}, enableIngress "
            f"{bool(head.get('enableIngress'))}; take ClusterIP, no ingress, and "
            "`kubectl port-forward`"
        )
    for name, group in groups.items():
        yield from _kuberay_group(group or {}, name)


def _kuberay_group(group: Tree, name: str) -> Iterator[str]:
    pod = (group.get("template") or {}).get("spec") or {}
    if not any("persistentVolumeClaim" in (one or {}) for one in pod.get("volumes") or []):
        yield f"{name}: no shared storage; mount a persistentVolumeClaim that all nodes can write"
    for container in pod.get("containers") or []:
        where = f"{name}.{container.get('name', 'container')}"
        yield from _image(str(container.get("image", "")), f"{where}.image")
        limits = (container.get("resources") or {}).get("limits") or {}
        for resource, amount in limits.items():
            if resource != "memory" and not str(amount).isdecimal():
                yield f"{where}.limits.{resource}: {amount!r} is no whole number"
