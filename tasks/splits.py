"""Which sessions are looked at, and for what: validation serves two ends, and is cut for them.

The earlier half of a user's validation sessions is for choices (early stopping, searches), the
later half for the no-harm gate alone, so that the gate asks exchanges that nothing else has used.
"""

from __future__ import annotations

from typing import Literal

from data.schema import Session, UserData

ScoredSplit = Literal["val", "test", "gate", "choice"]
"""``val`` is all of validation, ``choice`` and ``gate`` are its two halves."""


def scored_sessions(user: UserData, split: ScoredSplit) -> tuple[Session, ...]:
    """Sessions whose items a cell scores; ``gate`` may be empty (of a single session)."""
    if split == "gate":
        sessions = user.of_split("val")
        return sessions[_choices(len(sessions)) :]
    if split == "choice":
        return choosing_sessions(user)
    return user.of_split(split)


def choosing_sessions(user: UserData) -> tuple[Session, ...]:
    """Validation sessions that choices may see: the earlier half, rounded up."""
    sessions = user.of_split("val")
    return sessions[: _choices(len(sessions))]


def _choices(sessions: int) -> int:
    return -(-sessions // 2)
