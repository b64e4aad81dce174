"""Names made from what a source calls things: keys of tables, safe folder names, roles."""

from __future__ import annotations

import hashlib
import re

_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_HASHED = re.compile(r".*-[0-9a-f]{16}")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul"] + [f"{port}{n}" for port in ("com", "lpt") for n in range(10)]
)


def user_key(persona_id: str) -> str:
    """``user_<id>``: the key of tables, splits and profiles."""
    return f"user_{persona_id}"


def role_key(name: str) -> str:
    """A role's name as it is looked up: without surrounding spaces, in lower case."""
    return name.strip().lower()


def user_order(persona_id: str) -> tuple[int, int, str]:
    """Sorting key of user ids: whole numbers first, by value, then the others by code point."""
    if persona_id.isascii() and persona_id.isdecimal() and len(persona_id) < 19:
        return (0, int(persona_id), persona_id)
    return (1, 0, persona_id)


def safe_folder_name(user_key: str) -> str:
    """Folder name for a user key, distinct for distinct keys, also where case is ignored.

    A plain name (lower-case letters, digits, ``_`` and ``-``, at most 64, no device name of
    Windows) is kept. Any other becomes a readable remainder and 16 hexadecimal digits of its
    SHA-256; a plain name that already looks hashed is hashed too, so that the two never meet.
    """
    plain = _PLAIN.fullmatch(user_key) and not _HASHED.fullmatch(user_key)
    if plain and user_key not in _DEVICES:
        return user_key
    digest = hashlib.sha256(user_key.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    readable = re.sub(r"[^a-z0-9_]+", "-", user_key.lower()[:64]).strip("-_")[:32]
    return f"{readable or 'name'}-{digest}"
