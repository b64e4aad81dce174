"""A workspace in a bucket: a folder here is its working copy, brought up to date and sent back.

``--workspace s3://BUCKET/FOLDER`` works on a folder below ``~/.cache/persona-sweep`` (or
``PERSONA_SWEEP_CACHE``). Cells go to the bucket one by one as they end (``results.stored_ledger``).
Everything else, data and tables and figures, is sent after it was made, under its own path;
``.files.json`` in the bucket lists what is whole there, and is written before and after.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.manifest import MANIFEST, SHARDS
from orchestrator.exit_codes import InfrastructureError, InputError
from orchestrator.finish import REGISTRY_FILE, SUMMARY_FILE
from orchestrator.given_paths import given_folder
from orchestrator.home import can_be_made, home
from orchestrator.status import STATUS_FILE
from orchestrator.worker import Places
from orchestrator.workspace import Workspace
from results.files import crash_point, file_sha256, is_temporary, write_atomic
from results.ledger import Ledger
from results.lock import LOCK_FILE, LockError, acquire, workspace_lock
from results.object_store import SCHEME, ObjectStore, StoreError
from results.stored_ledger import NOTES, StoredLedger
from results.stored_lock import StoredLock, stored_lock
from tasks.cell import CellSpec

CACHE_VARIABLE = "PERSONA_SWEEP_CACHE"
FILES = ".files.json"
SEALS = (MANIFEST.as_posix(), SUMMARY_FILE.as_posix())
"""Files that vouch for others: while anything is being sent, they do not count."""
GROWING = (REGISTRY_FILE,)
"""Whole in every version: lines are only added."""
LEFT_HERE = ("results/tune/", "quarantine/", "results/ledger/")


def workspace_at(text: str) -> Workspace:
    """The workspace that ``--workspace`` names: a folder, or ``s3://BUCKET/FOLDER``.

    Raises:
        InputError: an address of another kind, one without a bucket, or no folder.
    """
    if "://" not in text:
        return Workspace(given_folder(text, option="--workspace"))
    if not text.startswith(SCHEME):
        raise InputError(f"--workspace {text}: a folder or s3://BUCKET/FOLDER is wanted")
    try:
        uri = ObjectStore(text).uri
    except StoreError as error:
        raise InputError(f"--workspace {text}: {error}") from error
    return Workspace(working_copy(uri), storage=uri)


def working_copy(uri: str) -> Path:
    """The folder of this machine that a workspace in a bucket is worked on in."""
    parent = _cache()
    name = uri.removeprefix(SCHEME).replace("/", "-")[:60]
    digest = hashlib.sha256(uri.encode()).hexdigest()[:8]
    return parent / f"{name}-{digest}"


def _cache() -> Path:
    """Where the working copies are.

    Raises:
        InputError: it cannot be known, or not be made.
    """
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return given_folder(given, option=CACHE_VARIABLE)
    kept = os.environ.get("XDG_CACHE_HOME")
    parent = Path(kept) if kept else None if home() is None else Path(str(home())) / ".cache"
    if parent is None or not can_be_made(parent / "persona-sweep"):
        where = "there is no home folder" if parent is None else f"{parent} cannot be written"
        raise InputError(
            f"a workspace in a bucket needs a working copy here, and {where}: give a folder with "
            f"room in {CACHE_VARIABLE}, or HOME=FOLDER"
        )
    return (parent / "persona-sweep").resolve()


class Mirror:
    """All files of a workspace but its cells, in a folder and in a bucket."""

    def __init__(self, store: ObjectStore, root: Path) -> None:
        self.store, self.root = store, root

    def pull(self, *, below: str = "") -> None:
        """Make the folder's files what the bucket says; ``below``: only those, and none removed."""
        listed = self._listed()
        wanted = {name: digest for name, digest in listed.items() if name.startswith(below)}
        missing = [name for name, digest in wanted.items() if self._digest(name) != digest]
        self.store.download([(name, self.root / name) for name in missing])
        if not below:
            for name in self._here() - listed.keys():
                (self.root / name).unlink(missing_ok=True)

    def push(self) -> None:
        """Send what has changed; a driver that dies meanwhile leaves nothing that seems whole."""
        listed = self._listed()
        here = {name: self._digest(name) for name in sorted(self._here())}
        changed = [name for name, digest in here.items() if listed.get(name) != digest]
        gone = [name for name in listed if name not in here]
        if not changed and not gone:
            return
        unsure = {*changed, *gone, *SEALS}.difference(GROWING)
        self._list({name: digest for name, digest in listed.items() if name not in unsure})
        crash_point("before-sending")
        self.store.upload([(self.root / name, name) for name in changed])
        crash_point("before-listing")
        self.store.remove(gone)
        self._list({name: digest for name, digest in here.items() if digest is not None})

    def _listed(self) -> dict[str, str | None]:
        """SHA-256 of every file that is whole in the bucket; the growing ones' is never known."""
        found = self.store.read(FILES)
        if found is None:
            return {}
        try:
            files: dict[str, str] = json.loads(found.content)["files"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.store.uri}/{FILES} cannot be read ({error})") from error
        for name in files:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise StoreError(f"{self.store.uri}/{FILES} names {name!r}: it leads elsewhere")
        return dict(files)

    def _list(self, files: dict[str, str | None]) -> None:
        content = json.dumps({"files": files}, indent=1, sort_keys=True) + "\n"
        self.store.write(FILES, content.encode())

    def _digest(self, name: str) -> str | None:
        path = self.root / name
        return file_sha256(path) if path.is_file() else None

    def _here(self) -> set[str]:
        found = set()
        for path in self.root.rglob("*"):
            name = path.relative_to(self.root).as_posix()
            left = name.startswith(LEFT_HERE) and not name.startswith(NOTES)
            if path.is_file() and not left and path.name != LOCK_FILE and not is_temporary(path):
                found.add(name)
        return found


class StoredWorkspace:
    """Both halves of a workspace in a bucket, for its driver."""

    def __init__(self, store: ObjectStore, root: Path) -> None:
        self.store, self.root = store, root
        self.cells = StoredLedger(store, Ledger(root))
        self.files = Mirror(store, root)

    def pull(self, *, owner: bool) -> None:
        """Bring the folder up to date; ``owner``: whether this driver holds the lock."""
        self.files.pull()
        self.cells.pull(owner=owner)

    def clear(self) -> None:
        """``--fresh``: take away everything but the lock."""
        keys = [key for key in self.store.names() if key != LOCK_FILE]
        # First what makes the rest count: a driver that dies here leaves nothing half.
        records = [key for key in keys if key.endswith("/record.json")]
        self.store.remove([FILES, *records])
        self.store.remove(keys)
        self.cells.forget()

    def tell(self, status: Path) -> None:
        """Send how the run stands, for `status` on another machine; best effort."""
        try:
            self.store.write(STATUS_FILE.as_posix(), status.read_bytes())
        except OSError:
            return


@dataclass(frozen=True, slots=True)
class Held:
    """A workspace that this driver alone may write.

    ``confirm`` raises LockError where it no longer is; ``stored`` is None for a folder.
    """

    confirm: Callable[[], None]
    stored: StoredWorkspace | None = None


@contextmanager
def held(workspace: Workspace) -> Iterator[Held]:
    """The workspace's lock; for one in a bucket also its working copy, which is sent at the end.

    Raises:
        LockError: another driver holds it, or the folder cannot be written.
        InfrastructureError: the bucket cannot be reached, read or written.
    """
    _make_root(workspace)
    with workspace_lock(workspace.root) as lock:
        if workspace.storage is None:
            yield Held(lock.confirm)
            return
        with _in_words(), stored_lock(ObjectStore(workspace.storage)) as stored:
            yield from _bucket_held(workspace, stored, lock.confirm)


def _make_root(workspace: Workspace) -> None:
    try:
        workspace.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InfrastructureError(
            f"the workspace's folder {workspace.root} cannot be made ({error.strerror}): make the "
            "place writable and make room, or give another --workspace"
        ) from error


def _bucket_held(
    workspace: Workspace, lock: StoredLock, confirm_folder: Callable[[], None]
) -> Iterator[Held]:
    found = StoredWorkspace(lock.store, workspace.root)

    def confirm() -> None:
        confirm_folder()
        lock.confirm()

    found.pull(owner=True)
    try:
        yield Held(confirm, found)
    finally:
        if lock.beat():
            found.files.push()


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise InfrastructureError(f"{error}; the same command goes on from here") from error


def refresh(workspace: Workspace) -> None:
    """Bring a bucket's working copy up to date for reading alone; nothing for a folder.

    Where a driver of this machine works on that copy, it is up to date, and left alone.

    Raises:
        InfrastructureError: the bucket cannot be reached or read.
    """
    if workspace.storage is None:
        return
    _make_root(workspace)
    try:
        lock = acquire(workspace.root)
    except LockError:
        return
    try:
        with _in_words():
            StoredWorkspace(ObjectStore(workspace.storage), workspace.root).pull(owner=False)
    finally:
        lock.release()


def refresh_status(workspace: Workspace) -> None:
    """Bring the status file of a run on another machine here; nothing for a folder.

    Raises:
        InfrastructureError: the bucket cannot be reached or read.
    """
    if workspace.storage is None or (workspace.root / LOCK_FILE).exists():
        return
    with _in_words():
        found = ObjectStore(workspace.storage).read(STATUS_FILE.as_posix())
    if found is not None:
        write_atomic(workspace.root / STATUS_FILE, found.content)


class NodeCopy:
    """A worker's side: brings what a cell needs to this node, and sends what came out."""

    def __init__(self, places: Places) -> None:
        assert places.storage is not None
        self.places = places
        store = ObjectStore(places.storage)
        root = places.ledger.parent.parent
        self.cells, self.files = StoredLedger(store, Ledger(root)), Mirror(store, root)
        self._has_data = False

    def fetch(self, cell_id: str, spec: CellSpec) -> None:
        """Shards, adapters to start from, what an earlier run of the cell has left.

        Raises:
            StoreError: the bucket cannot be read.
        """
        if not self._has_data:
            # Nothing prepared changes while this process lives: a run has a Ray of its own.
            self.files.pull(below=f"{SHARDS.as_posix()}/")
            self.files.pull(below="results/adopted/")
            self._has_data = True
        needed = [*([] if spec.parent is None else [spec.parent]), *spec.parents, cell_id]
        for name in needed:
            self.cells.fetch(name)
        if spec.purpose == "train":
            self.cells.fetch_state(self.places.training / f"{cell_id}.safetensors")

    def send(self, cell_id: str, staging: Path) -> None:
        """Put what an attempt left into the bucket, where the driver makes it count.

        Raises:
            StoreError: the bucket does not take it.
        """
        self.cells.send(cell_id, staging)
