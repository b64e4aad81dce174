"""Splits: one user's sessions in time order become train, online, val and test.

Shares are of sessions. ``val`` and ``test`` are the last parts, rounded half up, at least one
session each; they give way, the larger first, until the train part has three. Users with fewer
than five sessions cannot have all of that: 1 session is test, 2 are train and test, 3 and 4 have
one val, one test and the rest in train; such users are named, and no adapter is made for them.
The *online slice*, the last min(10, ⌊train/2⌋) sessions of the train part, is taken out of train.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from data.schema import (
    MIN_TEST,
    MIN_TRAIN,
    MIN_VAL,
    DataError,
    Dialogue,
    Session,
    Split,
)
from data.settings import DataSettings

MIN_COLD_EXCHANGES = 3

Items = Sequence[tuple[Dialogue, tuple[int, ...]]]


def split_sizes(sessions: int, *, settings: DataSettings) -> tuple[int, int, int, int]:
    """Numbers of sessions (train, online, val, test), in time order; they add up."""
    val, test = (
        max(1, math.floor(sessions * share + 0.5 + 1e-9))
        for share in (settings.val_share, settings.test_share)
    )
    if sessions < MIN_TRAIN + MIN_VAL + MIN_TEST:
        val, test = int(sessions >= 3), int(sessions >= 1)
    while val + test > 2 and sessions - val - test < MIN_TRAIN:
        val, test = (val - 1, test) if val >= test else (val, test - 1)
    part = sessions - val - test
    online = min(settings.online_sessions, part // 2)
    return part - online, online, val, test


def split_names(sessions: int, *, settings: DataSettings) -> list[Split]:
    """The split of each session, in time order."""
    train, online, val, test = split_sizes(sessions, settings=settings)
    names: list[Split] = ["train"] * train
    names += ["online"] * online
    names += ["val"] * val
    names += ["test"] * test
    return names


def split_user(items: Items, *, settings: DataSettings) -> tuple[tuple[Session, ...], int]:
    """One user's sessions with their splits, and how many items were taken out as repeats.

    An item of val or test is taken out where its exchange, both texts compared without case,
    also stands in an earlier split of the same user (for val: train and online; for test: val
    too). The messages stay: later items see them.
    """
    earlier: dict[Split, set[tuple[str, str]]] = {"train": set(), "val": set(), "test": set()}
    sessions, repeated = [], 0
    for (dialogue, turns), split in zip(
        items, split_names(len(items), settings=settings), strict=True
    ):
        stage: Split = "train" if split == "online" else split
        exchanges = exchanges_of(dialogue)
        if stage != "train":
            known = earlier["train"] | earlier["val"] if stage == "test" else earlier["train"]
            kept = tuple(turn for turn in turns if exchanges[turn // 2] not in known)
            repeated += len(turns) - len(kept)
            turns = kept
        earlier[stage].update(exchanges)
        sessions.append(_session(dialogue, split, turns))
    return tuple(sessions), repeated


def exchanges_of(dialogue: Dialogue) -> list[tuple[str, str]]:
    """All exchanges (user text, reply), without case; exchange k ends at turn 2k + 1."""
    texts = [message.text.casefold() for message in dialogue.messages]
    return list(zip(texts[::2], texts[1::2], strict=False))


def _session(dialogue: Dialogue, split: Split, turns: tuple[int, ...]) -> Session:
    applied = dialogue.applied_routines
    return Session(
        session_id=dialogue.session_id,
        split=split,
        messages=dialogue.messages,
        item_turns=turns,
        routine_driven=None if applied is None else bool(applied),
        routine_settings=dialogue.routine_settings,
    )


def choose_cold_start(
    items_by_user: Mapping[str, int], *, share: float, seed: int
) -> frozenset[str]:
    """⌊share · users⌋ of the user ids, fixed by the seed: those with the smallest hashes.

    Only users with at least three items can be chosen; adding a user to the data moves at most
    one other in or out. With fewer than 1/share users nobody is chosen.
    """
    wanted = math.floor(len(items_by_user) * share + 1e-9)
    able = [user for user, items in items_by_user.items() if items >= MIN_COLD_EXCHANGES]

    def draw(user: str) -> bytes:
        return hashlib.sha256(f"cold-start:{seed}:{user}".encode()).digest()

    return frozenset(sorted(able, key=draw)[:wanted])


def validate_splits(splits: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
    """Check ``edgesplits.json``: per user disjoint and in time order, over users disjoint.

    Raises DataError with the first user that breaks a rule.
    """
    owner: dict[int, str] = {}
    for user, parts in splits.items():
        names = ("train", "online", "val", "test")
        if set(parts) != set(names):
            raise DataError(f"{user}: splits are {', '.join(parts)}, not {', '.join(names)}")
        indices = [index for name in names for index in parts[name]]
        if any(b <= a for a, b in pairwise(indices)):
            raise DataError(f"{user}: train, online, val, test are not disjoint and in time order")
        for index in indices:
            if owner.setdefault(index, user) != user:
                raise DataError(f"{user} and {owner[index]} both hold dialogue {index}")
