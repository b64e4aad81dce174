"""The report's section on time: what each stage was planned to take, and what it took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from results.document import Block, Cell, Section, Text, table, value
from results.stage_times import SEARCH, StageTime, total_of
from results.wording import plural

KEY = "spent"


def spent_told(
    times: Sequence[StageTime], *, retried: int, known: Mapping[str, Any]
) -> dict[str, Any]:
    """What to add to the report's facts; nothing without a stage."""
    if not times:
        return {}
    return {"sections": {**known.get("sections", {}), KEY: spent_section(times, retried=retried)}}


def spent_section(times: Sequence[StageTime], *, retried: int) -> Section:
    """Planned against spent by stage, and how many trials failed.

    Args:
        times: of the stages in order, the search's cells as a stage of their own.
        retried: cells whose record took more than one try.
    """
    blocks: list[Block] = [
        Text(text=_method(times)),
        table(
            "Seconds of trials by stage; trials run side by side, so the run itself took less.",
            ("Stage", "Cells", "Failed", "Planned (s)", "Spent (s)", "Spent / planned"),
            [_row(time) for time in (*times, total_of(times))],
        ),
        Text(text=_failures(total_of(times), retried)),
    ]
    return Section(key=KEY, title="Time: planned against spent", blocks=tuple(blocks))


def _method(times: Sequence[StageTime]) -> str:
    planned = [time for time in times if time.planned is not None]
    if not planned:
        return (
            "No forecast was made: the run is so short that measuring for one takes as long, or "
            "its base cannot be measured in some seconds. What the trials took:"
        )
    text = (
        "Planned is what a probe of some seconds foretold before the run, spent what the trials "
        "measured."
    )
    if any(time.stage == SEARCH for time in planned):
        text += (
            " The search is planned at the most cells that it can need, each like the default "
            "config, and the other stages before its choice was known. A training that is also the "
            "study's own is counted with the study."
        )
    missing = [time.stage for time in times if time.planned is None]
    return text + (f" No forecast was made of: {', '.join(missing)}." if missing else "")


def _failures(total: StageTime, retried: int) -> str:
    failed = (
        f"Trials that failed: {total.failed:,} of {total.cells:,}; what they took is not counted."
        if total.failed
        else f"None of {plural(total.cells, 'trial')} failed."
    )
    return failed + (f" {plural(retried, 'cell')} needed more than one try." if retried else "")


def _row(time: StageTime) -> list[Cell]:
    return [
        Cell(time.stage),
        value(time.cells),
        value(time.failed),
        value(math.nan if time.planned is None else time.planned, digits=0),
        value(time.spent, digits=0),
        value(math.nan if time.factor is None else time.factor, digits=2),
    ]
