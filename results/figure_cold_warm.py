"""Figure of the cold start: scores against the number of a user's first exchanges."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from results.analysis import Analysis
from results.cold_warm import ALL, STARTS, ColdWarm
from results.figure_style import BLUE, ORANGE, panels
from results.wording import ADAPTERS, plural

MANY_LINES = 24
"""Past this many users their own lines would hide the mean."""
COLORS = {"cold": BLUE, "warm": ORANGE}
NUDGE = {"cold": -0.06, "warm": 0.06}


def cold_against_warm(analysis: Analysis) -> Canvas | None:
    """A panel per adapter: mean score of cold and of warm users after each number of exchanges."""
    found = analysis.cold_warm
    if not len(found.table):
        return None
    numbers = list(dict.fromkeys(found.table["exchanges"]))
    adapters = found.adapters
    canvas, axes = panels(len(adapters), columns=2, width=8.6, height=3.5, share_y=True)
    for axis, adapter in zip(axes, adapters, strict=True):
        for start in STARTS:
            if len(found.rows(adapter, start)):
                _curve(axis, found, adapter, start, numbers)
        axis.set_xticks(range(len(numbers)), _labels(found, adapter, numbers))
        title = ADAPTERS.get(adapter, adapter)
        axis.set_title(f"{title[0].upper()}{title[1:]}")
        axis.set_xlabel("exchanges of the user that the adapter was updated with")
        axis.grid(axis="y")
        axis.legend(loc="upper left")
    axes[0].set_ylabel(f"{analysis.metrics[analysis.primary_metric].title} on later sessions")
    return canvas


def _labels(found: ColdWarm, adapter: str, numbers: list[str]) -> list[str]:
    """Numbers as they are; for all of them, how many that are on average."""
    rows = found.table[(found.table["adapter"] == adapter) & (found.table["exchanges"] == ALL)]
    mean = np.average(rows["mean_used"], weights=rows["n_users"]) if len(rows) else np.nan
    return [f"all\n(mean {mean:.0f})" if number == ALL else number for number in numbers]


def _curve(axis: Axes, found: ColdWarm, adapter: str, start: str, numbers: list[str]) -> None:
    """The mean with its interval; beneath it every user's own line, unless they are many."""
    rows, color = found.rows(adapter, start), COLORS[start]
    users = found.users
    own = users[(users["adapter"] == adapter) & (users["start"] == start)]
    if own["user_id"].nunique() <= MANY_LINES:
        for _, line in own.groupby("user_id", sort=False):
            axis.plot(_places(line, numbers), line["score"], color=color, linewidth=0.7, alpha=0.3)
    places = _places(rows, numbers) + NUDGE[start]
    known = rows["low"].notna().to_numpy()
    axis.vlines(places[known], rows["low"][known], rows["high"][known], color=color, linewidth=1.8)
    label = f"{start} start, {plural(int(rows['n_users'].max()), 'user')}"
    axis.plot(places, rows["mean"], "o-", color=color, linewidth=1.6, markersize=5.5, label=label)
    if not known.any():
        axis.plot([], [], " ", label=f"({start} start: too few users for intervals)")


def _places(rows: pd.DataFrame, numbers: list[str]) -> np.ndarray:
    return np.array([numbers.index(number) for number in rows["exchanges"]], dtype=np.float64)
