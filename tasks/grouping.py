"""Who shares an adapter. A new grouping is one function and its row in ``GROUPINGS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from data.schema import UserData
from tasks.config import TaskError
from tasks.seeds import seed_of

EVERYBODY = "all"

SlotOf = Callable[[UserData], str]


def everybody(user: UserData) -> str:
    """One adapter for all users."""
    return EVERYBODY


def own_cluster(user: UserData) -> str:
    """One adapter per cluster of users.

    Raises:
        TaskError: the user has no cluster.
    """
    if user.cluster is None:
        raise TaskError(f"{user.user_key} has no cluster; prepare the data with clusters first")
    return f"cluster_{user.cluster}"


def own_key(user: UserData) -> str:
    """One adapter per user."""
    return user.user_key


GROUPINGS: dict[str, SlotOf] = {"all": everybody, "cluster": own_cluster, "user": own_key}


def slots_of(users: Sequence[UserData], grouping: str) -> dict[str, list[UserData]]:
    """Users of each slot; slots in order of their first user."""
    slot_of = GROUPINGS[grouping]
    slots: dict[str, list[UserData]] = {}
    for user in users:
        slots.setdefault(slot_of(user), []).append(user)
    return slots


def derangement(slots: Sequence[str], *, seed: int) -> dict[str, str]:
    """Another slot for every slot, fixed by the seed: the swapped control's partner.

    The slots are shuffled into one cycle and each gets the next, so nobody keeps the own
    adapter and every adapter is used once. A single slot has no partner and is left out.
    """
    if len(slots) < 2:
        return {}
    cycle = sorted(slots, key=lambda slot: (seed_of("derangement", seed, slot), slot))
    return dict(zip(cycle, cycle[1:] + cycle[:1], strict=True))
