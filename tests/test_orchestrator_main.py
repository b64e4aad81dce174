"""``python -m orchestrator`` from any folder, and what a caption says of how to draw again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.exit_codes import ExitCode
from orchestrator.finish import report_command
from orchestrator.workspace import Workspace
from tests.patience import PATIENCE_SECONDS


def started(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The program as a person starts it there: nothing but the installation says where it is."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
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
