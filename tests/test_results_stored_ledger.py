"""A bucket on a real S3 server: conditional writes, its lock, and cells that go there and back."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from results.ledger import Ledger
from results.lock import LOCK_FILE, LockError
from results.object_store import ConflictError, ObjectStore, StoreError
from results.stored_ledger import StoredLedger
from results.stored_lock import acquire, stored_lock
from tests.results_fixtures import items_of, slot, spec_of, stage

CELL = "0123456789abcdef"
RECORD = f"results/ledger/{CELL}/record.json"


def store_in(bucket: str) -> ObjectStore:
    return ObjectStore(f"{bucket}/study")


# ---------------------------------------------------------------- objects


def test_of_two_writers_one_is_told(bucket: str) -> None:
    store = store_in(bucket)
    assert store.read("a") is None
    first = store.replace("a", b"1", tag=None)
    with pytest.raises(ConflictError, match="changed by another program"):
        store.replace("a", b"2", tag=None)
    second = store.replace("a", b"3", tag=first)
    with pytest.raises(ConflictError):
        store.replace("a", b"4", tag=first)
    with pytest.raises(ConflictError):
        store.replace("gone", b"4", tag=first)
    found = store.read("a")
    assert found is not None
    assert (found.content, found.tag) == (b"3", second)
    assert 0 <= found.age_seconds < 60


def test_files_go_there_and_back_below_the_prefix_alone(bucket: str, tmp_path: Path) -> None:
    store, other = store_in(bucket), ObjectStore(f"{bucket}/study-2")
    files = [tmp_path / f"{number}.bin" for number in range(20)]
    for number, path in enumerate(files):
        path.write_bytes(bytes([number]) * 1000 * number)
    store.upload([(path, f"deep/{path.name}") for path in files])
    other.write("deep/x", b"of another study")
    assert store.names() == sorted(f"deep/{path.name}" for path in files)
    store.download([(f"deep/{path.name}", tmp_path / "back" / path.name) for path in files])
    assert [(tmp_path / "back" / path.name).read_bytes() for path in files] == [
        path.read_bytes() for path in files
    ]
    store.remove([*store.names(), "never-there"])
    assert store.names() == []
    assert other.names() == ["deep/x"]


@pytest.mark.parametrize("uri", ["s3://", "s3:///x", "gs://b/x", "s3://b/../x", "s3://b/a//c"])
def test_an_address_without_a_place_is_refused(uri: str) -> None:
    with pytest.raises(StoreError, match="s3://BUCKET/FOLDER is wanted"):
        ObjectStore(uri)


def test_what_the_server_says_is_said_in_words(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="no such bucket; make it first"):
        ObjectStore("s3://never-made/x").write("a", b"")
    with pytest.raises(StoreError, match="it is gone"):
        store_in(bucket).download([("a", tmp_path / "a")])
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("results.object_store.TRIES", 1)
    with pytest.raises(StoreError, match=r"cannot be reached .* AWS_ENDPOINT_URL"):
        store_in(bucket).read("a")


# ---------------------------------------------------------------- the lock


def test_a_second_driver_is_refused_and_the_next_one_is_not(bucket: str) -> None:
    store = store_in(bucket)
    with stored_lock(store) as lock:
        assert lock.beat()
        lock.confirm()
        with pytest.raises(LockError, match=r"study is in use by process \d+ on"):
            acquire(store_in(bucket))
    assert store.names() == []
    acquire(store).release()


def test_a_dead_drivers_lock_is_taken_over_and_it_knows(bucket: str) -> None:
    store = store_in(bucket)
    code = (
        "import sys; from results.object_store import ObjectStore; "
        "from results.stored_lock import acquire; acquire(ObjectStore(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, store.uri], check=True)
    assert store.names() == [LOCK_FILE]
    # Its process is gone, and of this host.
    acquire(store).release()
    # One of another host: free once its heartbeat is old.
    first = acquire(store)
    holder = {"host": "elsewhere", "pid": 1, "token": "t", "started_utc": "x"}
    store.write(LOCK_FILE, json.dumps(holder).encode())
    with pytest.raises(LockError, match="process 1 on elsewhere since x"):
        acquire(store)
    second = acquire(store, timeout_seconds=-1)
    assert not first.beat()
    with pytest.raises(LockError, match="another driver took over"):
        first.confirm()
    first.release()
    second.confirm()


def test_a_renewal_whose_answer_was_lost_keeps_the_lock(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_in(bucket)
    lock = acquire(store)
    replace = store.replace

    def lossy(key: str, content: bytes, *, tag: str | None) -> str:
        replace(key, content, tag=tag)
        raise ConflictError("the client tried again")

    monkeypatch.setattr(store, "replace", lossy)
    assert lock.beat()
    monkeypatch.setattr(store, "replace", replace)
    lock.confirm()


# ---------------------------------------------------------------- cells


def sent(ledger: Ledger, stored: StoredLedger, *, shift: float = 1.0) -> Path:
    """An attempt's folder, as a worker leaves and sends it."""
    spec = spec_of("lora_per_user", purpose="personalize", seed=0, users=["user_1"], split="test")
    items = items_of("lora_per_user", 0, "user_1", "own")
    slots, attempt = [slot("user_1", shift=shift)], secrets.token_hex(4)
    folder = stage(ledger, CELL, spec, slots=slots, items=items, attempt=attempt)
    stored.send(CELL, folder)
    return folder


def committed(root: Path, bucket: str, *, shift: float = 1.0) -> tuple[Ledger, StoredLedger]:
    ledger = Ledger(root)
    stored = StoredLedger(store_in(bucket), ledger)
    stored.pull(owner=True)
    ledger.finished([CELL])
    folder = sent(ledger, stored, shift=shift)
    ledger.commit(CELL, staging=folder, attempts=1, environment={})
    stored.record(CELL)
    return ledger, stored


def test_a_cell_made_on_one_machine_is_whole_on_another(bucket: str, tmp_path: Path) -> None:
    ledger, stored = committed(tmp_path / "one", bucket)
    attempt = ledger.load(CELL).attempt  # type: ignore[union-attr]
    assert stored.store.names() == [f"results/ledger/{CELL}/{attempt}/items.parquet", RECORD]
    other = Ledger(tmp_path / "two")
    StoredLedger(store_in(bucket), other).pull(owner=False)
    assert other.problems() == []
    assert other.load(CELL) == ledger.load(CELL)
    assert list(other.staging.iterdir()) == []


def test_a_driver_takes_what_a_worker_on_another_machine_sent(bucket: str, tmp_path: Path) -> None:
    far = Ledger(tmp_path / "far")
    folder = sent(far, StoredLedger(store_in(bucket), far))
    ledger = Ledger(tmp_path / "near")
    stored = StoredLedger(store_in(bucket), ledger)
    here = stored.bring(CELL, folder)
    assert here.is_relative_to(ledger.staging)
    ledger.commit(CELL, staging=here, attempts=1, environment={})
    stored.record(CELL)
    assert ledger.problems() == []
    assert not any(name.endswith("outcome.json") for name in stored.store.names())


def test_what_no_record_names_goes_away_with_the_next_driver(bucket: str, tmp_path: Path) -> None:
    _, stored = committed(tmp_path / "one", bucket)
    late = Ledger(tmp_path / "late")
    sent(late, StoredLedger(store_in(bucket), late))
    lost = Ledger(tmp_path / "two")
    # A driver that died between committing here and recording there.
    shutil.copytree(tmp_path / "one" / "results", tmp_path / "two" / "results")
    (lost.root / CELL).rename(lost.root / "fedcba9876543210")
    before = stored.store.names()
    StoredLedger(store_in(bucket), lost).pull(owner=False)
    assert stored.store.names() == before
    assert [path.name for path in lost.root.glob("[!.]*")] == [CELL]
    StoredLedger(store_in(bucket), lost).pull(owner=True)
    assert len(stored.store.names()) == 2
    assert lost.problems() == []


def test_of_two_drivers_that_record_a_cell_one_is_stopped(bucket: str, tmp_path: Path) -> None:
    drivers = []
    for name in ("one", "two"):
        ledger = Ledger(tmp_path / name)
        stored = StoredLedger(store_in(bucket), ledger)
        folder = sent(ledger, stored)
        ledger.commit(CELL, staging=folder, attempts=1, environment={})
        drivers.append(stored)
    first, second = drivers
    first.record(CELL)
    first.record(CELL)  # The same again, as after a lost answer, is no conflict.
    with pytest.raises(LockError, match="another driver took over"):
        second.record(CELL)
    found = first.store.read(RECORD)
    assert found is not None
    assert found.content == (tmp_path / "one/results/ledger" / CELL / "record.json").read_bytes()


@pytest.mark.parametrize("damage", ["items", "record", "lost"])
def test_what_is_broken_in_the_bucket_is_put_away_and_made_again(
    bucket: str, tmp_path: Path, damage: str
) -> None:
    _, stored = committed(tmp_path / "one", bucket)
    items = next(name for name in stored.store.names() if name.endswith("items.parquet"))
    match damage:
        case "items":
            stored.store.write(items, b"cut")
        case "record":
            stored.store.write(RECORD, b'{"attempt": "../../x"}')
        case "lost":
            stored.store.remove([items])
    ledger = Ledger(tmp_path / "two")
    again = StoredLedger(store_in(bucket), ledger)
    again.pull(owner=False)
    assert ledger.finished([CELL]) == {}
    assert len(list(ledger.quarantine.iterdir())) == 1
    ledger, again = committed(tmp_path / "two", bucket, shift=2.0)
    assert ledger.problems() == []
    other = Ledger(tmp_path / "three")
    StoredLedger(store_in(bucket), other).pull(owner=True)
    assert other.problems() == []
    assert other.load(CELL) == ledger.load(CELL)
    assert len(again.store.names()) == 2


def test_the_state_of_a_training_outlives_its_machine(bucket: str, tmp_path: Path) -> None:
    state = tmp_path / "one" / f"{CELL}.safetensors"
    state.parent.mkdir()
    state.write_bytes(b"half an epoch")
    stored = StoredLedger(store_in(bucket), Ledger(tmp_path / "one"))
    stored.send_state(state)
    there = tmp_path / "two" / state.name
    StoredLedger(store_in(bucket), Ledger(tmp_path / "two")).fetch_state(there)
    assert there.read_bytes() == b"half an epoch"
    StoredLedger(store_in(bucket), Ledger(tmp_path / "two")).fetch_state(there.with_name("none"))
    committed(tmp_path / "two", bucket)
    assert not [name for name in stored.store.names() if ".training" in name]
