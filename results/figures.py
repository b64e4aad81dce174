"""The set of figures: what is drawn, into which folders, with which caption.

Plotting never computes: every number comes from the analysis. Figures without data are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure as Canvas

from results import figure_cold_warm, figure_scores, figure_training, figure_users
from results.analysis import Analysis
from results.cold_warm import MIN_USERS, STARTS
from results.contrasts import BASELINE, is_all_persona, is_per_user, is_swapped
from results.figure_style import Figure, house_style, save
from results.files import write_atomic
from results.item_tables import sample_examples
from results.pairing import CollectedTables
from results.wording import arm_title, plural

__all__ = ["FIGURES", "Drawing", "Figure", "draw_figures", "leading_arm"]

FINAL, SHARED = "final", "all_persona_comparison"
PERSONAL, STABILITY = "per_persona_comparison", "stability"
BOOTSTRAP = "95 % percentile bootstrap over users"
WITH_SEEDS = f"{BOOTSTRAP} (and seeds, where there are several)"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One figure of the set: how it is drawn and told, and the folders it goes to.

    ``draw`` returns None where the study has no data for it; ``interval`` names the interval's
    kind, or says that there is none.
    """

    title: str
    folders: tuple[str, ...]
    draw: Callable[[Analysis, CollectedTables], Canvas | None]
    text: str
    interval: str
    size: Callable[[Analysis], str] | None = None
    """n in words where the figure shows others than the arms' users."""


def _all_arms(analysis: Analysis) -> list[str]:
    return list(analysis.arms)


def _own_arms(analysis: Analysis) -> list[str]:
    return [arm for arm in analysis.arms if not is_swapped(arm)]


def _shared_arms(analysis: Analysis) -> list[str]:
    """Baseline and all-persona arms; none where no arm is shared."""
    shared = [arm for arm in analysis.arms if is_all_persona(arm)]
    return [arm for arm in analysis.arms if arm == BASELINE or arm in shared] if shared else []


def leading_arm(analysis: Analysis) -> str | None:
    """The arm whose replies are shown: per user before shared, highest primary mean first."""
    arms = [arm for arm in _own_arms(analysis) if arm != BASELINE]
    macro = analysis.macro[analysis.macro["metric"] == analysis.primary_metric]
    means = macro.set_index("arm")["mean"].to_dict()
    sign = 1 if analysis.metrics[analysis.primary_metric].higher_is_better else -1
    ranked = sorted(arms, key=lambda arm: (not is_per_user(arm), -sign * means.get(arm, 0.0), arm))
    return ranked[0] if ranked else None


def typical_users(analysis: Analysis, arm: str) -> list[str]:
    """The users with the lowest, the middle and the highest lift of an arm."""
    lifts = analysis.lifts_of(f"{arm} - {BASELINE}").sort_values("lift")
    names = [str(user) for user in lifts["user_id"]]
    places = (0, (len(names) - 1) // 2, len(names) - 1) if names else ()
    return list(dict.fromkeys(names[place] for place in places))


def _before_after(analysis: Analysis, collected: CollectedTables) -> Canvas | None:
    arm = leading_arm(analysis)
    if arm is None:
        return None
    users = typical_users(analysis, arm)
    metric = analysis.primary_metric
    examples = sample_examples(collected, arm, metric=metric, users=users, per_user=1)
    order = {user: place for place, user in enumerate(users)}
    examples = examples.sort_values("user_id", key=lambda names: names.map(order))
    return figure_training.before_after(examples, metric_title=analysis.metrics[metric].title)


FIGURES: dict[str, Drawing] = {
    "own_vs_swapped": Drawing(
        title="Own against swapped adapters",
        folders=(FINAL, PERSONAL),
        draw=lambda analysis, _: figure_users.own_against_swapped(analysis),
        text="Each point is a user. Above the diagonal the own adapter helps more than another "
        "user's: the personal part of the gain.",
        interval=f"{WITH_SEEDS}, in the panel titles",
    ),
    "forest": Drawing(
        title="All contrasts on the primary metric",
        folders=(FINAL,),
        draw=lambda analysis, _: figure_scores.forest(analysis),
        text="Filled points were declared primary; p is adjusted within its family. Blue: evidence "
        "of a gain; vermillion: of a loss; gray: neither. The band is the no-harm margin.",
        interval=WITH_SEEDS,
    ),
    "macro_metrics": Drawing(
        title="Macro scores of all arms",
        folders=(FINAL, PERSONAL),
        draw=lambda analysis, _: figure_scores.macro_points(analysis, _all_arms(analysis)),
        text="Mean over users of each user's score. Hollow points are swapped controls. Intervals "
        "of two arms may overlap although their paired difference is clear: see the forest.",
        interval=BOOTSTRAP,
    ),
    "macro_bars": Drawing(
        title="Macro scores of the shared arms",
        folders=(SHARED,),
        draw=lambda analysis, _: figure_scores.macro_bars(analysis, _shared_arms(analysis)),
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
    ),
    "lift_boxes": Drawing(
        title="Users' lifts over the baseline, shared arms",
        folders=(SHARED,),
        draw=lambda analysis, _: figure_users.lift_boxes(analysis, _shared_arms(analysis)),
        text="Each point is a user; box: quartiles, whiskers: 1.5 quartile ranges, diamond: mean.",
        interval="none (spread of users, not uncertainty of the mean)",
    ),
    "sorted_lifts": Drawing(
        title="Who is helped and who is hurt",
        folders=(FINAL, PERSONAL),
        draw=lambda analysis, _: figure_users.sorted_lifts(analysis, _own_arms(analysis)),
        text="Users sorted by their lift over the baseline; the gray band is each user's noise "
        "between training seeds (with one seed there is none, and helped and hurt are signs).",
        interval="95 % Wilson interval of the share hurt, in the panel titles",
    ),
    "helped_hurt": Drawing(
        title="Shares of users helped and hurt",
        folders=(PERSONAL, FINAL),
        draw=lambda analysis, _: figure_users.helped_hurt(analysis),
        text="Counts of users; the sign test is exact and two-sided, ties left out.",
        interval="none",
    ),
    "metric_by_metric": Drawing(
        title="Metric by metric",
        folders=(FINAL, PERSONAL),
        draw=lambda analysis, _: figure_scores.metric_by_metric(analysis, _all_arms(analysis)),
        text="Mean lift over the baseline in the metric's unit, signed so that right is better. "
        "Hollow points are swapped controls.",
        interval=WITH_SEEDS,
    ),
    "metric_by_metric_shared": Drawing(
        title="Metric by metric, shared arms",
        folders=(SHARED,),
        draw=lambda analysis, _: figure_scores.metric_by_metric(analysis, _shared_arms(analysis)),
        text="Mean lift over the baseline in the metric's unit, signed so that right is better.",
        interval=WITH_SEEDS,
    ),
    "slices": Drawing(
        title="Kinds of sessions and turns",
        folders=(FINAL,),
        draw=lambda analysis, _: figure_scores.slices(analysis),
        text="Mean lift over the baseline, apart for sessions in which a routine was applied and "
        "for the others, and for a session's first reply and its later ones.",
        interval=BOOTSTRAP,
    ),
    "clusters": Drawing(
        title="Lift per cluster of users",
        folders=(FINAL,),
        draw=lambda analysis, _: figure_scores.clusters(analysis),
        text="Dotted: the gate, minus the no-harm margin; a cluster passes when its interval lies "
        "right of it.",
        interval="95 % Student's t (clusters are small)",
    ),
    "shift_norms": Drawing(
        title="How far adapters move",
        folders=(FINAL, STABILITY),
        draw=lambda analysis, _: figure_training.shift_norms(analysis),
        text="Norm of the change of each user's adapter after each step of the micro-update; "
        "quarters of users with the highest and the lowest drift in color.",
        interval="none (each line is a user)",
    ),
    "drift_vs_gain": Drawing(
        title="Drift against gain",
        folders=(STABILITY, FINAL),
        draw=lambda analysis, _: figure_training.drift_against_gain(analysis),
        text="Gain over the adapter that the micro-update started from, pulled to the mean as far "
        "as the items' noise says (empirical Bayes).",
        interval="95 % percentile bootstrap over users of Spearman's rho, in the panel titles",
    ),
    "cold_warm": Drawing(
        title="Cold start against warm start",
        folders=(PERSONAL, FINAL),
        draw=lambda analysis, _: figure_cold_warm.cold_against_warm(analysis),
        text="Mean over users after updates from their first exchanges; 0 is the all-persona "
        "adapter. Cold-start users were held out of every shared stage. Thin lines are users.",
        interval=f"{BOOTSTRAP}, each number of exchanges by itself; none below {MIN_USERS} users",
        size=lambda analysis: " and ".join(
            plural(analysis.cold_warm.n_users(start), f"{start}-start user") for start in STARTS
        ),
    ),
    "training_curves": Drawing(
        title="Training of the shared adapters",
        folders=(FINAL,),
        draw=lambda _, collected: figure_training.training_curves(collected.curves),
        text="A line per arm and seed; the best validation checkpoint is kept.",
        interval="none",
    ),
    "before_after": Drawing(
        title="Replies before and after",
        folders=(FINAL,),
        draw=_before_after,
        text="One item each of the users with the lowest, the middle and the highest lift, drawn "
        "by hash and not by score. Before: the baseline; after: the user's own adapter.",
        interval="none",
    ),
}


def draw_figures(
    workspace: Path,
    collected: CollectedTables,
    analysis: Analysis,
    *,
    only: frozenset[str] | None = None,
    command: str = "python -m orchestrator report",
) -> list[Figure]:
    """Draw the set into ``results/figures/``; a figure of several folders is drawn once.

    Args:
        workspace: The study's folder.
        collected: The collector's tables.
        analysis: The study's numbers.
        only: Names to draw; all of ``FIGURES`` otherwise.
        command: What redraws the figures, for the captions.

    Returns:
        The figures that have data, in the set's order.
    """
    root = workspace / "results" / "figures"
    found = []
    with house_style():
        for name, drawing in FIGURES.items():
            if only is not None and name not in only:
                continue
            folders = [root / folder for folder in drawing.folders]
            figure = drawn(
                drawing, analysis, collected, name=name, folders=folders, command=command
            )
            found += [figure] if figure is not None else []
    return found


def drawn(
    drawing: Drawing,
    analysis: Analysis,
    collected: CollectedTables,
    *,
    name: str,
    folders: Sequence[Path],
    command: str,
) -> Figure | None:
    """One figure, saved under a name into each of the folders; None where it has no data."""
    canvas = drawing.draw(analysis, collected)
    if canvas is None:
        return None
    return Figure(
        name=name,
        title=drawing.title,
        paths=_write(canvas, folders, name),
        caption=_caption(drawing, analysis, command=command),
        alt=f"{drawing.title}. {drawing.text}",
    )


def _write(canvas: Canvas, folders: Sequence[Path], name: str) -> tuple[Path, ...]:
    """Save into the first folder and copy to the others."""
    paths = list(save(canvas, folders[0], name))
    for folder in folders[1:]:
        paths += [write_atomic(folder / path.name, path.read_bytes()) for path in paths[:2]]
    return tuple(paths)


def _caption(drawing: Drawing, analysis: Analysis, *, command: str) -> str:
    """What is shown, n, the interval's kind, and the command that redraws it."""
    users = plural(len(analysis.users), "user")
    if drawing.size is not None:
        users = drawing.size(analysis)
    size = f"n = {users}, {plural(analysis.n_seeds, 'seed')}"
    return (
        f"{drawing.title}. {drawing.text} {size}, {analysis.split} items. "
        f"Interval: {drawing.interval}. Redraw: {command}"
    )


def arms_line(analysis: Analysis) -> str:
    """All arms of the study in words."""
    return ", ".join(arm_title(arm) for arm in analysis.arms)
