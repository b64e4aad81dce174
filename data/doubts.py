"""What a person is told about data that were read, but perhaps not as they were meant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from data.order import (
    EQUAL_TIMES,
    FILE,
    IDS_AGAINST_TIMES,
    MIXED_ZONES,
    NATURAL,
    OF_1970,
    SOME_TIMES,
    TIED_TIMES,
    TIMES_AGAINST_ORDER,
)

SHOWN = 3

_OF_USERS = {
    NATURAL: "the sessions have no timestamps to go by, and are ordered by the numbers in their "
    "ids (conv_2 before conv_10)",
    FILE: "the sessions have neither timestamps to go by nor ids with an order, and stand in the "
    "order of the file",
    SOME_TIMES: "some sessions have no timestamp, so none of the timestamps was used for the order",
    EQUAL_TIMES: "all timestamps are the same and tell no order",
    TIED_TIMES: "some sessions have the same timestamp, and their ids are no whole numbers",
    TIMES_AGAINST_ORDER: "the timestamps that are there contradict the order that was taken",
    IDS_AGAINST_TIMES: "the session ids contradict the timestamps, which were followed",
    MIXED_ZONES: "some times say their zone and some do not; those without were taken as UTC",
    OF_1970: "some sessions are dated 1970, which may be a missing time written as 0",
    "session_ids_repeated": "session ids repeat, and their rows were taken as separate sessions",
}
"""Counts per user → what is said of the users that have any of it, in this order."""

_OF_ROWS = {
    "messages_with_two_roles": "messages name two different roles; the first of role, from, "
    "speaker, author, sender was taken",
    "messages_with_two_texts": "messages have two different texts; the first of text, content, "
    "value, message, utterance was taken",
}
_CONTRADICTED = re.compile(r"rows_where_(?P<other>\w+)_contradicts_(?P<taken>\w+)")


def users_with_doubts(counts: Mapping[str, int]) -> list[str]:
    """The names of those of a user's counts that a person is told about."""
    return [name for name in _OF_USERS if counts.get(name)]


def doubts(counts: Mapping[str, int], users: Mapping[str, Sequence[str]]) -> list[str]:
    """A warning for everything doubtful.

    Args:
        counts: of ``cleaning_stats.json``, over all users.
        users: count (see ``users_with_doubts``) → keys of the users that have any of it.
    """
    found = [
        f"order of sessions: for {_named(users[name])} {told}"
        for name, told in _OF_USERS.items()
        if users.get(name)
    ]
    for name, number in sorted(counts.items()):
        if number and (parts := _CONTRADICTED.fullmatch(name)):
            found.append(
                f"in {number} rows {parts['other']!r} says something else than {parts['taken']!r}, "
                "which was taken"
            )
    return found + [f"{counts[name]} {told}" for name, told in _OF_ROWS.items() if counts.get(name)]


def _named(users: Sequence[str]) -> str:
    more = len(users) - SHOWN
    listed = ", ".join(users[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"{len(users)} user{'' if len(users) == 1 else 's'} ({listed})"
