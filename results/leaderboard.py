"""Arms ranked while a study runs: means over the users scored so far, paired with the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from results.contrasts import BASELINE
from results.paired_tests import t_interval
from results.stats import without_dust

METRIC = "rouge_l"
"""Higher is better; the one that every arm has."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One arm so far: users scored, their mean, and the lift over the baseline.

    The lift is that of the users whom the baseline has been scored on too, with Student's 95 %
    interval; None where there are fewer than two such users, and for the baseline itself.
    """

    arm: str
    users: int
    mean: float
    lift: float | None = None
    low: float | None = None
    high: float | None = None


class Leaderboard:
    """Takes in scored cells one by one, each read once, by column."""

    def __init__(self) -> None:
        self._scores: dict[str, dict[str, list[float]]] = {}

    def add(self, arm: str, items: Path) -> None:
        """Add the users of one cell; of several seeds a user's mean counts."""
        own = pc.field("control") == "own"
        table = pq.read_table(items, columns=["user_id", METRIC], filters=own)
        means = table.group_by("user_id").aggregate([(METRIC, "mean")])
        users = self._scores.setdefault(arm, {})
        columns = (means[name].to_pylist() for name in ("user_id", f"{METRIC}_mean"))
        for user, mean in zip(*columns, strict=True):
            if mean is not None and np.isfinite(mean):
                users.setdefault(str(user), []).append(float(mean))

    def standings(self) -> list[Standing]:
        """Every arm with a scored user, the highest mean first."""
        means = {
            arm: {user: float(np.mean(values)) for user, values in users.items()}
            for arm, users in self._scores.items()
            if users
        }
        base = means.get(BASELINE, {})
        found = [_standing(arm, users, base) for arm, users in means.items()]
        return sorted(found, key=lambda one: (-one.mean, one.arm))


def _standing(arm: str, users: dict[str, float], base: dict[str, float]) -> Standing:
    mean = float(np.mean(list(users.values())))
    scale = max(map(abs, (*users.values(), *base.values())))
    lifts = without_dust(
        [score - base[user] for user, score in users.items() if user in base], scale=scale
    )
    if arm == BASELINE or len(lifts) < 2:
        return Standing(arm, len(users), mean)
    low, high = (float(end[0]) for end in t_interval(lifts))
    if not np.isfinite(low):  # All lifts are equal: the t interval has no width to speak of.
        return Standing(arm, len(users), mean, float(lifts.mean()))
    return Standing(arm, len(users), mean, float(lifts.mean()), low, high)
