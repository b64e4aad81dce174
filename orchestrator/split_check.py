"""The stored splits held against their rules once more: for the report and for ``validate``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.manifest import SPLIT, Prepared
from data.schema import DataError
from data.split import validate_splits
from orchestrator.left_out import assumed_order
from results.wording import plural

NAMES = ("train", "online", "val", "test")
COLUMNS = ("user_key", "sessions.list.element.split", "sessions.list.element.item_turns")
Splits = Mapping[str, Mapping[str, Sequence[int]]]


def check_splits(prepared: Prepared) -> tuple[bool, str]:
    """Whether ``edgesplits.json`` is disjoint and in order, and what the shards hold.

    That the order is an order in time is said only where timestamps or whole-number ids say so.

    Returns:
        Whether all rules hold, and a line with counts, or with the first rule that is broken.
    """
    path = prepared.workspace / SPLIT / "edgesplits.json"
    try:
        splits: Splits = json.loads(path.read_text(encoding="utf-8"))
        validate_splits(splits)
        sessions, items = _held_against(splits, prepared.shards)
        _check_users(splits, prepared)
        assumed = assumed_order(prepared)
    except DataError as error:
        return False, f"stored splits: {error}"
    except (OSError, ValueError, TypeError, AttributeError, KeyError, pa.ArrowException) as error:
        return False, f"stored splits cannot be read ({type(error).__name__}: {error})"
    order = "time order"
    if assumed:
        order = f"order (not checked: whether it is time order, for {plural(assumed, 'user')})"
    told = ", ".join(f"{name} {sessions[name]:,} / {items[name]:,}" for name in NAMES)
    return True, (
        f"{plural(len(splits), 'user')} checked: train, online, val and test share no session and "
        f"stand in {order}; sessions / items: {told}"
    )


def _check_users(splits: Splits, prepared: Prepared) -> None:
    """The splits' users are those that were prepared."""
    known = {*prepared.users, *prepared.cold_start_users}
    if strange := sorted(known ^ set(splits)):
        raise DataError(f"{strange[0]} is not in both the splits and the manifest")


def _held_against(splits: Splits, shards: Path) -> tuple[Counter[str], Counter[str]]:
    """Sessions and items of each split in the shards, which trials read.

    Raises:
        DataError: a user's sessions there belong to other splits.
    """
    sessions: Counter[str] = Counter()
    items: Counter[str] = Counter()
    seen = set()
    for user, names, counts in _stored(shards):
        told = [name for name in NAMES for _ in splits.get(user, {}).get(name, ())]
        if names != told:
            raise DataError(f"{user}: the shards' sessions are split otherwise")
        seen.add(user)
        sessions.update(names)
        for name, count in zip(names, counts, strict=True):
            items[name] += count
    if lost := sorted(set(splits) - seen):
        raise DataError(f"{lost[0]} is in no shard")
    return sessions, items


def _stored(shards: Path) -> Iterator[tuple[str, list[str], list[int]]]:
    """Each user of the shards: the split and the number of items of every session."""
    for path in sorted(shards.glob("users-*.parquet")):
        for row in pq.ParquetFile(path).read(columns=list(COLUMNS)).to_pylist():
            sessions = row["sessions"]
            yield (
                str(row["user_key"]),
                [str(session["split"]) for session in sessions],
                [len(session["item_turns"]) for session in sessions],
            )
