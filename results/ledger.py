"""The ledger: one folder per finished cell, ``results/ledger/<cell_id>/``; the truth of a study.

A trial leaves its files in a staging folder of its own. The driver, the only writer of records,
hashes them, adds ``record.json`` and renames the whole folder to its final name. So a cell is
either in the ledger with all its files, or it is not there. Failed cells leave a note in
``results/ledger/.failed/``; they do not count as finished and run again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from results.files import crash_point, file_sha256, sync_file, sync_folder, write_json
from results.record import (
    SCHEMA_VERSION,
    FileEntry,
    ParentRef,
    Record,
    RecordError,
    SlotRecord,
)

RECORD_FILE, OUTCOME_FILE, ADAPTERS_FILE = "record.json", "outcome.json", "adapters.safetensors"
STAGING, FAILED = ".staging", ".failed"


class Ledger:
    """All records of one workspace."""

    def __init__(self, workspace: Path) -> None:
        self.root = workspace / "results" / "ledger"
        self.staging = self.root / STAGING
        self.failed = self.root / FAILED
        self.quarantine = workspace / "quarantine"

    def path(self, cell_id: str, name: str) -> Path:
        """Where a cell's file is, or would be."""
        return self.root / cell_id / name

    def commit(
        self, cell_id: str, *, staging: Path, attempts: int, environment: Mapping[str, str]
    ) -> Record:
        """Take over what a trial left in ``staging``; a cell that is there already stays.

        Raises:
            RecordError: the staging folder has no readable outcome, or a parent that is gone.
        """
        known = self.load(cell_id)
        if known is not None:
            shutil.rmtree(staging, ignore_errors=True)
            return known
        record = self._record(cell_id, staging, attempts=attempts, environment=environment)
        crash_point("before-record")
        (staging / OUTCOME_FILE).unlink()
        write_json(staging / RECORD_FILE, record.model_dump(mode="json"))
        for name in record.files:
            sync_file(staging / name)
        crash_point("before-rename")
        staging.rename(self.root / cell_id)
        sync_folder(self.root)
        crash_point("after-rename")
        (self.failed / f"{cell_id}.json").unlink(missing_ok=True)
        return record

    def _record(
        self, cell_id: str, staging: Path, *, attempts: int, environment: Mapping[str, str]
    ) -> Record:
        try:
            outcome = json.loads((staging / OUTCOME_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecordError(f"cell {cell_id}: no readable {OUTCOME_FILE} in staging") from error
        spec = outcome["spec"]
        slots = tuple(SlotRecord.model_validate(slot) for slot in outcome["slots"])
        return Record(
            cell_id=cell_id,
            arm=spec["arm"],
            purpose=spec["purpose"],
            grouping=spec["grouping"],
            adapter="none" if spec["adapter"] is None else spec["adapter"]["kind"],
            seed=spec["seed"],
            split=spec["split"],
            users=tuple(spec["users"]),
            status=status_of(slots),
            spec=spec,
            parent=self._parent(spec["parent"]),
            slots=slots,
            curve=tuple(outcome["curve"]),
            metrics=outcome["metrics"],
            counts=outcome["counts"],
            seconds=outcome["seconds"],
            files={
                path.name: FileEntry(bytes=path.stat().st_size, sha256=file_sha256(path))
                for path in sorted(staging.iterdir())
                if path.name != OUTCOME_FILE
            },
            attempt=staging.name,
            attempts=attempts,
            finished_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            environment=dict(environment),
        )

    def _parent(self, cell_id: str | None) -> ParentRef | None:
        if cell_id is None:
            return None
        parent = self.load(cell_id)
        if parent is None or ADAPTERS_FILE not in parent.files:
            raise RecordError(f"parent cell {cell_id} is not in the ledger")
        return ParentRef(cell_id=cell_id, adapters_sha256=parent.files[ADAPTERS_FILE].sha256)

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
        write_json(self.failed / f"{cell_id}.json", note)

    def failures(self) -> dict[str, dict[str, Any]]:
        """Notes of failed cells by cell id."""
        notes = sorted(self.failed.glob("*.json")) if self.failed.is_dir() else []
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in notes}

    def load(self, cell_id: str) -> Record | None:
        """A cell's record if it and its files are whole; a broken one is quarantined."""
        folder = self.root / cell_id
        if not folder.is_dir():
            return None
        problem = None
        try:
            record = read_record(folder / RECORD_FILE)
            problem = self._problem(record, cell_id)
        except RecordError as error:
            problem = str(error)
        if problem is not None:
            self._put_away(folder, problem)
            return None
        return record

    def _problem(self, record: Record, cell_id: str) -> str | None:
        if record.cell_id != cell_id:
            return f"the record says it is cell {record.cell_id}"
        for name, entry in record.files.items():
            path = self.path(cell_id, name)
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry.bytes or file_sha256(path) != entry.sha256:
                return f"{name} is not what was written: size or sha256 differ"
        return None

    def _put_away(self, folder: Path, reason: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
        place = self.quarantine / f"{folder.name}-{stamp}"
        self.quarantine.mkdir(parents=True, exist_ok=True)
        folder.rename(place)
        (place / "REASON.txt").write_text(reason + "\n", encoding="utf-8")

    def finished(self, cell_ids: Iterable[str]) -> dict[str, Record]:
        """Those of the given cells that are in the ledger, whole."""
        found = ((cell_id, self.load(cell_id)) for cell_id in cell_ids)
        return {cell_id: record for cell_id, record in found if record is not None}

    def records(self) -> Iterator[Record]:
        """All whole records, by cell id."""
        folders = sorted(self.root.iterdir()) if self.root.is_dir() else []
        for folder in folders:
            if not folder.name.startswith("."):
                record = self.load(folder.name)
                if record is not None:
                    yield record

    def clean_staging(self) -> None:
        """Remove what dead attempts left; only the workspace's lock holder may."""
        shutil.rmtree(self.staging, ignore_errors=True)


def status_of(slots: Iterable[SlotRecord]) -> str:
    """``ok``, ``partial`` (some slots failed) or ``failed`` (all of them did)."""
    failed = [slot.status == "failed" for slot in slots]
    if not any(failed):
        return "ok"
    return "failed" if all(failed) else "partial"


def read_record(path: Path) -> Record:
    """Read one ``record.json``.

    Raises:
        RecordError: missing, no JSON, of another schema version, or with unknown fields.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"{path.name} is missing") from error
    except (OSError, ValueError) as error:
        raise RecordError(f"{path.name} is no JSON: {error}") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise RecordError(
            f"{path.name} has schema version {version!r}; this program reads {SCHEMA_VERSION}"
        )
    try:
        return Record.model_validate(value)
    except ValidationError as error:
        raise RecordError(f"{path.name} does not fit the schema: {error}") from error
