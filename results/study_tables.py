"""The tables beside the comparisons: macro scores, lifts, slices, clusters, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from results.contrasts import BASELINE, Contrast, arm_order
from results.pairing import Paired, pair_up, seed_means, seed_scores, wide_scores
from results.record import MetricInfo
from results.resampling import Floats, bootstrap_means, percentile_interval
from results.stats import cluster_lifts

MAX_LIFT_ROWS = 2_000_000
NAN = float("nan")


def macro_table(
    scores: Mapping[str, pd.DataFrame],
    metrics: Mapping[str, MetricInfo],
    *,
    seed: int,
    resamples: int,
) -> pd.DataFrame:
    """Mean over users of each arm and metric with its user-bootstrap interval."""
    rows = []
    for arm in sorted(scores, key=arm_order):
        columns: dict[tuple[str, ...], list[tuple[str, Floats, int]]] = {}
        for metric in metrics:
            frame = seed_scores(scores, arm, metric)
            users = tuple(map(str, frame.index))
            columns.setdefault(users, []).append((metric, seed_means(frame), frame.shape[1]))
        for users, group in columns.items():
            rows += _macro_rows(arm, users, group, seed=seed, resamples=resamples)
    names = ["arm", "metric", "mean", "ci_low", "ci_high", "n_users", "n_seeds"]
    return pd.DataFrame(rows, columns=names)


def _macro_rows(
    arm: str,
    users: Sequence[str],
    group: Sequence[tuple[str, Floats, int]],
    *,
    seed: int,
    resamples: int,
) -> list[tuple[str, str, float, float, float, int, int]]:
    """Macro rows of metrics that the same users have; no interval below two users."""
    none = np.full(len(group), np.nan)
    values = np.column_stack([value for _, value, _ in group])
    means, low, high = values.mean(axis=0) if len(users) else none, none, none
    if len(users) > 1:
        draws = bootstrap_means(values, rng=np.random.default_rng(seed), resamples=resamples)
        low, high = percentile_interval(draws)
    return [
        (arm, metric, float(means[k]), float(low[k]), float(high[k]), len(users), n_seeds)
        for k, (metric, _, n_seeds) in enumerate(group)
    ]


def lifts_table(pairs: Sequence[Paired], *, primary_metric: str) -> pd.DataFrame:
    """Lifts of all users; the primary metric alone where all would be too many rows."""
    total = sum(len(pair.users) for pair in pairs)
    kept = [pair for pair in pairs if total <= MAX_LIFT_ROWS or pair.metric == primary_metric]
    columns = ["contrast", "metric", "user_id", "lift", "noise_band"]
    frames = [
        pd.DataFrame(
            {
                "contrast": pair.contrast.name,
                "metric": pair.metric,
                "user_id": pair.users.astype(str),
                "lift": pair.lifts,
                "noise_band": np.nan if pair.band is None else pair.band,
            }
        )
        for pair in kept
        if len(pair.users)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def slices_table(
    table: pd.DataFrame,
    contrasts: Sequence[Contrast],
    metric: str,
    *,
    metrics: Mapping[str, MetricInfo],
    seed: int,
    resamples: int,
) -> pd.DataFrame:
    """Primary metric's lifts on each kind of items: by a session's origin and by turn."""
    rows = []
    higher = metrics[metric].higher_is_better if metric in metrics else True
    chosen = table[(table["slice"] != "all") & (table["metric"] == metric)]
    for name, part in chosen.groupby("slice", observed=True):
        scores = wide_scores(part)
        for contrast in contrasts:
            pair = pair_up(scores, contrast, metric, higher_is_better=higher)
            low = high = np.full(1, np.nan)
            if len(pair.users) > 1:
                rng = np.random.default_rng(seed)
                draws = bootstrap_means(pair.lifts, rng=rng, resamples=resamples)
                low, high = percentile_interval(draws)
            mean = float(pair.lifts.mean()) if len(pair.users) else NAN
            ends = float(low[0]), float(high[0])
            rows.append((contrast.name, str(name), mean, *ends, len(pair.users)))
    names = ["contrast", "slice", "mean_lift", "ci_low", "ci_high", "n_users"]
    return pd.DataFrame(rows, columns=names)


def clusters_table(
    pairs: Sequence[Paired], clusters: Mapping[str, int], *, margin: float
) -> pd.DataFrame:
    """Lift per cluster of each arm against the baseline, worst cluster first."""
    columns = ["contrast", "cluster", "n_users", "mean_lift", "low", "high", "passes", "note"]
    rows = []
    for pair in pairs:
        known = np.array([str(user) in clusters for user in pair.users], dtype=bool)
        if pair.contrast.reference != BASELINE or not known.any():
            continue
        labels = np.array([clusters[str(user)] for user in pair.users[known]])
        for found in cluster_lifts(pair.lifts[known], labels, margin=margin):
            ends = (found.mean_lift, found.low, found.high, found.passes, found.note)
            rows.append((pair.contrast.name, found.cluster, found.n_users, *ends))
    return pd.DataFrame(rows, columns=columns)


def missing_table(collected: pd.DataFrame, pairs: Sequence[Paired]) -> pd.DataFrame:
    """What the collector misses, and which users each contrast leaves out for it."""
    columns = ["arm", "contrast", "metric", "seed", "user_id", "reason"]
    kept = collected.rename(columns={"block": "user_id"}) if len(collected) else collected
    frames = [kept.reindex(columns=columns)] if len(kept) else []
    rows: list[tuple[str, str, str, str | None, str]] = [
        (arm, pair.contrast.name, pair.metric, user, f"no score in arm {arm}")
        for pair in pairs
        if len(pair.users)
        for user, arm in pair.lost
    ]
    rows += [
        (
            arm,
            pair.contrast.name,
            pair.metric,
            None,
            f"n/a: no user has both scores; {arm} has none",
        )
        for pair in pairs
        if not len(pair.users)
        for arm in sorted({arm for _, arm in pair.lost})
    ]
    if rows:
        names = ["arm", "contrast", "metric", "user_id", "reason"]
        frames.append(pd.DataFrame(rows, columns=names).reindex(columns=columns))
    found = [frame.astype(object) for frame in frames]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)
