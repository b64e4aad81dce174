"""The frozen item list: a hash that two arms must share before they are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from data.schema import Split, UserData


def user_items_sha256(user: UserData, split: Split) -> str | None:
    """Hash over one user's items of a split, ids in order with the reference texts.

    A line per item: ``<user_key>/<session_id>/<turn>`` TAB reference. None without items.
    """
    lines = [
        f"{user.user_key}/{session.session_id}/{turn}\t{session.messages[turn].text}\n"
        for session in sorted(user.of_split(split), key=lambda session: session.session_id)
        for turn in sorted(session.item_turns)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


def combined_sha256(by_user: Mapping[str, str | None]) -> str:
    """Hash over users' hashes in the order of their keys; users without items do not count."""
    lines = [f"{key}\t{digest}\n" for key, digest in sorted(by_user.items()) if digest]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def items_sha256(users: Iterable[UserData], split: Split) -> str:
    """Hash of the item list of these users' split; the order of the users does not matter."""
    return combined_sha256({user.user_key: user_items_sha256(user, split) for user in users})
