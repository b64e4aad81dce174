"""``python -m orchestrator`` from any folder, and what a caption says of how to draw again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cluster import cluster_nodes
from orchestrator.exit_codes import ExitCode, InputError
from orchestrator.finish import report_command
from orchestrator.own_packages import SOURCE, other_package
from orchestrator.workspace import Workspace
from tests.patience import PATIENCE_SECONDS


def started(*words: str, folder: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """The program as a person starts it there: nothing but the installation says where it is."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=folder,
        env=kept | ({"PYTHONPATH": path} if path else {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_folders_of_a_workspace_do_not_stand_in_for_packages(tmp_path: Path) -> None:
    for name in ("data", "results", "search_spaces"):
        (tmp_path / name).mkdir()
    (tmp_path / "tasks.py").write_text("raise ImportError('of somebody else')\n")
    done = started("report", "--study", "global", folder=tmp_path)
    assert done.returncode == ExitCode.BAD_INPUT, done.stderr
    assert "holds no study 'global'" in " ".join(done.stderr.split())


def test_modules_of_our_names_stand_in_for_none_of_ours(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "data").mkdir(parents=True)
        for name in ("data/__init__.py", "results.py", "tasks.py", "search_spaces.py"):
            (folder / name).write_text("raise ImportError('of somebody else')\n")
    done = started("report", "--study", "global", folder=here, path=f"{there}{os.pathsep}{here}")
    assert done.returncode == ExitCode.BAD_INPUT, done.stderr
    assert "holds no study 'global'" in " ".join(done.stderr.split())


def test_a_cluster_is_not_joined_from_a_folder_with_a_module_of_our_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert other_package(tmp_path) is None
    (tmp_path / "tasks.py").touch()
    assert other_package(SOURCE) is None
    with pytest.raises(InputError, match=r"tasks\.py has the name of one of this program's"):
        cluster_nodes("127.0.0.1:1")


@pytest.mark.parametrize("name", ["plain", "with a space", "it's $HOME"])
def test_the_report_command_names_the_workspace_for_a_shell(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    command = report_command(Workspace(root), "global")
    words = subprocess.run(
        ["bash", "-c", command.replace("python -m", "printf '%s\\n' -m", 1)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert words == ["-m", "orchestrator", "report", "--study", "global", "--workspace", str(root)]


def test_the_report_command_is_short_in_the_workspace_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = "python -m orchestrator report --study global"
    assert report_command(Workspace(tmp_path.resolve()), "global") == short
    stored = Workspace(tmp_path.resolve(), storage="s3://bucket/study")
    assert report_command(stored, "global") == f"{short} --workspace s3://bucket/study"
