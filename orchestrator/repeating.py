"""``run --only-failed``: which cells run again, and what of a block's first run stays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.identity import cell_id
from orchestrator.plan import Plan
from orchestrator.worker import ADAPTERS_FILE, Places
from results.record import Record

if TYPE_CHECKING:
    from tasks.cell import CellOutcome


def cells_to_repeat(
    plan: Plan, records: Mapping[str, Record], failures: Mapping[str, Mapping[str, Any]]
) -> set[str]:
    """Ids of the plan's cells that failed, that wait for one that did, or failed in part.

    Cells that were never tried are not among them.
    """
    partial = {name for name, record in records.items() if record.status == "partial"}
    return plan.ids & {*partial, *(failures.keys() - records.keys())}


def keep_what_was_finished(outcome: CellOutcome, places: Places) -> CellOutcome:
    """The outcome with the adapters and answers that an earlier run of the cell had finished.

    Only of a record in which some adapters failed, and whose parents are still those it used:
    a cell without such a record is returned as it is.
    """
    from pandas import read_parquet

    from tasks.adapters.peft_io import load_state
    from tasks.cell import SlotReport
    from tasks.kept import with_kept

    folder = places.ledger / cell_id(outcome.spec)
    record = _record(folder)
    if record is None or record["status"] != "partial" or not _parents_stand(record, places):
        return outcome
    items, adapters = folder / "items.parquet", folder / ADAPTERS_FILE
    return with_kept(
        outcome,
        slots=[SlotReport(**_untold(slot)) for slot in record["slots"]],
        items=read_parquet(items) if items.is_file() else None,
        adapters=load_state(adapters) if adapters.is_file() else None,
    )


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _parents_stand(record: Mapping[str, Any], places: Places) -> bool:
    """Whether every parent's adapters are the file that this record was made from."""
    used = [record["parent"]] if record["parent"] is not None else []
    return all(
        _adapters_sha256(places.ledger / parent["cell_id"]) == parent["adapters_sha256"]
        for parent in [*used, *record["parents"]]
    )


def _adapters_sha256(folder: Path) -> str | None:
    record = _record(folder)
    entry = None if record is None else record["files"].get(ADAPTERS_FILE)
    return None if entry is None else str(entry["sha256"])


def _untold(slot: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples."""
    return {**slot, "losses": tuple(slot["losses"]), "shift_norms": tuple(slot["shift_norms"])}
