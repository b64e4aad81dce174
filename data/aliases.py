"""Fields under several names: which of a row's values counts, and what was passed over for it.

A field counts by its *value*: null, a blank text, an empty list and an empty object give way to the
next name that has more. Names are also known in another spelling (``Timestamp``, ``userId``,
`` text``): case, white space, ``_`` and ``-`` make no difference.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

Named = tuple[str, Any]
"""An alias in its usual spelling, and the row's value under it."""


@lru_cache(maxsize=4096)
def alias_of(key: str, names: tuple[str, ...]) -> int | None:
    """Place of the alias that ``key`` spells in ``names``; None for any other key."""
    if key in names:
        return names.index(key)
    spelled = _plain(key)
    return next((place for place, name in enumerate(names) if _plain(name) == spelled), None)


def _plain(key: str) -> str:
    folded = unicodedata.normalize("NFKC", key).casefold()
    return "".join(sign for sign in folded if sign.isalnum())


def present(row: Mapping[str, Any], names: tuple[str, ...]) -> list[Named]:
    """What the row has under any of ``names``, in their order; the usual spelling comes first."""
    found = []
    for key, value in row.items():
        place = alias_of(key, names)
        if place is not None:
            found.append((place, key != names[place], value))
    if len(found) > 1:
        found.sort(key=lambda entry: entry[:2])
    return [(names[place], value) for place, _, value in found]


def is_filled(value: Any) -> bool:
    """Whether a value says anything: not null, and no blank text, empty list or empty object."""
    if isinstance(value, str):
        return bool(value) and not value.isspace()
    return value is not None and value not in ([], {})


def first_value(found: Sequence[Named]) -> Any:
    """The first value that says anything, else the first that is not null, else None."""
    for _, value in found:
        if is_filled(value):
            return value
    return next((value for _, value in found if value is not None), None)


def passed_over(found: Sequence[Named]) -> tuple[str, list[Named]]:
    """Name of the value that counts, and the other values that say anything.

    ``found`` has at least one such value.
    """
    filled = [entry for entry in found if is_filled(entry[1])]
    return filled[0][0], filled[1:]
