"""This program's packages are found in its own source, whatever else bears their names.

``data``, ``results`` and ``tasks`` are names that other people's folders have too: in the current
folder, on PYTHONPATH, among installed packages.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

SOURCE = Path(__file__).resolve().parent.parent
OWN = ("data", "orchestrator", "results", "search_spaces", "tasks")


class OwnPackages:
    """Finds the packages named in ``OWN`` in ``SOURCE``, before anything else is asked."""

    @classmethod
    def find_spec(
        cls,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """As the import system asks; None for anything that is not ours."""
        if path is not None or name not in OWN:
            return None
        return PathFinder.find_spec(name, [str(SOURCE)], target)


def insist_on_own_packages() -> None:
    """Let imports of our packages find ours, from now on in this process."""
    if OwnPackages not in sys.meta_path:
        sys.meta_path.insert(0, OwnPackages)


def other_package(folder: Path) -> Path | None:
    """A module of one of our names in a folder that is not our source; None if there is none."""
    if folder.resolve() == SOURCE:
        return None
    found = (one for name in OWN for one in (folder / f"{name}.py", folder / name / "__init__.py"))
    return next((one for one in found if one.is_file()), None)
