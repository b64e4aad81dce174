"""Ids of two tables that may mean the same user in another spelling: told, never guessed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


def alike(left: Sequence[str], right: Sequence[str]) -> str:
    """A remark on ids that would be the same but for their spelling; empty if there are none."""
    spelled = {_loose(user): user for user in right}
    pairs = [(user, spelled[_loose(user)]) for user in left if _loose(user) in spelled]
    if not pairs:
        return ""
    ids = "1 id differs" if len(pairs) == 1 else f"{len(pairs)} ids differ"
    return (
        f"{ids} only in case, leading zeros or a final .0 ({pairs[0][0]!r} and {pairs[0][1]!r}): "
        "write them alike in both tables"
    )


def _loose(user: str) -> str:
    """An id as it would be without what spreadsheets do to it."""
    plain = unicodedata.normalize("NFKC", user).casefold()
    number = re.fullmatch(r"0*(\d+)(?:\.0+)?", plain, re.ASCII)
    return number[1] if number else plain
