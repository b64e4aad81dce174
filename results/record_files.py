"""A record and the files beside it: reading with reasons, checking by size and hash."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from results.files import file_sha256, inside
from results.record import SCHEMA_VERSION, FileEntry, Record, RecordError, SlotRecord

RECORD_FILE, OUTCOME_FILE = "record.json", "outcome.json"
HASH_LIMIT_BYTES = 256 << 20
"""Larger files are checked by size alone, unless a thorough check is asked for."""


class NewerRecordError(RecordError):
    """A record of a later schema version: whole, but not for this program."""


def file_entries(staging: Path) -> dict[str, FileEntry]:
    """Size and hash of the files to keep."""
    return {
        path.name: FileEntry(bytes=path.stat().st_size, sha256=file_sha256(path))
        for path in sorted(staging.iterdir())
        if path.name not in (OUTCOME_FILE, RECORD_FILE) and not path.name.startswith(".")
    }


def files_problem(folder: Path, record: Record, *, thorough: bool) -> str | None:
    """The first file that is not what the record says; None if all are."""
    for name, entry in record.files.items():
        path = inside(folder, name)
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != entry.bytes:
            return f"{name} has {size} bytes instead of {entry.bytes}"
        hashed = thorough or size <= HASH_LIMIT_BYTES
        if hashed and file_sha256(path) != entry.sha256:
            return f"{name} is not what was written: its sha256 differs"
    return None


def status_of(slots: Iterable[SlotRecord]) -> Literal["ok", "partial", "failed"]:
    """``ok``, ``partial`` (some slots failed) or ``failed`` (all of them did)."""
    failed = [slot.status == "failed" for slot in slots]
    if not any(failed):
        return "ok"
    return "failed" if all(failed) else "partial"


def read_record(path: Path) -> Record:
    """Read one ``record.json``.

    Raises:
        NewerRecordError: of a schema version that is still to come.
        RecordError: missing, no JSON, or it does not fit the schema.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path.name} cannot be read: {error}") from error
    try:
        return Record.model_validate_json(content)
    except ValidationError as error:
        version = _version(content)
        if version is not None and version > SCHEMA_VERSION:
            raise NewerRecordError(
                f"{path} has schema version {version}, this program reads {SCHEMA_VERSION}: "
                "a newer version made this workspace; use that one, or another --workspace"
            ) from error
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RecordError(
            f"{path.name} does not fit the schema ({error.error_count()} places, "
            f"first {place or 'the whole file'}: {first['msg']})"
        ) from error


def _version(content: bytes) -> int | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    version = value.get("schema_version") if isinstance(value, dict) else None
    return version if type(version) is int else None
