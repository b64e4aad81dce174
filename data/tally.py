"""What the driver adds up while users arrive, and the statistics files made from it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data.clusters import Clustering
from data.doubts import doubts, users_with_doubts
from data.naming import user_key
from data.reading import BadRowError
from data.schema import SPLITS, DataError, Json, Style
from data.settings import DataSettings

DOMINANCE_FROM_USERS = 20
SHOWN = 3
MOST_BAD_ROWS = 10_000
"""So many are read without a single good row before the data are given up."""


@dataclass(slots=True)
class Tally:
    """Facts of all users so far, in order of their ids; ``dialogues`` counts cleaned lines."""

    settings: DataSettings
    counts: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Json] = field(default_factory=dict)
    splits: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    persona_ids: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    doubtful: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    bad_rows: list[BadRowError] = field(default_factory=list)
    has_good_rows: bool = False
    dialogues: int = 0
    hashes: list[np.ndarray] = field(default_factory=list)
    repeats: list[np.ndarray] = field(default_factory=list)

    def add(
        self,
        persona_id: str,
        facts: Json,
        *,
        place: tuple[int, int] | None,
        message_hashes: np.ndarray,
        message_times: np.ndarray,
    ) -> None:
        """Add one user; ``place`` is (shard, row), None where nothing of the user is left."""
        counts = facts.pop("counts")
        self.counts.update(counts)
        bad = [BadRowError(*row) for row in facts.pop("bad_rows")]
        self.bad_rows += bad
        self.has_good_rows |= facts["raw_sessions"] > 0
        # Whether all rows are bad is known after the last; skipping them is then no way out.
        if self.has_good_rows or len(self.bad_rows) >= MOST_BAD_ROWS:
            self.check_bad_rows()
        key = user_key(persona_id)
        for name in users_with_doubts(counts):
            self.doubtful[name].append(key)
        if place is None:
            self.dropped[key] = _why_dropped(facts, bad)
            return
        splits = facts.pop("splits")
        self.splits[key] = {name: [self.dialogues + i for i in splits[name]] for name in SPLITS}
        self.dialogues += facts["lengths"]["sessions"]
        self.facts[key], self.places[key], self.persona_ids[key] = facts, place, persona_id
        self.hashes.append(message_hashes)
        self.repeats.append(message_times)

    def check_bad_rows(self) -> None:
        """Raise DataError where more rows are bad than allowed, or all that were read."""
        allowed = self.settings.skip_bad_rows
        check_bad_rows(self.bad_rows, allowed=allowed, all_bad=not self.has_good_rows)

    @property
    def doubts(self) -> list[str]:
        """Warnings about data that were perhaps read otherwise than they were meant."""
        return doubts(self.counts, self.doubtful)

    @property
    def items(self) -> dict[str, int]:
        """Number of items per user, over all splits."""
        return {key: sum(facts["items"].values()) for key, facts in self.facts.items()}

    @property
    def repeated(self) -> dict[str, int]:
        """Number of items per user that were taken out as repeats of earlier splits."""
        return {key: facts["repeated"] for key, facts in self.facts.items()}

    @property
    def formulas(self) -> dict[str, int]:
        """Number of them that are exchanges which the user has again and again."""
        return {key: facts["formulas"] for key, facts in self.facts.items()}

    @property
    def leaked(self) -> dict[str, int]:
        """Number of them that are not: what a copied session would leave."""
        formulas = self.formulas
        return {key: taken - formulas[key] for key, taken in self.repeated.items()}

    def styles(self, users: Iterable[str]) -> dict[str, Style]:
        """Styles of the given users."""
        return {user: Style(**self.facts[user]["style"]) for user in users}


def _why_dropped(facts: Json, bad: list[BadRowError]) -> str:
    if bad:
        return f"bad row: {bad[0]}"
    if facts["raw_sessions"] == 0:
        return "no sessions"
    return f"none of {facts['raw_sessions']} sessions has an item"


def check_bad_rows(bad_rows: Sequence[object], *, allowed: int, all_bad: bool = False) -> None:
    """Raise DataError with the first bad rows if there are more than ``allowed``.

    Where ``all_bad`` says that no row is good, leaving rows out is not offered.
    """
    if len(bad_rows) <= allowed and not (all_bad and bad_rows):
        return
    shown = "\n".join(map(str, bad_rows[:SHOWN]))
    more = f"\n… and {len(bad_rows) - SHOWN} more" if len(bad_rows) > SHOWN else ""
    if all_bad:
        raise DataError(
            f"{shown}{more}\nnot one of {len(bad_rows)} rows can be used: the file is written "
            "otherwise than is expected, and is to be converted"
        )
    rows, them = (f"{len(bad_rows)} bad rows", "them") if len(bad_rows) > 1 else ("1 bad row", "it")
    raise DataError(
        f"{shown}{more}\n{rows} so far, {allowed} allowed: mend {them}, or leave {them} out with "
        f"--skip-bad-rows {len(bad_rows)}"
    )


def check_leaks(
    items: Mapping[str, int], repeated: Mapping[str, int], *, settings: DataSettings
) -> None:
    """Raise DataError where too many of a user's items repeat earlier exchanges.

    ``items`` are those that are left, ``repeated`` those that were taken out, without the
    exchanges that the user has again and again.
    """
    if settings.allow_leaks:
        return
    over = {
        user: (taken, items[user] + taken)
        for user, taken in repeated.items()
        if taken > settings.max_leak_share * (items[user] + taken)
    }
    if over:
        shown = ", ".join(f"{user} {n} of {of}" for user, (n, of) in list(over.items())[:SHOWN])
        whose = "1 user" if len(over) == 1 else f"{len(over)} users"
        raise DataError(
            f"more than {settings.max_leak_share:.0%} of the items of {whose} stand in val or test "
            f"and repeat an exchange of an earlier split ({shown}): check the data for copied "
            "sessions, or allow it with --set data.allow_leaks=true (they are taken out either way)"
        )


def dominance_warnings(items: Mapping[str, int], *, settings: DataSettings) -> list[str]:
    """Users with too large a share of all items, from 20 users on; DataError with ``strict``."""
    if len(items) < DOMINANCE_FROM_USERS:
        return []
    limit, total = settings.max_user_share, sum(items.values())
    found = [
        f"{user} has {n / total:.1%} of all items, more than {limit:.0%}"
        for user, n in items.items()
        if n > limit * total
    ]
    if found and settings.strict:
        raise DataError(
            f"{'; '.join(found[:SHOWN])}: not allowed with --strict; without it, a warning"
        )
    return found


def check_written(cleaning: Json, splits: Json, *, settings: DataSettings) -> None:
    """Hold data that are there already against the tolerances asked for now.

    Takes the contents of ``cleaning_stats.json`` and ``split_stats.json``; raises DataError as
    their preparation would.
    """
    users = splits["users"]
    items = {user: sum(entry["items"].values()) for user, entry in users.items()}
    repeated = {
        user: entry["repeated_items_taken_out"] - entry.get("of_them_recurring_formulas", 0)
        for user, entry in users.items()
    }
    check_bad_rows(cleaning["bad_rows"], allowed=settings.skip_bad_rows)
    check_leaks(items, repeated, settings=settings)
    dominance_warnings(items, settings=settings)


def messages_shared_by_users(tally: Tally) -> int:
    """Number of messages whose text another user writes or gets too (by 64-bit hashes)."""
    if not tally.hashes:
        return 0
    hashes, times = np.concatenate(tally.hashes), np.concatenate(tally.repeats)
    _, group, users = np.unique(hashes, return_inverse=True, return_counts=True)
    return int(times[users[group] > 1].sum())


def cleaning_stats(tally: Tally) -> Json:
    """``cleaning_stats.json``: what came, what is left, every reason with its count."""
    lengths = [facts["lengths"] for facts in tally.facts.values()]
    raw = {name: tally.counts[f"{name}_raw"] for name in ("sessions", "messages")}
    reasons = {n: c for n, c in sorted(tally.counts.items()) if not n.endswith("_raw") and c}
    reasons["items_repeating_earlier_splits"] = sum(tally.repeated.values())
    if tally.bad_rows:
        reasons["rows_skipped_as_bad"] = len(tally.bad_rows)
    roles = ("user", "assistant")
    return {
        "raw": {"users": len(tally.facts) + len(tally.dropped), **raw},
        "kept": {
            "users": len(tally.facts),
            "sessions": sum(entry["sessions"] for entry in lengths),
            "messages": sum(entry[role]["messages"] for entry in lengths for role in roles),
            "items": sum(tally.items.values()),
        },
        "counts": reasons,
        "messages_shared_by_users": messages_shared_by_users(tally),
        "bad_rows": [str(bad) for bad in tally.bad_rows],
        "dropped_users": tally.dropped,
        "lengths": {
            **{role: _role_lengths([entry[role] for entry in lengths]) for role in roles},
            "longest_session_messages": max(
                (entry["longest_session_messages"] for entry in lengths), default=0
            ),
        },
    }


def _role_lengths(entries: list[Json]) -> Json:
    messages = sum(entry["messages"] for entry in entries)
    words, characters = (sum(entry[name] for entry in entries) for name in ("words", "characters"))
    return {
        "messages": messages,
        "mean_words": round(words / messages, 4) if messages else None,
        "mean_characters": round(characters / messages, 4) if messages else None,
        "longest_words": max((entry["longest_words"] for entry in entries), default=0),
    }


def split_stats(
    tally: Tally, *, clustering: Clustering, cold_start: frozenset[str], warnings: list[str]
) -> Json:
    """``split_stats.json``: totals, clusters, warnings, named users, a line per user.

    Clusters are by lexical style until embeddings are there (``data.reclustering``).
    """
    items = tally.items
    whole = sum(items.values())
    per_user = {
        user: {
            "sessions": {split: len(tally.splits[user][split]) for split in SPLITS},
            "items": facts["items"],
            "repeated_items_taken_out": facts["repeated"],
            **({"of_them_recurring_formulas": facts["formulas"]} if facts["formulas"] else {}),
            "share_of_items": round(items[user] / whole, 6),
            "cold_start": user in cold_start,
            "cluster": clustering.cluster_of.get(user),
        }
        for user, facts in tally.facts.items()
    }
    return {
        "totals": {
            "users": len(tally.facts),
            "warm_users": len(tally.facts) - len(cold_start),
            "cold_start_users": len(cold_start),
            "sessions": _totals(entry["sessions"] for entry in per_user.values()),
            "items": _totals(entry["items"] for entry in per_user.values()),
            "repeated_items_taken_out": sum(tally.repeated.values()),
        },
        "warnings": warnings,
        "clusters": cluster_stats(clustering),
        "embeddings": None,
        "cold_start_users": [user for user in tally.facts if user in cold_start],
        "no_per_user_arm": obstacles(tally.facts, cold_start=cold_start),
        "dropped_users": tally.dropped,
        "users": per_user,
    }


def cluster_stats(clustering: Clustering) -> Json:
    """The part of ``split_stats.json`` about clusters."""
    return {
        "number": len(clustering.sizes),
        "sizes": list(clustering.sizes),
        "silhouette": clustering.silhouette,
        "silhouette_by_number": {str(k): value for k, value in clustering.tried.items()},
        "warning": clustering.warning,
    }


def obstacles(facts: Mapping[str, Json], *, cold_start: frozenset[str]) -> dict[str, str]:
    """Warm users that get no adapter of their own, with the reason."""
    return {
        user: entry["obstacle"]
        for user, entry in facts.items()
        if entry["obstacle"] and user not in cold_start
    }


def _totals(entries: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for entry in entries:
        total.update(entry)
    return {split: total[split] for split in SPLITS}
