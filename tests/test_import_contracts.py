"""The rooms' import contracts, and what must never stand in the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("data", "search_spaces", "tasks", "results", "orchestrator")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MAY_IMPORT_RAY = {
    "data/ingest.py",
    "orchestrator/cluster.py",
    "orchestrator/local_ray.py",
    "orchestrator/sweep.py",
    "orchestrator/trainable.py",
    "orchestrator/metrics.py",
}


def imports_of(path: Path) -> set[str]:
    """Modules that a file names in an import, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def test_import_linter_finds_no_broken_contract() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ray_is_imported_in_these_files_alone() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if any(name.partition(".")[0] == "ray" for name in imports_of(path))
    }
    assert found <= MAY_IMPORT_RAY
    assert "orchestrator/sweep.py" in found


@pytest.mark.parametrize("room", ["tasks", "results", "data", "search_spaces"])
def test_a_room_loads_without_the_rooms_that_it_must_not_know(room: str) -> None:
    forbidden = {
        "data": {"tasks", "orchestrator", "results", "search_spaces", "torch"},
        "search_spaces": {"data", "tasks", "orchestrator", "results", "ray", "torch"},
        "tasks": {"ray", "orchestrator", "results", "search_spaces"},
        "results": {"ray", "torch", "tasks", "data", "orchestrator", "search_spaces"},
    }[room]
    modules = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.name != "__init__.py" and path.relative_to(ROOT).as_posix() != "data/ingest.py"
    ]
    code = (
        "import importlib, sys\n"
        f"[importlib.import_module(name) for name in {modules!r}]\n"
        f"print(sorted({forbidden!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_finished_study_is_found_without_torch_or_ray() -> None:
    code = (
        "import sys\n"
        "import orchestrator.cli, orchestrator.study, orchestrator.outlook, orchestrator.layers\n"
        "import data.prepare\n"
        "print(sorted({'torch', 'ray', 'transformers', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_only_the_command_line_prints() -> None:
    printing = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    }
    assert printing == set()
