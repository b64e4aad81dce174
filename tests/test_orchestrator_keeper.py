"""The driver's side of the ledger: a driver that lost its workspace writes nothing more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.exit_codes import InfrastructureError
from orchestrator.keeper import LedgerKeeper
from orchestrator.plan import PlannedCell
from orchestrator.worker import NO_METRIC, CellReport
from results.ledger import Ledger
from results.lock import LOCK_FILE, workspace_lock
from tasks.cell import CellSpec
from tests.results_fixtures import slot

SPEC = CellSpec(
    arm="baseline", purpose="evaluate", grouping="all", users=("user_1",), data_sha256="d",
    items_sha256="i", template_sha256="t", model_sha256="m",
)  # fmt: skip
CELL = PlannedCell("cell", SPEC, "baseline", "baseline", (), 1.0)


def staged(ledger: Ledger, *, attempt: str, loss: float) -> CellReport:
    """What an attempt of the cell left, told apart by its loss."""
    folder = ledger.staging / attempt
    folder.mkdir(parents=True)
    outcome = {
        "spec": SPEC.model_dump(mode="json"),
        "slots": [slot("all", losses=(loss,))],
        "metrics": {},
        "counts": {},
        "seconds": {},
        "curve": [],
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))
    return CellReport("cell", True, str(folder), "", NO_METRIC, 0.0)


def take_over(root: Path) -> None:
    """Another host's driver writes its name over the lock."""
    values = {"host": "elsewhere", "pid": 1, "token": "other", "started_utc": "later"}
    (root / LOCK_FILE).write_text(json.dumps(values))


def test_a_driver_that_lost_its_workspace_writes_no_record_and_no_note(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with workspace_lock(tmp_path) as lock:
        keeper = LedgerKeeper(ledger, fence=lock.confirm)
        take_over(tmp_path)
        # Between two heartbeats: the lock is looked at before each write.
        with pytest.raises(InfrastructureError, match="another driver took over"):
            keeper.keep(CELL, staged(ledger, attempt="old", loss=1.0), {}, 1)
        with pytest.raises(InfrastructureError, match="another driver took over"):
            keeper.lose(CELL, "died", 4)
    assert ledger.load("cell") is None
    assert ledger.failures() == {}


def test_a_late_result_never_replaces_the_record_that_is_there(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    keeper = LedgerKeeper(ledger)
    late = staged(ledger, attempt="old", loss=1.0)
    assert keeper.keep(CELL, staged(ledger, attempt="new", loss=2.0), {}, 1) is None
    before = ledger.path("cell", "record.json").read_bytes()
    assert keeper.keep(CELL, late, {}, 1) is None
    assert ledger.path("cell", "record.json").read_bytes() == before
    assert ledger.duplicates == ["old"]
    record = ledger.load("cell")
    assert record is not None
    assert (record.attempt, record.slots[0].losses) == ("new", (2.0,))
