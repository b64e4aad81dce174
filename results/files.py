"""Writing files so that a name never holds half a file, and reading them back by hash.

Crash points: where ``PERSONA_SWEEP_CRASH_POINT`` names one, the process ends itself there as if it
had been killed. Only tests set it. The points are ``temporary:<file name>`` (the temporary file is
whole, the rename has not happened) for everything that is written here; ``before-record``,
``before-rename`` and ``after-rename`` in the ledger's commit; ``kept:<arm>`` after it;
``before-report`` and ``in-report``; others where their callers say.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pandas as pd

from results.record import RecordError

CRASH_VARIABLE = "PERSONA_SWEEP_CRASH_POINT"
CRASH_CODE = 9
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
DECIMALS = 6
_TEMPORARY = re.compile(r"\..*\.tmp-[0-9a-f]{8}(\.[^.]*)?")


def crash_point(name: str) -> None:
    """End the process at once if the environment names this point."""
    if os.environ.get(CRASH_VARIABLE) == name:
        os._exit(CRASH_CODE)


def inside(folder: Path, name: str) -> Path:
    """The path of ``name`` directly inside ``folder``: ids are data, never paths.

    Raises:
        RecordError: the name is empty, hidden, or leads elsewhere.
    """
    if not name or name.startswith(".") or any(sign in name for sign in "/\\\0"):
        raise RecordError(
            f"{name!r} cannot name a file in {folder}: a plain name without separators is allowed"
        )
    return folder / name


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder last, where the system can open folders."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make a file's content last."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes) -> Path:
    """Temporary file in the same folder, fsync, rename: the name holds all of it or nothing."""
    return write_by(path, lambda temporary: temporary.write_bytes(content))


def write_by(path: Path, write: Callable[[Path], Any]) -> Path:
    """The same for writers that want a path; the temporary file is removed on any error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending stays: writers choose the format by it.
    temporary = path.with_name(f".{path.stem}.tmp-{secrets.token_hex(4)}{path.suffix}")
    try:
        write(temporary)
        sync_file(temporary)
        crash_point(f"temporary:{path.name}")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return path


def is_temporary(path: Path) -> bool:
    """Whether a file's name says that its writer has not finished it."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_temporaries(folder: Path, *, below: bool = False, skip: Collection[str] = ()) -> int:
    """Remove what writers that were killed left in a folder; returns how many files.

    Only for the holder of the workspace's lock: a living writer's file would go too.

    Args:
        folder: need not exist.
        below: in its folders too.
        skip: names of folders in it that are left alone.
    """
    removed = 0
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if below and name not in skip]
        for name in names:
            if is_temporary(Path(name)):
                (Path(place) / name).unlink(missing_ok=True)
                removed += 1
    return removed


def write_json(path: Path, value: Any) -> Path:
    """Canonical JSON, to be read by people too: keys sorted, indented, never a NaN."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    # A lone surrogate in a user's text has no UTF-8; it comes back as the same escape.
    return write_atomic(path, (text + "\n").encode("utf-8", "backslashreplace"))


def write_csv(path: Path, table: pd.DataFrame) -> Path:
    """A table with 6 decimals; text that a spreadsheet would run as a formula gets a quote."""
    safe = table.copy()
    safe.columns = pd.Index([without_formula(name) for name in table.columns])
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]):
            safe[name] = safe[name].map(without_formula)
    text = safe.to_csv(index=False, float_format=f"%.{DECIMALS}f", lineterminator="\n")
    return write_atomic(path, text.encode("utf-8", "backslashreplace"))


def without_formula(value: Any) -> Any:
    """Text with a leading quote where a spreadsheet would run it; anything else as it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
