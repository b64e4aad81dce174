"""Figures of ablations: lift over the default against the ablated quantity."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from results.ablations import LIKELIHOOD, lines_of
from results.figure_style import PAPER, arm_color, panels, zero_line
from results.record import MetricInfo
from results.resampling import Floats
from results.wording import arm_title, plural

NUDGE = 0.05
"""Lines are drawn so far apart, as a share of the distance between two values."""


def ablation_curves(
    table: pd.DataFrame,
    ablation: str,
    *,
    metrics: Mapping[str, MetricInfo],
    axis_title: str,
    apart: Collection[str] = (),
) -> Canvas | None:
    """A panel per metric, a line per default arm; None where no variant has a lift.

    Values stand at equal distances, in order; the default is hollow, and stands beside its line
    where it is among ``apart``: those that differ from their variants in something else too.
    """
    shown = [name for name in metrics if _has_lift(table, ablation, name)]
    if not shown:
        return None
    values = _values(table[table["ablation"] == ablation])
    canvas, axes = panels(len(shown), columns=2, width=8.6, height=3.4)
    for axis, metric in zip(axes, shown, strict=True):
        lines = lines_of(table, ablation, metric)
        for number, (arm, rows) in enumerate(lines.items()):
            nudge = NUDGE * (number - (len(lines) - 1) / 2)
            _line(axis, arm, rows, values, nudge=nudge, alone=arm in apart)
        zero_line(axis, vertical=False)
        info = metrics[metric]
        axis.set_xticks(range(len(values)), [_text(value) for value in values])
        axis.set_xlim(-0.4, len(values) - 0.6)
        axis.set_xlabel(axis_title)
        unit = info.title if info.unit == "F" else info.unit
        axis.set_ylabel(f"lift over the default, {unit}")
        axis.set_title(f"{_panel_title(metric, info)}, {_seeds(lines)}")
        axis.grid(axis="y")
    # Beneath the panels: inside, it would hide intervals.
    canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return canvas


def _panel_title(metric: str, info: MetricInfo) -> str:
    return "Likelihood of the true replies" if metric == LIKELIHOOD else info.title


def _seeds(lines: Mapping[str, pd.DataFrame]) -> str:
    counts = {len(str(seeds).split()) for rows in lines.values() for seeds in _variants(rows).seeds}
    return plural(max(counts), "seed")


def _variants(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["arm"] != rows["default"]]


def _has_lift(table: pd.DataFrame, ablation: str, metric: str) -> bool:
    rows = table[(table["ablation"] == ablation) & (table["metric"] == metric)]
    return bool(_variants(rows)["lift"].notna().any())


def _values(rows: pd.DataFrame) -> list[float | str]:
    """All values in order: numbers by size, words as they come."""
    found: list[float | str] = list(dict.fromkeys(rows["value"]))
    return sorted(found) if all(not isinstance(value, str) for value in found) else found


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _line(
    axis: Axes,
    arm: str,
    rows: pd.DataFrame,
    values: list[float | str],
    *,
    nudge: float,
    alone: bool,
) -> None:
    """One arm's variants with their intervals; ``alone``: its default is not on the line."""
    rows = rows[rows["lift"].notna()]
    places: Floats = np.array([values.index(value) for value in rows["value"]]) + nudge
    order = np.argsort(places)
    rows, places, color = rows.iloc[order], places[order], arm_color(arm)
    known = rows["ci_low"].notna().to_numpy()
    axis.vlines(
        places[known], rows["ci_low"][known], rows["ci_high"][known], color=color, linewidth=1.8
    )
    default = (rows["arm"] == rows["default"]).to_numpy()
    joined = ~default if alone else np.ones(len(rows), dtype=bool)
    label = f"{arm_title(arm)}, {plural(int(rows['n_users'].max()), 'user')}"
    axis.plot(
        places[joined],
        rows["lift"][joined],
        "-o",
        color=color,
        linewidth=1.4,
        markersize=5.5,
        label=label,
    )
    axis.plot(
        places[default],
        rows["lift"][default],
        "o",
        color=color,
        markerfacecolor=PAPER,
        markersize=7,
        zorder=4,
    )
