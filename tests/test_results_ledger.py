"""The ledger: whole records or none; broken ones are put away and run again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.files import CRASH_VARIABLE, write_by, write_csv
from results.ledger import Ledger
from results.record import RecordError
from results.record_files import NewerRecordError, read_record
from tests.results_fixtures import commit, fake_ledger, items_of, slot, spec_of

CELL = "0123456789abcdef"


def one_cell(workspace: Path, **own) -> Ledger:  # type: ignore[no-untyped-def]
    ledger = Ledger(workspace)
    spec = spec_of("lora_per_user", purpose="personalize", seed=0, users=["user_1"], split="test")
    given = {"slots": [slot("user_1")], "items": items_of("lora_per_user", 0, "user_1", "own")}
    commit(ledger, CELL, spec, **{**given, **own})
    return ledger


def test_a_committed_cell_comes_back_whole(tmp_path: Path) -> None:
    ledger = one_cell(tmp_path)
    record = ledger.load(CELL)
    assert record is not None
    assert (record.arm, record.adapter, record.status) == ("lora_per_user", "lora", "ok")
    assert set(record.files) == {"items.parquet"}
    assert sorted(p.name for p in (ledger.root / CELL).iterdir()) == [
        "items.parquet",
        "record.json",
    ]
    assert list(ledger.staging.iterdir()) == []


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [(["ok", "ok"], "ok"), (["ok", "failed"], "partial"), (["skipped", "ok"], "ok"),
     ([], "ok")],
)  # fmt: skip
def test_status_of_a_record_comes_from_its_slots(tmp_path: Path, statuses, expected) -> None:  # type: ignore[no-untyped-def]
    slots = [slot(f"u{k}", status=status) for k, status in enumerate(statuses)]
    record = one_cell(tmp_path, slots=slots).load(CELL)
    assert record is not None
    assert record.status == expected


def test_committing_twice_keeps_the_first(tmp_path: Path) -> None:
    ledger = one_cell(tmp_path)
    first = (ledger.root / CELL / "record.json").read_bytes()
    one_cell(tmp_path, slots=[slot("user_1", shift=9.0)])
    assert (ledger.root / CELL / "record.json").read_bytes() == first
    assert list(ledger.staging.iterdir()) == []


def test_a_cell_whose_adapters_all_failed_is_no_record(tmp_path: Path) -> None:
    slots = [slot("u", status="failed", reason="non-finite"), slot("v", status="failed")]
    with pytest.raises(RecordError, match="all 2 adapters failed: non-finite; None"):
        one_cell(tmp_path, slots=slots)
    assert Ledger(tmp_path).finished([CELL]) == {}


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "record", "version", "outside"])
def test_a_damaged_cell_is_put_away_and_counts_as_not_done(tmp_path: Path, damage: str) -> None:
    ledger = one_cell(tmp_path)
    items, record = ledger.path(CELL, "items.parquet"), ledger.path(CELL, "record.json")
    content = items.read_bytes()
    match damage:
        case "truncate":
            items.write_bytes(content[:-1])
        case "flip":
            items.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "remove":
            items.unlink()
        case "record":
            record.write_text(record.read_text()[:40])
        case "version":
            record.write_text(
                record.read_text().replace('"schema_version": 1', '"schema_version": "x"')
            )
        case "outside":
            record.write_text(record.read_text().replace("items.parquet", "../items.parquet"))
    assert ledger.finished([CELL]) == {}
    assert not (ledger.root / CELL).exists()
    (away,) = ledger.quarantine.iterdir()
    assert (away / "REASON.txt").read_text().strip()


def test_a_record_of_a_newer_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    ledger = one_cell(tmp_path)
    path = ledger.path(CELL, "record.json")
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(NewerRecordError, match="schema version 2, this program reads 1: a newer"):
        ledger.finished([CELL])
    assert path.exists()
    assert not ledger.quarantine.exists()


def test_large_files_are_hashed_by_a_thorough_check_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = one_cell(tmp_path)
    path = ledger.path(CELL, "items.parquet")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    monkeypatch.setattr("results.record_files.HASH_LIMIT_BYTES", 1000)
    assert ledger.load(CELL) is not None
    assert ledger.load(CELL, thorough=True) is None


def test_problems_are_listed_and_nothing_is_moved(tmp_path: Path) -> None:
    ledger, expected = fake_ledger(tmp_path, arms=["baseline", "lora_all"])
    assert ledger.problems() == []
    broken, gone = expected[0].cell_id, expected[1].cell_id
    (ledger.root / broken / "items.parquet").write_bytes(b"half")
    (ledger.root / gone / "record.json").unlink()
    ledger.failed.mkdir()
    (ledger.failed / "feed.json").write_text("{")
    found = ledger.problems()
    assert len(found) == 3
    assert found[0].startswith("note feed: feed.json cannot be read")
    assert f"cell {broken}: items.parquet has 4 bytes instead of" in found[1]
    assert f"cell {gone}: record.json cannot be read" in found[2]
    assert not ledger.quarantine.exists()


def test_a_child_of_other_adapters_is_a_problem(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for cell_id, parent in (("feed", None), ("child", "feed")):
        spec = spec_of("lora_all", purpose="train", seed=0, users=["u"], split="val")
        commit(ledger, cell_id, {**spec, "parent": parent}, extra={"adapters.safetensors": b"one"})
    assert ledger.problems() == []
    shutil.rmtree(ledger.root / "feed")
    assert ledger.problems() == ["cell child: its parent feed is not in the ledger"]
    spec = spec_of("lora_all", purpose="train", seed=0, users=["u"], split="val")
    commit(ledger, "feed", spec, extra={"adapters.safetensors": b"other"})
    assert ledger.problems() == ["cell child: its parent feed is not the one it used"]


@pytest.mark.parametrize("cell_id", ["../x", "a/b", "", ".staging", "/tmp"])
def test_a_cell_id_is_never_a_path(tmp_path: Path, cell_id: str) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(RecordError, match="plain name"):
        ledger.load(cell_id)
    with pytest.raises(RecordError, match="plain name"):
        ledger.commit(cell_id, staging=tmp_path, attempts=1, environment={})


def test_staging_outside_the_workspace_is_neither_taken_nor_removed(tmp_path: Path) -> None:
    ledger = one_cell(tmp_path / "workspace")
    outside = tmp_path / "mine"
    outside.mkdir()
    with pytest.raises(RecordError, match="not in workspace"):
        ledger.commit(CELL, staging=outside, attempts=1, environment={})
    assert outside.is_dir()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"spec": {}}', '{"spec": 3, "slots": []}'])
def test_an_outcome_that_does_not_fit_is_an_error_of_its_cell(tmp_path: Path, content: str) -> None:
    ledger = Ledger(tmp_path)
    staging = ledger.staging / "attempt"
    staging.mkdir(parents=True)
    (staging / "outcome.json").write_text(content)
    with pytest.raises(RecordError, match=f"cell {CELL}"):
        ledger.commit(CELL, staging=staging, attempts=1, environment={})
    assert not (ledger.root / CELL).exists()


def test_a_full_disk_leaves_nothing_and_the_next_try_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("results.ledger.write_json", full)
        with pytest.raises(OSError, match="No space"):
            one_cell(tmp_path)
    ledger = Ledger(tmp_path)
    assert list(ledger.records()) == []
    # The outcome is still there: the same attempt can be committed once there is room.
    (staging,) = ledger.staging.iterdir()
    assert ledger.commit(CELL, staging=staging, attempts=1, environment={}).cell_id == CELL


def test_what_an_attempt_lost_to_another_is_named(tmp_path: Path) -> None:
    ledger = one_cell(tmp_path)
    staging = ledger.staging / "second"
    staging.mkdir()
    record = ledger.commit(CELL, staging=staging, attempts=2, environment={})
    assert record.attempt == f"{CELL}-attempt"
    assert ledger.duplicates == ["second"]


def test_a_note_that_outlived_its_failure_is_not_told(tmp_path: Path) -> None:
    ledger = one_cell(tmp_path)
    spec = spec_of("baseline", purpose="evaluate", seed=0, users=["user_1"], split="test")
    ledger.fail(CELL, spec=spec, error="no", attempts=1)
    assert ledger.failures() == {}


@given(st.binary(max_size=200))
def test_no_bytes_make_the_record_reader_raise_anything_else(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        path.write_bytes(content)
        with pytest.raises(RecordError):
            read_record(path)


def test_a_failure_is_noted_and_forgotten_after_success(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    spec = spec_of("baseline", purpose="evaluate", seed=0, users=["user_1"], split="test")
    ledger.fail(CELL, spec=spec, error="Traceback …\nValueError: no", attempts=2)
    assert ledger.failures()[CELL]["attempts"] == 2
    assert ledger.load(CELL) is None
    one_cell(tmp_path)
    assert ledger.failures() == {}


def test_a_cell_whose_parent_is_gone_is_refused(tmp_path: Path) -> None:
    spec = spec_of("lora_all", purpose="evaluate", seed=0, users=["u"], split="test")
    with pytest.raises(RecordError, match="parent cell feed is not in the ledger"):
        commit(Ledger(tmp_path), CELL, {**spec, "parent": "feed"})


@pytest.mark.parametrize(
    ("point", "finished"),
    [
        *(("before-record", 0), ("temporary:record.json", 0)),
        *(("before-rename", 0), ("after-rename", 1)),
    ],
)
def test_a_driver_killed_while_committing_leaves_all_or_nothing(
    tmp_path: Path, point: str, finished: int
) -> None:
    code = (
        "from pathlib import Path; from tests.test_results_ledger import one_cell; "
        f"one_cell(Path({str(tmp_path)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, CRASH_VARIABLE: point}, check=False
    )
    assert done.returncode == 9
    ledger = Ledger(tmp_path)
    assert len(list(ledger.records())) == finished
    ledger.clean_staging()
    assert not ledger.staging.exists()
    if not finished:
        assert len(list(one_cell(tmp_path).records())) == 1


def test_the_golden_record_of_version_1_is_read() -> None:
    record = read_record(Path(__file__).parent / "golden" / "record_v1.json")
    assert record.cell_id == CELL
    assert record.slots[0].shift_norms == (0.25, 0.5, 0.75, 1.0)


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def broken(temporary: Path) -> None:
        temporary.write_text("ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_by(path, broken)
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "old"


def test_tables_disarm_formulas_and_keep_six_decimals(tmp_path: Path) -> None:
    import pandas as pd

    table = pd.DataFrame({"user_id": ["=cmd()", "+1", "ok"], "value": [1 / 3, -0.5, 2.0]})
    text = write_csv(tmp_path / "t.csv", table).read_text()
    assert text == "user_id,value\n'=cmd(),0.333333\n'+1,-0.500000\nok,2.000000\n"


def test_records_lists_every_cell_once(tmp_path: Path) -> None:
    ledger, expected = fake_ledger(tmp_path)
    assert sorted(r.cell_id for r in ledger.records()) == sorted(c.cell_id for c in expected)
    assert json.loads((ledger.root / expected[0].cell_id / "record.json").read_text())
