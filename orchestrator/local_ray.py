"""A Ray of this machine alone: its folder, its start, and what becomes of a start that fails.

The dashboard is a convenience: a Ray whose dashboard does not come up goes on without it. A start
that fails for lack of time is tried again in a folder of its own.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.exit_codes import InfrastructureError
from orchestrator.own_packages import SOURCE
from orchestrator.placement import Machine
from orchestrator.quiet_ray import kept_messages

OBJECT_STORE_BYTES = 1 << 30
"""Prepared users pass through it block by block; models and results never do."""
STARTS = 3
QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


@dataclass(frozen=True, slots=True)
class LocalRay:
    """A local Ray that is up.

    ``dashboard`` is its address; where one was asked for and there is none, ``without`` says why.
    """

    dashboard: str | None
    without: str | None = None


def start_local(machine: Machine, *, dashboard: bool, folder: Path) -> LocalRay:
    """Start Ray here; tried again where it only took too long.

    Args:
        machine: its CPUs and GPUs.
        dashboard: whether to serve one, on 127.0.0.1 alone.
        folder: for Ray's files; its path must be short.

    Raises:
        Exception: whatever Ray raises; nothing of it is left running.
    """
    for attempt in range(1, STARTS + 1):
        place = folder if attempt == 1 else folder / str(attempt)
        place.mkdir(exist_ok=True)
        try:
            return _started(machine, dashboard=dashboard, folder=place)
        except Exception as error:
            _leave_no_half(place)
            if attempt == STARTS or not may_pass(error):
                raise
    raise AssertionError("unreachable")


_PASSING = (
    "timed out",
    "timeout",
    "try again",
    "overloaded",
    "unavailable",
    "failed to start gcs",
    "failed to connect",
)


def may_pass(error: Exception) -> bool:
    """Whether Ray says of a start that it took too long, as on a busy machine."""
    words = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, TimeoutError) or any(sign in words for sign in _PASSING)


def _started(machine: Machine, *, dashboard: bool, folder: Path) -> LocalRay:
    import ray

    with _environment(_for_a_start(folder)), kept_messages("ray._private.services") as told:
        context = ray.init(
            # Without an address Ray would try to join any cluster that is already on this machine.
            address="local",
            num_cpus=machine.cpus,
            num_gpus=machine.gpus,
            # With True, Ray would end where the dashboard does not come up; with None it goes on.
            include_dashboard=None if dashboard else False,
            dashboard_host="127.0.0.1",
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
            job_config=_own_packages_first(),
            **QUIET,
        )
    if context.dashboard_url or not dashboard:
        return LocalRay(context.dashboard_url or None)
    # One that came up late would listen for nobody.
    end_processes(folder, naming="dashboard.py")
    return LocalRay(None, without=_reason(told))


class _OwnSourceLast(list[str]):
    """Folders that workers put before their module path one by one, so that the last is first."""

    def extend(self, folders: Iterable[str]) -> None:
        """Ray adds the current folder, where a ``data.py`` may lie."""
        super().extend([*(folder for folder in folders if folder != str(SOURCE)), str(SOURCE)])


def _own_packages_first() -> Any:
    """What Ray is told of workers, so that they find this program's packages before others."""
    from ray.job_config import JobConfig

    return JobConfig(_py_driver_sys_path=_OwnSourceLast([str(SOURCE)]))


def _reason(told: list[str]) -> str:
    """Why there is no dashboard, from what Ray said."""
    from ray._private import ray_constants

    lines = [line.strip() for text in told for line in text.splitlines() if line.strip()]
    if any("return code" in line for line in lines):
        return lines[-1][:200]
    seconds = getattr(ray_constants, "RAY_DASHBOARD_STARTUP_TIMEOUT_S", 0)
    return f"it did not answer within {seconds} s"


LONGEST_TEMPORARY = 70
"""In bytes. Sockets below it add 32, and the name of a socket ends at 107."""


def _for_a_start(folder: Path) -> dict[str, str]:
    """Variables of Ray's processes alone."""
    wanted = {"RAY_gcs_server_port_wait_time_s": "120"}
    found = {name: value for name, value in wanted.items() if name not in os.environ}
    given = tempfile.gettempdir()
    if len(os.fsencode(given)) > LONGEST_TEMPORARY:
        # The same folder by a short name: what is written there stays where the user wants it.
        short = folder / "tmp"
        short.symlink_to(given, target_is_directory=True)
        found["TMPDIR"] = str(short)
    return found


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """The process's variables, with these among them inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _leave_no_half(folder: Path) -> None:
    """Take down what a failed start left: Ray's own state, and processes that it knows no more."""
    import ray

    ray.shutdown()
    end_processes(folder)


def end_processes(folder: Path, *, naming: str = "") -> None:
    """Kill the processes below this one whose command line names the folder, and theirs.

    ``naming``: only those that name this too.
    """
    import psutil  # Comes with Ray.

    doomed = set()
    for process in psutil.Process().children(recursive=True):
        try:
            words = " ".join(process.cmdline())
            if str(folder) in words and naming in words:
                doomed |= {process, *process.children(recursive=True)}
        except psutil.Error:
            continue
    for process in doomed:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(list(doomed), timeout=10)


LONGEST_PARENT = 20
"""In bytes. Below it come our folder, Ray's session and a socket: 87 of the 107 there are."""


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder for the block; its path is short, because socket names are limited."""
    folder = _short_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> Path:
    told = tempfile.gettempdir()
    for parent in dict.fromkeys(("/tmp", told, "/var/tmp", "/dev/shm")):
        if len(os.fsencode(parent)) > LONGEST_PARENT or not Path(parent).is_dir():
            continue
        _remove_dead(Path(parent))
        try:
            return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
        except OSError:
            continue
    raise InfrastructureError(
        "Ray needs a folder with a short path for its sockets: none of /tmp, TMPDIR, /var/tmp and "
        f"/dev/shm can be written and has at most {LONGEST_PARENT} characters"
    )


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
