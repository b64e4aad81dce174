"""Which candidates go on, and who or how much the next rung adds. Pure.

A race of per-user arms has *numbers of users* as rungs: nested, each rung adding users on whom the
survivors alone are tried, so that survivors are compared on all users so far, pairwise. Shared
arms have *epochs* as rungs (successive halving: Jamieson & Talwalkar 2016, arXiv:1502.07943).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

DEFAULT = 0
"""Number of the default config among the candidates."""
RUNG_SHARES = (0.1, 0.3, 1.0)
"""Shares of the users, or of the epochs, that the rungs stand for."""
LEAST_USERS = 20
"""Users that a rung must add; with fewer, a mean over users says too little to end a candidate."""
REDUCTION = 3
"""One in so many candidates goes on."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a candidate has shown: user → mean negative log-likelihood of the true replies."""

    number: int
    scores: Mapping[str, float]

    @property
    def macro(self) -> float | None:
        """Mean over users; None without any."""
        return float(np.mean(list(self.scores.values()))) if self.scores else None


def ranking(standings: Sequence[Standing]) -> list[int]:
    """Numbers of candidates, best first.

    Whoever lacks a user that another candidate has (an adapter diverged, a trial died) comes
    behind all who lack fewer: means over different users do not compare. Ties go to the lower
    number, so to the default first.
    """
    everybody = set().union(*(standing.scores for standing in standings))

    def place(standing: Standing) -> tuple[int, float, int]:
        macro = standing.macro
        lacking = len(everybody) - len(standing.scores)
        return lacking, math.inf if macro is None else macro, standing.number

    return [standing.number for standing in sorted(standings, key=place)]


def promoted(standings: Sequence[Standing]) -> tuple[int, ...]:
    """Numbers of those who go on, ascending: the best third, and the default beside them.

    The default runs along to the end, so that the choice is never worse than it on the same users.
    """
    best = ranking(standings)[: _kept(len(standings))]
    known = {standing.number for standing in standings}
    return tuple(sorted({*best, DEFAULT} & known))


def user_rungs(users: Sequence[str]) -> list[tuple[str, ...]]:
    """The users that each rung adds: all of them are the whole, in an order fixed by their names.

    A rung that would add fewer than ``LEAST_USERS`` is joined with the next; so with few users
    there is one rung, and no race.
    """
    order = sorted(users, key=lambda user: (_digest(user), user))
    ends = [0]
    for share in RUNG_SHARES:
        end = max(_part(share, len(order)), ends[-1] + LEAST_USERS)
        if end <= len(order) - LEAST_USERS:
            ends.append(end)
    ends.append(len(order))
    return [tuple(order[begin:end]) for begin, end in pairwise(ends)]


def epoch_rungs(epochs: int) -> list[int]:
    """Epochs of each rung, ascending; each is a training of its own with its own schedule."""
    return sorted({_part(share, epochs) for share in RUNG_SHARES})


def most_candidates(samples: int, rungs: int) -> list[int]:
    """How many candidates each rung can hold at most."""
    found = [samples]
    for _ in range(rungs - 1):
        found.append(min(found[-1], _kept(found[-1]) + 1))
    return found


def _kept(candidates: int) -> int:
    """8 → 3 → 1: one in three, where the default that runs along does not count."""
    return max(1, -(-(candidates - 1) // REDUCTION))


def joined(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Scores of several cells as one table of users."""
    return {user: score for part in parts for user, score in part.items()}


def _part(share: float, whole: int) -> int:
    """A share in whole numbers, rounded up; 0.1 · 30 is 3, whatever floats say."""
    return math.ceil(round(share * whole, 9))


def _digest(user: str) -> str:
    return hashlib.sha256(f"rung {user}".encode()).hexdigest()
