"""Figures of a search: which settings the scores go along with, and all candidates side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from results.figure_style import BLUE, GRAY, INK, LINE, MUTED, PAPER, VERMILLION, panels, zero_line
from results.search import DEFAULT, arms_of, importance, last_rung, places, scored_configs
from results.wording import arm_title

LOG_RATIO = 4.0
"""Values that span more than this ratio stand on a logarithmic axis."""
NUDGE = 0.04
PLATE = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.0}
"""Keeps lines off the numbers."""


def short(setting: str) -> str:
    """A dotted setting's last word: the arm says the rest."""
    return setting.rpartition(".")[2].replace("_", " ")


def importances(history: pd.DataFrame) -> Canvas | None:
    """A panel per arm: rank correlation of every setting with the validation score."""
    tables = {arm: importance(history, arm).dropna() for arm in arms_of(history)}
    tables = {arm: table for arm, table in tables.items() if len(table)}
    if not tables:
        return None
    longest = max(map(len, tables.values()))
    canvas, axes = panels(len(tables), columns=2, width=8.6, height=1.1 + 0.28 * longest)
    for axis, (arm, table) in zip(axes, tables.items(), strict=True):
        rows = np.arange(len(table))
        colors = [BLUE if value < 0 else VERMILLION for value in table["correlation"]]
        axis.barh(rows, table["correlation"], color=colors, height=0.55)
        axis.set_yticks(rows, [short(name) for name in table["setting"]])
        axis.set_ylim(longest - 0.4, -0.6)
        axis.set_xlim(-1, 1)
        axis.set_xticks((-1, -0.5, 0, 0.5, 1))
        axis.set_title(f"{arm_title(arm)} ({table['configs'].iloc[0]} configs)")
        axis.set_xlabel("rank correlation with validation NLL")
        axis.grid(axis="x")
        zero_line(axis)
    return canvas


def parallel_coordinates(history: pd.DataFrame) -> Canvas | None:
    """A panel per arm: every candidate of the first rung as a line through its settings."""
    arms = [arm for arm in arms_of(history) if len(scored_configs(history, arm))]
    if not arms:
        return None
    canvas, axes = panels(len(arms), columns=1, width=8.6, height=2.6)
    for axis, arm in zip(axes, arms, strict=True):
        _lines(axis, history, arm)
        axis.set_title(arm_title(arm))
    return canvas


def _lines(axis: Axes, history: pd.DataFrame, arm: str) -> None:
    configs = scored_configs(history, arm)
    names = [*configs.columns.drop(["candidate", "nll"]), "nll"]
    heights = pd.DataFrame({name: _height(configs[name]) for name in names})
    end = last_rung(history, arm)
    best = set(end.loc[end["chosen"], "candidate"])
    for (_, line), candidate in zip(heights.iterrows(), configs["candidate"], strict=True):
        chosen, default = candidate in best, candidate == DEFAULT
        color = BLUE if chosen else INK if default else GRAY
        label = " and ".join(["default"] * default + ["chosen"] * chosen) or None
        style = "--" if default and not chosen else "-"
        width, alpha = (2.2, 1.0) if chosen else (1.4, 1.0) if default else (0.9, 0.55)
        axis.plot(
            range(len(names)),
            line.to_numpy(dtype=np.float64),
            style,
            color=color,
            linewidth=width,
            alpha=alpha,
            label=label,
            zorder=3 if chosen else 2,
        )
    _scales(axis, configs, names)
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _height(values: pd.Series) -> pd.Series:
    """Values between 0 and 1, on a logarithmic scale where they span much."""
    numbers = places(values)
    if numbers.min() > 0 and numbers.max() / numbers.min() > LOG_RATIO:
        numbers = np.log(numbers)
    span = numbers.max() - numbers.min()
    return (numbers - numbers.min()) / span if span > 0 else numbers * 0 + 0.5


def _scales(axis: Axes, configs: pd.DataFrame, names: list[str]) -> None:
    """A vertical line per setting with its least and its largest value beside it."""
    for place, name in enumerate(names):
        axis.axvline(place, color=LINE, linewidth=0.8, zorder=1)
        values = configs[name]
        numeric = pd.api.types.is_numeric_dtype(values)
        ends = (values.min(), values.max()) if numeric else sorted(map(str, values.unique()))
        marks = ((0.0, ends[0]), (1.0, ends[-1])) if ends[0] != ends[-1] else ((0.5, ends[0]),)
        for height, end in marks:
            text = f"{end:.4g}" if numeric else str(end)
            axis.text(place + NUDGE, height, text, fontsize=7, color=MUTED, va="center", bbox=PLATE)
    labels = ["validation NLL" if name == "nll" else short(name) for name in names]
    axis.set_xticks(range(len(names)), labels)
    axis.set_yticks([])
    axis.set_xlim(-0.2, len(names) - 0.5)
    axis.set_ylim(-0.1, 1.1)
    axis.spines["left"].set_visible(False)
