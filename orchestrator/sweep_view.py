"""A sweep's counts and leaderboard as tables: for `run` while it runs, and for `status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from orchestrator.outlook import ArmCells

SHOWN_ARMS = 12
SHOWN_NOW = 8
LEADERBOARD = "Macro ROUGE-L on test so far; lift over the baseline, same users, 95 % t interval"
SEARCH = "Search so far: validation NLL per token, lower is better"
ALMOST_SECONDS = 5.0
COUNTS = ("running", "failed", "blocked")


def sweep_view(progress: Mapping[str, Any], standings: Sequence[Mapping[str, Any]]) -> Group:
    """Both tables, of ``SweepTally.snapshot`` and of leaderboard rows; 80 columns are enough."""
    parts: list[RenderableType] = []
    if progress.get("stages"):
        parts += [Text(stages_title(progress), style="bold"), stages_table(progress)]
    parts += [Text(now_line(cell)) for cell in progress.get("now", ())[:SHOWN_NOW]]
    if progress.get("search") and progress.get("searching"):
        parts += [Text(SEARCH, style="bold"), search_table(progress["search"])]
    if standings:
        parts += [Text(LEADERBOARD, style="bold"), leaderboard_table(standings)]
    return Group(*parts)


def stages_title(progress: Mapping[str, Any]) -> str:
    """Cells done, the time so far and the time left; of a run that has ended, its time alone."""
    done, total = (sum(one[name] for one in progress["stages"]) for name in ("done", "total"))
    spent = duration(progress["seconds"])
    if progress.get("ended"):
        return f"{done} of {total} cells, {spent} in all"
    left = progress["seconds_left"]
    rest = "estimating the time left" if left is None else time_left(left)
    if progress.get("searching"):
        # A search knows its next step alone.
        return f"{done} of {total} cells known so far, {spent} so far, searching"
    return f"{done} of {total} cells, {spent} so far, {'none left' if done == total else rest}"


def time_left(seconds: float) -> str:
    """«about 3 min 20 s left»; the last seconds are not counted down."""
    return "almost done" if seconds < ALMOST_SECONDS else f"about {duration(seconds)} left"


def now_line(cell: Mapping[str, Any]) -> str:
    """«now: personalize lora_per_user, seed 0, test, 12 users (user_1 … user_12)».

    Of a search: «now: train lora_all, candidate 3, rung 1 of 2, 12 users».
    """
    if cell.get("tries"):
        return f"now: {cell['purpose']} {cell['arm']}, {cell['tries']}, {cell['users']:,} users"
    users = f"{cell['users']:,} users ({cell['first_user']} … {cell['last_user']})"
    if cell["users"] == 1:
        users = str(cell["first_user"])
    return f"now: {cell['purpose']} {cell['arm']}, seed {cell['seed']}, {cell['split']}, {users}"


def stages_table(progress: Mapping[str, Any]) -> Table:
    """Stages × counts of cells."""
    table = _table()
    table.add_column("stage")
    for name in ("done", *COUNTS):
        table.add_column(name, justify="right")
    for stage in progress["stages"]:
        counts = (str(stage[name] or "") for name in COUNTS)
        table.add_row(stage["stage"], f"{stage['done']}/{stage['total']}", *counts)
    return table


def plan_table(rows: Sequence[ArmCells], *, title: str) -> Table:
    """Stages and their arms × counts of cells, and seconds of trials where they are known.

    A stage is a line of its own, so that names of arms have room in 50 columns.
    """
    table = _table(title)
    table.add_column("arm", overflow="fold")
    for name in ("cells", "done", "to do", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    stage = ""
    for row in rows:
        if row.stage != stage:
            stage = row.stage
            table.add_row(Text(stage, style="bold"))
        counts = map(str, (row.cells, row.done, row.cells - row.done))
        table.add_row(f"  {escape(row.arm)}", *counts, _whole(row.seconds))
    cells, done = sum(row.cells for row in rows), sum(row.done for row in rows)
    known = [row.seconds for row in rows if row.seconds is not None]
    whole = _whole(sum(known) if known else None)
    table.add_row(
        Text("all, one after another" if known else "all", style="bold"),
        *map(str, (cells, done, cells - done)),
        whole,
    )
    return table


def _whole(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.0f}"


def search_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Searched arms: the best candidate of the last rung that anybody has ended."""
    table = _table()
    table.add_column("arm", overflow="fold", min_width=16)
    for name in ("rung", "tried", "best candidate", "NLL", "default's"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        best = "the default" if row["best"] == 0 else str(row["best"])
        table.add_row(
            escape(row["arm"]),
            f"{row['rung']} of {row['rungs']}",
            f"{row['tried']} of {row['candidates']}",
            best,
            _loss(row["nll"]),
            _loss(row["default_nll"]),
        )
    return table


def _loss(nll: float | None) -> str:
    return "" if nll is None else f"{nll:.4f}"


def leaderboard_table(standings: Sequence[Mapping[str, Any]]) -> Table:
    """Arms by their mean over the users scored so far, the lift with Student's 95 % interval."""
    table = _table()
    table.add_column("arm", overflow="fold", min_width=20)
    for name in ("users", "ROUGE-L", "lift", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in standings[:SHOWN_ARMS]:
        lift = "" if row["lift"] is None else f"{row['lift']:+.3f}"
        ends = "" if row["low"] is None else f"{row['low']:+.3f} … {row['high']:+.3f}"
        table.add_row(escape(row["arm"]), f"{row['users']:,}", f"{row['mean']:.3f}", lift, ends)
    if len(standings) > SHOWN_ARMS:
        table.add_row(f"and {len(standings) - SHOWN_ARMS} more", "", "", "", "")
    return table


def _table(title: str | None = None) -> Table:
    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
