"""Figures of arms: macro scores, metric by metric, forest of contrasts, slices, clusters."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from results.analysis import Analysis
from results.contrasts import BASELINE, Contrast, Question, is_swapped
from results.figure_style import (
    BLUE,
    INK,
    LINE,
    MANY_ARMS,
    MUTED,
    ORANGE,
    SHEET_INCHES,
    VERMILLION,
    arm_color,
    arm_labels,
    columns_for,
    fitting_height,
    panel_title,
    panels,
    row_label,
    rows_by,
    zero_line,
)
from results.wording import (
    SLICE_TITLES,
    Row,
    arm_title,
    bounds,
    contrast_title,
    interval,
    number,
    p_text,
    verdict,
)

SLICE_PAIRS = (("routine_driven", "spontaneous"), ("first_turn", "later_turns"))
SLICE_MARKS = (("o", BLUE, -0.13), ("s", ORANGE, 0.13))


def asked(analysis: Analysis, questions: Collection[Question]) -> list[Contrast]:
    """The contrasts that answer some of the questions; those of swapped controls are none."""
    return [c for c in analysis.contrasts if c.question in questions and not is_swapped(c.arm)]


def direction(analysis: Analysis, metric: str) -> str:
    """Unit of a metric and the direction that is better."""
    info = analysis.metrics[metric]
    return f"{info.unit}, {'higher' if info.higher_is_better else 'lower'} is better"


def metric_pages(analysis: Analysis, arms: Sequence[str]) -> list[list[str]]:
    """The scored main metrics in pages: as many as fit a sheet with a row for each arm."""
    metrics = [name for name in analysis.headline() if name in set(analysis.macro["metric"])]
    columns, height = _grid(arms)
    fit = columns * max(1, int(SHEET_INCHES // height))
    return [metrics[at : at + fit] for at in range(0, len(metrics), fit)]


def _grid(arms: Sequence[str]) -> tuple[int, float]:
    """Columns of panels, and a panel's height in inches."""
    return (3 if len(arms) > MANY_ARMS else 2), 0.95 + 0.27 * max(len(arms), 2)


def macro_bars(analysis: Analysis, arms: Sequence[str], metrics: Sequence[str]) -> Canvas | None:
    """Bars of macro scores with intervals, a panel per metric."""
    return _macro(analysis, arms, metrics, bars=True)


def macro_points(analysis: Analysis, arms: Sequence[str], metrics: Sequence[str]) -> Canvas | None:
    """Points of macro scores with intervals, a panel per metric."""
    return _macro(analysis, arms, metrics, bars=False)


def _macro(
    analysis: Analysis, arms: Sequence[str], metrics: Sequence[str], *, bars: bool
) -> Canvas | None:
    if not arms or not metrics:
        return None
    columns, height = _grid(arms)
    canvas, axes = panels(len(metrics), columns=columns, width=8.6, height=height, share_y=True)
    for axis, metric in zip(axes, metrics, strict=True):
        chosen = rows_by(analysis.macro[analysis.macro["metric"] == metric], "arm")
        for place, arm in enumerate(arms):
            if arm in chosen and math.isfinite(chosen[arm]["mean"]):
                _score(axis, place, chosen[arm], color=arm_color(arm), bar=bars,
                       control=is_swapped(arm))  # fmt: skip
        arm_labels(axis, arms)
        panel_title(axis, analysis.metrics[metric].title, columns=columns)
        axis.set_xlabel(direction(analysis, metric))
        axis.grid(axis="x")
        # Room for the number beside the last point.
        axis.margins(x=0.06 * columns)
    return canvas


def _score(axis: Axes, place: int, row: Row, *, color: str, bar: bool, control: bool) -> None:
    """One arm's mean and interval; a control is hatched or hollow."""
    low, high, mean = row["ci_low"], row["ci_high"], row["mean"]
    if math.isfinite(low):
        line = INK if bar else color
        axis.plot([low, high], [place, place], color=line, linewidth=1.6, zorder=3)
    if bar:
        hatch = "////" if control else None
        axis.barh(place, mean, height=0.62, color=color, hatch=hatch, edgecolor=INK, linewidth=0.5)
    else:
        face = "none" if control else color
        axis.plot(mean, place, "o", color=color, markerfacecolor=face, markersize=6, zorder=4)
    end = high if math.isfinite(high) else mean
    axis.annotate(
        number(mean), (max(end, mean), place), xytext=(5, 0), textcoords="offset points",
        va="center", fontsize=7.5, color=MUTED,
    )  # fmt: skip


def metric_by_metric(
    analysis: Analysis, arms: Sequence[str], metrics: Sequence[str]
) -> Canvas | None:
    """Lift over the baseline of each arm on each metric, oriented so that right is better."""
    lifted = [arm for arm in arms if arm != BASELINE]
    rows = {(arm, metric): analysis.row(f"{arm} - {BASELINE}", metric)
            for arm in lifted for metric in metrics}  # fmt: skip
    if not any(row is not None and row["n_users"] for row in rows.values()):
        return None
    columns, height = _grid(arms)
    canvas, axes = panels(len(metrics), columns=columns, width=8.6, height=height, share_y=True)
    for axis, metric in zip(axes, metrics, strict=True):
        for place, arm in enumerate(lifted):
            row = rows[arm, metric]
            if row is not None and row["n_users"]:
                _lift(axis, place, row, color=arm_color(arm), hollow=is_swapped(arm))
        zero_line(axis)
        arm_labels(axis, lifted)
        info = analysis.metrics[metric]
        panel_title(axis, info.title, columns=columns)
        axis.set_xlabel(f"lift in {info.unit}\nworse  ←  →  better")
        axis.grid(axis="x")
    return canvas


def _lift(axis: Axes, place: float, row: Row, *, color: str, hollow: bool = False) -> None:
    if math.isfinite(row["low"]):
        axis.plot(list(bounds(row)), [place] * 2, color=color, linewidth=2, zorder=3)
    face = "none" if hollow else color
    axis.plot(row["mean_lift"], place, "o", color=color, markerfacecolor=face, zorder=4)


def forest(analysis: Analysis, questions: Collection[Question]) -> Canvas | None:
    """Contrasts on the primary metric with intervals, the margin, and adjusted p beside them."""
    chosen = asked(analysis, questions)
    found = [(c, row) for c in chosen if (row := analysis.row(c.name)) is not None]
    if not found:
        return None
    height = fitting_height(1.1 + 0.34 * len(found), 1, columns=1)
    canvas, (axis,) = panels(1, columns=1, width=9.2, height=height)
    if math.isfinite(analysis.margin):
        axis.axvspan(-analysis.margin, analysis.margin, color=LINE, alpha=0.6, linewidth=0)
    zero_line(axis)
    for place, (contrast, row) in enumerate(found):
        if row["n_users"]:
            _lift(axis, place, row, color=_verdict_color(row), hollow=not contrast.primary)
        axis.annotate(
            _forest_note(row), (1.01, place), xycoords=("axes fraction", "data"),
            va="center", fontsize=7.8, family="DejaVu Sans Mono",
        )  # fmt: skip
    names = [row_label(contrast_title(c.name)) for c, _ in found]
    axis.set_yticks(range(len(found)), names)
    axis.set_ylim(len(found) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(
        f"mean lift in {analysis.metrics[analysis.primary_metric].title}, 95 % interval"
    )
    axis.grid(axis="x")
    return canvas


def _verdict_color(row: Row) -> str:
    said = verdict(row)
    return {"higher": BLUE, "lower": VERMILLION}.get(said, MUTED)


def _forest_note(row: Row) -> str:
    if not math.isfinite(row["low"]):
        return f"n = {row['n_users']}  n/a"
    ends = interval(*bounds(row), signed=True)
    size = number(row["mean_lift"], signed=True)
    return f"{size} {ends} n={row['n_users']} {p_text(row['p_adjusted'])}"


def slices(analysis: Analysis) -> Canvas | None:
    """Lift over the baseline by kind of items: a panel by the session's origin, one by turn."""
    table = analysis.slices[analysis.slices["n_users"] > 0]
    names = [f"{arm} - {BASELINE}" for arm in analysis.arms if not is_swapped(arm)]
    table = table[table["contrast"].isin(names)]
    splits = [split for split in SLICE_PAIRS if set(split) & set(table["slice"])]
    names = [name for name in names if name in set(table["contrast"])]
    if not splits:
        return None
    height = 1.5 + 0.42 * len(names)
    canvas, axes = panels(len(splits), columns=2, width=8.6, height=height, share_y=True)
    for axis, split in zip(axes, splits, strict=True):
        for kind, style in zip(split, SLICE_MARKS, strict=True):
            _slice_marks(axis, rows_by(table[table["slice"] == kind], "contrast"), names, style)
            axis.plot([], [], style[0], color=style[1], label=SLICE_TITLES[kind])
        arm_labels(axis, [name.partition(" - ")[0] for name in names])
        zero_line(axis)
        axis.grid(axis="x")
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    title = analysis.metrics[analysis.primary_metric].title
    canvas.supxlabel(f"mean lift over the baseline in {title}", fontsize="medium")
    return canvas


def _slice_marks(
    axis: Axes, rows: Mapping[str, Row], names: Sequence[str], style: tuple[str, str, float]
) -> None:
    """One slice's means with their intervals, a little off each arm's line."""
    mark, color, shift = style
    for place, row in ((place, rows[name]) for place, name in enumerate(names) if name in rows):
        if math.isfinite(row["ci_low"]):
            ends = [row["ci_low"], row["ci_high"]]
            axis.plot(ends, [place + shift] * 2, color=color, linewidth=2)
        axis.plot(row["mean_lift"], place + shift, mark, color=color, markersize=6)


def clusters(analysis: Analysis) -> Canvas | None:
    """Lift of each cluster of users with Student's interval, a panel per arm."""
    table = analysis.clusters
    names = [n for n in dict.fromkeys(table["contrast"]) if not is_swapped(n.partition(" - ")[0])]
    if not names:
        return None
    labels = sorted(set(table["cluster"]), key=lambda label: (len(label), label))
    columns = columns_for(len(names))
    height = fitting_height(1.0 + 0.27 * len(labels), len(names), columns=columns)
    canvas, axes = panels(len(names), columns=columns, width=8.6, height=height, share_y=True)
    for axis, name in zip(axes, names, strict=True):
        part = rows_by(table[table["contrast"] == name], "cluster")
        color = arm_color(name.partition(" - ")[0])
        axis.axvline(-analysis.margin, color=MUTED, linestyle=":", linewidth=1)
        zero_line(axis)
        for label, row in part.items():
            place = labels.index(label)
            if math.isfinite(row["low"]):
                axis.plot([row["low"], row["high"]], [place] * 2, color=color, linewidth=2)
            axis.plot(row["mean_lift"], place, "o", color=color)
        sizes = {label: row["n_users"] for label, row in part.items()}
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.set_yticks(
            range(len(labels)), [f"cluster {c} (n = {sizes.get(c, 0)})" for c in labels]
        )
        panel_title(axis, arm_title(name.partition(" - ")[0]), columns=columns)
        axis.grid(axis="x")
    title = analysis.metrics[analysis.primary_metric].title
    canvas.supxlabel(f"mean lift over the baseline in {title}", fontsize="medium")
    return canvas
