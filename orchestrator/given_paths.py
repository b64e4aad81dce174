"""Paths as a person gives them, and the ways in which one can be none."""

from __future__ import annotations

import errno
from pathlib import Path

from orchestrator.exit_codes import InputError

NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP)
"""What the system says of a text that names no place, whatever is done to the disk."""


def given_path(text: str, *, option: str) -> Path:
    """The absolute path, with ``~`` and links followed; it need not exist.

    Raises:
        InputError: nothing can be at such a path; ``option`` says where it was given.
    """
    if not text:
        raise InputError(f"{option} is empty; a path is wanted")
    try:
        return Path(text).expanduser().resolve()
    except ValueError:
        reason = "it holds a character that no path can have"
    except RuntimeError as error:
        # A home that is nobody's, or links that lead in a circle.
        reason = str(error).rstrip(".")
    except OSError as error:
        if error.errno not in NO_PATH:
            raise
        reason = str(error.strerror)
    raise InputError(f"{option} {text!r} is no path: {reason}")


def given_folder(text: str, *, option: str) -> Path:
    """The same for a folder that is there or is to be made.

    Raises:
        InputError: a file stands at the path, or on the way to it.
    """
    found = given_path(text, option=option)
    for place in (found, *found.parents):
        if place.exists() and not place.is_dir():
            inside = "" if place == found else f" ({place} is one)"
            raise InputError(f"{option} {text} is a file{inside}; a folder is wanted")
    return found
