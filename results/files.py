"""Writing files so that a name never holds half a file, and reading them back by hash."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

CRASH_VARIABLE = "PERSONA_SWEEP_CRASH_POINT"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def crash_point(name: str) -> None:
    """End the process at once if the environment names this point; only tests set it."""
    if os.environ.get(CRASH_VARIABLE) == name:
        os._exit(9)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder last."""
    handle = os.open(folder, os.O_RDONLY)
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
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        write(temporary)
        sync_file(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return path


def write_json(path: Path, value: Any) -> Path:
    """Indented JSON with sorted keys; never a NaN."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return write_atomic(path, (text + "\n").encode())


def write_csv(path: Path, table: pd.DataFrame) -> Path:
    """A table with 6 decimals; text that a spreadsheet would run as a formula gets a quote."""
    safe = table.copy()
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]):
            safe[name] = safe[name].map(_without_formula)
    text = safe.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    return write_atomic(path, text.encode())


def _without_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
