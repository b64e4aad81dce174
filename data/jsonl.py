"""Source ``jsonl``: one session a line, of any users in any order, with the usual field names.

Canonical: ``persona_id``, ``session_id`` or ``timestamp`` or both, ``messages: [{role, text}]``,
optionally ``context`` (a flat object) and ``applied_routines`` (whole numbers). Where a row has
several aliases of one field, the first in the list below that has a value counts
(``data.aliases``); where another contradicts it, that is counted. A ``meta`` or ``metadata`` that
is no object is no context, and is counted.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.aliases import first_value, is_filled, passed_over, present
from data.messages import parse_messages
from data.naming import user_order
from data.reading import (
    BOM,
    ROLES,
    BadRowError,
    RawSession,
    RawUser,
    Scan,
    Span,
    UserLines,
    check_unchanged,
    parse_id,
    parse_object,
    read_spans,
    scan_lines,
    texts_of,
    whole_numbers,
)
from data.schema import DataError, Json
from data.times import contradict, parse_timestamp

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

Fail = Callable[[str], BadRowError]


def scan(path: Path) -> Scan:
    """Find every user's lines and the file's hash; blank lines are skipped and counted.

    Spellings of a user's id that are read as one (NFC, spaces, 12.0) are counted too.
    """
    lines = scan_lines(path)
    spans: dict[str, list[Span]] = {}
    spellings: set[str] = set()
    bad: list[BadRowError] = []
    blank = 0
    with path.open("rb") as file:
        # A file that grows meanwhile has more lines now than were found.
        for index, row in zip(range(len(lines)), file, strict=False):
            if not row.removeprefix(BOM).strip():
                blank += 1
                continue
            try:
                value = parse_object(row, file=str(path), line=index + 1)
                user, spelled = _persona_id(value, file=str(path), line=index + 1)
            except BadRowError as error:
                bad.append(error)
                continue
            spellings.add(spelled)
            spans.setdefault(user, []).append(lines.span(0, index))
    users = tuple(UserLines(name, tuple(spans[name])) for name in sorted(spans, key=user_order))
    merged = len(spellings) - len(spans)
    counts = {"blank_lines": blank, "user_id_spellings_merged": merged}
    found = Scan(
        files=(path,),
        sha256={path.name: lines.sha256},
        users=users,
        bad_rows=tuple(bad),
        counts={name: number for name, number in counts.items() if number},
        versions=(lines.version,),
    )
    check_unchanged(found)
    if not spans and not bad:
        raise DataError(f"{path} holds no rows: one session a line is expected, as a JSON object")
    return found


def read_user(
    user: UserLines, files: Sequence[Path], *, roles: Mapping[str, str] = ROLES
) -> RawUser:
    """One user's sessions in the order of the file; rows that cannot be used are listed."""
    path = files[0]
    sessions: list[RawSession] = []
    bad: list[BadRowError] = []
    counts: Counter[str] = Counter()
    for span, row in zip(user.spans, read_spans(path, user.spans), strict=True):
        try:
            value = parse_object(row, file=str(path), line=span.line, unique=True)
            sessions.append(
                _session(value, file=str(path), line=span.line, roles=roles, counts=counts)
            )
        except BadRowError as error:
            bad.append(error)
    return RawUser(user.persona_id, sessions, bad, counts)


def _missing(row: Json, name: str) -> str:
    came = ", ".join(row) or "nothing"
    return f"lacks {name!r} (fields there: {came}; allowed: {', '.join(ALIASES[name])})"


def _persona_id(row: Json, *, file: str, line: int) -> tuple[str, str]:
    """The user's id as text, in NFC without surrounding or repeated spaces, and as it came."""

    def fail(reason: str) -> BadRowError:
        return BadRowError(file, line, reason)

    value = first_value(present(row, ALIASES["persona_id"]))
    if value is None:
        raise fail(_missing(row, "persona_id"))
    text = _one_spelling(parse_id(value, fail=fail, what="persona_id"))
    if not text or any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text):
        raise fail(f"persona_id {text!r} is empty or holds control characters")
    return text, str(value)


def _one_spelling(came: int | str) -> str:
    return unicodedata.normalize("NFC", " ".join(str(came).split()))


def _session(
    row: Json, *, file: str, line: int, roles: Mapping[str, str], counts: Counter[str]
) -> RawSession:
    def fail(reason: str) -> BadRowError:
        return BadRowError(file, line, reason)

    messages = first_value(present(row, ALIASES["messages"]))
    if messages is None:
        raise fail(_missing(row, "messages"))
    came = first_value(present(row, ALIASES["session_id"]))
    session_id = parse_id(came, fail=fail, what="session_id") if is_filled(came) else None
    time = parse_timestamp(first_value(present(row, ALIASES["timestamp"])), fail=fail)
    if session_id is None and time is None:
        raise fail(_missing(row, "session_id") + ", and no timestamp either")
    _count_contradictions(row, counts)
    return RawSession(
        line=line,
        session_id=session_id.strip() if isinstance(session_id, str) else session_id,
        timestamp=time,
        messages=parse_messages(
            messages,
            fail=fail,
            counts=counts,
            roles=roles,
            role_names=ROLE_NAMES,
            text_names=TEXT_NAMES,
        ),
        context=_context(row, fail=fail, counts=counts),
        applied_routines=whole_numbers(
            first_value(present(row, ALIASES["applied_routines"])),
            fail=fail,
            what="applied_routines",
        ),
    )


def _context(row: Json, *, fail: Fail, counts: Counter[str]) -> dict[str, str] | None:
    """The first context that is an object; what a ``meta`` or ``metadata`` holds else is none."""
    objects = []
    for name, value in present(row, ALIASES["context"]):
        if isinstance(value, dict) or name == "context":
            objects.append((name, value))
        else:
            counts["metadata_ignored"] += is_filled(value)
    return texts_of(first_value(objects), fail=fail, what="context")


def _count_contradictions(row: Json, counts: Counter[str]) -> None:
    """Fields that have several values, where the one that was passed over says something else."""
    for field, differ in _DIFFER.items():
        found = present(row, ALIASES[field])
        if len(found) > 1 and any(is_filled(value) for _, value in found):
            taken, others = passed_over(found)
            value = first_value(found)
            for name, other in others:
                counts[f"rows_where_{name}_contradicts_{taken}"] += differ(value, other)


def _ids_differ(one: Any, other: Any) -> bool:
    def refuse(reason: str) -> BadRowError:
        return BadRowError("", 0, reason)

    try:
        one, other = (parse_id(came, fail=refuse, what="") for came in (one, other))
    except BadRowError:
        return False  # What is no id contradicts none.
    return _one_spelling(one) != _one_spelling(other)


def _times_differ(one: Any, other: Any) -> bool:
    def refuse(reason: str) -> BadRowError:
        return BadRowError("", 0, reason)

    try:
        first, second = (parse_timestamp(came, fail=refuse) for came in (one, other))
    except BadRowError:
        return False
    return first is not None and second is not None and contradict(first, second)


def _lists_differ(one: Any, other: Any) -> bool:
    return isinstance(other, list) and bool(one != other)


_DIFFER: dict[str, Callable[[Any, Any], bool]] = {
    "persona_id": _ids_differ,
    "session_id": _ids_differ,
    "timestamp": _times_differ,
    "messages": _lists_differ,
}
