"""Trackers: curves read back from real event files and a real MLflow store; failures are quiet."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from orchestrator.exit_codes import InputError
from orchestrator.live_board import LiveBoard
from orchestrator.plan import Facts, PlannedCell, make_plan
from orchestrator.settings import Settings, TrackingSettings
from orchestrator.tracking import (
    Point,
    Tracking,
    check_trackers,
    openers_of,
    training_points,
)
from orchestrator.worker import CellReport
from results.leaderboard import Standing
from results.ledger import Ledger
from search_spaces.catalog import STUDIES

PLAN = make_plan(
    Settings(),
    study=STUDIES["per_persona"],
    facts=Facts("d", {"val": "v", "test": "t"}, ("user_hidden", "user_2"), "m", "p", "float32"),
)
CURVE = [
    {"epoch": 1.0, "step": 4.0, "train_loss": 1.5, "val_rouge_l": 0.25},
    {"epoch": 2.0, "step": 8.0, "train_loss": 0.5, "val_rouge_l": 0.5},
]


def cell(arm: str, purpose: str) -> PlannedCell:
    return next(one for one in PLAN.cells if (one.arm, one.spec.purpose) == (arm, purpose))


def recorded(ledger: Ledger, one: PlannedCell, **values: object) -> CellReport:
    path = ledger.path(one.cell_id, "record.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"purpose": one.spec.purpose, **values}))
    return CellReport(one.cell_id, True, "", "", 0.5, 1.0)


def follow(ledger: Ledger, settings: TrackingSettings, root: Path, said: list[str]) -> None:
    """What a sweep tells: one shared training, one block of per-user adapters, and a macro."""
    board = LiveBoard(ledger)
    tracking = Tracking(
        openers_of(settings, root, study="per_persona"), ledger, board, warn=said.append
    )
    shared, personal = cell("lora_all", "train"), cell("lora_per_user", "personalize")
    tracking.finished(shared, recorded(ledger, shared, curve=CURVE))
    slots = [{"slot": "user_hidden", "losses": [1.0, 0.5]}, {"slot": "user_2", "losses": [0.5]}]
    board.standings = [Standing("lora_per_user", 2, 0.75)]
    tracking.finished(personal, recorded(ledger, personal, slots=slots))
    tracking.close()


def events(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Scalars of TensorBoard's record files: length, its checksum, an event, its checksum."""
    for path in sorted(folder.glob("events.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (size,) = struct.unpack("<Q", content[place : place + 8])
            event = Event.FromString(content[place + 12 : place + 12 + size])
            place += 16 + size
            for value in event.summary.value:
                yield value.tag, event.step, value.simple_value


def test_tensorboard_has_every_curve_and_no_user(tmp_path: Path) -> None:
    said: list[str] = []
    follow(Ledger(tmp_path), TrackingSettings(), tmp_path, said)
    root = tmp_path / "results" / "tensorboard" / "per_persona"
    assert list(events(root / "lora_all-seed0")) == [
        ("train_loss", 4, 1.5),
        ("val_rouge_l", 4, 0.25),
        ("train_loss", 8, 0.5),
        ("val_rouge_l", 8, 0.5),
    ]
    means = list(events(root / "lora_per_user-seed0"))
    assert means == [("train_loss_mean_of_users", 1, 0.75), ("train_loss_mean_of_users", 2, 0.5)]
    assert list(events(root / "lora_per_user")) == [("macro_rouge_l", 2, 0.75)]
    assert all(b"user_hidden" not in path.read_bytes() for path in root.rglob("events.*"))
    assert said == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_mlflow_has_the_same_in_a_sqlite_file(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    said: list[str] = []
    settings = TrackingSettings(tensorboard=False, mlflow=True)
    (tmp_path / "results").mkdir()
    follow(Ledger(tmp_path), settings, tmp_path, said)
    assert said == []
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'results' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("per_persona")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"lora_all-seed0", "lora_per_user-seed0", "lora_per_user"}
    history = client.get_metric_history(runs["lora_all-seed0"].info.run_id, "val_rouge_l")
    assert [(one.step, one.value) for one in history] == [(4, 0.25), (8, 0.5)]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


class Broken:
    name = "Broken"

    def log(self, run: str, points: Sequence[Point]) -> None:
        raise ConnectionError("server is down\nand more")

    def close(self) -> None:
        raise AssertionError("it was asked again")


def test_a_tracker_that_is_down_is_one_warning(tmp_path: Path) -> None:
    said: list[str] = []
    ledger = Ledger(tmp_path)
    tracking = Tracking([("Broken", Broken)], ledger, LiveBoard(ledger), warn=said.append)
    for arm in ("lora_all", "prefix_all"):
        one = cell(arm, "train")
        tracking.finished(one, recorded(ledger, one, curve=CURVE))
    tracking.close()
    assert said == [
        "Warning: Broken does not take the study's curves (ConnectionError: server is down); "
        "the study goes on without it"
    ]


def test_a_tracker_that_does_not_open_is_one_warning(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "results").write_text("a file where a folder should be")
    ledger = Ledger(tmp_path / "elsewhere")
    openers = openers_of(TrackingSettings(), tmp_path, study="per_persona")
    tracking = Tracking(openers, ledger, LiveBoard(ledger), warn=said.append)
    one = cell("lora_all", "train")
    tracking.finished(one, recorded(ledger, one, curve=CURVE))
    assert len(said) == 1
    assert "TensorBoard" in said[0]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.tracking.find_spec", lambda _: None)
    check_trackers(TrackingSettings())
    with pytest.raises(InputError, match=r"persona-sweep\[mlflow\]"):
        check_trackers(TrackingSettings(mlflow=True))


def test_a_broken_record_has_no_points(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{")
    assert list(training_points(tmp_path / "record.json")) == []
