"""`export`: adapters of some arms and users in a folder of their own, with model cards."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from data.manifest import Prepared
from data.naming import safe_folder_name
from data.writing import write_text
from orchestrator.exit_codes import InputError
from orchestrator.export import MAX_FOLDERS, adapter_cells, adapters_of, write_folders, write_map
from orchestrator.export_target import check_target, put_in_place
from orchestrator.facts import LICENSES
from orchestrator.keeper import source_commit
from orchestrator.plan import Plan, PlannedCell
from orchestrator.workspace import Workspace
from results.model_card import CardFacts, model_card
from results.wording import plural
from tasks.grouping import EVERYBODY

if TYPE_CHECKING:
    from tasks.adapters.bank import AdapterState

STACKED_FILE, CARD_FILE = "adapters.safetensors", "README.md"
SHOWN_FOLDERS = 3


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is exported, and where to.

    ``arms`` and ``users``: None means all of them; ``overwrite`` replaces an earlier export.
    """

    into: Path
    arms: Sequence[str] | None = None
    users: Sequence[str] | None = None
    stacked: bool = False
    overwrite: bool = False


def export_adapters(
    workspace: Workspace,
    plan: Plan,
    wanted: Wanted,
    *,
    finished: Collection[str],
    prepared: Prepared,
    base_name: str,
) -> int:
    """Write a folder per arm; all of them or, where something goes wrong, none.

    Returns:
        The number of adapters written.

    Raises:
        InputError: an arm or a user that has no adapter here, or a target that must not be used.
        InfrastructureError: the target cannot be written.
    """
    cells = adapter_cells(plan, finished)
    by_arm: dict[str, list[PlannedCell]] = {}
    for cell in cells:
        by_arm.setdefault(cell.arm, []).append(cell)
    known = dict.fromkeys(user for cell in cells for user in cell.spec.users)
    _check("arm", wanted.arms or (), by_arm)
    _check("user", wanted.users or (), known)
    into = check_target(wanted.into, workspace, overwrite=wanted.overwrite)
    if not wanted.stacked and wanted.users is None and len(known) > MAX_FOLDERS:
        raise InputError(
            f"{len(known):,} users would be as many folders, at most {MAX_FOLDERS:,} are made at "
            "once: name some with --user, or take --stacked"
        )
    written = 0
    with put_in_place(into) as made:
        for arm in wanted.arms or by_arm:
            state = _merged(workspace, by_arm[arm], wanted.users)
            if state is None:
                continue
            folder = made / arm
            folder.mkdir(parents=True)
            _write(folder, state, stacked=wanted.stacked, base_name=base_name)
            stats = workspace.root / "results" / "stats"
            told = _facts(
                by_arm[arm][0], state, prepared, stacked=wanted.stacked, base_name=base_name
            )
            write_text(folder / CARD_FILE, model_card(told, stats=stats))
            written += len(state.slots)
        if not written:
            raise InputError("none of these users has an adapter in these arms; nothing is written")
        write_map(made / "users.csv", list(wanted.users or known))
    return written


def _check(what: str, asked: Sequence[str], known: Mapping[str, object]) -> None:
    for name in asked:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            some = ", ".join(list(known)[:8]) or "none"
            more = f" and {len(known) - 8} more" if len(known) > 8 else ""
            raise InputError(f"no {what} {name!r} has an adapter here{hint} There are {some}{more}")


def _merged(
    workspace: Workspace, cells: Sequence[PlannedCell], users: Sequence[str] | None
) -> AdapterState | None:
    """An arm's adapters of all blocks, or of the chosen users, as one state."""
    from tasks.adapters.bank import merged

    states = [adapters_of(workspace, cell, users) for cell in cells]
    found = [state for state in states if state is not None]
    return merged(found) if found else None


def _write(folder: Path, state: AdapterState, *, stacked: bool, base_name: str) -> None:
    from tasks.adapters.peft_io import save_state

    if stacked:
        save_state(state, folder / STACKED_FILE)
    else:
        write_folders(folder, state, base_name=base_name)


def _facts(
    cell: PlannedCell, state: AdapterState, prepared: Prepared, *, stacked: bool, base_name: str
) -> CardFacts:
    everybody = state.slots == (EVERYBODY,)
    per_user = cell.spec.grouping == "user"
    owners = plural(len(state.slots), "user" if per_user else "cluster")
    training = cell.spec.training
    adapter = cell.spec.adapter
    assert adapter is not None
    return CardFacts(
        arm=cell.arm,
        base=base_name,
        base_sha256=cell.spec.model_sha256,
        adapter=adapter.model_dump(mode="json"),
        training=None if training is None else training.model_dump(mode="json"),
        data=":".join(filter(None, (prepared.source, Path(prepared.location or "").name))),
        data_sha256=prepared.data_sha256,
        data_license=LICENSES.get(prepared.source, "not known to this program"),
        owners="One adapter for all users" if everybody else f"One adapter each for {owners}",
        folders=["."]
        if everybody
        else [safe_folder_name(slot) for slot in state.slots[:SHOWN_FOLDERS]],
        stacked=stacked,
        commit=source_commit(),
    )
