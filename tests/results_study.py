"""Small collected studies with a planted answer, for the tests of analysis, figures and report."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from results.cold_warm import SCORE_COLUMNS
from results.record import MetricInfo
from results.updates import SCORE_COLUMNS as TRACE_COLUMNS
from results.updates import Traced

METRICS = {
    "rouge_l": MetricInfo(higher_is_better=True, unit="F", title="ROUGE-L"),
    "embedding_similarity": MetricInfo(
        higher_is_better=True, unit="cosine", title="Embedding similarity"
    ),
    "verbosity_error": MetricInfo(higher_is_better=False, unit="words", title="Verbosity error"),
    "output_length_std": MetricInfo(
        higher_is_better=False, unit="words", title="Output length standard deviation"
    ),
}
LIFTS = {
    "baseline": 0.0,
    "prefix_all": 0.05,
    "lora_all": 0.08,
    "prefix_per_user": 0.09,
    "lora_per_user": 0.16,
    "prefix_per_user_swapped": 0.03,
    "lora_per_user_swapped": 0.05,
}
SCALE = {
    "rouge_l": (0.6, 1.0),
    "embedding_similarity": (0.7, 0.5),
    "verbosity_error": (6.0, -12.0),
    "output_length_std": (4.0, -2.0),
}
SLICE_SHIFTS = {
    "all": 0.0,
    "routine_driven": 0.01,
    "spontaneous": -0.02,
    "first_turn": 0.03,
    "later_turns": -0.01,
}
"""What each kind of items adds to an arm's lift."""


@dataclass
class FakeCollected:
    """The shape of ``results.collector.Collected``, without a ledger."""

    table: pd.DataFrame
    slots: pd.DataFrame
    curves: pd.DataFrame
    missing: pd.DataFrame
    metrics: dict[str, MetricInfo]
    texts: pd.DataFrame = field(default_factory=pd.DataFrame)
    few: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=SCORE_COLUMNS))
    traced: Traced = field(default_factory=Traced)

    def items(self, arm, *, seed, split="test", columns=None) -> pd.DataFrame:
        """Items of one arm and seed, the named columns alone."""
        assert split == "test"
        chosen = self.texts[(self.texts["arm"] == arm) & (self.texts["seed"] == seed)]
        return chosen.reset_index(drop=True)[list(columns or chosen.columns)]


def fake_collected(
    *,
    users: int = 12,
    arms: dict[str, float] | None = None,
    seeds: tuple[int, ...] = (0,),
    noise: float = 0.05,
    items: int = 3,
    text: str = "Set the lights to warm | dim",
    few: tuple[int, int] = (0, 0),
    traced: int = 0,
) -> FakeCollected:
    """A study whose arms lift ROUGE-L by a planted amount; ``noise`` 0 makes all users equal.

    ``few``: numbers of cold-start and of warm users scored after few exchanges; ``traced``: of
    users whose micro-updates are scored on validation all the way.
    """
    rng = np.random.default_rng(5)
    lifts = LIFTS if arms is None else arms
    names = [f"user_{number:03d}" for number in range(users)]
    level = noise * rng.normal(size=users)
    rows = []
    for arm, lift in lifts.items():
        for seed in seeds:
            own = lift + noise * rng.normal(size=users) if lift else np.zeros(users)
            for slice_, shift in SLICE_SHIFTS.items():
                for metric, (base, slope) in SCALE.items():
                    values = base + slope * (level + own + shift * bool(lift))
                    rows += [
                        (arm, seed, name, metric, "test", slice_, value, items)
                        for name, value in zip(names, values, strict=True)
                    ]
    columns = ["arm", "seed", "user_id", "metric", "split", "slice", "value", "n_items"]
    table = pd.DataFrame(rows, columns=columns)
    return FakeCollected(
        table=table,
        slots=_slots(lifts, names, seeds, rng),
        curves=_curves(lifts, seeds, rng),
        missing=pd.DataFrame(columns=["arm", "seed", "user_id", "reason"]),
        metrics=dict(METRICS),
        texts=_texts(lifts, names, items, text, rng),
        few=few_exchanges(cold=few[0], warm=few[1], seeds=seeds, noise=noise),
        traced=traced_users(traced, noise=noise),
    )


def traced_users(
    users: int,
    *,
    gains: tuple[float, ...] = (0.0, 0.03, 0.05, 0.05),
    arms: tuple[str, ...] = ("prefix_per_user", "lora_per_user"),
    noise: float = 0.0,
) -> Traced:
    """Likelihoods after 0, 10, 20, 30 updates; a user's gain is the planted one and noise."""
    rng = np.random.default_rng(11)
    rows = [
        (arm, 0, f"user_{user:03d}", epoch, 10 * epoch, 2 + level - gain - bool(epoch) * draw, 7)
        for arm in arms
        for user in range(users)
        for level in (rng.normal(),)
        for epoch, gain in enumerate(gains)
        for draw in (noise * rng.normal(),)
    ]
    return Traced(scores=pd.DataFrame(rows, columns=TRACE_COLUMNS))


def few_exchanges(
    *,
    cold: int,
    warm: int,
    adapters: tuple[str, ...] = ("lora", "prefix"),
    seeds: tuple[int, ...] = (0,),
    gain: float = 0.02,
    noise: float = 0.0,
) -> pd.DataFrame:
    """Scores after 0, 1, 2, 4 and all (10) exchanges; each exchange lifts by ``gain``."""
    rng = np.random.default_rng(7)
    rows = [
        (adapter, seed, start, number, used, f"{start}_{user}", 0.5 + gain * used + noise * draw, 9)
        for adapter in adapters
        for seed in seeds
        for start, count in (("cold", cold), ("warm", warm))
        for user in range(count)
        for number, used in (("0", 0), ("1", 1), ("2", 2), ("4", 4), ("all", 10))
        for draw in (rng.normal(),)
    ]
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def _slots(lifts, names, seeds, rng) -> pd.DataFrame:
    rows = []
    for arm in lifts:
        if not arm.endswith("_per_user"):
            continue
        for seed in seeds:
            for name in names:
                norms = np.cumsum(rng.uniform(0.01, 0.1, size=12))
                rows.append(
                    {
                        "arm": arm,
                        "seed": seed,
                        "user_id": name,
                        "status": "ok",
                        "steps": 12,
                        "examples": 10,
                        "trained_tokens": 480,
                        "shift_norm": norms[-1],
                        "shift_norms": norms.tolist(),
                    }
                )
    columns = ["arm", "seed", "user_id", "status", "steps", "examples", "trained_tokens"]
    return pd.DataFrame(rows, columns=[*columns, "shift_norm", "shift_norms"])


def _curves(lifts, seeds, rng) -> pd.DataFrame:
    rows = [
        (arm, seed, epoch, epoch * 40, 2.0 / (1 + epoch) + 0.02 * rng.normal(), 0.6 + 0.03 * epoch)
        for arm in lifts
        if arm.endswith("_all")
        for seed in seeds
        for epoch in range(1, 6)
    ]
    names = ["arm", "seed", "epoch", "step", "train_loss", "val_rouge_l"]
    return pd.DataFrame(rows, columns=names)


def _texts(lifts, names, items, text, rng) -> pd.DataFrame:
    wanders = {name: rng.normal() * 0.1 for name in names}
    rows = [
        {
            "arm": arm,
            "seed": 0,
            "user_id": name,
            "item_id": f"{name}/s{number:02d}/t1",
            "session_id": number,
            "turn": 1,
            "control": "swapped" if arm.endswith("_swapped") else "own",
            "routine_driven": number % 2 == 0,
            "query": f"{text} for {name}, please: it is evening and I am about to read a book.",
            "reference": f"Done, {name}. {text} at 40 percent and the speaker stays quiet.",
            "output": f"[{arm}] {text}, number {number}. Anything else I can do for you?",
            "rouge_l": 0.5 + lift * (1 + 5 * wanders[name]) + 0.1 * rng.normal(),
        }
        for arm, lift in lifts.items()
        for name in names
        for number in range(items)
    ]
    return pd.DataFrame(rows)
