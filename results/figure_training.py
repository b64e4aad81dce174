"""Figures of training: curves, shift norms after each step, drift against gain, examples."""

from __future__ import annotations

import math
import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from results.analysis import Analysis
from results.figure_style import (
    BLUE,
    GRAY,
    INK,
    LINE,
    MANY_USERS,
    MUTED,
    VERMILLION,
    arm_color,
    panel_title,
    panels,
    user_name,
    zero_line,
)
from results.wording import arm_title, interval, number

LEVELS = {"middle": (GRAY, 0.35), "low": (BLUE, 0.6), "high": (VERMILLION, 0.6)}
MAX_LINES = 400
WRAP = 92
MAX_TEXT = 420


def training_curves(curves: pd.DataFrame) -> Canvas | None:
    """Training loss and validation ROUGE-L of the shared adapters, a line per arm and seed."""
    if not len(curves):
        return None
    canvas, axes = panels(2, columns=2, width=8.6, height=3.2)
    titles = {"train_loss": "Training loss (nats a token)", "val_rouge_l": "Validation ROUGE-L"}
    x = "epoch" if curves["epoch"].notna().all() else "step"
    for axis, (column, title) in zip(axes, titles.items(), strict=True):
        for place, (arm, part) in enumerate(curves.groupby("arm", sort=True)):
            for number_, (_, line) in enumerate(part.dropna(subset=[column]).groupby("seed")):
                axis.plot(
                    line[x], line[column], color=arm_color(str(arm)), linewidth=1.6,
                    linestyle="-" if place % 2 == 0 else "--", markersize=4,
                    marker="os^D"[place % 4], label=arm_title(str(arm)) if not number_ else None,
                )  # fmt: skip
        axis.set_title(title)
        axis.set_xlabel(x)
        axis.grid()
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend()
    return canvas


def shift_norms(analysis: Analysis) -> Canvas | None:
    """Shift norm after each step of the micro-update, a line per user; quarters in color."""
    steps, users = analysis.drift.steps, analysis.drift.users
    arms = list(dict.fromkeys(steps["arm"]))
    if not arms:
        return None
    canvas, axes = panels(len(arms), columns=2, width=8.6, height=3.3)
    for axis, arm in zip(axes, arms, strict=True):
        level = users[users["arm"] == arm].set_index("user_id")["level"].to_dict()
        _shift_lines(axis, steps[steps["arm"] == arm], level)
        panel_title(axis, arm_title(arm))
        axis.set_xlabel("step of the micro-update")
        axis.grid()
    axes[0].set_ylabel("shift norm")
    for name, (color, _) in LEVELS.items():
        axes[0].plot([], [], color=color, label=f"{name} drift")
    axes[0].plot([], [], color=INK, linewidth=2, label="median")
    axes[0].legend(loc="upper left")
    return canvas


def _shift_lines(axis: Axes, steps: pd.DataFrame, level: dict[str, str]) -> None:
    wide = steps.pivot(index="user_id", columns="step", values="shift_norm")
    at = np.concatenate([[0.0], wide.columns.to_numpy(dtype=np.float64)])
    norms = np.column_stack([np.zeros(len(wide)), wide.to_numpy(dtype=np.float64)])
    every = max(1, len(wide) // MAX_LINES)
    for name, (color, alpha) in LEVELS.items():
        lines = [
            np.column_stack([at, row])[np.isfinite(row)]
            for user, row in zip(wide.index[::every], norms[::every], strict=True)
            if level.get(str(user), "middle") == name
        ]
        axis.add_collection(LineCollection(lines, colors=color, alpha=alpha, linewidths=0.8))
    axis.plot(at, np.nanmedian(norms, axis=0), color=INK, linewidth=2)
    axis.autoscale()
    axis.set_ylim(bottom=0)


def drift_against_gain(analysis: Analysis) -> Canvas | None:
    """Shift norm against gain over the adapter that the micro-update started from."""
    users, found = analysis.drift.users, analysis.drift.correlations.set_index("arm")
    arms = [arm for arm in found.index if (users["arm"] == arm).any()]
    if not arms:
        return None
    canvas, axes = panels(len(arms), columns=2, width=8.6, height=3.3)
    for axis, arm in zip(axes, arms, strict=True):
        part, rho = users[users["arm"] == arm], found.loc[arm]
        for name, (color, _) in LEVELS.items():
            chosen = part[part["level"] == name]
            axis.plot(
                chosen["shift_norm"], chosen["shrunken_lift"], "o", color=color, markersize=4.5,
                alpha=0.8, rasterized=len(part) > MANY_USERS,
                label=f"{name} drift" if len(chosen) else None,
            )  # fmt: skip
        zero_line(axis, vertical=False)
        ends = interval(rho["low"], rho["high"], digits=2, signed=True)
        said = f"Spearman {number(rho['rho'], digits=2, signed=True)}"
        panel_title(axis, f"{arm_title(arm)}\n{said} {ends if math.isfinite(rho['low']) else ''}")
        axis.set_xlabel("shift norm after the last step")
        axis.grid()
    axes[0].set_ylabel("shrunken gain over the shared adapter")
    axes[0].legend()
    return canvas


def before_after(examples: pd.DataFrame, *, metric_title: str) -> Canvas | None:
    """Typeset page: what a user asked, the baseline's reply, the own adapter's, the true one."""
    if not len(examples):
        return None
    blocks = [_block(row, metric_title=metric_title) for _, row in examples.iterrows()]
    lines = sum(len(text) for block in blocks for _, text, _ in block) + 1.6 * len(blocks)
    height = 0.185 * lines + 0.3
    canvas = Canvas(figsize=(8.6, height))
    FigureCanvasAgg(canvas)
    line = 0.185 / height
    at = 1 - 0.12 / height
    for block in blocks:
        for label, text, color in block:
            canvas.text(0.02, at, label, fontsize=8.5, color=color, fontweight="bold", va="top")
            for part in text:
                canvas.text(0.2, at, part, fontsize=8.5, va="top")
                at -= line
        canvas.add_artist(_rule(at - 0.4 * line))
        at -= 1.6 * line
    return canvas


def _rule(at: float) -> Line2D:
    return Line2D([0.02, 0.98], [at, at], color=LINE, linewidth=0.8)


def _block(row: pd.Series, *, metric_title: str) -> list[tuple[str, list[str], str]]:
    before, after = number(row["before_score"], digits=2), number(row["after_score"], digits=2)
    return [
        (user_name(str(row["user_id"])), _wrapped(str(row["query"])), MUTED),
        ("True reply", _wrapped(str(row["reference"])), INK),
        (f"Before  {before}", _wrapped(str(row["before"])), VERMILLION),
        (f"After  {after}", _wrapped(str(row["after"])), BLUE),
    ]


def _wrapped(text: str) -> list[str]:
    """Lines of a reply that fit the page; what does not fit is cut, and shown to be cut."""
    flat = "".join(c if c.isprintable() else " " for c in text)
    flat = flat if len(flat) <= MAX_TEXT else flat[: MAX_TEXT - 1] + "…"
    return textwrap.wrap(flat, WRAP) or ["(empty)"]
