"""Small studies that several tests look at, each run once a session, whichever process asks first.

A test that only reads gets the workspace itself; one that changes something works on a copy. Where
a test looks neither at the preparation, nor at figures, nor at several actors, its study takes over
data that were prepared once, draws a few figures and has one actor.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from filelock import FileLock

from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode
from orchestrator.placement import Machine

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
BASELINE = ("--study", "baseline", *_FEW_USERS)
PERSONA_PREDICTION = (
    *("--study", "persona_prediction", *_FEW_USERS, "--set", "shared.lora.epochs=1"),
)

FEW_FIGURES = frozenset({"forest", "before_after"})


def finished_study(words: Sequence[str]) -> Path:
    """The workspace of a finished study; run now unless a test of this session has done so.

    ``PER_PERSONA`` is run from its beginning with all figures, the others shortened.
    """
    from tasks.base_model import EMBEDDED_FOLDER

    if not (EMBEDDED_FOLDER / "model.safetensors").is_file():
        pytest.skip("the model is not built")

    def run(root: Path, words: Sequence[str]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for secret in SECRETS:
                patch.setenv(secret, PLANTED)
            if words == PER_PERSONA:
                assert main(["run", "--workspace", str(root), *words]) == ExitCode.DONE
            else:
                assert run_short(root, words) == ExitCode.DONE

    return _once(words, run)


def run_short(root: Path, words: Sequence[str]) -> int:
    """Run a study into ``root`` without what takes its time: preparation, figures, two actors."""
    take_prepared_data(root, words)
    with shortened():
        return main(["run", "--workspace", str(root), *words])


@contextmanager
def shortened() -> Iterator[None]:
    """Studies of this process have one actor and draw a few figures."""
    with few_figures(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.placement.this_machine", lambda: Machine(1, 0))
        yield


@contextmanager
def few_figures() -> Iterator[None]:
    """Reports of this process draw a few figures."""
    from results import figures

    def few(*given: object, **options: object) -> object:
        return draw(*given, **options | {"only": FEW_FIGURES})  # type: ignore[arg-type]

    draw = figures.draw_figures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("results.figures.draw_figures", few)
        yield


def take_prepared_data(root: Path, words: Sequence[str]) -> None:
    """Put prepared data, and what is remembered of the base model, into a new workspace."""
    if root.exists() and any(root.iterdir()):
        return
    shutil.copytree(_once(_data_words(words), _prepare), root, dirs_exist_ok=True)


def _data_words(words: Sequence[str]) -> list[str]:
    """Those of a command's words that say which data there are."""
    pairs = list(pairwise(words))
    return [
        word
        for option, value in pairs
        if option == "--users" or (option == "--set" and value.startswith("data."))
        for word in (option, value)
    ]


def _prepare(root: Path, words: Sequence[str]) -> None:
    from orchestrator.model_facts import model_facts
    from tasks.config import ModelConfig, PromptConfig

    assert main(["data", "prepare", "--workspace", str(root), *words]) == ExitCode.DONE
    model_facts(ModelConfig(), PromptConfig(), workspace=root)


def _once(words: Sequence[str], make: Callable[[Path, Sequence[str]], None]) -> Path:
    """A workspace that one process of the session makes, and all others wait for."""
    name = hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]
    root = Path(os.environ[FOLDER_VARIABLE]) / name
    done = root.with_suffix(".done")
    with FileLock(root.with_suffix(".lock")):
        if not done.exists():
            shutil.rmtree(root, ignore_errors=True)
            make(root, words)
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
