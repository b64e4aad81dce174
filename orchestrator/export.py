"""Adapters of finished cells as PEFT folders, one per user or one for all.

Past ``MAX_FOLDERS`` users, adapters stay in the ledger's stacked files, and a chosen few are
exported on demand.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.naming import safe_folder_name
from data.writing import write_text
from orchestrator.plan import Plan, PlannedCell
from orchestrator.worker import ADAPTERS_FILE
from orchestrator.workspace import Workspace
from results.record import ARM_PURPOSES

if TYPE_CHECKING:
    from tasks.adapters.bank import AdapterState

MAX_FOLDERS = 1000
MAKERS = ("train", "personalize", "adopt")
"""Purposes of cells whose adapters are an arm's own."""


def export_models(
    workspace: Workspace, plan: Plan, *, finished: Collection[str], base_name: str
) -> int:
    """Write ``models/<arm>/`` and ``models/<arm>/<user folder>/``, and the map of folders.

    The arm's first seed is exported. Users that were skipped have no folder; of more than
    ``MAX_FOLDERS`` users nobody has one.

    Args:
        workspace: holds the ledger.
        plan: names the cells.
        finished: ids of cells that are in the ledger.
        base_name: hub id or folder of the base, for PEFT's configs.

    Returns:
        The number of folders written.
    """
    known = dict.fromkeys(
        user for cell in plan.cells if cell.spec.purpose in ARM_PURPOSES for user in cell.spec.users
    )
    users: Sequence[str] | None = () if len(known) > MAX_FOLDERS else None
    written = 0
    for cell in adapter_cells(plan, finished):
        state = adapters_of(workspace, cell, users)
        if state is not None:
            written += write_folders(workspace.models / cell.arm, state, base_name=base_name)
    write_map(workspace.models / "users.csv", list(known))
    return written


def adapter_cells(plan: Plan, finished: Collection[str]) -> list[PlannedCell]:
    """Cells that hold adapters, of each arm's first seed."""
    # An ablation's variants stay in the ledger.
    makers = [cell for cell in plan.cells if cell.spec.purpose in MAKERS and cell.variant is None]
    first = {cell.arm: cell.spec.seed for cell in reversed(makers)}
    return [c for c in makers if c.spec.seed == first[c.arm] and c.cell_id in finished]


def adapters_of(
    workspace: Workspace, cell: PlannedCell, users: Sequence[str] | None
) -> AdapterState | None:
    """A cell's adapters, or those of the chosen users; None where there are none of them."""
    from tasks.adapters.peft_io import load_state

    path = workspace.ledger / cell.cell_id / ADAPTERS_FILE
    if not path.is_file():
        return None
    if users is None or cell.spec.grouping != "user":
        return load_state(path)
    chosen = [user for user in users if user in cell.spec.users]
    return load_state(path, slots=chosen) if chosen else None


def write_folders(folder: Path, state: AdapterState, *, base_name: str) -> int:
    """One slot: the arm's folder itself; several: a folder per slot inside it."""
    from tasks.adapters.peft_io import write_peft
    from tasks.grouping import EVERYBODY

    for slot in state.slots:
        place = folder if slot == EVERYBODY else folder / safe_folder_name(slot)
        made = place.with_name(f".{place.name}.tmp")
        shutil.rmtree(made, ignore_errors=True)
        write_peft(made, state, slot=slot, base_name=base_name)
        place.mkdir(parents=True, exist_ok=True)
        for file in made.iterdir():
            file.replace(place / file.name)
        made.rmdir()
    return len(state.slots)


def write_map(path: Path, users: Sequence[str]) -> None:
    """``users.csv``: user key → folder name, for ids that are no plain names."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["user_id", "folder"])
    rows.writerows([user, safe_folder_name(user)] for user in users)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())
