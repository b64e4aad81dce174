"""The ledger: one folder per finished cell, ``results/ledger/<cell_id>/``; the truth of a study.

A trial leaves its files in a staging folder of its own. The driver, the only writer of records,
hashes them, adds ``record.json`` and renames the whole folder to its final name. So a cell is
either in the ledger with all its files, or it is not there. Failed cells leave a note in
``results/ledger/.failed/``; they do not count as finished and run again. What is broken goes to
``quarantine/`` with the reason, and runs again; what a newer program wrote is left alone.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from results.files import (
    crash_point,
    inside,
    remove_temporaries,
    sync_file,
    sync_folder,
    write_json,
)
from results.record import ParentRef, Record, RecordError, SlotRecord
from results.record_files import (
    OUTCOME_FILE,
    RECORD_FILE,
    NewerRecordError,
    file_entries,
    files_problem,
    read_record,
    status_of,
)

ADAPTERS_FILE = "adapters.safetensors"
STAGING, FAILED, TRAINING = ".staging", ".failed", ".training"
SAVE_NOW = "save-now"
"""Beside the states of trainings: its content asks them to save; see ``tasks.checkpoint``."""
REASON_FILE = "REASON.txt"


class Ledger:
    """All records of one workspace.

    Attributes:
        reopened: cells whose record may be replaced: they failed in part and are repeated, or
            their parent was.
        duplicates: attempts whose outcome was thrown away, because another one of the same cell
            had been committed before.
    """

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.root = workspace / "results" / "ledger"
        self.staging = self.root / STAGING
        self.failed = self.root / FAILED
        self.quarantine = workspace / "quarantine"
        self.reopened: set[str] = set()
        self.duplicates: list[str] = []

    def path(self, cell_id: str, name: str) -> Path:
        """Where a cell's file is, or would be."""
        return inside(inside(self.root, cell_id), name)

    def commit(
        self, cell_id: str, *, staging: Path, attempts: int, environment: Mapping[str, str]
    ) -> Record:
        """Take over what a trial left in ``staging``; a cell that is there stays unless reopened.

        Args:
            cell_id: the cell.
            staging: the attempt's folder, somewhere in the workspace; its name is the attempt's.
            attempts: how often the cell was tried, this time included.
            environment: versions, commit, class of hardware; no host names, no paths.

        Returns:
            The record; of an earlier attempt if there is one (see ``duplicates``).

        Raises:
            RecordError: the staging folder has no readable outcome or one in which every adapter
                failed, or the parent is gone.
            OSError: the disk does not take it; nothing stands under the final name.
        """
        folder = inside(self.root, cell_id)
        if not staging.resolve().is_relative_to(self.workspace.resolve()):
            raise RecordError(f"staging folder {staging} is not in workspace {self.workspace}")
        known = self.load(cell_id)
        if known is not None and cell_id not in self.reopened:
            self.duplicates.append(staging.name)
            shutil.rmtree(staging, ignore_errors=True)
            return known
        record = self._record(cell_id, staging, attempts=attempts, environment=environment)
        crash_point("before-record")
        write_json(staging / RECORD_FILE, record.model_dump(mode="json"))
        (staging / OUTCOME_FILE).unlink()
        for name in record.files:
            sync_file(staging / name)
        sync_folder(staging)
        crash_point("before-rename")
        self.root.mkdir(parents=True, exist_ok=True)
        replaced = self._make_way(folder)
        crash_point("before-replacing")
        staging.rename(folder)
        sync_folder(self.root)
        crash_point("after-rename")
        self.reopened.discard(cell_id)
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)
        self._note(cell_id).unlink(missing_ok=True)
        # The state of its training, where it had any, has served its end.
        inside(self.root / TRAINING, f"{cell_id}.safetensors").unlink(missing_ok=True)
        return record

    def _make_way(self, folder: Path) -> Path | None:
        """Move a reopened cell's old record to the staging area; None where there is none.

        Killed right after it, the cell is not in the ledger and runs again, as if for the first
        time; the next run clears the staging area.
        """
        if not folder.is_dir():
            return None
        self.staging.mkdir(parents=True, exist_ok=True)
        place = self.staging / f"{folder.name}.replaced-{secrets.token_hex(4)}"
        folder.rename(place)
        return place

    def _record(
        self, cell_id: str, staging: Path, *, attempts: int, environment: Mapping[str, str]
    ) -> Record:
        outcome = _outcome(staging, cell_id)
        try:
            record = Record(
                **_described(outcome),
                cell_id=cell_id,
                parent=self._parent(outcome["spec"]["parent"]),
                parents=self._parents(outcome["spec"].get("parents", ())),
                files=file_entries(staging),
                attempt=staging.name,
                attempts=attempts,
                finished_utc=datetime.now(UTC).isoformat(timespec="seconds"),
                environment=dict(environment),
            )
        except (KeyError, TypeError, ValidationError) as error:
            raise RecordError(f"cell {cell_id}: {OUTCOME_FILE} does not fit: {error}") from error
        if record.status == "failed":
            reasons = "; ".join(dict.fromkeys(str(slot.reason) for slot in record.slots))
            raise RecordError(f"all {len(record.slots)} adapters failed: {reasons}")
        return record

    def _parent(self, cell_id: str | None) -> ParentRef | None:
        if cell_id is None:
            return None
        parent = self.load(cell_id)
        if parent is None or ADAPTERS_FILE not in parent.files:
            raise RecordError(f"parent cell {cell_id} is not in the ledger")
        return ParentRef(cell_id=cell_id, adapters_sha256=parent.files[ADAPTERS_FILE].sha256)

    def _parents(self, cell_ids: Iterable[str]) -> tuple[ParentRef, ...]:
        """Those with adapters; a block in which nobody got one is a parent without."""
        found = []
        for cell_id in cell_ids:
            parent = self.load(cell_id)
            if parent is None:
                raise RecordError(f"parent cell {cell_id} is not in the ledger")
            if ADAPTERS_FILE in parent.files:
                digest = parent.files[ADAPTERS_FILE].sha256
                found.append(ParentRef(cell_id=cell_id, adapters_sha256=digest))
        return tuple(found)

    def fail(self, cell_id: str, *, spec: Mapping[str, Any], error: str, attempts: int) -> None:
        """Note a cell that failed, with its traceback; it runs again next time."""
        note = {
            "cell_id": cell_id,
            "arm": spec["arm"],
            "seed": spec["seed"],
            "users": list(spec["users"]),
            "error": error,
            "attempts": attempts,
        }
        write_json(self._note(cell_id), note)

    def _note(self, cell_id: str) -> Path:
        return inside(self.failed, f"{cell_id}.json")

    def failures(self) -> dict[str, dict[str, Any]]:
        """Notes of failed cells by cell id; a note that cannot be read says so."""
        notes = sorted(self.failed.glob("[!.]*.json")) if self.failed.is_dir() else []
        # A driver that died right after a commit left the note of the attempt before.
        return {path.stem: _read_note(path) for path in notes if not self._has(path.stem)}

    def _has(self, cell_id: str) -> bool:
        return (self.root / cell_id).is_dir() and cell_id not in self.reopened

    def load(self, cell_id: str, *, thorough: bool = False) -> Record | None:
        """A cell's record if it and its files are whole; a broken one is quarantined.

        Args:
            cell_id: the cell.
            thorough: hash files of more than 256 MiB too, which else are checked by size.

        Raises:
            NewerRecordError: a later version of this program wrote it.
        """
        folder = inside(self.root, cell_id)
        if not folder.is_dir():
            return None
        record, problem = self._examine(folder, thorough=thorough)
        if problem is not None:
            self._put_away(folder, problem)
            return None
        return record

    def _examine(self, folder: Path, *, thorough: bool) -> tuple[Record | None, str | None]:
        """The record, or what is wrong with the cell."""
        try:
            record = read_record(folder / RECORD_FILE)
            if record.cell_id != folder.name:
                return None, f"the record says it is cell {record.cell_id}"
            return record, files_problem(folder, record, thorough=thorough)
        except NewerRecordError:
            raise
        except RecordError as error:
            return None, str(error)

    def _put_away(self, folder: Path, reason: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        # Two runs in one second, or a clock that jumped back, must not meet.
        place = self.quarantine / f"{folder.name}-{stamp}-{secrets.token_hex(4)}"
        self.quarantine.mkdir(parents=True, exist_ok=True)
        folder.rename(place)
        (place / REASON_FILE).write_text(reason + "\n", encoding="utf-8")

    def finished(self, cell_ids: Iterable[str]) -> dict[str, Record]:
        """Those of the given cells that are in the ledger, whole, made from what is there now.

        A cell whose parent was made anew, into other bytes, is none of them: it is reopened.
        """
        whole = {name: self.load(name) for name in cell_ids}
        found: dict[str, Record] = {}
        adapters: dict[str, str | None] = {}
        for name, record in whole.items():
            if record is None:
                continue
            if all(self._stands(parent, adapters) for parent in _used(record)):
                found[name] = record
            else:
                self.reopened.add(name)
        return found

    def _stands(self, parent: ParentRef, known: dict[str, str | None]) -> bool:
        """Whether a parent's adapters are those that were used; ``known`` remembers them.

        A parent that is gone says nothing against its children: it will run again first.
        """
        if parent.cell_id not in known:
            record = self.load(parent.cell_id)
            entry = None if record is None else record.files.get(ADAPTERS_FILE)
            known[parent.cell_id] = None if entry is None else entry.sha256
        return known[parent.cell_id] in (None, parent.adapters_sha256)

    def records(self) -> Iterator[Record]:
        """All whole records, by cell id."""
        for folder in self._folders():
            record = self.load(folder.name)
            if record is not None:
                yield record

    def problems(self) -> list[str]:
        """What is wrong, one line each, every byte hashed; moves nothing."""
        found = [f"note {name}: {note['error']}" for name, note in self.failures().items()
                 if "cell_id" not in note]  # fmt: skip
        adapters: dict[str, str] = {}
        children: list[tuple[str, ParentRef]] = []
        for folder in self._folders():
            try:
                record, problem = self._examine(folder, thorough=True)
            except NewerRecordError as error:
                record, problem = None, str(error)
            if problem is not None:
                found.append(f"cell {folder.name}: {problem}")
            elif record is not None:
                if ADAPTERS_FILE in record.files:
                    adapters[record.cell_id] = record.files[ADAPTERS_FILE].sha256
                children += [(record.cell_id, parent) for parent in _used(record)]
        return found + [
            f"cell {name}: its parent {parent.cell_id} is "
            + ("not in the ledger" if parent.cell_id not in adapters else "not the one it used")
            for name, parent in children
            if adapters.get(parent.cell_id) != parent.adapters_sha256
        ]

    def _folders(self) -> list[Path]:
        found = self.root.iterdir() if self.root.is_dir() else ()
        return sorted(path for path in found if path.is_dir() and not path.name.startswith("."))

    def clean_staging(self) -> None:
        """Remove what dead attempts left; only the workspace's lock holder may."""
        shutil.rmtree(self.staging, ignore_errors=True)
        remove_temporaries(self.failed)
        remove_temporaries(self.root / TRAINING)
        (self.root / TRAINING / SAVE_NOW).unlink(missing_ok=True)
        # A trainer that was cut off may have saved once more after its retry was committed.
        for state in (self.root / TRAINING).glob("[!.]*.safetensors"):
            if self._has(state.stem):
                state.unlink(missing_ok=True)


def _used(record: Record) -> list[ParentRef]:
    """All cells whose adapters a record was made from."""
    return [*([] if record.parent is None else [record.parent]), *record.parents]


def _outcome(staging: Path, cell_id: str) -> dict[str, Any]:
    try:
        outcome = json.loads((staging / OUTCOME_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"cell {cell_id}: {OUTCOME_FILE} is no JSON: {error}") from error
    except FileNotFoundError as error:
        raise RecordError(f"cell {cell_id}: no {OUTCOME_FILE} in staging") from error
    if not isinstance(outcome, dict):
        raise RecordError(f"cell {cell_id}: {OUTCOME_FILE} holds no object")
    return outcome


def _described(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The record's fields that the trial knows."""
    spec = outcome["spec"]
    slots = tuple(SlotRecord.model_validate(slot) for slot in outcome["slots"])
    adapter = spec["adapter"]
    return {
        **{name: spec[name] for name in ("arm", "purpose", "grouping", "seed", "split")},
        **{name: outcome[name] for name in ("metrics", "counts", "seconds")},
        "adapter": "none" if adapter is None else adapter["kind"],
        "users": tuple(spec["users"]),
        "status": status_of(slots),
        "spec": spec,
        "slots": slots,
        "curve": tuple(outcome["curve"]),
    }


def _read_note(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(note, dict) and {"cell_id", "arm", "error", "attempts"} <= note.keys():
            return note
        problem = "holds no note"
    except (OSError, ValueError) as error:
        problem = str(error)
    return {"arm": "unknown", "error": f"{path.name} cannot be read: {problem}", "attempts": 1}
