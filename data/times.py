"""Points in time as a source writes them, read rightly or refused; never a plausible wrong date.

Kept as written: ISO 8601 with a date of eight digits or a week, an hour and a zone where there are
any. Also read: ``2024/05/01``, a zone called ``UTC`` or ``GMT``, and seconds, milliseconds,
microseconds or nanoseconds since 1970 UTC, as numbers or as text. The size of such a number tells
its unit, as the four ranges are far apart. A time without zone counts as UTC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

FIRST_YEAR, LAST_YEAR = 1970, 2100
"""What lies outside is no time of a dialogue, but another unit or a placeholder."""

_EPOCH = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)
_END_SECONDS = int(datetime(LAST_YEAR + 1, 1, 1, tzinfo=UTC).timestamp())
_SMALL_UNITS_FROM_SECONDS = int(datetime(1990, 1, 1, tzinfo=UTC).timestamp())
_UNITS = (1, 10**3, 10**6, 10**9)

_ISO = re.compile(
    r"(?P<date>\d{4}[-/]\d{2}[-/]\d{2}|\d{8}|\d{4}-?W\d{2}(?:-?\d)?)"
    r"(?:[Tt ](?P<clock>\d{2}(?::?\d{2}(?::?\d{2}(?:[.,]\d+)?)?)?)"
    r" ?(?P<zone>[Zz]|UTC|GMT|[+-]\d{2}(?::?\d{2}(?::?\d{2})?)?)?)?",
    re.ASCII,
)
_DATE_ALONE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{8}", re.ASCII)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3})?", re.ASCII)
_CALENDAR = re.compile(r"((?:19|20)\d\d)(?:(\d\d)(?:(\d\d)(\d\d)?)?)?", re.ASCII)

_ALLOWED = (
    "is neither ISO 8601 (2026-01-31T08:00:00) nor seconds, milliseconds, microseconds or "
    f"nanoseconds since 1970, in the years {FIRST_YEAR} to {LAST_YEAR}"
)


def parse_timestamp(value: object, *, fail: Callable[[str], Exception]) -> str | None:
    """A time as ISO 8601 text, which ``datetime.fromisoformat`` reads; None where there is none.

    Raises ``fail(reason)`` for anything that cannot be read with certainty.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    found, number = None, _number_of(value)
    if isinstance(value, str):
        found = _of_iso(value.strip())
    if found is None and number is not None:
        if _like_calendar(number):
            raise fail(
                f"the timestamp {value!r} can be a date or seconds since 1970: write dates as "
                "2026-01-31 or 2026-01-31T08:00:00"
            )
        found = _of_number(number)
    if found is None:
        raise fail(f"the timestamp {value!r:.60} {_ALLOWED}")
    return found


def _number_of(value: object) -> int | float | Decimal | None:
    """A number, or a text that is one and no date of eight digits; None for anything else."""
    if isinstance(value, str):
        text = value.strip()
        return Decimal(text) if _NUMBER.fullmatch(text) and not _ISO.fullmatch(text) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def moment(timestamp: str) -> float:
    """Seconds since 1970 of a text that ``parse_timestamp`` gave; without zone it is UTC."""
    time = datetime.fromisoformat(timestamp)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def is_zoned(timestamp: str) -> bool:
    """Whether a text that ``parse_timestamp`` gave says its zone."""
    return datetime.fromisoformat(timestamp).tzinfo is not None


def contradict(one: str, other: str) -> bool:
    """Whether two times differ; a date alone agrees with every hour of its day."""
    if _DATE_ALONE.fullmatch(one) or _DATE_ALONE.fullmatch(other):
        return datetime.fromisoformat(one).date() != datetime.fromisoformat(other).date()
    return moment(one) != moment(other)


def _of_iso(text: str) -> str | None:
    """The text itself where Python reads it, else its parts put together in the usual way."""
    parts = _ISO.fullmatch(text)
    if parts is None:
        return None
    clock, zone = parts["clock"], parts["zone"] or ""
    rebuilt = parts["date"].replace("/", "-")
    if clock:
        rebuilt += f"T{clock}{'Z' if zone.isalpha() else zone}"
    for spelled in (text, rebuilt):
        try:
            time = datetime.fromisoformat(spelled)
        except ValueError:
            continue
        return spelled if FIRST_YEAR <= time.year <= LAST_YEAR else None
    return None


def _of_number(value: float | Decimal) -> str | None:
    """A number since 1970 in the one unit that its size allows; NaN and infinity fit none."""
    for unit in _UNITS:
        first = 0 if unit == 1 else _SMALL_UNITS_FROM_SECONDS * unit
        if not first <= value < _END_SECONDS * unit:
            continue
        if unit == 1 and not isinstance(value, Decimal):
            return datetime.fromtimestamp(value, UTC).isoformat()
        microseconds = int(Decimal(value) * 10**6 / unit)
        return (_EPOCH + timedelta(microseconds=microseconds)).isoformat()
    return None


def _like_calendar(value: float | Decimal) -> bool:
    """Whether a number's digits are a year, month, date or hour: 2024, 202405, …, 2024050112."""
    if not 0 <= value < 10**10 or value != int(value):
        return False
    parts = _CALENDAR.fullmatch(str(int(value)))
    if parts is None:
        return False
    year, month, day, hour = parts.groups()
    try:
        datetime(int(year), int(month or 1), int(day or 1), int(hour or 0))
    except ValueError:
        return False
    return True
