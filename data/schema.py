"""The words of the data room as types: messages, dialogues, and what a shard's row holds.

A *dialogue* (= session) is one conversation, an *item* is one reply to predict given the true
messages before it, named by (user, session, turn), where *turn* is the reply's index in the
session's message list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["user", "assistant"]
Split = Literal["train", "online", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "online", "val", "test")
MIN_TRAIN, MIN_VAL, MIN_TEST = 3, 1, 1
"""Sessions that a user with an adapter of their own needs; the online slice counts as train."""
MIN_SLICE_EXCHANGES = 4
"""Exchanges of the online slice that a user with an adapter of their own needs."""


class DataError(ValueError):
    """Input data that cannot be used; the message names the file, the line and what to do."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a dialogue; ``text`` is cleaned: NFC, no surrounding or repeated spaces."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One line of ``dialogs_clean.jsonl``: a session of one user.

    ``context`` holds the situation (weather, time of day, …) as plain strings, and
    ``applied_routines`` the indices of the user's routines behind the session (empty for a
    spontaneous one); both are None where the source does not have them. ``routine_settings``
    are the settings of those routines, as ``(device, setting, value)`` with values as text.
    """

    persona_id: str
    session_id: int
    timestamp: str | None
    messages: tuple[Message, ...]
    context: dict[str, str] | None = None
    applied_routines: tuple[int, ...] | None = None
    routine_settings: tuple[tuple[str, str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A dialogue inside a shard's row, with its split and the replies that are items.

    ``item_turns`` are indices into ``messages`` of the assistant replies that count: not
    degenerate, and in val and test not repeating an exchange of the same user's earlier splits.
    Messages that are no items still are context of later items.
    """

    session_id: int
    split: Split
    messages: tuple[Message, ...]
    item_turns: tuple[int, ...]
    routine_driven: bool | None = None
    routine_settings: tuple[tuple[str, str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class Style:
    """How a user's dialogues sound, measured on the training sessions (train + online) alone.

    ``reply_words`` is the mean length of the replies the user gets (words), ``verbosity`` the
    mean length of the user's own messages (words), ``sentiment`` in [-1, 1] and ``formality``
    in [0, 1] are means over the replies.
    """

    reply_words: float
    verbosity: float
    sentiment: float
    formality: float


@dataclass(frozen=True, slots=True)
class UserData:
    """One row of a shard: all that a trial needs to know about one user.

    ``user_key`` is ``user_<id>`` (key of tables and splits), ``persona_id`` the source's own id.
    ``sessions`` are in time order. Cold-start users are held out of every shared stage.
    """

    user_key: str
    persona_id: str
    sessions: tuple[Session, ...]
    style: Style
    cold_start: bool = False
    cluster: int | None = None

    def of_split(self, *splits: Split) -> tuple[Session, ...]:
        """Sessions of the given splits, in time order."""
        return tuple(session for session in self.sessions if session.split in splits)


@dataclass(frozen=True, slots=True, order=True)
class ItemId:
    """Names one item; its text form is ``<user_key>/<session_id>/<turn>``."""

    user_key: str
    session_id: int
    turn: int

    def __str__(self) -> str:
        return f"{self.user_key}/{self.session_id}/{self.turn}"


def items_of(user: UserData, split: Split) -> tuple[ItemId, ...]:
    """All items of one user's split, in time order."""
    return tuple(
        ItemId(user.user_key, session.session_id, turn)
        for session in user.of_split(split)
        for turn in session.item_turns
    )


def arm_obstacle(sessions: Sequence[Session]) -> str | None:
    """Why no adapter is made for a user with these sessions; None if there is no reason."""
    numbers = {
        split: sum(session.split == split for session in sessions)
        for split in ("train", "online", "val", "test")
    }
    part = numbers["train"] + numbers["online"]
    if part < MIN_TRAIN or numbers["val"] < MIN_VAL or numbers["test"] < MIN_TEST:
        return (
            f"too few sessions: {part} train, {numbers['val']} val, {numbers['test']} test; "
            f"at least {MIN_TRAIN}, {MIN_VAL} and {MIN_TEST} are needed"
        )
    exchanges = sum(len(s.item_turns) for s in sessions if s.split == "online")
    if exchanges < MIN_SLICE_EXCHANGES:
        return (
            f"online slice too small: {exchanges} exchanges, "
            f"at least {MIN_SLICE_EXCHANGES} are needed"
        )
    return None


def online_examples(user: UserData, budget: int) -> tuple[ItemId, ...]:
    """The first ``budget`` exchanges of the online slice, taken round-robin over its sessions.

    First the first exchange of every online session, then every second one, and so on, so
    budgets are nested. Fewer are returned where the slice holds fewer.
    """
    sessions = user.of_split("online")
    longest = max((len(session.item_turns) for session in sessions), default=0)
    rounds = [
        ItemId(user.user_key, session.session_id, session.item_turns[k])
        for k in range(longest)
        for session in sessions
        if k < len(session.item_turns)
    ]
    return tuple(rounds[:budget])


Json = dict[str, Any]
