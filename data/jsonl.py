"""Source ``jsonl``: one session a line, of any users in any order, with the usual field names.

Canonical: ``persona_id``, ``session_id`` or ``timestamp`` or both, ``messages: [{role, text}]``,
optionally ``context`` (a flat object) and ``applied_routines`` (whole numbers). Where a row has
several aliases of one field, the first in the list below counts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.naming import user_order
from data.reading import (
    BadRowError,
    RawSession,
    RawUser,
    Scan,
    Span,
    UserLines,
    kind_of,
    parse_messages,
    parse_object,
    parse_timestamp,
    read_spans,
    scan_lines,
    texts_of,
    whole_numbers,
)
from data.schema import DataError, Json

ALIASES: dict[str, tuple[str, ...]] = {
    "persona_id": ("persona_id", "user_id", "persona", "user", "customer_id"),
    "session_id": ("session_id", "dialogue_id", "dialog_id", "conversation_id", "chat_id"),
    "timestamp": ("timestamp", "time", "datetime", "date", "created_at"),
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "turns"),
    "context": ("context", "meta", "metadata"),
    "applied_routines": ("applied_routines",),
}
ROLE_NAMES = ("role", "from", "speaker", "author", "sender")
TEXT_NAMES = ("text", "content", "value", "message", "utterance")


def scan(path: Path) -> Scan:
    """Find every user's lines and the file's hash; blank lines are skipped and counted."""
    lines = scan_lines(path)
    spans: dict[str, list[Span]] = {}
    bad: list[BadRowError] = []
    blank = 0
    with path.open("rb") as file:
        for index, row in enumerate(file):
            if not row.strip():
                blank += 1
                continue
            try:
                value = parse_object(row, file=str(path), line=index + 1)
                user = _persona_id(value, file=str(path), line=index + 1)
            except BadRowError as error:
                bad.append(error)
                continue
            spans.setdefault(user, []).append(lines.span(0, index))
    if not spans and not bad:
        raise DataError(f"{path} holds no rows: one session a line is expected, as a JSON object")
    users = tuple(UserLines(name, tuple(spans[name])) for name in sorted(spans, key=user_order))
    return Scan(
        files=(path,),
        sha256={path.name: lines.sha256},
        users=users,
        bad_rows=tuple(bad),
        counts={"blank_lines": blank} if blank else {},
    )


def read_user(user: UserLines, files: Sequence[Path]) -> RawUser:
    """One user's sessions in the order of the file; rows that cannot be used are listed."""
    path = files[0]
    sessions: list[RawSession] = []
    bad: list[BadRowError] = []
    for span, row in zip(user.spans, read_spans(path, user.spans), strict=True):
        try:
            value = parse_object(row, file=str(path), line=span.line)
            sessions.append(_session(value, file=str(path), line=span.line))
        except BadRowError as error:
            bad.append(error)
    return RawUser(user.persona_id, sessions, bad)


def _field(row: Json, name: str) -> Any:
    """Value of the first alias that the row has; None where it has none."""
    return next((row[alias] for alias in ALIASES[name] if alias in row), None)


def _missing(row: Json, name: str) -> str:
    came = ", ".join(row) or "nothing"
    return f"lacks {name!r} (fields there: {came}; allowed: {', '.join(ALIASES[name])})"


def _persona_id(row: Json, *, file: str, line: int) -> str:
    """The user's id as text: NFC, without surrounding or repeated spaces."""
    value = _field(row, "persona_id")
    if value is None:
        raise BadRowError(file, line, _missing(row, "persona_id"))
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRowError(
            file, line, f"persona_id must be a text or a number, not {kind_of(value)}"
        )
    text = unicodedata.normalize("NFC", " ".join(str(value).split()))
    if not text or any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text):
        raise BadRowError(file, line, f"persona_id {text!r} is empty or holds control characters")
    return text


def _session(row: Json, *, file: str, line: int) -> RawSession:
    def fail(reason: str) -> BadRowError:
        return BadRowError(file, line, reason)

    messages = _field(row, "messages")
    if messages is None:
        raise fail(_missing(row, "messages"))
    session_id, time = _field(row, "session_id"), _field(row, "timestamp")
    if session_id is None and time is None:
        raise fail(_missing(row, "session_id") + ", and no timestamp either")
    if session_id is not None and (
        isinstance(session_id, bool) or not isinstance(session_id, str | int)
    ):
        raise fail(f"session_id must be a whole number or a text, not {kind_of(session_id)}")
    return RawSession(
        line=line,
        session_id=session_id,
        timestamp=parse_timestamp(time, fail=fail),
        messages=parse_messages(messages, fail=fail, role_names=ROLE_NAMES, text_names=TEXT_NAMES),
        context=texts_of(_field(row, "context"), fail=fail, what="context"),
        applied_routines=whole_numbers(
            _field(row, "applied_routines"), fail=fail, what="applied_routines"
        ),
    )
