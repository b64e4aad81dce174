"""The report's words on validation gain against the number of updates, chosen by the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from results.analysis import Analysis
from results.document import Block, Bullets, Shown, Text, records
from results.figure_style import Figure
from results.updates import Updates
from results.wording import arm_title, interval, number, share

FIGURE = "validation_gain"


def updates_blocks(analysis: Analysis, figures: Mapping[str, Figure]) -> list[Block]:
    """What was done, what came out, and the figure; empty where no such cell was planned."""
    found = analysis.updates
    if not len(found.table):
        return []
    told = [_finding(records(found.rows(arm))) for arm in dict.fromkeys(found.table["arm"])]
    blocks: list[Block] = [Text(text=_method(found)), Bullets(items=tuple(told))]
    return blocks + ([Shown(figure=figures[FIGURE])] if FIGURE in figures else [])


def _method(found: Updates) -> str:
    return (
        "Validation gain by number of updates: how far the true replies' negative log-likelihood "
        "falls below that of the adapter that a user starts from, after each epoch of the "
        f"micro-update (seed {found.seed}; the earlier half of validation, which early stopping "
        "and searches choose by; test is not looked at). It is the way of the arm's own training "
        "under its learning-rate schedule; one planned for fewer epochs is another training. Each "
        "interval stands for its number of updates alone. All numbers are in "
        "results/stats/updates.csv."
    )


def _finding(rows: Sequence[Mapping[str, Any]]) -> str:
    """One or two sentences on an arm, in words that its intervals support."""
    last, notes = rows[-1], str(rows[-1]["note"]).split("; ")
    name = f"**{arm_title(str(last['arm']))}**"
    reasons = "; ".join(notes).removeprefix("n/a: ")
    if not last["n_users"]:
        return f"{name}: validation gain n/a, {reasons}."
    size = f"{_steps(last)}: mean gain {number(last['gain'], digits=4, signed=True)}"
    if not math.isfinite(last["low"]):
        said = f"{name}: after {size} nats per token, interval n/a ({reasons})"
        return f"{said}; nothing follows for others."
    ends = interval(last["low"], last["high"], digits=4, signed=True)
    beside = "".join(f"; {note}" for note in notes if note)
    return (
        f"{name}: after {size} {ends} nats per token, {share(last['share_gaining'])} of "
        f"{last['n_users']} users gain{beside}. {_where_it_ends(rows[1:])}"
    )


def _where_it_ends(rows: Sequence[Mapping[str, Any]]) -> str:
    """Until when the mean still rises, as far as intervals of each epoch's own part say."""
    rising = [row for row in rows if row["more_low"] > 0]
    falling = [row for row in rows if row["more_high"] < 0]
    told = []
    if not rising:
        told.append("In no epoch does the interval of the mean's rise lie above 0")
    elif rising[-1] is rows[-1]:
        told.append(f"The mean still rises in the last epoch ({_more(rows[-1])})")
    else:
        after = rows[rows.index(rising[-1]) + 1]
        told.append(
            f"The last epoch in which the mean rises ends after {_steps(rising[-1])} "
            f"({_more(rising[-1])})"
        )
        if after not in falling:
            told.append(f"the next one shows no evidence of a rise ({_more(after)})")
    told += [f"it falls in the epoch up to {_steps(row)} ({_more(row)})" for row in falling]
    return "; ".join(told) + "."


def _more(row: Mapping[str, Any]) -> str:
    ends = interval(row["more_low"], row["more_high"], digits=4, signed=True)
    return f"{number(row['more'], digits=4, signed=True)} {ends}"


def _steps(row: Mapping[str, Any]) -> str:
    """«30 updates», or «mean 27.5 updates» where users have different numbers."""
    count = float(row["updates"])
    return f"{count:.0f} updates" if count.is_integer() else f"{count:.1f} updates (mean)"
