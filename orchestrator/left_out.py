"""Who is left out of what, in words: for the screen and for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping

from data.manifest import CLEANED, Prepared
from data.order import FILE, NATURAL, TIMESTAMP, assumed_users
from data.schema import Json
from results.wording import plural

SHOWN = 3
STATISTICS = CLEANED / "cleaning_stats.json"
DETAILS = "data/splits/split_stats.json"


def prepared_summary(prepared: Prepared) -> list[str]:
    """What ``data prepare`` says at its end: users by their part, who has an own adapter, hash.

    Users with too few sessions for an adapter are ``left_out``'s to name.
    """
    warm, cold = len(prepared.users), len(prepared.cold_start_users)
    return [
        f"{plural(warm + cold, 'user')} prepared: {warm} to study, {held_out(prepared)} held out "
        "as cold start",
        own_adapters(prepared),
        f"Counts: {CLEANED}/cleaning_stats.json, {DETAILS}; data {prepared.data_sha256[:12]}",
    ]


def held_out(prepared: Prepared) -> str:
    """How many cold-start users there are, and the first few by name: «1 (user_Frank)»."""
    cold = prepared.cold_start_users
    more = len(cold) - SHOWN
    named = ", ".join(cold[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"{len(cold)} ({named})" if cold else "0"


def own_adapters(prepared: Prepared) -> str:
    """How many users have what an adapter of their own needs; ``left_out`` names the others."""
    able, warm = len(prepared.per_user_arm_users), len(prepared.users)
    of = "All" if able == warm else f"{able} of"
    return f"{of} {plural(warm, 'user')} have enough sessions for an adapter of their own"


def left_out(prepared: Prepared) -> list[str]:
    """A line for users without an adapter of their own, and one for those nothing is left of.

    The first few are named with their reasons, the others are in ``split_stats.json``.
    """
    lines = []
    if few := prepared.no_per_user_arm:
        of = f"{len(few)} of {len(prepared.users)} users {'gets' if len(few) == 1 else 'get'}"
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
    stats = _cleaning(prepared)
    counts = stats["counts"]
    ways = {
        "timestamp": counts.get(TIMESTAMP, 0),
        "numbers inside session ids": counts.get(NATURAL, 0),
        "order of the file": counts.get(FILE, 0),
    }
    numbered = stats["kept"]["users"] - sum(ways.values())
    ways = {"timestamp": ways.pop("timestamp"), "session id": numbered, **ways}
    told = ", ".join(f"by {way} for {plural(n, 'user')}" for way, n in ways.items() if n)
    assumed = assumed_users(counts)
    return f"{told}; only assumed for {plural(assumed, 'user')}" if assumed else told


def assumed_order(prepared: Prepared) -> int:
    """For how many users nothing says that the order of their sessions is their order in time.

    All of them, where the statistics are gone.
    """
    if not (prepared.workspace / STATISTICS).is_file():
        return len(prepared.users) + len(prepared.cold_start_users)
    return assumed_users(_cleaning(prepared)["counts"])


def _cleaning(prepared: Prepared) -> Json:
    path = prepared.workspace / STATISTICS
    stats: Json = json.loads(path.read_text(encoding="utf-8"))
    return stats
