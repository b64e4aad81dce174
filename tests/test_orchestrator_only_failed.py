"""``run --only-failed``: a block runs again as composed, and what it had finished stays."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode
from results.files import CRASH_CODE, CRASH_VARIABLE
from results.ledger import Ledger
from results.record import Record, SlotRecord
from results.record_files import RECORD_FILE, file_entries
from tasks.adapters.bank import AdapterState
from tasks.adapters.peft_io import load_state, save_state
from tasks.cell import CellOutcome, CellSpec, SlotReport
from tasks.config import LoraConfig
from tasks.kept import with_kept
from tests.faults import CountRecords
from tests.patience import PATIENCE_SECONDS
from tests.shared_studies import PERSONA_PREDICTION, copy_of_study, on_one_cpu, run_short


def a_report(slot: str, status: str, *, steps: int = 1) -> SlotReport:
    return SlotReport(slot=slot, status=status, steps=steps)  # type: ignore[arg-type]


def a_state(slots: tuple[str, ...], value: float) -> AdapterState:
    tensors = {"A": torch.full((len(slots), 2), value), "B": torch.full((len(slots), 1), -value)}
    return AdapterState(LoraConfig(), slots, tensors, "base")


def some_items(users: dict[str, str], *, value: float, control: str = "own") -> pd.DataFrame:
    rows = [
        {"item_id": f"{user}/{turn}", "user_id": user, "control": control, "adapter_of": adapter,
         "nll": value}
        for user, adapter in users.items()
        for turn in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_what_came_out_well_stays_and_what_failed_is_new() -> None:
    spec = CellSpec(
        arm="lora_per_user",
        purpose="personalize",
        grouping="user",
        users=("a", "b", "c"),
        data_sha256="d",
        items_sha256="i",
        template_sha256="t",
        model_sha256="m",
    )
    swaps = {"a": "c", "b": "a", "c": "b"}
    new = pd.concat(
        [
            some_items({name: name for name in "abc"}, value=2.0),
            some_items(swaps, value=2.0, control="swapped"),
        ],
        ignore_index=True,
    )
    old = pd.concat(
        [
            some_items({"c": "c", "a": "a"}, value=1.0),
            some_items({"a": "c"}, value=1.0, control="swapped"),
        ],
        ignore_index=True,
    )
    again = CellOutcome(
        spec,
        slots=[a_report(name, "ok", steps=2) for name in "abc"],
        items=new,
        adapters=a_state(("a", "b", "c"), 2.0),
        counts={"trained_tokens": 5},
    )
    first = [a_report("a", "ok"), a_report("b", "failed"), a_report("c", "ok")]
    found = with_kept(again, slots=first, items=old, adapters=a_state(("a", "b", "c"), 1.0))
    assert [slot.steps for slot in found.slots] == [1, 2, 1]
    assert found.items is not None
    assert list(found.items.columns) == list(new.columns)
    pd.testing.assert_frame_equal(found.items.drop(columns="nll"), new.drop(columns="nll"))
    kept = found.items["nll"] == 1.0
    own, user = found.items["control"] == "own", found.items["user_id"]
    assert (kept == ((own & (user != "b")) | (~own & (user == "a")))).all()
    assert found.adapters is not None
    np.testing.assert_array_equal(found.adapters.tensors["A"][:, 0].numpy(), [1.0, 2.0, 1.0])
    assert found.counts == {"trained_tokens": 5, "kept_adapters": 2}
    # One that failed the second time takes nothing from those who did not the first time.
    worse = CellOutcome(spec, slots=[a_report(n, "failed") for n in "abc"], items=None)
    found = with_kept(worse, slots=first, items=old, adapters=a_state(("a", "b", "c"), 1.0))
    assert [slot.status for slot in found.slots] == ["ok", "failed", "ok"]
    pd.testing.assert_frame_equal(found.items, old)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a finished study."""
    return copy_of_study(PERSONA_PREDICTION, tmp_path_factory.mktemp("study") / "copy")


def run(root: Path, *more: str) -> int:
    return run_short(root, [*PERSONA_PREDICTION, *more])


def tables(root: Path) -> dict[str, str]:
    """Every table of the study by its hash, with the adapters."""
    found = [*(root / "results").rglob("*.csv"), *(root / "models").rglob("*.safetensors")]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(found)
    }


def fail_one(root: Path) -> tuple[Record, str]:
    """Make a block's record what it would be, had one of its adapters diverged."""
    ledger = Ledger(root)
    wanted = ("lora_per_user", "personalize")
    victim = next(r for r in ledger.records() if (r.arm, r.purpose) == wanted)
    user = victim.users[1]
    folder = ledger.root / victim.cell_id
    items = pd.read_parquet(folder / "items.parquet")
    touched = (items["user_id"] == user) | (items["adapter_of"] == user)
    items[~touched].to_parquet(folder / "items.parquet", index=False)
    state = load_state(folder / "adapters.safetensors")
    for tensor in state.tensors.values():
        tensor[state.slots.index(user)] = 0.5
    save_state(state, folder / "adapters.safetensors")
    why = "non-finite loss at step 2"
    slots = [
        SlotRecord(slot=user, status="failed", reason=why) if slot.slot == user else slot
        for slot in victim.slots
    ]
    changes = {"status": "partial", "slots": tuple(slots), "files": file_entries(folder)}
    text = victim.model_copy(update=changes).model_dump_json()
    (folder / RECORD_FILE).write_text(text, encoding="utf-8")
    return victim, user


@pytest.mark.ray
@pytest.mark.slow
def test_a_failed_user_is_repeated_to_the_undisturbed_tables(
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    count_records: CountRecords,
) -> None:
    expected = tables(finished)
    victim, user = fail_one(finished)
    # The same command goes on from what is there: persona prediction is made from other adapters.
    assert run(finished) == ExitCode.FAILED_TRIALS
    shown = " ".join(capsys.readouterr().err.split())
    assert f"failed: lora_per_user, {user}: non-finite loss at step 2" in shown
    assert tables(finished) != expected
    summary = pd.read_csv(finished / "results" / "lora_per_user" / "per_user_summary.csv")
    assert user not in set(summary["user_id"])
    assert run(finished) == ExitCode.FAILED_TRIALS
    assert "0 cells run" in capsys.readouterr().out

    program = [sys.executable, "-m", "orchestrator"]
    command = [*program, "run", "--workspace", str(finished), *PERSONA_PREDICTION]
    killed = subprocess.run(
        [*command, "--only-failed"],
        preexec_fn=on_one_cpu,
        env={**os.environ, CRASH_VARIABLE: "before-record"},
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert killed.returncode == CRASH_CODE
    kept = Ledger(finished).load(victim.cell_id)
    assert kept is not None, "what was finished must not be lost"
    assert kept.status == "partial"
    assert run(finished, "--only-failed") == ExitCode.DONE
    again = Ledger(finished).load(victim.cell_id)
    assert again is not None
    assert (again.status, again.counts["kept_adapters"]) == ("ok", 1)
    assert again.slots == victim.slots
    assert tables(finished) == expected
    assert Ledger(finished).problems() == []
    assert not any(Ledger(finished).staging.glob("*"))
    count_records(finished, "persona_prediction")
    capsys.readouterr()
    assert run(finished, "--only-failed") == ExitCode.DONE
    assert "0 cells run" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.thorough
def test_a_kill_while_a_record_is_replaced_loses_nothing(
    finished: Path, count_records: CountRecords
) -> None:
    expected = tables(finished)
    victim, _ = fail_one(finished)
    program = [sys.executable, "-m", "orchestrator"]
    command = [*program, "run", "--workspace", str(finished), *PERSONA_PREDICTION]
    killed = subprocess.run(
        [*command, "--only-failed"],
        env={**os.environ, CRASH_VARIABLE: "before-replacing"},
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert killed.returncode == CRASH_CODE
    assert Ledger(finished).load(victim.cell_id) is None
    assert run(finished) == ExitCode.DONE
    assert tables(finished) == expected
    assert Ledger(finished).problems() == []
    count_records(finished, "persona_prediction")


@pytest.mark.ray
@pytest.mark.slow
def test_nothing_but_what_failed_is_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(finished)
    gone = next(r for r in ledger.records() if r.arm == "identify_encoder")
    (ledger.root / gone.cell_id).rename(finished / "away")
    assert run(finished, "--only-failed") == ExitCode.FAILED_TRIALS
    shown = capsys.readouterr()
    assert "were never run: go on without --only-failed" in " ".join(shown.out.split())
    assert "identify_encoder" in shown.err
    assert Ledger(finished).load(gone.cell_id) is None
    (finished / "away").rename(ledger.root / gone.cell_id)
    assert main(["run", *PERSONA_PREDICTION, "--fresh", "--only-failed"]) == ExitCode.BAD_INPUT
    assert "--only-failed" in capsys.readouterr().err
    assert json.loads((finished / "results" / "summary.json").read_text())
