"""The set of figures: what is drawn of a study, into which folders, and how it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from matplotlib.figure import Figure as Canvas

from results import (
    figure_cold_warm,
    figure_examples,
    figure_scores,
    figure_sizes,
    figure_training,
    figure_updates,
    figure_users,
)
from results.analysis import Analysis
from results.cold_warm import MIN_USERS
from results.contrasts import (
    BASELINE,
    Question,
    is_all_persona,
    is_swapped,
)
from results.figure_sizes import Names, Size, of_contrasts, of_scores, over_baseline
from results.pairing import CollectedTables

FINAL, SHARED = "final", "all_persona_comparison"
PERSONAL, STABILITY = "per_persona_comparison", "stability"
BOOTSTRAP = "95 % percentile bootstrap over users"
NESTED = f"{BOOTSTRAP} (seeds nested in users, where there are several)"
CROSSED = f"{BOOTSTRAP}; with several seeds Student's t over users and seeds"
BOTH = f"{CROSSED}, for own − swapped bootstrap with seeds nested in users"
MAIN: tuple[Question, ...] = ("personal", "adapted", "personal_step", "prompted")
STEPS: tuple[Question, ...] = ("cluster_step", "gate", "adapter")
"""Questions of the second sheet: a full study's contrasts do not fit one."""
COUNTED: tuple[Question, ...] = ("cluster_step", "gate")
"""Those of them that are about users helped and hurt."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One figure of the set: how it is drawn and told, and the folders it goes to.

    ``draw`` returns None where the study has no data for it; ``size`` says what of the study is
    drawn: n, seeds and items; ``interval`` names the interval's kind, or says that there is none.
    """

    title: str
    folders: tuple[str, ...]
    draw: Callable[[Analysis, CollectedTables], Canvas | None]
    text: str
    interval: str
    size: Size
    detail: Callable[[Analysis], str] | None = None
    """More text where it depends on the study."""


def _all_arms(analysis: Analysis) -> list[str]:
    return list(analysis.arms)


def _own_arms(analysis: Analysis) -> list[str]:
    return [arm for arm in analysis.arms if not is_swapped(arm)]


def _shared_arms(analysis: Analysis) -> list[str]:
    """Baseline and all-persona arms; none where no arm is shared."""
    shared = [arm for arm in analysis.arms if is_all_persona(arm)]
    return [arm for arm in analysis.arms if arm == BASELINE or arm in shared] if shared else []


def _answering(*questions: Question) -> Names:
    return lambda analysis: [c.name for c in figure_scores.asked(analysis, questions)]


def _page(arms: Names, number: int) -> Names:
    """Metrics on one of the sheets that hold a panel per metric."""

    def metrics(analysis: Analysis) -> Sequence[str]:
        pages = figure_scores.metric_pages(analysis, arms(analysis))
        return pages[number] if number < len(pages) else []

    return metrics


def _other_metrics(arms: Names) -> Callable[[Analysis], str]:
    """Where the main metrics are that the first sheet has no room for."""

    def told(analysis: Analysis) -> str:
        first, *others = figure_scores.metric_pages(analysis, arms(analysis))
        if not others:
            return ""
        total = len(first) + sum(map(len, others))
        left = sum(map(len, others[1:]))
        rest = f", the other {left} in the tables alone" if left else ""
        return f"{len(first)} of {total} main metrics, {len(others[0])} on a second sheet{rest}."

    return told


class _Told(TypedDict):
    title: str
    folders: tuple[str, ...]
    text: str
    interval: str


def _metric_sheet(
    draw: Callable[[Analysis, Sequence[str], Sequence[str]], Canvas | None],
    arms: Names,
    number: int,
    *,
    title: str,
    folders: tuple[str, ...],
    text: str,
    interval: str,
) -> Drawing:
    """A sheet of panels, one per main metric."""
    metrics = _page(arms, number)
    lifts = draw is figure_scores.metric_by_metric
    return Drawing(
        title=title if number == 0 else f"{title}, second sheet",
        folders=folders,
        draw=lambda analysis, _: draw(analysis, arms(analysis), metrics(analysis)),
        text=text,
        interval=interval,
        size=of_contrasts(over_baseline(arms), metrics) if lifts else of_scores(arms, metrics),
        detail=_other_metrics(arms) if number == 0 else None,
    )


_MACRO: _Told = {
    "title": "Macro scores of all arms",
    "folders": (FINAL, PERSONAL),
    "text": "Mean over users of each user's score. Hollow points are swapped controls. Intervals "
    "of two arms may overlap although their paired difference is clear: see the forest.",
    "interval": BOOTSTRAP,
}
_LIFTS: _Told = {
    "title": "Metric by metric",
    "folders": (FINAL, PERSONAL),
    "text": "Mean lift over the baseline in the metric's unit, signed so that right is better. "
    "Hollow points are swapped controls.",
    "interval": CROSSED,
}
_FOREST = (
    "Filled points were declared primary; p is adjusted within its family. Blue: evidence of a "
    "gain; vermillion: of a loss; gray: neither. The band is the no-harm margin."
)
_COUNTS = "Counts of users; the sign test is exact and two-sided, ties left out."

FIGURES: dict[str, Drawing] = {
    "own_vs_swapped": Drawing(
        title="Own against swapped adapters",
        folders=(FINAL, PERSONAL),
        draw=lambda analysis, _: figure_users.own_against_swapped(analysis),
        text="Each point is a user. Above the diagonal the own adapter helps more than another "
        "user's: the personal part of the gain.",
        interval=f"{NESTED}, in the panel titles",
        size=of_contrasts(_answering("personal")),
    ),
    "forest": Drawing(
        title="Contrasts on the primary metric",
        folders=(FINAL,),
        draw=lambda analysis, _: figure_scores.forest(analysis, MAIN),
        text=_FOREST,
        interval=BOTH,
        size=of_contrasts(_answering(*MAIN)),
    ),
    "forest_steps": Drawing(
        title="Contrasts on the primary metric: clusters, gate, and LoRA against prefix",
        folders=(FINAL,),
        draw=lambda analysis, _: figure_scores.forest(analysis, STEPS),
        text=_FOREST,
        interval=CROSSED,
        size=of_contrasts(_answering(*STEPS)),
    ),
    "macro_metrics": _metric_sheet(figure_scores.macro_points, _all_arms, 0, **_MACRO),
    "macro_metrics_more": _metric_sheet(figure_scores.macro_points, _all_arms, 1, **_MACRO),
    "macro_bars": _metric_sheet(
        figure_scores.macro_bars,
        _shared_arms,
        0,
        title="Macro scores of the shared arms",
        folders=(SHARED,),
        text="Mean over users of each user's score.",
        interval=BOOTSTRAP,
    ),
    "lift_violins": Drawing(
        title="Users' lifts over the baseline",
        folders=(FINAL, PERSONAL),
        draw=lambda analysis, _: figure_users.lift_violins(analysis, _all_arms(analysis)),
        text="Each point is a user; box: quartiles, whiskers: 1.5 quartile ranges, diamond: mean. "
        "Hollow points are swapped controls.",
        interval="none (spread of users, not uncertainty of the mean)",
        size=of_contrasts(over_baseline(_all_arms)),
    ),
    "lift_boxes": Drawing(
        title="Users' lifts over the baseline, shared arms",
        folders=(SHARED,),
        draw=lambda analysis, _: figure_users.lift_boxes(analysis, _shared_arms(analysis)),
        text="Each point is a user; box: quartiles, whiskers: 1.5 quartile ranges, diamond: mean.",
        interval="none (spread of users, not uncertainty of the mean)",
        size=of_contrasts(over_baseline(_shared_arms)),
    ),
    "sorted_lifts": Drawing(
        title="Who is helped and who is hurt",
        folders=(FINAL, PERSONAL),
        draw=lambda analysis, _: figure_users.sorted_lifts(analysis, _own_arms(analysis)),
        text="Users sorted by their lift over the baseline; the gray band is each user's noise "
        "between training seeds (with one seed there is none, and helped and hurt are signs).",
        interval="95 % Wilson interval of the share hurt, in the panel titles",
        size=of_contrasts(over_baseline(_own_arms)),
    ),
    "helped_hurt": Drawing(
        title="Shares of users helped and hurt",
        folders=(PERSONAL, FINAL),
        draw=lambda analysis, _: figure_users.helped_hurt(analysis, MAIN),
        text=_COUNTS,
        interval="none",
        size=of_contrasts(_answering(*MAIN)),
    ),
    "helped_hurt_steps": Drawing(
        title="Shares of users helped and hurt: clusters and gate",
        folders=(PERSONAL, FINAL),
        draw=lambda analysis, _: figure_users.helped_hurt(analysis, COUNTED),
        text=_COUNTS,
        interval="none",
        size=of_contrasts(_answering(*COUNTED)),
    ),
    "metric_by_metric": _metric_sheet(figure_scores.metric_by_metric, _all_arms, 0, **_LIFTS),
    "metric_by_metric_more": _metric_sheet(figure_scores.metric_by_metric, _all_arms, 1, **_LIFTS),
    "metric_by_metric_shared": _metric_sheet(
        figure_scores.metric_by_metric,
        _shared_arms,
        0,
        title="Metric by metric, shared arms",
        folders=(SHARED,),
        text="Mean lift over the baseline in the metric's unit, signed so that right is better.",
        interval=CROSSED,
    ),
    "slices": Drawing(
        title="Kinds of sessions and turns",
        folders=(FINAL,),
        draw=lambda analysis, _: figure_scores.slices(analysis),
        text="Mean lift over the baseline, apart for sessions in which a routine was applied and "
        "for the others, and for a session's first reply and its later ones.",
        interval=BOOTSTRAP,
        size=figure_sizes.of_slices(_own_arms),
    ),
    "clusters": Drawing(
        title="Lift per cluster of users",
        folders=(FINAL,),
        draw=lambda analysis, _: figure_scores.clusters(analysis),
        text="Dotted: the gate, minus the no-harm margin; a cluster passes when its interval lies "
        "right of it.",
        interval="95 % Student's t (clusters are small)",
        size=figure_sizes.of_clusters,
    ),
    "shift_norms": Drawing(
        title="How far adapters move",
        folders=(FINAL, STABILITY),
        draw=lambda analysis, _: figure_training.shift_norms(analysis),
        text="Norm of the change of each user's adapter after each step of the micro-update; "
        "quarters of users with the highest and the lowest drift in color.",
        interval="none (each line is a user)",
        size=figure_sizes.of_steps,
    ),
    "drift_vs_gain": Drawing(
        title="Drift against gain",
        folders=(STABILITY, FINAL),
        draw=lambda analysis, _: figure_training.drift_against_gain(analysis),
        text="Gain over the adapter that the micro-update started from, pulled to the mean as far "
        "as the items' noise says (empirical Bayes).",
        interval="95 % percentile bootstrap over users of Spearman's rho, in the panel titles",
        size=figure_sizes.of_drift,
    ),
    "validation_gain": Drawing(
        title="Validation gain by number of updates",
        folders=(STABILITY, FINAL),
        draw=lambda analysis, _: figure_updates.validation_gain(analysis),
        text="Fall of the true replies' negative log-likelihood since 0 updates, the adapter that "
        "the micro-update starts from, after each of its epochs; up is better. Thin lines are "
        "users. Early stopping and searches choose by the same half of validation.",
        interval=f"{BOOTSTRAP}, each number of updates by itself; none below {MIN_USERS} users",
        size=figure_updates.size,
    ),
    "cold_warm": Drawing(
        title="Cold start against warm start",
        folders=(PERSONAL, FINAL),
        draw=lambda analysis, _: figure_cold_warm.cold_against_warm(analysis),
        text="Mean over users after updates from their first exchanges; 0 is the all-persona "
        "adapter. Cold-start users were held out of every shared stage. Thin lines are users.",
        interval=f"{BOOTSTRAP}, each number of exchanges by itself; none below {MIN_USERS} users",
        size=figure_sizes.of_starts,
    ),
    "training_curves": Drawing(
        title="Training of the shared adapters",
        folders=(FINAL,),
        draw=lambda _, collected: figure_training.training_curves(collected.curves),
        text="A line per arm and seed; the best validation checkpoint is kept.",
        interval="none",
        size=figure_sizes.of_trainings,
    ),
    "before_after": Drawing(
        title="Replies before and after",
        folders=(FINAL,),
        draw=figure_examples.replies,
        text="One item each of the users with the lowest, the middle and the highest lift, drawn "
        "by hash and not by score. Before: the baseline.",
        detail=figure_examples.after,
        interval="none",
        size=figure_examples.of_examples,
    ),
}
