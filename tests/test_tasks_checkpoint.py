"""A training that was killed goes on in mid-epoch, to the very adapters of an unbroken one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from tasks.adapters.bank import AdapterBank
from tasks.adapters.catalog import make_bank
from tasks.cell import SlotReport
from tasks.checkpoint import TrainingCheckpoint
from tasks.config import LoraConfig, PrefixConfig, TrainingConfig
from tasks.examples import Example, SlotPlan
from tasks.runtime import Runtime
from tasks.training import train_bank
from tests.tiny_models import VOCAB_SIZE, tiny_model

torch.set_num_threads(1)

KINDS = {
    "lora": LoraConfig(rank=2, alpha=4.0, dropout=0.2, target_modules=("q_proj", "up_proj")),
    "prefix": PrefixConfig(tokens=3),
}
SHARED = TrainingConfig(
    learning_rate=2e-2,
    epochs=3,
    examples=None,
    early_stopping=True,
    examples_per_step=2,
    warmup_ratio=0.2,
    weight_decay=0.05,
    tokens_per_pass=64,
)
# The first slot is at its best after its first epoch and stops; the second one never stops.
SCORES = ({"a": 0.5, "b": 0.1}, {"a": 0.4, "b": 0.2}, {"a": 0.9, "b": 0.3})


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Run:
    """One attempt of a training; ``lives`` counts down at steps and at epochs' ends."""

    kind: str
    lives: int = 10_000
    epochs: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def go(self, checkpoint: TrainingCheckpoint | None) -> tuple[AdapterBank, list[SlotReport]]:
        runtime = Runtime.of(tiny_model("llama", dtype=torch.float32))
        bank = make_bank(
            runtime, config=KINDS[self.kind], slots=("a", "b"), seeds=[1], init_token_ids=[7, 8]
        )
        plans = [slot_plan("a", 7, seed=1), slot_plan("b", 5, seed=2)]
        reports = train_bank(
            runtime,
            bank,
            plans,
            pad_token_id=0,
            after_epoch=self._score,
            on_step=self._step,
            checkpoint=checkpoint,
        )
        return bank, reports

    def _step(self, done: int, planned: int) -> None:
        self.steps.append(done)
        self._live()

    def _score(self, epoch: int) -> dict[str, float]:
        self.epochs.append(epoch)
        self._live()
        return SCORES[epoch]

    def _live(self) -> None:
        self.lives -= 1
        if self.lives == 0:
            raise Killed


def slot_plan(slot: str, count: int, *, seed: int) -> SlotPlan:
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for k in range(count):
        ids = torch.randint(0, VOCAB_SIZE, (6 + 3 * k,), generator=generator).tolist()
        examples.append(Example(tuple(ids), ((3, len(ids)),)))
    return SlotPlan(slot, SHARED, seed, tuple(examples))


def saving(folder: Path, **changes) -> TrainingCheckpoint:
    """As a new process would make it."""
    arguments = {"owner": "cell", "every_seconds": 0.0} | changes
    return TrainingCheckpoint(folder / "state.safetensors", **arguments)


def assert_same(one, other) -> None:
    (bank, reports), (other_bank, other_reports) = one, other
    assert bank.parameters.keys() == other_bank.parameters.keys()
    for name, tensor in bank.parameters.items():
        assert torch.equal(tensor, other_bank.parameters[name]), name
    assert reports == other_reports


@pytest.mark.parametrize("kind", KINDS)
def test_killed_anywhere_it_ends_in_the_same_adapters(tmp_path: Path, kind: str) -> None:
    undisturbed = Run(kind)
    expected = undisturbed.go(None)
    # Four lock-steps an epoch for the first slot's seven examples, three for the second's five.
    assert undisturbed.steps == list(range(1, 4 + 4 + 3 + 1))
    assert [report.steps for report in expected[1]] == [8, 9]
    moments = len(undisturbed.steps) + len(undisturbed.epochs)
    for moment in range(1, moments + 1):
        folder = tmp_path / str(moment)
        first = Run(kind, lives=moment)
        with pytest.raises(Killed):
            first.go(saving(folder))
        again = Run(kind)
        assert_same(expected, again.go(saving(folder)))
        # A step's state is saved after it was told of, so that one step at most is repeated.
        assert again.steps == list(range(12 - len(again.steps), 12))
        assert len(again.steps) <= 12 - first.steps[-1]


def test_killed_again_and_again_it_ends_in_the_same_adapters(tmp_path: Path) -> None:
    expected = Run("lora").go(None)
    attempts = 0
    while True:
        attempts += 1
        try:
            found = Run("lora", lives=3).go(saving(tmp_path))
            break
        except Killed:
            assert attempts < 20
    assert attempts > 3
    assert_same(expected, found)


def test_a_state_of_another_training_or_half_a_file_is_not_taken(tmp_path: Path) -> None:
    expected = Run("prefix").go(None)
    with pytest.raises(Killed):
        Run("prefix", lives=5).go(saving(tmp_path))
    path = tmp_path / "state.safetensors"
    whole = path.read_bytes()
    stranger = Run("prefix")
    assert_same(expected, stranger.go(saving(tmp_path, owner="another cell")))
    assert stranger.steps[0] == 1
    for content in (whole[: len(whole) // 2], b"", b"\xff" * 64):
        path.write_bytes(content)
        run = Run("prefix")
        assert_same(expected, run.go(saving(tmp_path, every_seconds=1e9)))
        assert run.steps[0] == 1


def test_it_saves_when_it_is_time_and_only_where_it_may(tmp_path: Path) -> None:
    now = [0.0]
    checkpoint = saving(tmp_path, every_seconds=60.0, clock=lambda: now[0])
    assert not checkpoint.due
    now[0] = 60.0
    assert checkpoint.due
    checkpoint.notes["curve"] = [{"epoch": 0.0}]
    checkpoint.save({"x": torch.arange(3)}, {"epoch": 1})
    assert not checkpoint.due
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    read = saving(tmp_path)
    found = read.open()
    assert found is not None
    assert torch.equal(found[0]["x"], torch.arange(3))
    assert (found[1], read.notes) == ({"epoch": 1}, {"curve": [{"epoch": 0.0}]})
    assert not saving(tmp_path, writes=False).due


def test_it_saves_once_when_it_is_asked_to_and_tells_of_every_save(tmp_path: Path) -> None:
    asked, told = tmp_path / "save-now", []
    asked.write_text("of an earlier run")
    checkpoint = saving(tmp_path, every_seconds=1e9, asked=asked, saved=told.append)
    assert not checkpoint.due
    for number in range(2):
        asked.write_text(str(number))
        assert checkpoint.due
        checkpoint.save({"x": torch.arange(3)}, {})
        assert not checkpoint.due
    asked.unlink()
    assert told == [tmp_path / "state.safetensors"] * 2
    assert not saving(tmp_path, every_seconds=1e9, asked=asked, writes=False).due


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    expected = Run("lora").go(None)
    assert_same(expected, Run("lora").go(saving(tmp_path / "file")))
