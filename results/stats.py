"""Statistics of a study: one number per user and arm, then paired tests on the users' lifts.

``compare`` and ``compare_many`` make the rows of ``comparisons.csv``; ``adjust`` corrects them for
the number of questions. The parts live in ``resampling``, ``paired_tests``, ``effect_sizes``,
``comparison``, ``user_scores`` and ``estimates``, and what the
report needs of them can be had from here. Nothing draws, prints or reads files; the caller passes
the generator.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from results.comparison import (
    TESTS,
    Comparison,
    comparison_from,
    comparison_rows,
    comparisons_table,
    noted,
)
from results.effect_sizes import (
    cliffs_delta,
    cliffs_delta_within,
    cohens_dz,
    helped_tied_hurt,
    minimal_detectable_effect,
    prob_improvement,
    wilson_interval,
)
from results.estimates import (
    ClusterLift,
    Estimate,
    OracleNull,
    accuracy,
    cluster_lifts,
    oracle_null,
    seed_interval,
    spearman,
)
from results.paired_tests import (
    SIGN_FLIP_EXACT_USERS,
    WILCOXON_ZERO_RULE,
    benjamini_hochberg,
    holm,
    mcnemar,
    paired_t,
    sign_flip,
    sign_test,
    tost,
    wilcoxon,
)
from results.resampling import (
    RESAMPLES,
    Floats,
    StatsError,
    as_columns,
    bca_from_sorted,
    bootstrap_means,
    column_means,
    sorted_quantiles,
)
from results.user_scores import (
    Reliability,
    Shrunken,
    item_lift_variances,
    no_harm_gate,
    noise_band,
    reliability,
    shrink,
)

__all__ = [
    "RESAMPLES",
    "TESTS",
    "ClusterLift",
    "Comparison",
    "Estimate",
    "OracleNull",
    "Reliability",
    "Shrunken",
    "StatsError",
    "accuracy",
    "adjust",
    "cluster_lifts",
    "compare",
    "compare_many",
    "comparison_rows",
    "comparisons_table",
    "item_lift_variances",
    "mcnemar",
    "methods",
    "no_harm_gate",
    "noise_band",
    "oracle_null",
    "paired_lifts",
    "paired_statistics",
    "reliability",
    "seed_interval",
    "shrink",
    "spearman",
    "wilson_interval",
    "without_dust",
]

PRIMARY, SECONDARY = "primary (Holm)", "secondary (Benjamini-Hochberg)"
SIGNS = "helped and hurt are signs: no noise band"
WITHIN_PAIRS = "Cliff's delta is within pairs"


def paired_lifts(arm: ArrayLike, baseline: ArrayLike, *, higher_is_better: bool) -> Floats:
    """Lifts of users, positive where the arm is better: two ``[n]`` in the same order to ``[n]``.

    Raises:
        StatsError: The two have different shapes.
    """
    scores, reference = np.asarray(arm, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if scores.shape != reference.shape:
        raise StatsError(
            f"{scores.shape} scores against {reference.shape}; the same users in the same order "
            "are needed: join the two tables on the user id first."
        )
    return scores - reference if higher_is_better else reference - scores


def without_dust(lifts: ArrayLike, *, scale: float | None = None) -> Floats:
    """Lifts rounded to twelve significant digits of ``scale``, the largest one unless given.

    Scores of six decimals differ by 0.1 and by 0.09999999999999998; such dust would break the
    ties and zeros that rank and sign tests count. Where all lifts may be dust (the mean of three
    equal scores is not always that score), ``scale`` is the largest score that they are made of.
    """
    table = np.asarray(lifts, dtype=np.float64)
    largest = float(np.abs(table).max(initial=0.0)) if scale is None else scale
    if not largest > 0:
        return table + 0.0
    decimals = int(np.clip(12 - np.floor(np.log10(largest)), -250, 250))
    return np.asarray(np.round(table, decimals) + 0.0)


def paired_statistics(
    lifts: ArrayLike,
    *,
    margin: float,
    noise_band: ArrayLike | None = None,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> dict[str, Floats]:
    """Every statistic of ``Comparison`` for each column: ``[n, k]`` to arrays ``[k]`` by name.

    All columns share the resamples of users and the sign flips. NaN where a number cannot be had.
    """
    table = as_columns(lifts)
    helped, tied, hurt = helped_tied_hurt(table, noise_band=noise_band)
    share_helped, share_hurt = (wilson_interval(count, len(table)) for count in (helped, hurt))
    t, p_t = paired_t(table)
    found = _intervals(table, rng=rng, resamples=resamples)
    none = np.full(table.shape[1], np.nan)
    return found | {
        "t": t,
        "p_t": p_t,
        "p_wilcoxon": wilcoxon(table),
        "p_permutation": sign_flip(table, rng=rng, permutations=resamples),
        "p_sign": sign_test(helped, hurt),
        "helped": helped,
        "tied": tied,
        "hurt": hurt,
        "dz": cohens_dz(table),
        "cliffs_delta": cliffs_delta_within(table),
        "prob_improvement": prob_improvement(table),
        "p_tost": none if math.isnan(margin) else tost(table, margin=margin),
        "mde80": minimal_detectable_effect(table),
        "share_helped_low": share_helped[0],
        "share_helped_high": share_helped[1],
        "share_hurt_low": share_hurt[0],
        "share_hurt_high": share_hurt[1],
    }


def _intervals(table: Floats, *, rng: np.random.Generator, resamples: int) -> dict[str, Floats]:
    """Mean lift with its percentile and BCa intervals; no interval below two users."""
    none = np.full(table.shape[1], np.nan)
    found = {"mean_lift": column_means(table)}
    if len(table) < 2:
        return found | dict.fromkeys(("ci_low", "ci_high", "bca_low", "bca_high"), none)
    ordered = np.sort(bootstrap_means(table, rng=rng, resamples=resamples), axis=0)
    tail = np.full(table.shape[1], 0.025)
    bca_low, bca_high = bca_from_sorted(table, ordered)
    return found | {
        "ci_low": sorted_quantiles(ordered, tail),
        "ci_high": sorted_quantiles(ordered, 1 - tail),
        "bca_low": bca_low,
        "bca_high": bca_high,
    }


def compare_many(
    contrasts: Sequence[str],
    metric: str,
    lifts: ArrayLike,
    *,
    margin: float,
    noise_band: ArrayLike | None = None,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> list[Comparison]:
    """Compare several arms of the same users, with one set of resamples for all.

    Args:
        contrasts: k names.
        metric: Name of the metric.
        lifts: ``[n, k]``, positive is better. NaN marks a user without a score: then each column
            is compared by itself over the users it has, and its note says how many are left out.
        margin: Equivalence margin of TOST, in the metric's unit; NaN: no TOST.
        noise_band: One width, ``[n]`` widths, or ``None`` with one seed (signs are counted).
        rng: Source of the resamples and sign flips.
        resamples: Number of both.

    Raises:
        StatsError: Shapes do not fit, a lift is infinite, or the margin is not above 0.
    """
    table = np.asarray(lifts, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(contrasts):
        raise StatsError(
            f"Lifts of shape {table.shape} for {len(contrasts)} contrasts; "
            f"[users, {len(contrasts)}] is needed."
        )
    if np.isnan(table).any():
        return [
            compare(
                name,
                metric,
                column,
                margin=margin,
                noise_band=noise_band,
                rng=rng,
                resamples=resamples,
            )
            for name, column in zip(contrasts, table.T, strict=True)
        ]
    clean = np.column_stack([without_dust(column) for column in table.T])
    found = paired_statistics(
        clean, margin=margin, noise_band=noise_band, rng=rng, resamples=resamples
    )
    signs = SIGNS if noise_band is None else ""
    remark = "; ".join(filter(None, (signs, WITHIN_PAIRS)))
    return [
        comparison_from(
            name, metric, clean[:, k], {key: float(v[k]) for key, v in found.items()}, remark
        )
        for k, name in enumerate(contrasts)
    ]


def compare(
    contrast: str,
    metric: str,
    lifts: ArrayLike,
    *,
    margin: float,
    noise_band: ArrayLike | None = None,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    scores: tuple[ArrayLike, ArrayLike] | None = None,
) -> Comparison:
    """Compare two arms over users; arguments as in ``compare_many``, lifts ``[n]``.

    Args:
        contrast: What is compared, for example ``"lora_all - baseline"``.
        metric: Name of the metric.
        lifts: ``[n]``, positive is better; users with NaN are left out and counted in the note.
        margin: Equivalence margin of TOST.
        noise_band: One width, ``[n]`` widths, or ``None``.
        rng: Source of the resamples and sign flips. A generator of the same seed gives all
            contrasts of equally many users the same resamples.
        resamples: Number of both.
        scores: Optionally the arm's and the baseline's scores, ``[n]`` each and oriented like the
            lifts: Cliff's delta is then over all pairs of users, otherwise within pairs.
    """
    column = np.asarray(lifts, dtype=np.float64).reshape(-1)
    kept = ~np.isnan(column)
    band = np.asarray(0.0 if noise_band is None else noise_band, dtype=np.float64)
    if band.size not in (1, len(column)):
        raise StatsError(f"Noise band of {band.size} numbers for {len(column)} users; 1 or n.")
    row = compare_many(
        [contrast],
        metric,
        column[kept, None],
        margin=margin,
        noise_band=None if noise_band is None else band if band.size == 1 else band[kept],
        rng=rng,
        resamples=resamples,
    )[0]
    if scores is not None:
        delta = cliffs_delta(*(np.asarray(side, dtype=np.float64)[kept] for side in scores))
        row = replace(
            row, cliffs_delta=delta, note=row.note.removesuffix(WITHIN_PAIRS).rstrip("; ")
        )
    if kept.all():
        return row
    return noted(row, f"{int((~kept).sum())} user(s) without a score left out")


def adjust(
    comparisons: Sequence[Comparison],
    *,
    primary: Collection[tuple[str, str]],
    test: str = "p_permutation",
) -> list[Comparison]:
    """Fill ``p_adjusted`` and ``family``: Holm for the primary family, else Benjamini-Hochberg.

    Args:
        comparisons: All rows of a study.
        primary: The (contrast, metric) pairs declared before results.
        test: Whose p is adjusted; declared before results, too.

    Raises:
        StatsError: ``test`` is no test's column.
    """
    if test not in TESTS:
        raise StatsError(f"Test {test!r}; one of {', '.join(TESTS)} is allowed.")
    declared = set(primary)
    first = np.array([(row.contrast, row.metric) in declared for row in comparisons], dtype=bool)
    p = np.array([getattr(row, test) for row in comparisons], dtype=np.float64)
    p[first], p[~first] = holm(p[first]), benjamini_hochberg(p[~first])
    return [
        replace(row, p_adjusted=float(value), family=PRIMARY if chosen else SECONDARY)
        for row, value, chosen in zip(comparisons, p, first, strict=True)
    ]


def methods(*, resamples: int = RESAMPLES) -> dict[str, str]:
    """How each number is made with so many resamples, for the report's methods section."""
    return {
        "interval": f"95 % percentile and BCa bootstrap, {resamples:,} resamples of users",
        "wilcoxon": f"signed-rank, zeros by the {WILCOXON_ZERO_RULE} rule, exact up to 50 users",
        "permutation": f"sign-flip of the mean, exact up to {SIGN_FLIP_EXACT_USERS} users, else "
        f"{resamples:,} flips + 1",
        "sign": "exact two-sided binomial of helped against hurt users, ties left out",
        "cliffs_delta": "over all pairs of users; within pairs where the note says so",
        "tost": "two one-sided t tests against the margin",
        "mde80": "noncentral t, two-sided 5 %, 80 % power",
        "adjusted": "Holm in the primary family, Benjamini-Hochberg in the rest, of p_permutation",
    }
