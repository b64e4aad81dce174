"""Two arms' scores side by side: the same users in the same order, seeds averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from results.contrasts import Contrast
from results.files import DECIMALS
from results.record import MetricInfo, RecordError
from results.resampling import Floats
from results.stats import noise_band, paired_lifts, without_dust
from results.updates import Traced


class CollectedTables(Protocol):
    """What the analysis reads of ``results.collector.Collected``."""

    @property
    def table(self) -> pd.DataFrame:
        """Scores: arm, seed, user_id, metric, split, slice, value, n_items."""

    @property
    def slots(self) -> pd.DataFrame:
        """Adapters: arm, seed, user_id, status, steps, examples, trained_tokens, shift norms."""

    @property
    def curves(self) -> pd.DataFrame:
        """Training curves: arm, seed, epoch, step, train_loss, val_rouge_l."""

    @property
    def missing(self) -> pd.DataFrame:
        """What has no record: arm, seed, user_id or block, reason."""

    @property
    def few(self) -> pd.DataFrame:
        """Scores after few exchanges of cold and warm users: ``cold_warm.SCORE_COLUMNS``."""

    @property
    def traced(self) -> Traced:
        """Validation likelihoods along the micro-updates."""

    @property
    def metrics(self) -> Mapping[str, MetricInfo]:
        """Direction, unit and title of each metric."""

    def items(
        self, arm: str, *, seed: int, split: str = "test", columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Items of one arm (``…_swapped`` for a control) and seed, by column."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One contrast on one metric, before statistics; arrays ``[n]`` over ``users``.

    ``scale`` is the largest score of either side: what is far below it is float dust.
    """

    contrast: Contrast
    metric: str
    users: pd.Index[Any]
    lifts: Floats
    band: Floats | None
    sides: tuple[Floats, Floats]
    per_seed: Floats | None
    lost: tuple[tuple[str, str], ...]
    scale: float

    def counted(self) -> tuple[Floats, Floats]:
        """Lifts and noise band (0 without one) as helped and hurt are counted: ``[n]`` each.

        Both are rounded as the tables show them, to six decimals, and to six significant digits
        of the scores where those are small: a lift that no table shows helps nobody, and one that
        meets the edge of the band lies inside it.
        """
        small = np.floor(np.log10(self.scale)) if self.scale > 0 else 0.0
        decimals = max(DECIMALS, int(np.clip(DECIMALS - 1 - small, 0, 250)))
        band = np.zeros(len(self.users)) if self.band is None else self.band
        lifts, band = (np.round(values, decimals) + 0.0 for values in (self.lifts, band))
        return lifts, band


def scored_split(table: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The test scores; validation alone where no test was scored."""
    splits = set(table["split"].astype(str)) if len(table) else set()
    split = "test" if "test" in splits or not splits else sorted(splits)[0]
    return split, table[table["split"].astype(str) == split]


def wide_scores(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Scores per arm: users × (metric, seed), users sorted."""
    found = {}
    for arm, frame in table.groupby("arm", observed=True, sort=False):
        keys = frame.set_index(["user_id", "metric", "seed"])["value"]
        if keys.index.has_duplicates:
            user, metric, seed = keys.index[keys.index.duplicated()][0]
            raise RecordError(
                f"Arm {arm} has two values of {metric} for user {user} and seed {seed}; "
                "one is needed. Collect from one ledger."
            )
        found[str(arm)] = keys.unstack(["metric", "seed"]).sort_index()
    return found


def seed_scores(scores: Mapping[str, pd.DataFrame], arm: str, metric: str) -> pd.DataFrame:
    """Scores of one arm and metric, users × seeds; empty where there are none."""
    frame = scores.get(arm)
    if frame is None or metric not in frame.columns.get_level_values("metric"):
        return pd.DataFrame(index=pd.Index([], dtype=object), dtype=float)
    chosen = frame.loc[:, frame.columns.get_level_values("metric") == metric]
    return chosen.droplevel("metric", axis=1).dropna(how="all")


def pair_up(
    scores: Mapping[str, pd.DataFrame], contrast: Contrast, metric: str, *, higher_is_better: bool
) -> Paired:
    """Both sides on their common users, seeds averaged, positive where the arm is better."""
    arm, reference = (
        seed_scores(scores, name, metric) for name in (contrast.arm, contrast.reference)
    )
    users = arm.index.intersection(reference.index).sort_values()
    lost = [(str(user), contrast.reference) for user in arm.index.difference(reference.index)]
    lost += [(str(user), contrast.arm) for user in reference.index.difference(arm.index)]
    left, right = arm.loc[users], reference.loc[users]
    means = (seed_means(left), seed_means(right))
    scale = max((float(np.abs(side).max(initial=0.0)) for side in means), default=0.0)

    def clean(values: Floats) -> Floats:
        return without_dust(values, scale=scale)

    sides = (clean(means[0]), clean(means[1]))
    band, per_seed = _band(left), _per_seed(left, right, higher_is_better=higher_is_better)
    return Paired(
        contrast=contrast,
        metric=metric,
        users=users,
        lifts=clean(paired_lifts(*sides, higher_is_better=higher_is_better)),
        band=None if band is None else clean(band),
        sides=sides if higher_is_better else (-sides[0], -sides[1]),
        per_seed=None if per_seed is None else clean(per_seed),
        lost=tuple(lost),
        scale=scale,
    )


def seed_means(frame: pd.DataFrame) -> Floats:
    """Mean over the seeds that a user has: ``[n]``."""
    if frame.empty:
        return np.zeros(len(frame))
    return np.asarray(frame.mean(axis=1), dtype=np.float64)


def _band(frame: pd.DataFrame) -> Floats | None:
    """Noise band of each user, from those who have every seed; the others get the median."""
    whole = frame.dropna()
    if frame.shape[1] < 2 or whole.empty:
        return None
    bands = pd.Series(noise_band(whole.to_numpy(dtype=np.float64)), index=whole.index)
    return np.asarray(bands.reindex(frame.index).fillna(bands.median()), dtype=np.float64)


def _per_seed(
    arm: pd.DataFrame, reference: pd.DataFrame, *, higher_is_better: bool
) -> Floats | None:
    """Lifts ``[n, seeds]`` of users with every seed; seeds are paired where both sides have them.

    A reference without the arm's seeds (the baseline is not trained) counts by its mean.
    """
    whole = arm.dropna()
    if whole.shape[1] < 2 or len(whole) < 2:
        return None
    base = reference.loc[whole.index]
    aligned = np.asarray(base.reindex(columns=whole.columns), dtype=np.float64)
    if np.isnan(aligned).any():
        aligned = seed_means(base)[:, None]
    difference: Floats = np.asarray(whole, dtype=np.float64) - aligned
    return difference if higher_is_better else -difference
