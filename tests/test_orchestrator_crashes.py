"""A driver that is killed at every crash point in turn, each time followed by the same command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode
from orchestrator.study import other_versions
from results.files import CRASH_CODE, CRASH_VARIABLE
from results.ledger import Ledger
from tests.faults import CountRecords
from tests.patience import PATIENCE_SECONDS
from tests.shared_studies import (
    BASELINE,
    GLOBAL,
    all_tables,
    copy_of_study,
    finished_study,
    on_one_cpu,
    run_short,
    take_prepared_data,
)

POINTS = (
    "before-record",
    "temporary:record.json",
    "before-rename",
    "after-rename",
    "kept:lora_all",
    "kept:prefix_all",
    "before-report",
    "in-report",
    "temporary:report.html",
)
FEW_POINTS = ("kept:baseline", "in-report")
"""One after a record, one in the report. The ledger's tests are killed at each point of a commit;
those after another arm's record and around the report are reached with --thorough alone."""


def run(
    root: Path, words: Sequence[str], *, point: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "run", "--workspace", str(root), *words],
        env=os.environ | ({} if point is None else {CRASH_VARIABLE: point}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        preexec_fn=on_one_cpu,
        check=False,
    )


@pytest.mark.ray
@pytest.mark.slow
def test_killed_at_every_point_in_turn_it_ends_as_if_never(
    tmp_path: Path, count_records: CountRecords, thorough: bool
) -> None:
    wild = tmp_path / "wild"
    words = GLOBAL if thorough else BASELINE
    take_prepared_data(wild, words)
    before: set[str] = set()
    for point in POINTS if thorough else FEW_POINTS:
        done = run(wild, words, point=point)
        assert done.returncode == CRASH_CODE, f"{point}: {done.stdout}{done.stderr}"
        ledger = Ledger(wild)
        kept = {record.cell_id: record.attempt for record in ledger.records()}
        assert before <= set(kept.values()), f"{point}: a finished trial was repeated"
        before = set(kept.values())
    last = run(wild, words)
    assert last.returncode == ExitCode.DONE, last.stderr
    assert "0 cells run" in last.stdout
    assert all_tables(wild) == all_tables(finished_study(words))
    assert Ledger(wild).problems() == []
    assert not [path for path in wild.rglob("*") if ".tmp-" in path.name]
    count_records(wild, words[1])


@pytest.mark.ray
@pytest.mark.slow
def test_records_of_other_code_are_used_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(copy_of_study(BASELINE, tmp_path / "study"))
    records = {record.cell_id: record for record in ledger.records()}
    now = next(iter(records.values())).environment["commit"]
    assert other_versions(records, now=now) == []
    capsys.readouterr()
    one = next(name for name, record in records.items() if record.purpose == "evaluate")
    path = ledger.root / one / "record.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value["environment"]["commit"] = "0123456789ab"
    path.write_text(json.dumps(value), encoding="utf-8")
    assert run_short(tmp_path / "study", BASELINE) == ExitCode.DONE
    told = " ".join(capsys.readouterr().out.split())
    assert "Warning: of" in told
    assert "1 by 0123456789ab" in told
    assert "0 cells run" in told
    main(["report", "--study", "baseline", "--workspace", str(tmp_path / "study")])
    assert "0123456789ab" in (tmp_path / "study" / "REPRODUCIBILITY.md").read_text(encoding="utf-8")
