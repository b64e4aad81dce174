"""How far one slot of a bank has come in its training, and what is told of it at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tasks.cell import SlotReport
from tasks.config import TaskError
from tasks.examples import SlotPlan
from tasks.optimizer import SlotBuffer, schedule_factor, warmup_steps

Score = float | tuple[float, ...]
"""How good an epoch is, higher is better.

Of several numbers the later ones decide as long as the first has been the same in all epochs: then
it says nothing about the training. Once it has told two epochs apart, it decides alone.
"""


@dataclass(slots=True)
class Track:
    """How far one slot has come."""

    plan: SlotPlan
    slot: int
    done: int = 0
    stopped: bool = False
    best_score: tuple[float, ...] = ()
    told_apart: bool = False
    """Whether two epochs differ in the first number of their scores."""
    best: torch.Tensor | None = None
    best_shifts: int = 0
    shifts: list[torch.Tensor] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    finite: list[torch.Tensor] = field(default_factory=list)

    @property
    def shared(self) -> bool:
        """Whether several users share the adapter: no number of examples was given."""
        return self.plan.config.examples is None

    def learning_rate(self) -> float:
        """Of the next step."""
        config, total = self.plan.config, self.plan.total_steps
        warmup = warmup_steps(total, warmup_ratio=config.warmup_ratio)
        share = schedule_factor(config.schedule, self.done, total_steps=total, warmup=warmup)
        return config.learning_rate * share

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps of it, names by the slot's place; ``restore`` takes it back."""
        series = {"shifts": self.shifts, "losses": self.losses, "finite": self.finite}
        found = {self._name(name): torch.stack(rows) for name, rows in series.items() if rows}
        return found if self.best is None else found | {self._name("best"): self.best}

    def values(self) -> dict[str, Any]:
        """The rest of what a checkpoint keeps."""
        score = None if self.best is None else list(self.best_score)
        return {
            "done": self.done,
            "stopped": self.stopped,
            "best_score": score,
            "told_apart": self.told_apart,
            "best_shifts": self.best_shifts,
        }

    def restore(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Be as the track was whose tensors and values these are."""
        self.done, self.stopped = int(values["done"] or 0), bool(values["stopped"])
        self.best_shifts = int(values["best_shifts"] or 0)
        self.told_apart = bool(values.get("told_apart"))
        if values["best_score"] is not None:
            self.best_score = _numbers(values["best_score"])
            self.best = tensors[self._name("best")]
        for name, series in (
            ("shifts", self.shifts),
            ("losses", self.losses),
            ("finite", self.finite),
        ):
            series[:] = tensors.get(self._name(name), torch.empty(0)).unbind()

    def _name(self, name: str) -> str:
        return f"track.{self.slot}.{name}"


def _numbers(score: Score | list[float]) -> tuple[float, ...]:
    return tuple(score) if isinstance(score, tuple | list) else (float(score),)


def stop_early(running: Sequence[Track], scores: Mapping[str, Score], buffer: SlotBuffer) -> None:
    """Keep the best epoch's parameters; stop a slot after the first epoch that is not better."""
    for track in running:
        if not track.plan.config.early_stopping:
            continue
        if track.plan.slot not in scores:
            raise TaskError(f"early stopping: no validation score for slot {track.plan.slot!r}")
        score = _numbers(scores[track.plan.slot])
        if track.best_score:
            track.told_apart |= score[0] != track.best_score[0]
        if track.told_apart:
            score = score[:1]
        # Nothing is less than any score, so the first epoch is the best so far.
        if score > track.best_score:
            track.best_score = score
            track.best = buffer.values[track.slot].clone()
            track.best_shifts = len(track.shifts)
        else:
            track.stopped = True


def nothing_to_train(plan: SlotPlan) -> SlotReport:
    """The report of a slot without examples."""
    return SlotReport(slot=plan.slot, status="skipped", reason="no examples to train on")


def report_of(track: Track) -> SlotReport:
    """What became of a slot: failed from its first step that was not finite on."""
    finite = torch.stack(track.finite).tolist()
    failed = finite.index(False) if not all(finite) else None
    steps = len(finite) if failed is None else failed
    shifts = torch.stack(track.shifts).tolist() if track.shifts else []
    return SlotReport(
        slot=track.plan.slot,
        status="ok" if failed is None else "failed",
        reason=None if failed is None else f"non-finite loss at step {failed + 1}",
        steps=steps,
        examples=len(track.plan.examples),
        trained_tokens=sum(example.trained_tokens for example in track.plan.examples),
        losses=tuple(torch.stack(track.losses).tolist()[:steps]),
        shift_norms=tuple(shifts if track.shared else shifts[:steps]),
    )
