"""What Ray, Tune and the workers read when they start: variables, and the token."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

from orchestrator.home import home

WORKER_VARIABLES = {"TOKENIZERS_PARALLELISM": "false", "RAY_CHDIR_TO_TRIAL_DIR": "0"}

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
    # On a busy machine each of the dashboard's processes takes longer than Ray's own 30 s and 60 s.
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "120",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "150",
}


def prepare_environment(*, joins: bool = False) -> None:
    """Set what Ray and its processes read; ``joins``: a cluster, which has a token of its own."""
    os.environ.update(WORKER_VARIABLES, PYTHONPATH=_with_this_package())
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Whoever reaches a Ray without a token can run code on it. Ray switches it on by itself for
    # local starts alone (2.59; for all from 2.61 on), and reads the variable when it is imported:
    # later the process and those that it starts would not be of one mind.
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    make_token(joins=joins)


def _with_this_package() -> str:
    """``PYTHONPATH`` of local workers: this very package, wherever the command was started."""
    root = str(Path(__file__).resolve().parent.parent)
    known = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return os.pathsep.join(dict.fromkeys([root, *known]))


def make_token(*, joins: bool = False) -> None:
    """Make Ray's token where there is none, readable by its owner alone.

    Ray would make it too, but so that every user of the machine can read it. Where the home
    cannot be written, a local Ray gets a token for this process and those that it starts.
    """
    given = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if any(os.environ.get(name) for name in given):
        return
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if not _token_at_home() and not joins:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def token_path() -> Path | None:
    """Where Ray looks for the token by itself; None without a home."""
    place = home()
    return None if place is None else place / ".ray" / "auth_token"


def _token_at_home() -> bool:
    """Whether the home's token can be read; it is made first where there is none."""
    path = token_path()
    if path is None:
        return False
    try:
        with suppress(FileExistsError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
        return bool(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return False
