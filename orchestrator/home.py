"""A home where there is none: some libraries end without one, others write a folder called ``~``.

Containers run programs under user ids that no table knows and with homes that cannot be written.
"""

from __future__ import annotations

import getpass
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def prepare_home() -> None:
    """Set HOME, LOGNAME and MPLCONFIGDIR where this process lacks what they stand for.

    Nothing that is there is changed. Processes that are started later inherit all of it.
    """
    if home() is None:
        _set("HOME", private_folder())
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = str(os.getuid())
    if not can_be_made(home()):
        made = private_folder()
        if made is not None and not {"MPLCONFIGDIR", "XDG_CACHE_HOME"} & os.environ.keys():
            # Else it warns, and looks for all fonts again in every process.
            _set("MPLCONFIGDIR", made / "matplotlib")


def _set(name: str, place: Path | None) -> None:
    if place is not None:
        os.environ[name] = str(place)


def home() -> Path | None:
    """The home folder; None where neither HOME nor the table of users names one."""
    told = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises
    return None if told in ("", "~") else Path(told)


def can_be_made(folder: Path | None) -> bool:
    """Whether a folder can be written, or made where it is missing."""
    if folder is None:
        return False
    for place in (folder, *folder.parents):
        with suppress(OSError):
            if place.is_dir():
                return os.access(place, os.W_OK | os.X_OK) and not _is_system(place)
            if place.exists():
                return False
    return False


def _is_system(place: Path) -> bool:
    """``/proc`` and its like say that the superuser may write, and then refuse."""
    return place.parts[:2] in (("/", "proc"), ("/", "sys"))


def private_folder() -> Path | None:
    """A folder among the temporary ones that this user alone may enter; None without one."""
    try:
        place = Path(tempfile.gettempdir()) / f"persona-sweep-{os.getuid()}"
        with suppress(FileExistsError):
            place.mkdir(mode=0o700)
        found = place.lstat()
    except OSError:
        return None
    # Somebody else may have made it first, to read along.
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return place if own and not found.st_mode & 0o077 else None
