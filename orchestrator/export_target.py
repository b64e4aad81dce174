"""The folder of an export: which one may be made or replaced, and how it is put in place whole.

``--overwrite`` deletes, so it takes away nothing but what an earlier export wrote: each export
lists its files in ``.persona-sweep-export``.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data.writing import write_text
from orchestrator.exit_codes import InfrastructureError, InputError
from orchestrator.given_paths import given_path
from orchestrator.home import home
from orchestrator.workspace import Workspace

MARKER = ".persona-sweep-export"
OWN_FOLDERS = ("data", "results", "configs", "models", "quarantine")
"""What the program reads and writes in a workspace."""
SHOWN_FILES = 3


def check_target(asked: Path, workspace: Workspace, *, overwrite: bool) -> Path:
    """The folder that ``--into`` names, resolved; touches nothing.

    Raises:
        InputError: it holds what is not an export's, or a place that no export may take.
    """
    folder = given_path(str(asked), option="--into")
    _check_place(asked, folder, workspace)
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            inside = "" if place == folder else f" ({place} is one)"
            raise InputError(f"--into {asked} is a file{inside}; a folder is needed")
    if not folder.is_dir() or not any(folder.iterdir()):
        return folder
    if not overwrite:
        raise InputError(
            f"--into {asked} is not empty; give another folder, or --overwrite to replace an "
            "earlier export"
        )
    foreign = _foreign_files(folder)
    if foreign:
        some = ", ".join(foreign[:SHOWN_FILES])
        more = f" and {len(foreign) - SHOWN_FILES} more" if len(foreign) > SHOWN_FILES else ""
        raise InputError(
            f"--into {asked} holds what no export wrote ({some}{more}); --overwrite replaces "
            "earlier exports alone: give another folder, or move these away"
        )
    return folder


def _check_place(asked: Path, folder: Path, workspace: Workspace) -> None:
    root = workspace.root.resolve()
    for place, name in (
        (Path(folder.anchor), "the root folder"),
        ((home() or root).resolve(), "your home folder"),
        (root, "the workspace"),
        (Path.cwd().resolve(), "the current folder"),
    ):
        if folder == place or folder in place.parents:
            what = "is" if folder == place else "holds"
            raise InputError(f"--into {asked} {what} {name}; give a new folder, as --into adapters")
    if root in folder.parents:
        first = folder.relative_to(root).parts[0]
        if first in OWN_FOLDERS or first.startswith(".") or workspace.storage is not None:
            raise InputError(
                f"--into {asked} lies among the workspace's own files; give a folder outside of it"
            )


def _foreign_files(folder: Path) -> list[str]:
    """Files in the folder that its marker does not list; all of them where it has none."""
    try:
        listed = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
        known = {MARKER, *map(str, listed)}
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    return sorted(_files(folder) - known)


def _files(folder: Path) -> set[str]:
    """Everything in it but plain folders that hold something, relative to it."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


@contextmanager
def put_in_place(folder: Path) -> Iterator[Path]:
    """A new folder to write into; it takes the place of ``folder`` at the end, or goes away.

    Raises:
        InfrastructureError: the disk does not take it.
    """
    tag = secrets.token_hex(4)
    made, old = (folder.with_name(f".{folder.name}-{tag}.{end}") for end in ("tmp", "old"))
    missing = [place for place in folder.parents if not place.exists()]
    try:
        made.mkdir(parents=True)
        yield made
        files = sorted(_files(made))
        write_text(made / MARKER, json.dumps({"files": files}, indent=1) + "\n")
        if folder.is_dir():
            folder.rename(old)
        made.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InfrastructureError(
            f"--into {folder} cannot be written ({error}): make it writable and "
            "make room, or give another folder"
        ) from error
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(made, ignore_errors=True)
        if not folder.exists():
            for place in missing:
                with suppress(OSError):
                    place.rmdir()
