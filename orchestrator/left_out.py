"""Who is left out of what, in words: for the screen and for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping

from data.manifest import CLEANED, Prepared
from results.wording import plural

SHOWN = 3
DETAILS = "data/splits/split_stats.json"


def left_out(prepared: Prepared) -> list[str]:
    """A line for users without an adapter of their own, and one for those nothing is left of.

    The first few are named with their reasons, the others are in ``split_stats.json``.
    """
    lines = []
    if few := prepared.no_per_user_arm:
        of = f"{len(few)} of {len(prepared.users)} users get"
        lines.append(f"{of} no adapter of their own, the baseline still is scored: {_named(few)}")
    if gone := prepared.dropped_users:
        lines.append(f"{plural(len(gone), 'user')} left out altogether: {_named(gone)}")
    return lines


def _named(reasons: Mapping[str, str]) -> str:
    shown = "; ".join(f"{user} ({why})" for user, why in list(reasons.items())[:SHOWN])
    more = len(reasons) - SHOWN
    return f"{shown}; {more} more are in {DETAILS}" if more > 0 else shown


def time_order(prepared: Prepared) -> str:
    """By what the users' sessions were put into time order: «by timestamp for 15 users»."""
    path = prepared.workspace / CLEANED / "cleaning_stats.json"
    stats = json.loads(path.read_text(encoding="utf-8"))
    counts = stats["counts"]
    timed = counts.get("users_ordered_by_timestamp", 0)
    filed = counts.get("users_in_file_order", 0)
    numbered = stats["kept"]["users"] - timed - filed
    ways = {"timestamp": timed, "session id": numbered, "order of the file": filed}
    return ", ".join(f"by {way} for {plural(n, 'user')}" for way, n in ways.items() if n)
