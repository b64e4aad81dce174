"""Ray for the time of a run: started locally with its own short temporary folder, or joined."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.exit_codes import InfrastructureError
from orchestrator.placement import Machine

OBJECT_STORE_BYTES = 1 << 30
"""Prepared users pass through it block by block; models and results never do."""


@dataclass(frozen=True, slots=True)
class RaySession:
    """A Ray that is up; ``dashboard`` is its address, None without one."""

    dashboard: str | None


@contextmanager
def ray_session(
    machine: Machine, *, address: str | None = None, dashboard: bool = True
) -> Iterator[RaySession]:
    """Ray while the block runs.

    Args:
        machine: CPUs and GPUs of a local Ray.
        address: of a cluster to join; by default Ray is started here, and only here.
        dashboard: whether a local Ray serves one, on 127.0.0.1 alone.

    Raises:
        InfrastructureError: Ray does not come up.
    """
    _prepare_environment()
    import ray

    folder = None if address else _short_folder()
    try:
        try:
            context = _start(machine, address=address, dashboard=dashboard, folder=folder)
        except Exception as error:
            raise InfrastructureError(f"Ray does not start: {error}") from error
        yield RaySession(dashboard=context.dashboard_url or None)
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(machine: Machine, *, address: str | None, dashboard: bool, folder: str | None):  # type: ignore[no-untyped-def]
    import ray

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        return ray.init(address=address, runtime_env={"env_vars": _worker_variables()}, **quiet)
    return ray.init(
        # Without an address Ray would try to join any cluster that is already on this machine.
        address="local",
        num_cpus=machine.cpus,
        num_gpus=machine.gpus,
        include_dashboard=dashboard,
        dashboard_host="127.0.0.1",
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=folder,
        **quiet,
    )


def _prepare_environment() -> None:
    """Variables that Ray, Tune and the workers (which inherit them) read when they start."""
    os.environ.update(_worker_variables())
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's new output prints failed trials even when told to be silent; the old one obeys.
    "RAY_AIR_NEW_OUTPUT": "0",
    # The command line handles signals itself; Tune would not treat SIGTERM like SIGINT.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def _worker_variables() -> dict[str, str]:
    """Workers must import this very package, wherever the command was started."""
    root = str(Path(__file__).resolve().parent.parent)
    known = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    path = os.pathsep.join(dict.fromkeys([root, *known]))
    return {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", "RAY_CHDIR_TO_TRIAL_DIR": "0"}


def _short_folder() -> str:
    """Own temporary folder per run; short, because socket names end at 107 characters."""
    parent = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    _remove_dead(parent)
    return tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent)


_PREFIX = "sweep-"


def _remove_dead(parent: Path) -> None:
    """Take away the folders of runs that were killed before they could."""
    for folder in parent.glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not _is_running(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
