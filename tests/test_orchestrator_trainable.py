"""The trial's actor without a Ray: what it tells torch and its worker before the first cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import trainable
from orchestrator.placement import Machine, Placement, place
from orchestrator.trainable import PersonalizationTrial, trial_config
from orchestrator.worker import NO_METRIC, CellReport, CellWorker, Places
from tasks.cell import CellSpec

TRAIN = CellSpec(
    arm="lora_all",
    purpose="train",
    grouping="all",
    users=("user_1", "user_2"),
    data_sha256="d",
    items_sha256="i",
    template_sha256="t",
    model_sha256="m",
)
SCORE = TRAIN.model_copy(update={"purpose": "evaluate"})


class QuietWorker(CellWorker):
    """A worker that loads nothing and remembers in how many processes it was to run."""

    ran_in: list[int] = []  # noqa: RUF012

    def run(
        self, cell_id: str, spec: CellSpec, *, staging: Path, smaller_passes: bool = False
    ) -> CellReport:
        QuietWorker.ran_in.append(self.processes)
        return CellReport(cell_id, True, str(staging), "", NO_METRIC, 0.0)


def config(root: Path, placement: Placement, spec: CellSpec) -> dict[str, Any]:
    """What the sweep tells a trial of one cell."""
    return trial_config(
        [("cell", spec)],
        places=Places(root / "shards", root / "ledger", root / "staging"),
        attempt="attempt",
        worker=f"{__name__}:QuietWorker",
        resources=placement.resources_for([spec]),
        processes=placement.processes_for([spec]),
        checkpoint_seconds=600.0,
    )


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The shares that torch was limited to."""
    found: list[float] = []
    monkeypatch.setattr(trainable, "limit_gpu_memory", found.append)
    return found


def test_a_trial_keeps_torch_within_its_share_of_the_gpu(
    tmp_path: Path, limits: list[float]
) -> None:
    quarter = place([Machine(8, 1)], threads=1, gpu_fraction=0.25)
    trial = PersonalizationTrial(config(tmp_path, quarter, SCORE))
    assert limits == [], "before a worker, and so torch's allocator, is there"
    trial.step()
    assert limits == [0.25]
    # The same actor serves the next trial: its process has the limit already.
    assert trial.reset(config(tmp_path, quarter, SCORE))
    trial.step()
    assert limits == [0.25]
    without = place([Machine(8, 0)], threads=1)
    PersonalizationTrial(config(tmp_path, without, SCORE)).step()
    assert limits == [0.25, 0.0]


@pytest.mark.parametrize(
    ("fraction", "asked", "train", "score"),
    [(2.0, 1, 1, 1), (0.5, 1, 1, 1), (0.25, 2, 2, 1), (2.0, 2, 2, 1), (4.0, 2, 2, 1)],
)
def test_only_what_was_asked_for_makes_a_training_data_parallel(
    tmp_path: Path,
    limits: list[float],
    fraction: float,
    asked: int,
    train: int,
    score: int,
) -> None:
    placement = place(
        [Machine(8, 4)], threads=1, gpu_fraction=fraction, gpus_per_global_trial=asked
    )
    QuietWorker.ran_in.clear()
    trial = PersonalizationTrial(config(tmp_path, placement, TRAIN))
    trial.step()
    # Also where one actor serves both: at equal resources Tune keeps it.
    trial.reset(config(tmp_path, placement, SCORE))
    told = trial.step()
    assert QuietWorker.ran_in == [train, score]
    assert '"processes"' not in told["environment"]
    trial.reset(config(tmp_path, placement, TRAIN))
    recorded = f'"processes": "{train}"' in trial.step()["environment"]
    assert recorded == (train > 1)
