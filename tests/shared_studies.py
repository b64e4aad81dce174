"""Small studies that several tests look at, each run once a session, whichever process asks first.

A test that only reads gets the workspace itself; one that changes something works on a copy.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode

FOLDER_VARIABLE = "PERSONA_SWEEP_TEST_STUDIES"
"""Names the folder that all test processes of one session share."""

PLANTED = "planted" + "0123456789abcdef" * 4
SECRETS = ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY")
"""Variables that hold ``PLANTED`` while a study runs; no file may repeat it."""

_FEW_USERS = (
    *("--users", "4", "--no-dashboard", "--set", "data.sessions=10"),
    *("--set", "data.cold_start_share=0.0", "--set", "block_users=2"),
    *("--set", "decoding.max_new_tokens=16", "--set", "statistics.resamples=200"),
)
PER_PERSONA = (
    *("--study", "per_persona", *_FEW_USERS, "--set", "shared.lora.epochs=1"),
    *("--set", "cold_warm.warm_users=2"),
)
GLOBAL = (
    *("--study", "global", *_FEW_USERS),
    *("--set", "shared.lora.epochs=1", "--set", "shared.prefix.epochs=1"),
)
PERSONA_PREDICTION = (
    *("--study", "persona_prediction", *_FEW_USERS, "--set", "shared.lora.epochs=1"),
)


def finished_study(words: Sequence[str]) -> Path:
    """The workspace of a finished study; run now unless a test of this session has done so."""
    from tasks.base_model import EMBEDDED_FOLDER

    if not (EMBEDDED_FOLDER / "model.safetensors").is_file():
        pytest.skip("the model is not built")
    name = hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]
    root = Path(os.environ[FOLDER_VARIABLE]) / name
    done = root.with_suffix(".done")
    with FileLock(root.with_suffix(".lock")):
        if not done.exists():
            shutil.rmtree(root, ignore_errors=True)
            with pytest.MonkeyPatch.context() as patch:
                for secret in SECRETS:
                    patch.setenv(secret, PLANTED)
                assert main(["run", "--workspace", str(root), *words]) == ExitCode.DONE
            done.touch()
    return root


def copy_of_study(words: Sequence[str], into: Path) -> Path:
    """A copy of a finished study's workspace, to be changed."""
    shutil.copytree(finished_study(words), into)
    return into


def on_one_cpu() -> None:
    """For ``preexec_fn``: a study with one actor, beside those of the other test processes."""
    cpus = sorted(os.sched_getaffinity(0))
    process = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    os.sched_setaffinity(0, {cpus[int(process) % len(cpus)]})


def per_user_tables(root: Path) -> dict[str, bytes]:
    """The arms' per-user tables."""
    return _read(root, (root / "results").glob("*/per_user_*.csv"))


def all_tables(root: Path) -> dict[str, bytes]:
    """Every table of a study."""
    return _read(root, (root / "results").rglob("*.csv"))


def _read(root: Path, paths: Iterable[Path]) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(paths)}
