"""Figures of users: how lifts are spread, who is helped and who is hurt, own against swapped."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from results.analysis import Analysis
from results.contrasts import BASELINE, SWAPPED, Question, is_swapped
from results.figure_scores import asked
from results.figure_style import (
    HELPED,
    HURT,
    INK,
    LINE,
    MANY_USERS,
    MUTED,
    PAPER,
    TIED,
    arm_color,
    arm_labels,
    columns_for,
    fitting_height,
    panel_title,
    panels,
    row_label,
    zero_line,
)
from results.resampling import Floats
from results.wording import arm_title, bounds, contrast_title, interval, number, p_text, share

MIN_FOR_VIOLIN = 5


def lift_boxes(analysis: Analysis, arms: Sequence[str]) -> Canvas | None:
    """Boxes of users' lifts over the baseline, every user a point."""
    return _spread(analysis, arms, violins=False)


def lift_violins(analysis: Analysis, arms: Sequence[str]) -> Canvas | None:
    """Violins with boxes of users' lifts over the baseline, every user a point."""
    return _spread(analysis, arms, violins=True)


def _spread(analysis: Analysis, arms: Sequence[str], *, violins: bool) -> Canvas | None:
    lifts = {arm: _lifts(analysis, f"{arm} - {BASELINE}") for arm in arms if arm != BASELINE}
    lifts = {arm: values for arm, values in lifts.items() if len(values)}
    if not lifts:
        return None
    height = fitting_height(1.0 + 0.62 * len(lifts), 1, columns=1)
    canvas, (axis,) = panels(1, columns=1, width=8.2, height=height)
    for place, (arm, values) in enumerate(lifts.items()):
        _one_spread(axis, place, values, color=arm_color(arm), violin=violins,
                    control=is_swapped(arm))  # fmt: skip
    arm_labels(axis, list(lifts))
    axis.set_ylim(len(lifts) - 0.4, -0.6)
    zero_line(axis)
    axis.grid(axis="x")
    axis.set_xlabel(_lift_label(analysis))
    return canvas


def _lifts(analysis: Analysis, contrast: str) -> Floats:
    return np.asarray(analysis.lifts_of(contrast)["lift"], dtype=np.float64)


def _lift_label(analysis: Analysis, what: str = "lift over the baseline") -> str:
    return f"a user's {what} in {analysis.metrics[analysis.primary_metric].title}"


def _one_spread(
    axis: Axes, place: int, values: Floats, *, color: str, violin: bool, control: bool
) -> None:
    """Points beneath, a box in the middle, and a violin where there are users enough for it."""
    if violin and len(values) >= MIN_FOR_VIOLIN and np.ptp(values) > 0:
        body = axis.violinplot(
            values, positions=[place], orientation="horizontal", widths=0.85, showextrema=False
        )
        for shape in body["bodies"]:  # type: ignore[attr-defined]
            shape.set(facecolor=color, edgecolor=color, alpha=0.12 if control else 0.3)
    # Golden-ratio steps spread the points evenly without chance.
    offsets = (np.arange(len(values)) * 0.618034 % 1 - 0.5) * 0.3
    axis.plot(
        values, place + offsets, "o", color=color, markersize=3, alpha=0.55,
        markerfacecolor="none" if control else color, rasterized=len(values) > MANY_USERS,
    )  # fmt: skip
    axis.boxplot(
        values, positions=[place], orientation="horizontal", widths=0.36, showfliers=False,
        medianprops={"color": INK, "linewidth": 1.8}, boxprops={"color": INK, "linewidth": 0.9},
        whiskerprops={"color": INK, "linewidth": 0.9}, capprops={"color": INK, "linewidth": 0.9},
    )  # fmt: skip
    axis.plot(values.mean(), place, "D", color=PAPER, markeredgecolor=INK, markersize=5, zorder=5)


def helped_hurt(analysis: Analysis, questions: Collection[Question]) -> Canvas | None:
    """Users helped, tied and hurt in each contrast of some questions, with the sign test."""
    chosen = asked(analysis, questions)
    rows = [row for c in chosen if (row := analysis.row(c.name)) is not None and row["n_users"]]
    if not rows:
        return None
    height = fitting_height(1.3 + 0.36 * len(rows), 1, columns=1)
    canvas, (axis,) = panels(1, columns=1, width=9.0, height=height)
    for place, row in enumerate(rows):
        _counts_bar(axis, place, row)
        axis.annotate(
            f"sign test {p_text(row['p_sign'])}", (1.01, place), va="center", fontsize=8,
            xycoords=("axes fraction", "data"),
        )  # fmt: skip
    names = [row_label(contrast_title(str(row["contrast"]))) for row in rows]
    axis.set_yticks(range(len(rows)), names)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axis.set_xlabel("share of users")
    for name, color in (("hurt", HURT), ("tied", TIED), ("helped", HELPED)):
        axis.barh([0], [0], color=color, label=name)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
    return canvas


def _counts_bar(axis: Axes, place: int, row: pd.Series) -> None:
    """Hurt from the left, helped to the right, tied between, each with its count."""
    left = 0.0
    for name, color in (("hurt", HURT), ("tied", TIED), ("helped", HELPED)):
        count = int(row[name])
        width = count / row["n_users"]
        axis.barh(place, width, left=left, height=0.66, color=color)
        if width > 0.04:
            axis.text(
                left + width / 2, place, f"{count}", ha="center", va="center", color=PAPER,
                fontsize=8, fontweight="bold",
            )  # fmt: skip
        left += width


def own_against_swapped(analysis: Analysis) -> Canvas | None:
    """Each user's lift under the own adapter against the lift under another user's."""
    found = []
    for contrast in analysis.contrasts:
        if contrast.question != "personal":
            continue
        own = analysis.lifts_of(f"{contrast.arm} - {BASELINE}").set_index("user_id")["lift"]
        other = analysis.lifts_of(f"{contrast.arm}{SWAPPED} - {BASELINE}")
        joined = pd.concat([own, other.set_index("user_id")["lift"]], axis=1, join="inner")
        if len(joined):
            found.append((contrast, np.asarray(joined, dtype=np.float64)))
    if not found:
        return None
    canvas, axes = panels(len(found), columns=2, width=4.3 * min(2, len(found)), height=4.2)
    ends = np.concatenate([both.ravel() for _, both in found] + [np.zeros(1)])
    # Wide enough for the words in the corners, which no point may cover.
    pad = 0.1 * float(np.ptp(ends)) + 1e-6
    limits = (float(ends.min()) - pad, float(ends.max()) + pad)
    for axis, (contrast, both) in zip(axes, found, strict=True):
        _against(axis, both, limits, color=arm_color(contrast.arm))
        row = analysis.row(contrast.name)
        if row is not None:
            size = number(row["mean_lift"], signed=True)
            ends_text = interval(*bounds(row), signed=True)
            panel_title(axis, f"{contrast_title(contrast.name)}\n{size} {ends_text}")
        axis.set_xlabel("lift under another user's adapter")
    axes[0].set_ylabel("lift under the own adapter")
    return canvas


def _against(axis: Axes, both: Floats, limits: tuple[float, float], *, color: str) -> None:
    axis.plot(limits, limits, color=INK, linewidth=0.8)
    axis.axhline(0, color=LINE, linewidth=0.8)
    axis.axvline(0, color=LINE, linewidth=0.8)
    axis.plot(
        both[:, 1], both[:, 0], "o", color=color, markersize=4.5, alpha=0.7,
        markeredgecolor=PAPER, markeredgewidth=0.4, rasterized=len(both) > MANY_USERS,
    )  # fmt: skip
    axis.set(xlim=limits, ylim=limits, aspect="equal")
    axis.annotate("own better", (0.03, 0.95), xycoords="axes fraction", color=MUTED, fontsize=8)
    axis.annotate(
        "swapped better", (0.97, 0.03), xycoords="axes fraction", color=MUTED, fontsize=8,
        ha="right",
    )  # fmt: skip


def sorted_lifts(analysis: Analysis, arms: Sequence[str]) -> Canvas | None:
    """Users in the order of their lift, with the noise band: who is helped and who is hurt."""
    names = [f"{arm} - {BASELINE}" for arm in arms if arm != BASELINE and not is_swapped(arm)]
    tables = {name: analysis.lifts_of(name).sort_values("lift") for name in names}
    tables = {name: table for name, table in tables.items() if len(table)}
    if not tables:
        return None
    columns = columns_for(len(tables))
    height = fitting_height(2.5, len(tables), columns=columns)
    canvas, axes = panels(len(tables), columns=columns, width=8.6, height=height, share_y=True)
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        _sorted(axis, table)
        row = analysis.row(name)
        if row is not None:
            low, high = row["share_hurt_low"], row["share_hurt_high"]
            hurt = f"{row['hurt']} hurt ({share(low)} to {share(high)})"
            counted = f"{row['helped']} helped, {row['tied']} tied, {hurt}"
            arm, _, _ = name.partition(" - ")
            panel_title(axis, f"{arm_title(arm)}\n{counted}", columns=columns)
        axis.set_xlabel("users, sorted by lift")
    axes[0].set_ylabel(f"lift in {analysis.metrics[analysis.primary_metric].title}")
    return canvas


def _sorted(axis: Axes, table: pd.DataFrame) -> None:
    lifts = table["lift"].to_numpy(dtype=np.float64)
    band = np.nan_to_num(table["noise_band"].to_numpy(dtype=np.float64))
    place = np.arange(len(lifts))
    if band.any():
        edges = np.arange(len(lifts) + 1) - 0.5
        axis.stairs(band, edges, baseline=-band, fill=True, color=LINE, alpha=0.7)
    zero_line(axis, vertical=False)
    colors = np.where(lifts > band, HELPED, np.where(lifts < -band, HURT, TIED))
    few = len(lifts) <= MANY_USERS
    if few:
        axis.vlines(place, 0, lifts, colors=colors.tolist(), linewidth=min(2.5, 180 / len(lifts)))
    axis.scatter(place, lifts, c=colors.tolist(), s=9 if few else 1, rasterized=not few, zorder=3)
    axis.set_xticks([0, len(lifts) - 1] if len(lifts) > 1 else [0])
    axis.set_xticklabels([f"{at + 1:,}" for at in ([0, len(lifts) - 1] if len(lifts) > 1 else [0])])
    axis.grid(axis="y")
    if not math.isfinite(lifts.sum()):
        raise ValueError("A lift is not finite; the analysis leaves such users out.")
