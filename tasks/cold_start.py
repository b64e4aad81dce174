"""Adapting from few exchanges: which ones a user gives first, and one slot per user and number.

Every slot starts from the all-persona adapter. For a *cold-start* user, whom no shared stage has
seen, the exchanges are the first of the user's earliest sessions; for a *warm* user they are the
first of the online slice, the earliest sessions that the all-persona adapter has not seen. Both
are in time order and come from equally many sessions: as many as the user's online slice has. All
of them are «all». What is scored comes later and is the same for every number of exchanges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.schema import ItemId, UserData
from tasks.cell import SlotReport

ALL = "all"
"""Stands for every exchange of the first sessions."""


@dataclass(frozen=True, slots=True)
class FewSlot:
    """One user's adapter from the first ``used`` exchanges; ``number`` is what was asked for."""

    user: str
    number: str
    used: int

    @property
    def name(self) -> str:
        """The slot's name in a bank that holds several numbers of every user."""
        return f"{self.user}@{self.number}"


def first_exchanges(user: UserData) -> tuple[ItemId, ...]:
    """The exchanges that a user gives first, in time order."""
    online = user.of_split("online")
    sessions = user.of_split("train", "online")[: len(online)] if user.cold_start else online
    return tuple(
        ItemId(user.user_key, session.session_id, turn)
        for session in sessions
        for turn in session.item_turns
    )


def number_names(counts: Sequence[int]) -> tuple[str, ...]:
    """Names of the numbers of exchanges, from none to all: ``0, 1, 2, …, all``."""
    return (*map(str, sorted({0, *counts})), ALL)


def few_slots(
    available: Mapping[str, int], counts: Sequence[int]
) -> tuple[list[FewSlot], list[SlotReport]]:
    """Slots to train, users in order and their numbers ascending, and those there is no use in.

    A user without so many exchanges has no such slot, and the report says so; «all» needs one.

    Args:
        available: user key → number of first exchanges.
        counts: numbers asked for.
    """
    wanted = [FewSlot(user, str(count), count) for user in available for count in sorted({*counts})]
    wanted = [slot for slot in wanted if slot.used > 0]
    wanted += [FewSlot(user, ALL, max(1, number)) for user, number in available.items()]
    place = {user: index for index, user in enumerate(available)}
    wanted.sort(key=lambda slot: place[slot.user])
    made = [slot for slot in wanted if slot.used <= available[slot.user]]
    lacking = [slot for slot in wanted if slot.used > available[slot.user]]
    return made, [_skipped(slot, available[slot.user]) for slot in lacking]


def _skipped(slot: FewSlot, available: int) -> SlotReport:
    reason = f"{available} exchanges in the user's first sessions; {slot.used} needed"
    return SlotReport(slot=slot.name, status="skipped", reason=reason)
