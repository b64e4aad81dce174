"""The order of a user's sessions: what it is taken from, and what about it is only assumed.

By timestamp, ties by session id, where every session of the user has a timestamp and not all are
the same; else by session id where the ids have an order of their own; else the order of the file.
Ids have an order where all are whole numbers, or where all are one text with numbers in it
(``conv_2`` before ``conv_10``). Hashes and mixed forms have none. Ties keep the order of the file.

Only timestamps and whole numbers say a time order. Any other is *assumed*, counted per user, and
told to a person (``data.doubts``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from data.reading import RawSession
from data.times import is_zoned, moment

Row = TypeVar("Row", bound=tuple[RawSession, object, object])

TIMESTAMP, NATURAL, FILE = (
    "users_ordered_by_timestamp",
    "users_in_natural_id_order",
    "users_in_file_order",
)
"""Counts of ``cleaning_stats.json``; all other users are in the order of whole-number ids."""
ASSUMED = "users_order_assumed"
SOME_TIMES, EQUAL_TIMES, TIED_TIMES = (
    "users_with_some_timestamps_missing",
    "users_with_all_timestamps_equal",
    "users_with_tied_timestamps",
)
MIXED_ZONES = "users_mixing_times_with_and_without_zone"
OF_1970 = "users_with_times_of_1970_beside_later_ones"
IDS_AGAINST_TIMES = "users_whose_ids_contradict_timestamps"
TIMES_AGAINST_ORDER = "users_whose_timestamps_contradict_the_order"

_MOST_DIGITS = 1000
_WHOLE = re.compile(rf"[+-]?[0-9]{{1,{_MOST_DIGITS}}}")
_DIGITS = re.compile(r"[0-9]+")
_PLACEHOLDER_SECONDS = 86_400 * 366
"""A time before 1971 stands for none where the user has later ones too."""

Keys = Sequence[tuple[int, ...]]


def in_time_order(rows: Sequence[Row], *, counts: Counter[str]) -> list[Row]:
    """Rows (a raw session and what belongs to it) sorted as the module's text says.

    Adds to ``counts`` what the order was taken from and what is doubtful about it.
    """
    sessions = [row[0] for row in rows]
    return [rows[place] for place in _places(sessions, counts=counts)]


def assumed_users(counts: Mapping[str, int]) -> int:
    """How many users' order is assumed, by the counts of ``cleaning_stats.json``.

    Statistics of older versions have only the users in the order of the file.
    """
    return counts.get(ASSUMED, counts.get(FILE, 0))


def whole_number(session_id: int | str | None) -> int | None:
    """A session id as a whole number; None where it is none."""
    if isinstance(session_id, str):
        return int(session_id) if _WHOLE.fullmatch(session_id) else None
    return session_id


def _places(sessions: Sequence[RawSession], *, counts: Counter[str]) -> list[int]:
    times = [moment(s.timestamp) for s in sessions if s.timestamp]
    _note_doubtful_times(sessions, times, counts=counts)
    whole, keys = id_keys([session.session_id for session in sessions])
    if sessions and len(times) == len(sessions) and (len(set(times)) > 1 or len(times) == 1):
        counts[TIMESTAMP] += 1
        _note_ties(sessions, times, whole=whole, keys=keys, counts=counts)
        return sorted(
            range(len(times)), key=lambda place: (times[place], keys[place] if keys else ())
        )
    if len(sessions) < 2:
        return list(range(len(sessions)))
    places = list(range(len(sessions)))
    if keys:
        places.sort(key=keys.__getitem__)
    if not whole:
        counts[NATURAL if keys else FILE] += 1
    counts[ASSUMED] += not whole or 0 < len(times) < len(sessions)
    known = [moment(t) for t in (sessions[place].timestamp for place in places) if t]
    counts[TIMES_AGAINST_ORDER] += any(b < a for a, b in pairwise(known))
    return places


def _note_doubtful_times(
    sessions: Sequence[RawSession], times: Sequence[float], *, counts: Counter[str]
) -> None:
    if len(sessions) < 2 or not times:
        return
    counts[SOME_TIMES] += len(times) < len(sessions)
    counts[EQUAL_TIMES] += len(times) == len(sessions) and len(set(times)) == 1
    zoned = sum(is_zoned(session.timestamp) for session in sessions if session.timestamp)
    counts[MIXED_ZONES] += 0 < zoned < len(times)
    counts[OF_1970] += min(times) < _PLACEHOLDER_SECONDS <= max(times)


def _note_ties(
    sessions: Sequence[RawSession],
    times: Sequence[float],
    *,
    whole: bool,
    keys: Keys | None,
    counts: Counter[str],
) -> None:
    """Ties of sessions that whole numbers do not tell apart, and ids that say another order."""
    if whole and keys:
        places = sorted(range(len(times)), key=lambda place: (times[place], keys[place]))
        by_time = [keys[place] for place in places]
        counts[IDS_AGAINST_TIMES] += any(b < a for a, b in pairwise(by_time))
        return
    # A row that stands there twice is no tie: it is dropped later.
    ids = [place if s.session_id is None else s.session_id for place, s in enumerate(sessions)]
    tied = len(set(zip(times, ids, strict=True))) > len(set(times))
    counts[TIED_TIMES] += tied
    counts[ASSUMED] += tied


def id_keys(ids: Sequence[int | str | None]) -> tuple[bool, Keys | None]:
    """Sorting keys of session ids, and whether all are whole numbers; None without an order."""
    numbers = [whole_number(came) for came in ids]
    known = [(number,) for number in numbers if number is not None]
    if len(known) == len(ids):
        return True, known
    texts = [str(came) for came in ids if came is not None]
    if len(texts) < len(ids) or len({_DIGITS.sub("0", text) for text in texts}) > 1:
        return False, None
    runs = [_DIGITS.findall(text) for text in texts]
    if any(len(run) > _MOST_DIGITS for found in runs for run in found):
        return False, None
    keys = [tuple(map(int, found)) for found in runs]
    return False, keys if _is_natural_order(keys) else None


def _is_natural_order(keys: Keys) -> bool:
    """Whether ids of one form tell an order: not all the same, no dates with the year behind."""
    columns = list(zip(*keys, strict=True))
    varying = [place for place, column in enumerate(columns) if len(set(column)) > 1]
    if len(varying) < 2:
        return bool(varying)
    behind = columns[varying[0] + 1 :]
    return not any(all(1900 <= number <= 2100 for number in column) for column in behind)
