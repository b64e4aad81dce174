"""The report's words on cold against warm start, chosen by the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from results.analysis import Analysis
from results.cold_warm import ALL, MIN_USERS, NONE, STARTS, ColdWarm
from results.document import Block, Bullets, Cell, Shown, Table, Text, records, table, value
from results.figure_style import Figure
from results.report_tables import title_of
from results.wording import ADAPTERS, interval, number, plural

FIGURE = "cold_warm"


def cold_warm_blocks(analysis: Analysis, figures: Mapping[str, Figure]) -> list[Block]:
    """What was done, what came out, table and figure; empty where no such cell was run."""
    found = analysis.cold_warm
    if not len(found.table):
        return []
    told = [_finding(found, adapter, start) for adapter in found.adapters for start in STARTS]
    blocks: list[Block] = [
        Text(text=_method(found)),
        Bullets(items=tuple(told)),
        _table(analysis, found),
    ]
    return blocks + ([Shown(figure=figures[FIGURE])] if FIGURE in figures else [])


def _method(found: ColdWarm) -> str:
    cold = plural(found.n_users("cold"), "cold-start user")
    warm = plural(found.n_users("warm"), "warm user")
    return (
        f"Compared are {cold}, held out of every shared stage, and {warm} (the first in order). "
        "Every user starts from the all-persona adapter (0 exchanges); each number of first "
        "exchanges, up to all of them, is an update of its own from there, by the per-user recipe "
        "without its token budget. The exchanges come from the earliest sessions (cold) or from "
        "the online slice (warm), equally many sessions, which the all-persona adapter has not "
        "seen. Scored are the same later sessions after every number. No arm above includes these "
        "scores. Each interval stands for its number of exchanges alone; there is no correction "
        "for looking at several."
    )


def _finding(found: ColdWarm, adapter: str, start: str) -> str:
    """One sentence per curve, in words that its intervals support."""
    rows = {row["exchanges"]: row for row in records(found.rows(adapter, start))}
    name = f"**{start.capitalize()} start, {ADAPTERS.get(adapter, adapter)}**"
    if not rows:
        return f"{name}: n/a, no {start}-start user was scored."
    untouched = rows.pop(NONE)
    first = f"{name}: {number(untouched['mean'])} with the all-persona adapter alone"
    if not rows:
        return f"{first}; n/a after more, no user has an exchange to learn from."
    if untouched["n_users"] < MIN_USERS:
        lifts = ", ".join(f"{number(r['lift'], signed=True)} after {k}" for k, r in rows.items())
        users = plural(int(untouched["n_users"]), "user")
        return (
            f"{first}; {lifts}. With {users} there is no interval, and nothing follows for others."
        )
    return f"{first}; {_gains(list(rows.values()))}."


def _gains(rows: Sequence[Mapping[str, Any]]) -> str:
    """From how few exchanges on the interval of the lift lies above 0, and where below it."""
    above = [row for row in rows if row["lift_low"] > 0]
    below = [row for row in rows if row["lift_high"] < 0]
    parts = []
    if above:
        fewest = f"{_exchanges(above[0])}, {_lift(above[0])}"
        parts.append(f"fewest exchanges with an interval above 0: {fewest}")
    else:
        parts.append("no number of exchanges has an interval above 0")
    parts += [f"interval below 0 after {_exchanges(row)}: {_lift(row)}" for row in below]
    if rows[-1]["exchanges"] == ALL and rows[-1] not in [*above[:1], *below]:
        parts.append(f"after {_exchanges(rows[-1])}: {_lift(rows[-1])}")
    return "; ".join(parts)


def _lift(row: Mapping[str, Any]) -> str:
    ends = interval(row["lift_low"], row["lift_high"], signed=True)
    return f"lift {number(row['lift'], signed=True)} {ends}"


def _table(analysis: Analysis, found: ColdWarm) -> Table:
    title = title_of(analysis)
    rows = [
        [
            Cell(f"{_adapter(row['adapter'])}, {row['start']}"),
            Cell(_exchanges(row), float(place)),
            value(int(row["n_users"])),
            Cell(f"{number(row['mean'])} {_ends(row, '')}", float(row["mean"])),
            *_change_cells(row),
        ]
        for place, row in enumerate(records(found.table))
    ]
    seeds = plural(int(found.table["n_seeds"].max()), "seed")
    return table(
        f"Cold against warm start ({title}, {seeds}): mean over users with the 95 % percentile "
        f"bootstrap interval over users; lift over 0 exchanges, paired by user; below {MIN_USERS} "
        "users there is no interval. Cold − warm is the difference of the two mean lifts. All "
        "numbers are in results/stats/cold_warm.csv.",
        ("Adapter, start", "Exchanges", "Users", title, "Lift over 0", "Helped / tied / hurt",
         "Cold − warm"),
        rows,
    )  # fmt: skip


def _adapter(adapter: str) -> str:
    title = ADAPTERS.get(adapter, adapter)
    return title[0].upper() + title[1:]


def _change_cells(row: Mapping[str, Any]) -> list[Cell]:
    """Lift, users helped and hurt, and for cold users the difference from warm ones."""
    if row["exchanges"] == NONE:
        return [Cell("reference"), Cell("—"), Cell("—")]
    lift = f"{number(row['lift'], signed=True)} {_ends(row, 'lift_')}"
    counts = f"{row['helped']} / {row['tied']} / {row['hurt']}"
    against = Cell("—")
    if row["start"] == "cold" and math.isfinite(row["minus_warm"]):
        size = f"{number(row['minus_warm'], signed=True)} {_ends(row, 'minus_warm_')}"
        against = Cell(size, float(row["minus_warm"]))
    return [Cell(lift, float(row["lift"])), Cell(counts, float(row["helped"])), against]


def _exchanges(row: Mapping[str, Any]) -> str:
    return f"all (mean {row['mean_used']:.0f})" if row["exchanges"] == ALL else row["exchanges"]


def _ends(row: Mapping[str, Any], prefix: str) -> str:
    if not math.isfinite(row[f"{prefix}low"]):
        return "(no interval)"
    return interval(row[f"{prefix}low"], row[f"{prefix}high"], signed=bool(prefix))
