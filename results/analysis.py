"""From the collected table to the numbers of the report: pure, given the seed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from results.cold_warm import ColdWarm, compare_starts
from results.comparison import NOBODY, disagreement, noted
from results.contrasts import (
    Contrast,
    arm_order,
    declared_contrasts,
    is_gated,
    seeds_nest,
)
from results.drift import Drift, drift_against_gain
from results.effect_sizes import cliffs_delta, helped_tied_hurt, minimal_detectable_effect
from results.gate import Gate, gate_choices, gate_outcome, gated_scores
from results.item_tables import reliability_table
from results.paired_tests import sign_test, tost
from results.pairing import CollectedTables, Paired, pair_up, scored_split, wide_scores
from results.record import MetricInfo, RecordError
from results.seed_spread import crossed_detectable, crossed_tost
from results.stats import (
    SIGNS,
    WITHIN_PAIRS,
    Comparison,
    adjust,
    compare_many,
    comparisons_table,
    seed_interval,
    wilson_interval,
)
from results.study_tables import (
    clusters_table,
    lifts_table,
    macro_table,
    missing_table,
    slices_table,
)
from results.updates import Updates, gain_by_updates

PRIMARY_METRIC = "rouge_l"
HEADLINE = (
    "rouge_l",
    "embedding_similarity",
    "verbosity_error",
    "output_length_std",
    "nll",
    "action_f1",
    "routine_action_f1",
    "distinct_2",
    "sentiment_distance",
    "formality_distance",
)
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Shares of users that the decision rules ask for; declared before results, as the margin."""

    stable_share_hurt: float = 0.10
    """*Stable*: the upper bound of the share hurt lies under it."""
    high_variance_share: float = 0.10
    """*High variance*: the lower bounds of the helped and of the hurt share both lie above it."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All numbers that figures, decisions and report show; they compute none of their own.

    ``comparisons`` has the columns of ``Comparison``, ``n_seeds, seeds_low, seeds_high`` (interval
    over users and seeds), ``seeds_p_tost, seeds_mde80`` (equivalence and smallest detectable lift
    over both), and ``low, high``: the interval to report, the one with seeds if any;
    ``macro`` arm, metric, mean, ci_low, ci_high, n_users, n_seeds; ``lifts`` contrast, metric,
    user_id, lift, noise_band (NaN with one seed); ``slices`` contrast, slice, mean_lift, ci_low,
    ci_high, n_users of the primary metric; ``clusters`` contrast, cluster, n_users, mean_lift,
    low, high, passes, note, worst cluster first; ``missing`` arm, contrast, metric, seed,
    user_id, reason; ``reliability`` how well items tell users apart; ``cold_warm`` what stands
    beside the arms: scores of users cold and warm after few exchanges; ``updates`` validation
    gains along the micro-updates; ``gate`` whose adapter the
    no-harm gate kept. ``arms`` and ``users`` are those with scores.
    """

    comparisons: pd.DataFrame
    macro: pd.DataFrame
    lifts: pd.DataFrame
    slices: pd.DataFrame
    clusters: pd.DataFrame
    missing: pd.DataFrame
    drift: Drift
    reliability: pd.DataFrame
    cold_warm: ColdWarm
    updates: Updates
    gate: Gate
    contrasts: tuple[Contrast, ...]
    arms: tuple[str, ...]
    users: tuple[str, ...]
    metrics: Mapping[str, MetricInfo]
    primary_metric: str
    margin: float
    seed: int
    resamples: int
    n_seeds: int
    split: str
    main_metrics: tuple[str, ...] = ()
    thresholds: Thresholds = Thresholds()

    def row(self, contrast: str, metric: str | None = None) -> pd.Series[Any] | None:
        """The comparison of one contrast (on the primary metric unless named), None if absent."""
        table = self.comparisons
        wanted = metric or self.primary_metric
        found = table[(table["contrast"] == contrast) & (table["metric"] == wanted)]
        return None if found.empty else found.iloc[0]

    def lifts_of(self, contrast: str, metric: str | None = None) -> pd.DataFrame:
        """``user_id, lift, noise_band`` of one contrast, in the order of users."""
        wanted = metric or self.primary_metric
        chosen = (self.lifts["contrast"] == contrast) & (self.lifts["metric"] == wanted)
        return self.lifts.loc[chosen, ["user_id", "lift", "noise_band"]].reset_index(drop=True)

    def headline(self) -> list[str]:
        """Metrics of the main tables: those named, else the known ones, else the first few.

        Of the known ones, those for which some arm has a number.
        """
        if self.main_metrics:
            return list(self.main_metrics)
        unscored = self.unscored()
        known = [name for name in HEADLINE if name in self.metrics and name not in unscored]
        return known or sorted(self.metrics)[:8]

    def unscored(self) -> list[str]:
        """Known metrics of the records for which no arm has a number: nothing was there to score.

        Actions are an example, where no reply of the data states any.
        """
        scored = set(self.macro.loc[self.macro["mean"].notna(), "metric"])
        return [name for name in HEADLINE if name in self.metrics and name not in scored]


def analyze(
    collected: CollectedTables,
    *,
    seed: int,
    margin: float,
    resamples: int,
    primary_metric: str = PRIMARY_METRIC,
    clusters: Mapping[str, int] | None = None,
    contrasts: Sequence[Contrast] | None = None,
    primary: Collection[tuple[str, str]] | None = None,
    main_metrics: Sequence[str] = (),
    thresholds: Thresholds | None = None,
) -> Analysis:
    """Every contrast on every metric, with families, adjustments, macro scores and lifts.

    Args:
        collected: The collector's tables.
        seed: Seed of resamples and sign flips; the same seed gives the same numbers.
        margin: No-harm margin of the primary metric, in its unit; other metrics have none
            declared, so their TOST is left out. NaN: no metric has.
        resamples: Number of resamples of users and of sign flips.
        primary_metric: The one declared before results.
        clusters: Cluster of each user, for the lift per cluster.
        contrasts: What is compared; those that the arms' names declare unless given.
        primary: (contrast, metric) pairs of the primary family; the primary contrasts on the
            primary metric unless given.
        main_metrics: Those of the main tables, where they are not the known ones.
        thresholds: Of the decision rules; the declared defaults unless given.

    Raises:
        RecordError: There are no scores at all, or two values for one arm, seed, user and metric.
    """
    direction = collected.metrics.get(primary_metric)
    choices = gate_choices(
        collected.table,
        primary_metric,
        higher_is_better=direction is None or direction.higher_is_better,
    )
    split, whole = scored_split(gated_scores(collected.table, choices))
    scores = wide_scores(whole[whole["slice"] == "all"])
    if not scores:
        raise RecordError("No scores were collected; run a study first, then report.")
    if primary_metric not in collected.metrics:
        raise RecordError(
            f"Primary metric {primary_metric!r} was not scored; one of "
            f"{', '.join(sorted(collected.metrics))} is allowed."
        )
    arms = tuple(sorted(scores, key=arm_order))
    contrasts = tuple(declared_contrasts(arms) if contrasts is None else contrasts)
    metrics = dict(collected.metrics)
    pairs = [
        pair_up(scores, contrast, metric, higher_is_better=info.higher_is_better)
        for metric, info in metrics.items()
        for contrast in contrasts
    ]
    if primary is None:
        primary = [(contrast.name, primary_metric) for contrast in contrasts if contrast.primary]
    rows = adjust(
        _compared(pairs, margin=margin, primary_metric=primary_metric, seed=seed, n=resamples),
        primary=primary,
    )
    lifts = lifts_table(pairs, primary_metric=primary_metric)
    primary_pairs = [pair for pair in pairs if pair.metric == primary_metric]
    return Analysis(
        comparisons=_with_seeds(
            rows, pairs, primary_metric=primary_metric, margin=margin, seed=seed, n=resamples
        ),
        macro=macro_table(scores, metrics, seed=seed, resamples=resamples),
        lifts=lifts,
        slices=slices_table(
            whole, contrasts, primary_metric, metrics=metrics, seed=seed, resamples=resamples
        ),
        clusters=clusters_table(primary_pairs, clusters or {}, margin=margin),
        missing=missing_table(collected.missing, primary_pairs),
        drift=drift_against_gain(
            collected,
            lifts=lifts,
            metric=primary_metric,
            higher_is_better=metrics[primary_metric].higher_is_better,
            seed=seed,
            resamples=resamples,
        ),
        reliability=reliability_table(
            collected,
            [arm for arm in arms if not is_gated(arm)],
            metric=primary_metric,
            seed=seed,
        ),
        gate=gate_outcome(collected, choices, primary_metric, seed=seed),
        cold_warm=compare_starts(collected.few, seed=seed, resamples=resamples),
        updates=gain_by_updates(collected.traced, seed=seed, resamples=resamples),
        contrasts=contrasts,
        arms=arms,
        users=tuple(sorted({str(user) for frame in scores.values() for user in frame.index})),
        metrics=metrics,
        primary_metric=primary_metric,
        margin=margin,
        seed=seed,
        resamples=resamples,
        n_seeds=max(
            (frame.columns.get_level_values("seed").nunique() for frame in scores.values()),
            default=0,
        ),
        split=split,
        main_metrics=tuple(main_metrics),
        thresholds=thresholds or Thresholds(),
    )


def _compared(
    pairs: Sequence[Paired], *, margin: float, primary_metric: str, seed: int, n: int
) -> list[Comparison]:
    """One row per pair, in order; pairs of the same users share their resamples."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, pair in enumerate(pairs):
        groups.setdefault(tuple(map(str, pair.users)), []).append(place)
    rows: dict[int, Comparison] = {}
    for places in groups.values():
        found = compare_many(
            [pairs[place].contrast.name for place in places],
            "",
            np.column_stack([pairs[place].lifts for place in places]),
            margin=margin,
            rng=np.random.default_rng(seed),
            resamples=n,
        )
        rows |= dict(zip(places, found, strict=True))
    return [
        _finished(
            rows[place], pair, has_margin=pair.metric == primary_metric and math.isfinite(margin)
        )
        for place, pair in enumerate(pairs)
    ]


def _finished(row: Comparison, pair: Paired, *, has_margin: bool) -> Comparison:
    """The row with its metric, Cliff's delta over pairs of users, band, and named absences."""
    row = replace(row, metric=pair.metric)
    if len(pair.users):
        note = row.note.replace(WITHIN_PAIRS, "").strip("; ")
        row = replace(row, cliffs_delta=cliffs_delta(*pair.sides), note=note)
        row = _counted(row, pair)
    if not has_margin:
        row = noted(replace(row, p_tost=NAN), "TOST: no margin declared for this metric")
    if pair.lost and not len(pair.users):
        absent = ", ".join(sorted({arm for _, arm in pair.lost}))
        row = noted(row, f"n/a: no score of {absent} for any of these users")
    elif pair.lost:
        row = noted(row, f"{len(pair.lost)} user(s) without both scores left out")
    return row


def _counted(row: Comparison, pair: Paired) -> Comparison:
    """Helped and hurt as the tables show them: outside the noise band, by sign without one."""
    lifts, band = pair.counted()
    helped, tied, hurt = helped_tied_hurt(lifts, noise_band=band)
    p_sign = float(sign_test(helped, hurt)[0])
    shares = [wilson_interval(count, len(lifts)) for count in (helped, hurt)]
    gone = {NOBODY} if pair.band is None else {NOBODY, SIGNS}
    remarks = [NOBODY] if len(lifts) and not helped[0] + hurt[0] else []
    remarks += [part for part in row.note.split("; ") if part and part not in gone]
    marked = replace(
        row,
        helped=int(helped[0]),
        tied=int(tied[0]),
        hurt=int(hurt[0]),
        p_sign=p_sign,
        share_helped_low=float(shares[0][0][0]),
        share_helped_high=float(shares[0][1][0]),
        share_hurt_low=float(shares[1][0][0]),
        share_hurt_high=float(shares[1][1][0]),
        note="; ".join(remarks),
    )
    numbers = {name: getattr(marked, name) for name in _FLAG_COLUMNS}
    return replace(marked, flag=disagreement(numbers))


_FLAG_COLUMNS = (
    "p_t",
    "p_wilcoxon",
    "p_permutation",
    "p_sign",
    "ci_low",
    "ci_high",
    "bca_low",
    "bca_high",
)


def _with_seeds(
    rows: Sequence[Comparison],
    pairs: Sequence[Paired],
    *,
    primary_metric: str,
    margin: float,
    seed: int,
    n: int,
) -> pd.DataFrame:
    """The rows as a table, with what holds over users and seeds where there are several seeds."""
    table = comparisons_table(rows)
    found = [
        _over_seeds(pair, margin=margin if pair.metric == primary_metric else NAN, seed=seed, n=n)
        for pair in pairs
    ]
    extra = pd.DataFrame(found, columns=SEED_COLUMNS, index=table.index)
    reported = {
        end: extra[f"seeds_{end}"].where(extra[f"seeds_{end}"].notna(), table[f"ci_{end}"])
        for end in ("low", "high")
    }
    return pd.concat([table, extra], axis=1).assign(**reported)


SEED_COLUMNS = ["n_seeds", "seeds_low", "seeds_high", "seeds_p_tost", "seeds_mde80"]


def _over_seeds(
    pair: Paired, *, margin: float, seed: int, n: int
) -> tuple[int, float, float, float, float]:
    """``SEED_COLUMNS`` of one pair; NaN with one seed."""
    lifts = pair.per_seed
    if lifts is None:
        return 1 if len(pair.users) else 0, NAN, NAN, NAN, NAN
    nested = seeds_nest(pair.contrast)
    ends = seed_interval(lifts, nested=nested, rng=np.random.default_rng(seed), resamples=n)
    means = lifts.mean(axis=1)
    mde = float(minimal_detectable_effect(means)[0]) if nested else crossed_detectable(lifts)
    p_tost = NAN
    if math.isfinite(margin):
        p_tost = (
            float(tost(means, margin=margin)[0]) if nested else crossed_tost(lifts, margin=margin)
        )
    return lifts.shape[1], ends.low, ends.high, p_tost, mde
