"""The ledger: whole records or none; broken ones are put away and run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from results.files import CRASH_VARIABLE, write_by, write_csv
from results.ledger import Ledger, read_record
from results.record import RecordError
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
    [(["ok", "ok"], "ok"), (["ok", "failed"], "partial"), (["failed"], "failed"),
     (["skipped", "ok"], "ok")],
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


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "record", "version"])
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
                record.read_text().replace('"schema_version": 1', '"schema_version": 7')
            )
    assert ledger.finished([CELL]) == {}
    assert not (ledger.root / CELL).exists()
    (away,) = ledger.quarantine.iterdir()
    assert (away / "REASON.txt").read_text().strip()


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
    ("point", "finished"), [("before-record", 0), ("before-rename", 0), ("after-rename", 1)]
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
