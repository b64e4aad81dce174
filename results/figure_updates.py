"""Figure of the micro-update's way: validation gain against the number of updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from results.analysis import Analysis
from results.cold_warm import MIN_USERS
from results.figure_style import HELPED, HURT, INK, panel_title, panels, zero_line
from results.pairing import CollectedTables
from results.wording import arm_title, plural

MAX_LINES = 400
"""Past so many users some have a line, evenly along their order."""
SIGNS: dict[bool, tuple[str, Literal["solid", "dashed"], str]] = {
    True: (HELPED, "solid", "user, gain above 0 at the end"),
    False: (HURT, "dashed", "user, not above 0 at the end"),
}


def validation_gain(analysis: Analysis) -> Canvas | None:
    """A panel per arm: each user's gain after each epoch, and the mean with its interval."""
    found = analysis.updates
    if not found.arms:
        return None
    canvas, axes = panels(len(found.arms), columns=2, width=8.6, height=3.3, share_y=True)
    for axis, arm in zip(axes, found.arms, strict=True):
        rows = found.rows(arm)
        _user_lines(axis, found.users[found.users["arm"] == arm])
        _mean(axis, rows)
        zero_line(axis, vertical=False)
        panel_title(axis, f"{arm_title(arm)}\n{plural(int(rows['n_users'].iloc[0]), 'user')}")
        axis.set_xlabel("updates (steps of the micro-update)")
        axis.set_xticks(list(rows["updates"]), [f"{updates:.3g}" for updates in rows["updates"]])
        axis.grid(axis="y")
    for axis in axes[::2]:
        axis.set_ylabel("validation gain (nats a token)")
    ends = found.users.groupby(["arm", "user_id"])["gain"].last()
    signs = [above for above in (True, False) if ((ends > 0) == above).any()]
    _legend(canvas, signs, intervals=bool(found.table["low"].notna().any()))
    return canvas


def _user_lines(axis: Axes, users: pd.DataFrame) -> None:
    """Users whose gain ends above 0, and the others broken: told apart without color too."""
    lines = [line for _, line in users.groupby("user_id", sort=False)]
    lines = lines[:: max(1, -(-len(lines) // MAX_LINES))]
    for above, (color, style, _) in SIGNS.items():
        paths = [
            line[["updates", "gain"]].to_numpy(np.float64)
            for line in lines
            if (line["gain"].iloc[-1] > 0) == above
        ]
        axis.add_collection(
            LineCollection(paths, colors=color, linestyles=style, alpha=0.45, linewidths=0.8)
        )
    axis.autoscale()


def _mean(axis: Axes, rows: pd.DataFrame) -> None:
    known = rows[rows["low"].notna() & (rows["epochs"] > 0)]
    axis.vlines(known["updates"], known["low"], known["high"], color=INK, linewidth=1.8)
    axis.plot(rows["updates"], rows["gain"], "o-", color=INK, linewidth=2, markersize=5)


def _legend(canvas: Canvas, signs: Sequence[bool], *, intervals: bool) -> None:
    """Below the panels, where no line can be hidden by it."""
    label = "mean, 95 % interval" if intervals else f"mean (no interval below {MIN_USERS} users)"
    lines = [Line2D([], [], color=INK, linewidth=2, marker="o", markersize=5, label=label)]
    for above in signs:
        color, style, label = SIGNS[above]
        lines.append(Line2D([], [], color=color, linestyle=style, linewidth=0.8, label=label))
    canvas.legend(handles=lines, loc="outside lower center", ncols=len(lines))


def size(analysis: Analysis, _: CollectedTables) -> str:
    """Users with scores, the one seed, and which half of validation."""
    counts = sorted(set(analysis.updates.table.loc[lambda t: t["n_users"] > 0, "n_users"]))
    users = plural(int(counts[-1]), "user")
    if len(counts) > 1:
        users = f"{int(counts[0]):,} to {users}"
    return f"{users}, 1 seed ({analysis.updates.seed}), items of the earlier half of validation"
