"""From bytes to raw sessions: lines with their numbers, roles, field checks, bad rows.

A source first *scans* its files (where is which user's line, what is the files' hash) and later,
in a worker, *reads* one user's lines. So no process ever holds more than a few users' text.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.schema import DataError, Json

CHUNK_BYTES = 1 << 23
BOM = b"\xef\xbb\xbf"
BROKEN = re.compile("[\ud800-\udfff]")
"""Halves of surrogate pairs, which JSON can write and UTF-8 cannot."""
EXACT_FLOAT = 2**53
"""From here on a float no longer tells all whole numbers apart."""

SKIP = "skip"
ROLES: Mapping[str, str] = {
    **dict.fromkeys(("user", "human", "customer", "client", "prompter"), "user"),
    **dict.fromkeys(("assistant", "bot", "ai", "gpt", "model", "agent", "chatbot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
"""Accepted names of roles, in lower case. System messages are dropped by cleaning, as are those
of a role that the settings make ``skip``."""


class BadRowError(DataError):
    """One row of the input that cannot be used: file, line (from 1) and reason."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        # What came is quoted in reasons, and may hold what no terminal or file can show.
        reason = "".join(s if s.isprintable() else ascii(s)[1:-1] for s in reason)
        super().__init__(f"{file}, line {line}: {reason}")
        self.file, self.line, self.reason = file, line, reason


Version = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds."""


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
    """A source's files, seen once: hashes, users in order of their ids, rows that are no JSON.

    ``versions`` tell whether a file is still the one that was seen (``check_unchanged``).
    """

    files: tuple[Path, ...]
    sha256: dict[str, str]
    users: tuple[UserLines, ...]
    bad_rows: tuple[BadRowError, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    versions: tuple[Version, ...] = ()


@dataclass(frozen=True, slots=True)
class RawSession:
    """A session as the source has it, checked for types; texts are not cleaned yet.

    ``messages`` are (role, text) with the role already one of user, assistant, system, skip.
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
    version: Version

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
        version = _version(os.fstat(file.fileno()))
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            ends.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + offset + 1)
            offset += len(chunk)
    starts = np.concatenate(ends)
    if starts[-1] != offset:
        starts = np.append(starts, offset)
    return Lines(path=path, sha256=digest.hexdigest(), starts=starts, version=version)


def _version(found: os.stat_result) -> Version:
    return found.st_size, found.st_mtime_ns


def check_unchanged(scan: Scan) -> None:
    """Raise DataError where a file is no longer the one whose hash and lines were taken."""
    for path, version in zip(scan.files, scan.versions, strict=True):
        if not path.is_file() or _version(path.stat()) != version:
            raise DataError(
                f"{path} was changed while it was read: let what writes it end (or take a copy), "
                "and run the same command again"
            )


def read_spans(path: Path, spans: Sequence[Span]) -> list[bytes]:
    """Bytes of the given lines of one file."""
    with path.open("rb") as file:
        rows = []
        for span in spans:
            file.seek(span.offset)
            rows.append(file.read(span.length))
    return rows


def parse_object(row: bytes, *, file: str, line: int, unique: bool = False) -> Json:
    """One line as a JSON object; anything else is a BadRowError that says what came.

    A byte-order mark is read over, and NaN is null. With ``unique`` a name that stands twice in one
    object is refused too, which takes half as long again.
    """
    decode = _STRICT.decode if unique else _LENIENT.decode
    try:
        value = decode(row.removeprefix(BOM).rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} is not UTF-8 (latin-1?); save the file as UTF-8"
        raise BadRowError(file, line, reason) from None
    except json.JSONDecodeError as error:
        # Some of Python's messages end in «at», for the place that it would add.
        reason = f"not valid JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}"
        raise BadRowError(file, line, reason) from None
    except RepeatedNameError as error:
        raise BadRowError(file, line, f"{error} stands twice in one object") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(";")[0]
        raise BadRowError(file, line, f"not readable JSON: {reason}") from None
    if not isinstance(value, dict):
        raise BadRowError(file, line, f"a JSON object was expected, not {kind_of(value)}")
    return value


class RepeatedNameError(ValueError):
    """A name that stands twice in one JSON object, of which readers take either value."""


def _once(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedNameError(repr(next(name for name in names if names.count(name) > 1)))
    return found


def _constant(text: str) -> float | None:
    """``NaN`` is how pandas writes a missing value; infinity is refused where it is used."""
    return None if text == "NaN" else float(text)


_LENIENT = json.JSONDecoder(parse_constant=_constant)
_STRICT = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_once)


def kind_of(value: object) -> str:
    """Name of a JSON value's kind, for messages."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def parse_id(
    value: object, *, fail: Callable[[str], BadRowError], what: str, text: bool = True
) -> int | str:
    """An id: a whole number, also one that is written 12.0, or with ``text`` any text."""
    if isinstance(value, str) and text:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    allowed = "a text or a whole number" if text else "a whole number"
    if not isinstance(value, float):
        came = repr(value)[:60] if isinstance(value, str) else kind_of(value)
        raise fail(f"{what} must be {allowed}, not {came}")
    if not value.is_integer():
        raise fail(f"{what} must be {allowed}, not {value}")
    if abs(value) >= EXACT_FLOAT:
        raise fail(f"{what} {value} has lost its last digits: write it without point, or as a text")
    return int(value)


def texts_of(
    value: object, *, fail: Callable[[str], BadRowError], what: str
) -> dict[str, str] | None:
    """A flat object as texts, without its null fields; None stays None."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise fail(f"{what} must be an object, not {kind_of(value)}")
    try:
        return {text_of(name): text_of(entry) for name, entry in value.items() if entry is not None}
    except RecursionError:
        raise fail(f"{what} is nested too deeply") from None


def text_of(value: object) -> str:
    """A scalar as text, the way JSON writes it: true, 21, 0.5, cozy. Half surrogates are U+FFFD."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else BROKEN.sub("\ufffd", text)


def whole_numbers(
    value: object, *, fail: Callable[[str], BadRowError], what: str
) -> tuple[int, ...] | None:
    """A list of whole numbers of 64 bits; None stays None."""
    if value is None:
        return None
    if not isinstance(value, list) or any(type(entry) is not int for entry in value):
        raise fail(f"{what} must be a list of whole numbers, not {json.dumps(value)[:60]}")
    if not all(fits_column(number) for number in value):
        raise fail(f"{what} holds a number of more than 64 bits")
    return tuple(value)


def fits_column(number: int) -> bool:
    """Whether a column of signed 64-bit numbers can hold it."""
    return -(2**63) <= number < 2**63
