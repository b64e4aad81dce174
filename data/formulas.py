"""Exchanges that a user has again and again («谢谢你帮忙 / 不客气，随时找我。»): no copied session.

Such an exchange of val or test is taken out like any other that stands in an earlier split, but
does not count as a leak, which stops a preparation: nobody has copied anything.
"""

from __future__ import annotations

from collections import Counter

from data.settings import DataSettings
from data.split import Items, exchanges_of, split_names

HABIT_SESSIONS = 3
"""In so many earlier sessions an exchange must stand to be a habit."""


def recurring_formulas(items: Items, *, settings: DataSettings) -> int:
    """Number of a user's repeated items of val and test that are habits.

    A habit stands in three earlier sessions at least and makes up at most half of its session's
    items; where more of a session repeats, it is taken for a copy. The splits that count as earlier
    are those of ``split_user``.
    """
    before, own = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    stage, found = "train", 0
    for (dialogue, turns), split in zip(
        items, split_names(len(items), settings=settings), strict=True
    ):
        if split in ("val", "test") and split != stage:
            before, own, stage = before + own, Counter(), split
        exchanges = exchanges_of(dialogue)
        repeats = [before[exchanges[turn // 2]] for turn in turns if exchanges[turn // 2] in before]
        if stage != "train" and 2 * len(repeats) <= len(turns):
            found += sum(times >= HABIT_SESSIONS for times in repeats)
        own.update(set(exchanges))
    return found


def formula_warnings(taken_out: dict[str, int]) -> list[str]:
    """A line on the items that were taken out as habits; empty without any."""
    users = [user for user, number in taken_out.items() if number]
    if not users:
        return []
    who = f"{len(users)} of {len(taken_out)} users"
    return [
        f"{sum(taken_out.values())} items (of {who}) are exchanges that the user has again and "
        "again: left out of val and test, as training has seen them"
    ]
