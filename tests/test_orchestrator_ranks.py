"""A shared adapter trained by two processes is the one of a single process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from data.shards import shard_name, write_index, write_shard
from orchestrator.exit_codes import InputError
from orchestrator.placement import Machine, place
from orchestrator.plan import Facts, make_plan
from orchestrator.probe import sample_users
from orchestrator.ranks import run_in_ranks
from orchestrator.settings import DataChoice, Settings
from orchestrator.worker import CellWorker, Places
from search_spaces.space import LORA_ALL, Study
from tasks.cell import CellSpec
from tasks.checkpoint import TrainingCheckpoint
from tasks.data_parallel import Ranks


@given(st.lists(st.integers()), st.integers(1, 5))
def test_every_row_goes_to_one_rank(rows: list[int], world: int) -> None:
    shares = [Ranks(rank, world).share(rows) for rank in range(world)]
    assert sorted(row for share in shares for row in share) == sorted(rows)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_without_a_group_is_alone() -> None:
    total = torch.ones(2)
    Ranks.current().add_up(total)
    assert Ranks.current() == Ranks(0, 1)
    assert total.tolist() == [1, 1]
    assert Ranks().agreed({"all": 0.5}) == {"all": 0.5}


def test_gpus_of_a_global_trial() -> None:
    found = place([Machine(8, 4)], threads=1, gpu_fraction=0.5, gpus_per_global_trial=2)
    assert (found.gpus_per_trial, found.gpus_per_global_trial) == (0.5, 2)
    with pytest.raises(InputError, match="a global trial asks for 4 GPUs, but this machine has"):
        place([Machine(8, 2)], threads=1, gpus_per_global_trial=4)
    with pytest.raises(InputError, match=r"a global trial asks for 2 GPUs, but .* no GPUs"):
        place([Machine(8, 0)], threads=1, gpus_per_global_trial=2)


def a_training(folder: Path) -> tuple[CellSpec, Places]:
    """A shared training of three users over two epochs, and where its users lie."""
    users = sample_users(DataChoice(sessions=10), prepared=None, most=3)
    places = Places(folder / "shards", folder / "ledger", folder / "staging")
    places.shards.mkdir()
    write_shard(places.shards / shard_name(0), users)
    where = {user.user_key: (0, row) for row, user in enumerate(users)}
    write_index(places.shards, where, cluster_of={}, cold_start=frozenset())
    training = Settings().shared.lora.model_copy(
        update={"learning_rate": 3e-3, "epochs": 2, "examples_per_step": 5}
    )
    settings = Settings().model_copy(
        update={"shared": Settings().shared.model_copy(update={"lora": training})}
    )
    facts = Facts(
        data_sha256="d",
        items_sha256={"val": "v", "test": "t"},
        users=tuple(user.user_key for user in users),
        model_sha256="m",
        template_sha256="p",
        dtype="float32",
    )
    study = Study("one", "", (replace(LORA_ALL),))
    cell = make_plan(settings, study=study, facts=facts).cells[0]
    decoding = cell.spec.decoding.model_copy(update={"max_new_tokens": 8})
    return cell.spec.model_copy(update={"decoding": decoding}), places


@pytest.mark.slow
def test_two_processes_train_the_adapter_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, places = a_training(tmp_path)
    # Modules of the folder that the program was started in are nobody's.
    for name in ("orchestrator", "tasks", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    alone = CellWorker(places)
    one = alone.run("one", spec, staging=tmp_path / "one")
    assert one.ok, one.error
    together = CellWorker(places)
    together.processes = 2
    two = together.run("two", spec, staging=tmp_path / "two")
    assert two.ok, two.error
    assert together.environment()["processes"] == "2"
    assert "processes" not in alone.environment()
    left, right = (load_file(tmp_path / n / "adapters.safetensors") for n in ("one", "two"))
    assert left.keys() == right.keys()
    worst = max(float((left[name] - right[name]).abs().max()) for name in left)
    assert worst < 1e-4
    # Trained at all: LoRA's B starts at zero.
    assert max(float(tensor.abs().max()) for name, tensor in left.items() if "B" in name) > 1e-3
    assert two.macro == pytest.approx(one.macro, abs=0.02)


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_cell_with_its_words(tmp_path: Path) -> None:
    spec, places = a_training(tmp_path)
    lost = spec.model_copy(update={"users": ("nobody",)})
    with pytest.raises(RuntimeError, match="nobody"):
        run_in_ranks(
            lost,
            places=places,
            staging=tmp_path / "two",
            processes=2,
            smaller_passes=False,
            checkpoint_seconds=600.0,
        )


@pytest.mark.slow
def test_a_cell_that_was_killed_in_mid_epoch_goes_on_to_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, places = a_training(tmp_path)
    worker = CellWorker(places)
    worker.checkpoint_seconds = 0.0
    assert worker.run("one", spec, staging=tmp_path / "one").ok
    expected = _told(tmp_path / "one")
    (state,) = places.training.iterdir()
    state.unlink()
    save, saved = TrainingCheckpoint.save, []

    def save_and_die(self, *arguments) -> None:
        save(self, *arguments)
        saved.append(1)
        if len(saved) == len(expected["slots"][0]["losses"]) - 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingCheckpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        worker.run("two", spec, staging=tmp_path / "two")
    monkeypatch.setattr(TrainingCheckpoint, "save", lambda self, *arguments: saved.append(2))
    assert worker.run("two", spec, staging=tmp_path / "two").ok
    assert saved.count(2) == 1, "one step was left to do"
    assert _told(tmp_path / "two") == expected
    left, right = ((tmp_path / n / "adapters.safetensors").read_bytes() for n in ("one", "two"))
    assert left == right


def _told(staging: Path) -> dict[str, Any]:
    outcome = json.loads((staging / "outcome.json").read_text(encoding="utf-8"))
    return {name: outcome[name] for name in ("slots", "curve", "spec")}
