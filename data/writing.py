"""Atomic writing: a file stands under its final name whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TEMPORARY = ".tmp-"
"""Marks names that a broken run may leave behind; the next run removes them."""


class AtomicFile:
    """A file written under a temporary name, hashed on the way, fsynced and renamed at the end.

    Leaving the ``with`` block by an exception removes it. ``sha256`` and ``bytes`` are those of
    what has been written so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        self._hash = hashlib.sha256()
        self._temporary = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._temporary.open("wb")
        return self

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.bytes += len(chunk)

    @property
    def sha256(self) -> str:
        """Hash of the bytes written so far."""
        return self._hash.hexdigest()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)
        sync_folder(self.path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable, where the system can open folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> str:
    """Write ``text`` as UTF-8 atomically and return its SHA-256."""
    with AtomicFile(path) as file:
        file.write(text.encode())
        return file.sha256


def json_text(value: Any, *, depth: int, indent: int = 0) -> str:
    """JSON with a line per entry for ``depth`` levels of objects, and compact below them."""
    if depth == 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    margin = " " * (indent + 1)
    entries = (
        f"{margin}{json.dumps(str(name), ensure_ascii=False)}: "
        f"{json_text(entry, depth=depth - 1, indent=indent + 1)}"
        for name, entry in value.items()
    )
    return "{\n" + ",\n".join(entries) + "\n" + " " * indent + "}"


def write_json(path: Path, value: Any, *, depth: int = 2) -> str:
    """Write ``value`` as JSON atomically (see ``json_text``) and return the file's SHA-256."""
    return write_text(path, json_text(value, depth=depth) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> str:
    """Write one JSON value a line atomically and return the file's SHA-256."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return write_text(path, "".join(lines))
