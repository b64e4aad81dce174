"""``validate`` and ``doctor``: what is checked, and what was found. Starts nothing.

With an address ``doctor`` joins that Ray for a moment, to see whether its nodes share storage.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from data.manifest import load_prepared
from data.schema import DataError
from orchestrator.cluster import check_shared_storage, ray_session
from orchestrator.exit_codes import InfrastructureError
from orchestrator.home import can_be_made, home, private_folder
from orchestrator.left_out import assumed_order
from orchestrator.placement import Machine, this_machine
from orchestrator.ray_environment import token_path
from orchestrator.split_check import check_splits
from orchestrator.workspace import Workspace
from results.ledger import Ledger
from results.object_store import ConflictError, ObjectStore, StoreError

PACKAGES = ("ray", "torch", "transformers", "peft", "pandas", "pyarrow")
FREE_BYTES = 2 << 30
MEMORY_BYTES = 6 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    state: Literal["ok", "warning", "failed"]
    found: str


def validate_workspace(root: Path) -> list[Check]:
    """Data by the sizes in their manifest, splits by their rules, records and their files by
    SHA-256; then the stages."""
    return [*_data(root), *_records(root), *_stages(root)]


def _data(root: Path) -> list[Check]:
    """The manifest, then the stored splits by their own rules."""
    try:
        prepared = load_prepared(root)
    except DataError as error:
        return [Check("data", "failed", str(error))]
    if prepared is None:
        return [Check("data", "failed", "nothing is prepared here, or a file is missing or cut")]
    users = f"{len(prepared.users)} users, {len(prepared.cold_start_users)} of them cold start"
    valid, told = check_splits(prepared)
    state: Literal["ok", "warning"] = "warning" if assumed_order(prepared) else "ok"
    return [
        Check("data", "ok", f"{prepared.source}: {users}, {prepared.data_sha256[:12]}"),
        Check("splits", state if valid else "failed", told),
    ]


def _records(root: Path) -> list[Check]:
    ledger = Ledger(root)
    before = set(ledger.quarantine.glob("*"))
    counts = Counter(record.arm for record in ledger.records())
    broken = sorted(path.name for path in set(ledger.quarantine.glob("*")) - before)
    listed = ", ".join(f"{arm} {number}" for arm, number in sorted(counts.items()))
    checks = [Check("records", "ok" if counts else "warning", listed or "none yet")]
    if broken:
        text = f"{len(broken)} broken, now in quarantine/: {', '.join(broken[:4])}; run again"
        checks.append(Check("broken records", "failed", text))
    notes = ledger.failures()
    if notes:
        text = ", ".join(f"{note['arm']} ({name})" for name, note in sorted(notes.items())[:6])
        checks.append(Check("failed cells", "warning", f"{text}; the next run tries them again"))
    return checks


def _stages(root: Path) -> list[Check]:
    """The last report's checkpoints; a stage that did not pass leaves the workspace whole."""
    from results.checkpoints import read_checkpoints

    done = read_checkpoints(root)
    if not done:
        return [Check("stages", "warning", "no report yet; `python -m orchestrator report`")]
    return [
        Check(one.stage, "ok" if one.status == "passed" else "warning", told)
        for one in done
        for told in [one.detail if one.status == "passed" else f"{one.status}: {one.detail}"]
    ]


def examine_machine(workspace: Workspace, *, address: str | None = None) -> list[Check]:
    """What a run needs of this machine, or of the Ray at ``address``."""
    return [
        _python(),
        *map(_package, PACKAGES),
        _cpus(),
        _gpus(),
        _memory(),
        _disk(workspace.root),
        _home(),
        _temporary(),
        _hub_cache(),
        _token(),
        _authentication(),
        _dashboard(),
        *([] if workspace.storage is None else [_bucket(workspace.storage)]),
        *([] if address is None else [_storage(workspace, address)]),
    ]


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("Python", "ok" if sys.version_info >= (3, 11) else "failed", f"{found} (≥ 3.11)")


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        return Check(name, "failed", "not installed; `pip install -e .` in the repository")


def _cpus() -> Check:
    machine = this_machine()
    gpus = f"{machine.gpus or 'no'} GPUs that torch can use"
    return Check("processors", "ok", f"{machine.cpus} CPUs, {gpus}")


def _gpus() -> Check:
    import torch

    if not torch.cuda.is_available():
        why = "torch is a CPU build" if torch.version.cuda is None else "torch sees no device"
        return Check("GPUs", "ok", f"none: {why}; trials run on CPUs")
    names = Counter(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    listed = ", ".join(f"{number} × {name}" for name, number in names.items())
    return Check("GPUs", "ok", f"{listed}; CUDA {torch.version.cuda}, driver {_driver()}")


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return (done.stdout.splitlines() or ["unknown"])[0].strip()


def _memory() -> Check:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return Check("memory", "warning", "cannot be read on this system")
    state: Literal["ok", "warning"] = "ok" if total >= MEMORY_BYTES else "warning"
    return Check("memory", state, f"{total / 2**30:.1f} GiB (the default study takes up to 6)")


def _disk(root: Path) -> Check:
    place = next(path for path in (root, *root.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        return Check("disk", "failed", f"{place} cannot be written")
    state: Literal["ok", "warning"] = "ok" if free >= FREE_BYTES else "warning"
    return Check("disk", state, f"{free / 2**30:.1f} GiB free at {place}")


def _hub_cache() -> Check:
    """Where models and data sets from the hub are kept, once a node."""
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    if not can_be_made(Path(HF_HUB_CACHE)) and not HF_HUB_OFFLINE:
        text = f"{HF_HUB_CACHE} cannot be written: hub models will not load; give HF_HOME=FOLDER"
        return Check("hub cache", "warning", text)
    offline = "; offline: only what is in it" if HF_HUB_OFFLINE else ""
    kept = len(list(Path(HF_HUB_CACHE).glob("models--*")))
    return Check("hub cache", "ok", f"{kept} models, {HF_HUB_CACHE}{offline}")


def _authentication() -> Check:
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        text = f"RAY_AUTH_MODE is {mode}: whoever reaches Ray can run code; unset it"
        return Check("Ray authentication", "failed", text)
    return Check("Ray authentication", "ok", "every start asks for the token")


DASHBOARD_PORT = 8265


def _dashboard() -> Check:
    """Whether a Ray's dashboard answers on an address of this machine that others can reach."""
    for address in _own_addresses():
        if _answers(address):
            text = (
                f"something listens on {address}:{DASHBOARD_PORT}; if that is Ray, start it anew "
                "with --dashboard-host=127.0.0.1"
            )
            return Check("Ray dashboard", "failed", text)
    return Check("Ray dashboard", "ok", "none that others can reach; ours listens on 127.0.0.1")


def _own_addresses() -> list[str]:
    """This machine's addresses by its own name, loopback left out."""
    try:
        told = socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return []
    found = {str(info[4][0]).partition("%")[0] for info in told}
    return sorted(one for one in found if not ipaddress.ip_address(one).is_loopback)


def _answers(address: str) -> bool:
    try:
        socket.create_connection((address, DASHBOARD_PORT), timeout=1).close()
    except OSError:
        return False
    return True


def _bucket(uri: str) -> Check:
    """Whether a workspace's bucket takes an object, only once, and gives it back."""
    store, key, told = ObjectStore(uri), f".doctor-{secrets.token_hex(4)}", secrets.token_bytes(16)
    try:
        tag = store.replace(key, told, tag=None)
        try:
            store.replace(key, b"", tag=None)
        except ConflictError:
            found = store.read(key)
        else:
            return Check("bucket", "failed", f"{uri}: this server ignores conditional writes")
        finally:
            store.remove([key])
    except StoreError as error:
        return Check("bucket", "failed", str(error))
    whole = found is not None and (found.content, found.tag) == (told, tag)
    text = f"{uri} can be written, read and listed"
    return Check("bucket", "ok" if whole else "failed", text if whole else f"{uri} changes bytes")


def _storage(workspace: Workspace, address: str) -> Check:
    """Whether every node of a cluster sees the workspace."""
    root = workspace.root
    folder = next(path for path in (root, *root.parents) if path.is_dir())
    place = workspace.storage or folder
    try:
        with ray_session(Machine(0, 0), address=address, dashboard=False):
            check_shared_storage(place)
    except (InfrastructureError, OSError) as error:
        return Check("shared storage", "failed", str(error))
    return Check("shared storage", "ok", f"every node at {address} sees {place}")


def _token() -> Check:
    """Ray writes its token so that every user of the machine can read it."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(given) if given else token_path()
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Check("Ray token", "ok", "given in RAY_AUTH_TOKEN")
    if path is None or not (path.is_file() or can_be_made(path.parent)):
        where = "there is no home folder" if path is None else f"{path} cannot be written"
        return Check(
            "Ray token",
            "warning",
            f"{where}: each run makes a token of its own; to keep one, or to join a cluster, give "
            "RAY_AUTH_TOKEN, or HOME=FOLDER",
        )
    if not path.is_file():
        return Check("Ray token", "ok", "none yet; made at the first start")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Check("Ray token", "failed", f"others can read it: chmod 600 {path}")
    return Check("Ray token", "ok", "readable by its owner alone")


def _home() -> Check:
    """Libraries keep their caches below it."""
    place = home()
    if place is None or place == private_folder():
        made = "" if place is None else f"; for now it is {place}"
        return Check("home", "warning", f"none for user id {os.getuid()}{made}; give HOME=FOLDER")
    if not can_be_made(place):
        text = f"{place} cannot be written: caches are made anew; give HOME=FOLDER"
        return Check("home", "warning", text)
    return Check("home", "ok", str(place))


def _temporary() -> Check:
    """Where Python and Ray put temporary files."""
    try:
        place = Path(tempfile.gettempdir())
    except OSError as error:
        return Check("temporary files", "failed", f"{error.strerror}; give a folder in TMPDIR")
    given = os.environ.get("TMPDIR")
    if given and Path(given).absolute() != place:
        return Check("temporary files", "warning", f"TMPDIR={given} cannot be used; {place} is")
    free = shutil.disk_usage(place).free
    state: Literal["ok", "warning"] = "ok" if free >= FREE_BYTES else "warning"
    return Check("temporary files", state, f"{free / 2**30:.1f} GiB free at {place}")
