"""One user's way through preparation: raw sessions → row of a shard, cleaned lines and facts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.clean import clean_user
from data.formulas import recurring_formulas
from data.items import user_items_sha256
from data.language import user_seems_english
from data.naming import user_key
from data.reading import RawUser
from data.schema import SPLITS, Dialogue, Json, Session, UserData, arm_obstacle
from data.settings import DataSettings
from data.split import split_user
from data.style import style_of
from data.words import clean_word_count

_JSON = json.JSONEncoder(ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class UserResult:
    """What the driver learns of one user; the user's sessions themselves go to the shard.

    ``cleaned`` holds the user's lines of ``dialogs_clean.jsonl``, ``message_hashes`` [texts] and
    ``message_times`` [texts] the 64-bit hashes of different message texts and how often each
    occurs, ``facts`` everything small (see ``_facts``), as JSON.
    ``user`` is None where no session is left.
    """

    persona_id: str
    user: UserData | None
    cleaned: bytes
    message_hashes: NDArray[np.uint64]
    message_times: NDArray[np.uint32]
    facts: Json


def prepare_user(raw: RawUser, *, settings: DataSettings) -> UserResult:
    """Clean, split and describe one user. Pure: the same rows give the same result anywhere."""
    counts: Counter[str] = Counter(raw.counts)
    items = clean_user(raw, settings=settings, counts=counts)
    sessions, repeated = split_user(items, settings=settings)
    user = None
    if sessions:
        user = UserData(user_key(raw.persona_id), raw.persona_id, sessions, style_of(sessions))
    dialogues = [dialogue for dialogue, _ in items]
    hashes, times = _message_hashes(dialogues)
    return UserResult(
        persona_id=raw.persona_id,
        user=user,
        cleaned=b"".join(map(dialogue_line, dialogues)),
        message_hashes=hashes,
        message_times=times,
        facts=_facts(raw, user, counts=counts, repeated=repeated, settings=settings)
        | {"formulas": recurring_formulas(items, settings=settings) if repeated else 0},
    )


def dialogue_line(dialogue: Dialogue) -> bytes:
    """One line of ``dialogs_clean.jsonl``; context and routines only where the source has them."""
    row: dict[str, Any] = {
        "persona_id": dialogue.persona_id,
        "session_id": dialogue.session_id,
        "timestamp": dialogue.timestamp,
        "messages": [{"role": m.role, "text": m.text} for m in dialogue.messages],
    }
    for name in ("context", "applied_routines", "routine_settings"):
        value = getattr(dialogue, name)
        if value is not None:
            row[name] = value
    return _JSON.encode(row).encode() + b"\n"


def _message_hashes(
    dialogues: Sequence[Dialogue],
) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    joined = b"".join(
        hashlib.blake2b(message.text.encode(), digest_size=8).digest()
        for dialogue in dialogues
        for message in dialogue.messages
    )
    hashes, times = np.unique(np.frombuffer(joined, dtype="<u8"), return_counts=True)
    return hashes, times.astype("<u4")


def _facts(
    raw: RawUser,
    user: UserData | None,
    *,
    counts: Counter[str],
    repeated: int,
    settings: DataSettings,
) -> Json:
    sessions = user.sessions if user else ()
    return {
        "counts": {name: n for name, n in counts.items() if n},
        "raw_sessions": len(raw.sessions),
        "bad_rows": [(bad.file, bad.line, bad.reason) for bad in raw.bad_rows],
        "splits": {s: [i for i, row in enumerate(sessions) if row.split == s] for s in SPLITS},
        "items": {s: sum(len(r.item_turns) for r in sessions if r.split == s) for s in SPLITS},
        "repeated": repeated,
        "obstacle": arm_obstacle(sessions),
        "style": asdict(user.style) if user else None,
        "items_sha256": {s: user_items_sha256(user, s) if user else None for s in ("val", "test")},
        "english": user_seems_english(sessions),
        "opening": opening(sessions, limit=settings.cold_start_exchanges),
        "lengths": _lengths(sessions),
    }


def opening(sessions: Sequence[Session], *, limit: int) -> list[Json]:
    """The first ``limit`` exchanges of a user that are items, in time order."""
    found: list[Json] = [
        {
            "session_id": session.session_id,
            "turn": turn,
            "user": session.messages[turn - 1].text,
            "assistant": session.messages[turn].text,
        }
        for session in sessions[:limit]
        for turn in session.item_turns
    ]
    return found[:limit]


def _lengths(sessions: Sequence[Session]) -> Json:
    """Counts and sums from which the driver makes means, over all users and per role."""
    found: Json = {"sessions": len(sessions), "longest_session_messages": 0}
    sizes = [len(session.messages) for session in sessions]
    found["longest_session_messages"] = max(sizes, default=0)
    for role in ("user", "assistant"):
        texts = [m.text for session in sessions for m in session.messages if m.role == role]
        words = [clean_word_count(text) for text in texts]
        found[role] = {
            "messages": len(words),
            "words": sum(words),
            "longest_words": max(words, default=0),
            "characters": sum(map(len, texts)),
        }
    return found
