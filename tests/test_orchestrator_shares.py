"""Shares of GPUs as Ray really schedules them, on logical GPUs: no hardware is needed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster import ray_session
from orchestrator.placement import Machine, place
from orchestrator.plan import PlannedCell
from orchestrator.sweep import SweepOptions, run_sweep
from orchestrator.worker import CellReport, Places
from tasks.cell import CellSpec, Purpose

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NODE = Machine(cpus=16, gpus=2, logical=True)


@pytest.fixture(scope="module")
def logical_gpus() -> Iterator[None]:
    with ray_session(NODE, dashboard=False):
        yield


def cell(name: str, purpose: Purpose = "evaluate") -> PlannedCell:
    spec = CellSpec(
        arm="lora_all",
        purpose=purpose,
        grouping="all",
        users=("user_1", "user_2"),
        data_sha256="d",
        items_sha256="i",
        template_sha256="t",
        model_sha256="m",
    )
    return PlannedCell(name, spec, "global", "lora_all", (), 1.0)


class Book:
    """Keeps what each cell saw running beside itself."""

    def __init__(self) -> None:
        self.seen: dict[str, list[str]] = {}

    def keep(self, cell: PlannedCell, report: CellReport, *_: object) -> str | None:
        path = Path(report.staging)
        self.seen[cell.cell_id] = (path / "seen.txt").read_text().splitlines()
        shutil.rmtree(path)
        return None

    def lose(self, cell: PlannedCell, error: str, attempts: int) -> None:
        raise AssertionError(error)


def together(folder: Path, cells: list[PlannedCell], *, wanted: int) -> dict[str, list[str]]:
    """Run the cells at 0.25 GPU each; what each saw, once ``wanted`` ran at the same time."""
    for name in ("running", "staging", "ledger"):
        (folder / name).mkdir()
    (folder / "wanted").write_text(str(wanted))
    book = Book()
    run_sweep(
        cells,
        finished=set(),
        options=SweepOptions(
            places=Places(folder / "shards", folder / "ledger", folder / "staging"),
            placement=place([NODE], threads=1, gpu_fraction=0.25),
            tune_folder=folder / "tune",
            worker="tests.fake_workers:CountingWorker",
        ),
        keeper=book,
    )
    assert (folder / "met").exists(), f"{wanted} cells never ran at the same time"
    assert book.seen.keys() == {cell.cell_id for cell in cells}
    return book.seen


def test_a_quarter_of_two_gpus_runs_eight_trials_and_never_nine(
    logical_gpus: None, tmp_path: Path
) -> None:
    assert place([NODE], threads=1, gpu_fraction=0.25).actors == 8
    seen = together(tmp_path, [cell(f"c{n}") for n in range(11)], wanted=8)
    assert max(map(len, seen.values())) == 8


def test_a_global_trial_has_a_gpu_of_its_own_beside_per_user_ones(
    logical_gpus: None, tmp_path: Path
) -> None:
    cells = [cell("big", "train"), *(cell(f"c{n}") for n in range(6))]
    seen = together(tmp_path, cells, wanted=5)
    beside = [names for names in seen.values() if "big train" in names]
    # Its own GPU to itself, four quarters of the other one.
    assert max(map(len, beside)) == 5
