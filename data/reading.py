"""From bytes to raw sessions: lines with their numbers, roles, field checks, bad rows.

A source first *scans* its files (where is which user's line, what is the files' hash) and later,
in a worker, *reads* one user's lines. So no process ever holds more than a few users' text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from data.schema import DataError, Json

CHUNK_BYTES = 1 << 23
BOM = b"\xef\xbb\xbf"

ROLES = {
    **dict.fromkeys(("user", "human", "customer", "client", "prompter"), "user"),
    **dict.fromkeys(("assistant", "bot", "ai", "gpt", "model", "agent", "chatbot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
"""Accepted names of roles, in lower case. System messages are dropped by cleaning."""


class BadRowError(DataError):
    """One row of the input that cannot be used: file, line (from 1) and reason."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}, line {line}: {reason}")
        self.file, self.line, self.reason = file, line, reason


@dataclass(frozen=True, slots=True)
class Span:
    """One line of a source's file: index of the file, line number (from 1), place in bytes."""

    file: int
    line: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class UserLines:
    """Where one user's rows stand."""

    persona_id: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """A source's files, seen once: hashes, users in order of their ids, rows that are no JSON."""

    files: tuple[Path, ...]
    sha256: dict[str, str]
    users: tuple[UserLines, ...]
    bad_rows: tuple[BadRowError, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RawSession:
    """A session as the source has it, checked for types; texts are not cleaned yet.

    ``messages`` are (role, text) with the role already one of user, assistant, system.
    """

    line: int
    session_id: int | str | None
    timestamp: str | None
    messages: list[tuple[str, str]]
    context: dict[str, str] | None = None
    applied_routines: tuple[int, ...] | None = None
    routine_settings: tuple[tuple[str, str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class RawUser:
    """One user's raw sessions in the order of the file, and the rows that could not be used."""

    persona_id: str
    sessions: list[RawSession]
    bad_rows: list[BadRowError]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lines:
    """Places of the lines of one file; ``starts`` has one entry more than there are lines."""

    path: Path
    sha256: str
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def span(self, file: int, index: int) -> Span:
        """Line ``index`` (from 0) of this file, known as file number ``file``."""
        start, end = int(self.starts[index]), int(self.starts[index + 1])
        return Span(file=file, line=index + 1, offset=start, length=end - start)


def scan_lines(path: Path) -> Lines:
    """Find the lines of ``path`` and its SHA-256 in one pass; a last line may lack its newline."""
    digest, ends, offset = hashlib.sha256(), [np.zeros(1, np.int64)], 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            ends.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + offset + 1)
            offset += len(chunk)
    starts = np.concatenate(ends)
    if starts[-1] != offset:
        starts = np.append(starts, offset)
    return Lines(path=path, sha256=digest.hexdigest(), starts=starts)


def read_spans(path: Path, spans: Sequence[Span]) -> list[bytes]:
    """Bytes of the given lines of one file."""
    with path.open("rb") as file:
        rows = []
        for span in spans:
            file.seek(span.offset)
            rows.append(file.read(span.length))
    return rows


def parse_object(row: bytes, *, file: str, line: int) -> Json:
    """One line as a JSON object; anything else is a BadRowError that says what came."""
    if row.startswith(BOM):
        raise BadRowError(
            file, line, "begins with a byte-order mark; save the file as UTF-8 without it"
        )
    try:
        value = json.loads(row.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} is not UTF-8 (latin-1?); save the file as UTF-8"
        raise BadRowError(file, line, reason) from None
    except json.JSONDecodeError as error:
        # Some of Python's messages end in «at», for the place that it would add.
        reason = f"not valid JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}"
        raise BadRowError(file, line, reason) from None
    except (ValueError, RecursionError) as error:
        raise BadRowError(file, line, f"not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRowError(file, line, f"a JSON object was expected, not {kind_of(value)}")
    return value


def kind_of(value: object) -> str:
    """Name of a JSON value's kind, for messages."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def parse_messages(
    value: object,
    *,
    fail: Callable[[str], BadRowError],
    role_names: Sequence[str] = ("role",),
    text_names: Sequence[str] = ("text",),
) -> list[tuple[str, str]]:
    """A list of message objects as (role, text); null text counts as empty.

    Raises ``fail(reason)`` for a wrong type, a missing field or an unknown role.
    """
    if not isinstance(value, list):
        raise fail(f"messages must be a list, not {kind_of(value)}")
    messages: list[tuple[str, str]] = []
    usual_role, usual_text = role_names[0], text_names[0]
    for number, entry in enumerate(value, 1):
        # Nearly all messages are plain, and this is the innermost loop of a preparation.
        if type(entry) is dict:
            came, text = entry.get(usual_role), entry.get(usual_text)
            if type(came) is str and type(text) is str and came in ROLES:
                messages.append((ROLES[came], text))
                continue
        if not isinstance(entry, dict):
            raise fail(f"message {number} must be an object, not {kind_of(entry)}")
        role = _role(entry, number, fail=fail, names=role_names)
        text = _take(entry, text_names, what=f"message {number}", fail=fail)
        if text is not None and not isinstance(text, str):
            raise fail(f"message {number}: the text must be a text, not {kind_of(text)}")
        messages.append((role, text or ""))
    return messages


def _role(
    entry: Json, number: int, *, fail: Callable[[str], BadRowError], names: Sequence[str]
) -> str:
    came = _take(entry, names, what=f"message {number}", fail=fail)
    role = ROLES.get(came) if isinstance(came, str) else None
    if role is None and isinstance(came, str):
        role = ROLES.get(came.strip().lower())
    if role is None:
        raise fail(f"message {number} has the unknown role {came!r}; known: {', '.join(ROLES)}")
    return role


def _take(
    entry: Json, names: Sequence[str], *, what: str, fail: Callable[[str], BadRowError]
) -> Any:
    for name in names:
        if name in entry:
            return entry[name]
    came = ", ".join(map(str, entry)) or "nothing"
    raise fail(f"{what} lacks {names[0]!r} (fields there: {came}; allowed: {', '.join(names)})")


def parse_timestamp(value: object, *, fail: Callable[[str], BadRowError]) -> str | None:
    """A time as ISO 8601 text: ISO text is kept, a number counts as seconds since 1970 UTC."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC).isoformat()
        if isinstance(value, str):
            datetime.fromisoformat(value.strip())
            return value.strip()
    except (ValueError, OverflowError, OSError):
        pass
    raise fail(
        f"the timestamp {value!r} is neither ISO 8601 (2026-01-31T08:00:00) nor seconds since 1970"
    )


def texts_of(
    value: object, *, fail: Callable[[str], BadRowError], what: str
) -> dict[str, str] | None:
    """A flat object as texts, without its null fields; None stays None."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise fail(f"{what} must be an object, not {kind_of(value)}")
    return {str(name): text_of(entry) for name, entry in value.items() if entry is not None}


def text_of(value: object) -> str:
    """A scalar as text, the way JSON writes it: true, 21, 0.5, cozy."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def whole_numbers(
    value: object, *, fail: Callable[[str], BadRowError], what: str
) -> tuple[int, ...] | None:
    """A list of whole numbers; None stays None."""
    if value is None:
        return None
    if not isinstance(value, list) or any(type(entry) is not int for entry in value):
        raise fail(f"{what} must be a list of whole numbers, not {json.dumps(value)[:60]}")
    return tuple(value)
