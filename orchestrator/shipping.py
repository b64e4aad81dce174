"""The program's own code as it goes to the nodes of a cluster: code alone, nothing a run makes.

``data/`` and ``results/`` are packages and also hold what runs write beside the code; a whole
workspace must not travel with every start.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("data", "orchestrator", "results", "search_spaces", "tasks")
PACKAGE_DATA = ("tasks/embedded_base", "results/templates")
"""Folders without code that belong to a package; as in ``pyproject.toml``."""
ROOT = Path(__file__).resolve().parent.parent


def code_files(root: Path = ROOT) -> Iterator[Path]:
    """Every file that the packages consist of, relative to ``root``."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            # A folder without an __init__ is none of a package's: data/raw, results/ledger.
            inner = path.relative_to(root).parents
            if all((root / folder / "__init__.py").is_file() for folder in list(inner)[:-1]):
                yield path.relative_to(root)
    for folder in PACKAGE_DATA:
        yield from (p.relative_to(root) for p in sorted((root / folder).iterdir()) if p.is_file())


def copy_code(into: Path, *, root: Path = ROOT) -> list[Path]:
    """Copy the packages' files into a folder; returns the packages' own folders in it."""
    for path in code_files(root):
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, target)
    return [into / package for package in PACKAGES]
