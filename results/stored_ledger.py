"""The ledger of a workspace in a bucket: what counts lies there, the folder here is a copy.

``results/ledger/<cell>/<attempt>/<file>`` holds what an attempt left, under keys that no other
attempt ever writes. ``results/ledger/<cell>/record.json`` names the attempt that counts; the driver
writes it last, and only in place of the version that it knows. What a worker that outlived its
driver sends is therefore never read, and goes away with the next run.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from results.files import crash_point, inside, write_atomic
from results.ledger import FAILED, TRAINING, Ledger
from results.lock import LockError, taken_over
from results.object_store import CONNECTIONS, ConflictError, ObjectStore, StoreError
from results.record_files import OUTCOME_FILE, RECORD_FILE

BELOW = "results/ledger/"


class StoredLedger:
    """Brings cells of a bucket into a folder's ledger and back."""

    def __init__(self, store: ObjectStore, ledger: Ledger) -> None:
        self.store, self.ledger = store, ledger
        self._tags: dict[str, str] = {}
        """Of every record in the bucket, as this program last saw it."""

    def forget(self) -> None:
        """Every record was removed from the bucket."""
        self._tags.clear()

    # What workers do.

    def send(self, cell_id: str, staging: Path) -> None:
        """Put all files that an attempt left under keys of its own.

        Raises:
            StoreError: the bucket does not take them.
        """
        names = sorted(path.name for path in staging.iterdir() if path.is_file())
        below = _attempt_keys(cell_id, staging.name)
        self.store.upload([(staging / name, f"{below}{name}") for name in names])

    def send_state(self, path: Path) -> None:
        """Put the state of a training that is under way; one that fails costs no training."""
        with suppress(StoreError):
            self.store.upload([(path, f"{BELOW}{TRAINING}/{path.name}")])

    def fetch_state(self, path: Path) -> None:
        """The state that an earlier attempt left, on whichever machine; without one, none."""
        key = f"{BELOW}{TRAINING}/{path.name}"
        if self.store.names(key):
            self.store.download([(key, path)])

    def fetch(self, cell_id: str) -> None:
        """Make a cell's folder here what the bucket says; left alone where it says nothing.

        A record or file that is broken there is broken here too: the ledger then puts it away.

        Raises:
            StoreError: the bucket cannot be read.
        """
        found = self.store.read(_record_key(cell_id))
        if found is None:
            return
        self._tags[cell_id] = found.tag
        folder = inside(self.ledger.root, cell_id)
        if _content(folder / RECORD_FILE) == found.content:
            return
        made = self.ledger.staging / f"{cell_id}.fetched-{secrets.token_hex(4)}"
        made.mkdir(parents=True)
        try:
            for key in self._files(cell_id, found.content):
                self.store.download([(key, made / key.rpartition("/")[2])])
            write_atomic(made / RECORD_FILE, found.content)
            self._swap(made, folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _files(self, cell_id: str, record: bytes) -> list[str]:
        """Keys of a record's files that are there; none of a record that cannot be read."""
        try:
            values = json.loads(record)
            below = _attempt_keys(cell_id, str(values["attempt"]))
            wanted = {f"{below}{inside(Path(), str(name))}" for name in values["files"]}
        except (ValueError, KeyError, TypeError):
            return []
        return [key for key in self.store.names(below) if key in wanted]

    def _swap(self, made: Path, folder: Path) -> None:
        """Put a fetched folder in place; another process of this machine may do the same."""
        old = made.with_name(f"{made.name}.old")
        with suppress(FileNotFoundError):
            folder.rename(old)
        # Lost race: the folder that is there now holds the same record.
        with suppress(OSError):
            made.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    # What the driver does.

    def pull(self, *, owner: bool) -> None:
        """Make the whole ledger here what the bucket says.

        Cells that the bucket does not know are removed here: a driver died before it recorded
        them. Attempts that no record names are removed there, if this is the workspace's
        ``owner`` (it holds the lock).
        """
        keys = self.store.names(BELOW)
        cells = {_cell(key) for key in keys if key.endswith(f"/{RECORD_FILE}")}
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="s3") as pool:
            list(pool.map(self.fetch, sorted(cells)))
        for folder in self.ledger.root.glob("[!.]*"):
            if folder.name not in cells:
                shutil.rmtree(folder, ignore_errors=True)
        if owner:
            self.store.remove(list(self._left_over(keys, cells)))

    def _left_over(self, keys: Iterable[str], cells: Collection[str]) -> Iterable[str]:
        counts = {cell: _attempt_keys(cell, self._attempt(cell)) for cell in cells}
        for key in keys:
            cell = _cell(key)
            if cell.startswith("."):
                continue
            if key != _record_key(cell) and not key.startswith(counts.get(cell, "\n")):
                yield key

    def _attempt(self, cell_id: str) -> str:
        try:
            return str(json.loads(_content(self.ledger.path(cell_id, RECORD_FILE)))["attempt"])
        except (ValueError, KeyError, TypeError):
            return "unknown"

    def bring(self, cell_id: str, staging: Path) -> Path:
        """An attempt's files as a folder here, whichever machine they were made on."""
        here = self.ledger.staging / staging.name
        if not here.is_dir():
            below = _attempt_keys(cell_id, staging.name)
            files = [(key, here / key.removeprefix(below)) for key in self.store.names(below)]
            self.store.download(files)
        return here

    def record(self, cell_id: str) -> None:
        """Make the record that was committed here count; what earlier attempts left goes away.

        Raises:
            LockError: another driver has recorded this cell.
            StoreError: the bucket does not take it.
        """
        content = _content(self.ledger.path(cell_id, RECORD_FILE))
        key = _record_key(cell_id)
        crash_point("before-stored-record")
        try:
            self._tags[cell_id] = self.store.replace(key, content, tag=self._tags.get(cell_id))
        except ConflictError as error:
            found = self.store.read(key)
            # The answer to a first try may have been lost on its way.
            if found is None or found.content != content:
                raise LockError(taken_over(self.store.uri)) from error
            self._tags[cell_id] = found.tag
        crash_point("after-stored-record")
        below = f"{BELOW}{cell_id}/"
        mine = _attempt_keys(cell_id, self._attempt(cell_id))
        self.store.remove([
            *(one for one in self.store.names(below) if one != key and not one.startswith(mine)),
            f"{mine}{OUTCOME_FILE}",
            f"{BELOW}{TRAINING}/{cell_id}.safetensors",
        ])  # fmt: skip


NOTES = f"{BELOW}{FAILED}/"
"""Notes of failures travel with the files that are no cells."""


def _record_key(cell_id: str) -> str:
    return f"{BELOW}{cell_id}/{RECORD_FILE}"


def _attempt_keys(cell_id: str, attempt: str) -> str:
    return f"{BELOW}{cell_id}/{attempt}/"


def _cell(key: str) -> str:
    return key.removeprefix(BELOW).partition("/")[0]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
