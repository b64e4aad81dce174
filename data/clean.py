"""Cleaning: raw sessions of one user become dialogues in time order, and every loss is counted.

Rules, in this order:

1. Text: Unicode NFC; control characters removed; half surrogates become U+FFFD; white space
   (line breaks too) becomes one space; a message longer than ``max_characters`` is cut at a word.
2. System messages, messages of a role to skip (``data.roles``) and messages without text are
   dropped.
3. Messages before the first user message are dropped: there is nothing they reply to.
4. Consecutive messages of one role are joined with a space.
5. An *item* is a reply that follows a user message, if both have ``min_characters`` characters,
   counted as ``data.words.length_in_letters`` does: a sign for a syllable or a word counts more.
   A degenerate exchange is no item, but **stays in the dialogue: later items still see it**.
   A last user message without reply stays too; nothing depends on it but style and profiles.
6. A session without a single item is dropped.
7. A row that repeats a session (same id, time and messages) is dropped. If ids still repeat, are
   absent or are no whole numbers of 64 bits, all sessions of the user are numbered anew, from 0 in
   their order.

What the order is taken from, and when it is only assumed to be time order: ``data.order``.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from data.order import in_time_order
from data.reading import BROKEN, SKIP, RawSession, RawUser, fits_column
from data.schema import Dialogue, Message
from data.settings import DataSettings
from data.words import length_in_letters, unspaced_end

_DROPPED = {"system": "messages_system", SKIP: "messages_skipped"}
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")


def clean_text(text: str) -> str:
    """NFC, without control characters, surrounding or repeated white space."""
    if text.isascii() and text.isprintable():
        if "  " not in text and text == text.strip(" "):
            return text
    else:
        text = unicodedata.normalize("NFC", _CONTROLS.sub("", BROKEN.sub("\ufffd", text)))
    return " ".join(text.split())


def cut_text(text: str, limit: int) -> str:
    """The first ``limit`` characters of ``text`` at most, ending at a word where there is one.

    In scripts without spaces a word ends behind every letter and its marks.
    """
    if len(text) <= limit:
        return text
    border = max(text.rfind(" ", 0, limit + 1), unspaced_end(text, limit))
    return text[: border if border > 0 else limit]


def clean_messages(
    messages: Sequence[tuple[str, str]], *, settings: DataSettings, counts: Counter[str]
) -> tuple[Message, ...]:
    """Rules 1–4: alternating messages that begin with the user's; adds to ``counts``."""
    kept: list[tuple[str, str]] = []
    for role, raw in messages:
        text = clean_text(raw)
        if not text or role in _DROPPED:
            counts[_DROPPED.get(role, "messages_empty")] += 1
        elif role == "assistant" and not kept:
            counts["messages_before_first_user"] += 1
        elif kept and kept[-1][0] == role:
            counts["messages_joined"] += 1
            kept[-1] = (role, f"{kept[-1][1]} {text}")
        else:
            kept.append((role, text))
        if text != raw:
            counts["texts_normalized"] += 1
    limit = settings.max_characters
    if any(len(text) > limit for _, text in kept):
        counts["messages_truncated"] += sum(len(text) > limit for _, text in kept)
        kept = [(role, cut_text(text, limit)) for role, text in kept]
    return tuple(Message("user" if role == "user" else "assistant", text) for role, text in kept)


def item_turns(messages: Sequence[Message], *, min_characters: int) -> tuple[int, ...]:
    """Rule 5: indices of the replies that count, in alternating messages that begin with a user."""
    return tuple(
        turn
        for turn in range(1, len(messages), 2)
        if length_in_letters(messages[turn].text) >= min_characters
        and length_in_letters(messages[turn - 1].text) >= min_characters
    )


def clean_user(
    raw: RawUser, *, settings: DataSettings, counts: Counter[str]
) -> list[tuple[Dialogue, tuple[int, ...]]]:
    """One user's dialogues in the order of ``data.order``, each with the turns of its items."""
    rows = _clean_sessions(raw, settings=settings, counts=counts)
    rows = _without_duplicates(in_time_order(rows, counts=counts), counts=counts)
    ids = [row.session_id for row, _, _ in rows]
    kept = all(type(number) is int and fits_column(number) for number in ids)
    if not kept or len(set(ids)) < len(ids):
        counts["users_renumbered"] += 1
        rows = [
            (replace(row, session_id=i), text, turns) for i, (row, text, turns) in enumerate(rows)
        ]
    return [(_dialogue(raw.persona_id, row, text), turns) for row, text, turns in rows]


_Row = tuple[RawSession, tuple[Message, ...], tuple[int, ...]]


def _clean_sessions(raw: RawUser, *, settings: DataSettings, counts: Counter[str]) -> list[_Row]:
    rows: list[_Row] = []
    for session in raw.sessions:
        counts["sessions_raw"] += 1
        counts["messages_raw"] += len(session.messages)
        messages = clean_messages(session.messages, settings=settings, counts=counts)
        turns = item_turns(messages, min_characters=settings.min_characters)
        counts["exchanges_degenerate"] += len(messages) // 2 - len(turns)
        if turns:
            counts["sessions_ending_with_user"] += len(messages) % 2
            rows.append((_with_whole_id(session), messages, turns))
        else:
            counts["sessions_empty" if not session.messages else "sessions_without_items"] += 1
    return rows


def _with_whole_id(session: RawSession) -> RawSession:
    """Session ids like ``"12"`` as numbers."""
    came = session.session_id
    if isinstance(came, str) and re.fullmatch(r"\d{1,18}", came, re.ASCII):
        return replace(session, session_id=int(came))
    return session


def _without_duplicates(rows: Sequence[_Row], *, counts: Counter[str]) -> list[_Row]:
    """Rule 7: a repeated row goes; ids that still repeat are counted."""
    seen: set[object] = set()
    ids: Counter[object] = Counter()
    kept: list[_Row] = []
    for row in rows:
        # Texts stand for the messages, whose roles alternate: they are hashed much faster.
        mark = (row[0].session_id, row[0].timestamp, tuple([m.text for m in row[1]]))
        if mark in seen:
            counts["sessions_duplicate"] += 1
            continue
        seen.add(mark)
        ids[row[0].session_id] += row[0].session_id is not None
        kept.append(row)
    counts["session_ids_repeated"] += sum(n - 1 for n in ids.values() if n > 1)
    return kept


def _dialogue(persona_id: str, row: RawSession, messages: tuple[Message, ...]) -> Dialogue:
    assert isinstance(row.session_id, int)
    return Dialogue(
        persona_id=persona_id,
        session_id=row.session_id,
        timestamp=row.timestamp,
        messages=messages,
        context=row.context,
        applied_routines=row.applied_routines,
        routine_settings=row.routine_settings,
    )
