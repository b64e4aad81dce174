"""Training the slots of a bank in lock-step: every slot as if it were alone.

At each step every slot that still has steps contributes the examples of its own next step; rows
of many slots share a pass. The losses of the slots are summed, so their gradients do not mix,
and the optimizer moves each slot by its own learning rate, clipping and step count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from tasks.adapters.bank import AdapterBank, DropoutKey
from tasks.cell import SlotReport
from tasks.checkpoint import TrainingCheckpoint
from tasks.config import SHARED_BY_THE_BANK, TaskError, TrainingConfig
from tasks.data_parallel import Ranks
from tasks.examples import Example, SlotPlan, within_budget
from tasks.layout import Layout
from tasks.optimizer import SlotAdamW, SlotBuffer
from tasks.runtime import Pass, Runtime
from tasks.track import Score, Track, nothing_to_train, report_of, stop_early

__all__ = ["Example", "SlotPlan", "train_bank", "within_budget"]

LOGITS_PER_CHUNK = 1 << 26

AfterEpoch = Callable[[int], Mapping[str, Score]]
OnStep = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One example in a pass: its slot's place in the bank and its place in the slot's step."""

    slot: int
    place: int
    example: Example


def train_bank(
    runtime: Runtime,
    bank: AdapterBank,
    plans: Sequence[SlotPlan],
    *,
    pad_token_id: int,
    after_epoch: AfterEpoch | None = None,
    on_step: OnStep | None = None,
    checkpoint: TrainingCheckpoint | None = None,
) -> list[SlotReport]:
    """Train the planned slots in place; slots without a plan stay as they are.

    A slot with early stopping keeps its best epoch's parameters and stops after the first
    epoch whose score is not above the best so far. A slot whose loss or gradient is not finite
    keeps its last finite parameters and is reported as failed; its rows stay in the passes, so
    that its neighbours' numbers do not move by a bit.

    Args:
        runtime: the frozen base model.
        bank: the adapters; ``bank.parameters`` are trained in place.
        plans: at most one per slot; their reports come in this order.
        pad_token_id: any id of the vocabulary; padding has no effect.
        after_epoch: called after each epoch (from 0) of the whole bank; must return a score
            (higher is better) for every slot with early stopping.
        on_step: called with the lock-steps done and those planned.
        checkpoint: saves the state between two steps every so often. What it holds from an
            earlier attempt is gone on from, to the same adapters as without the break.

    Raises:
        TaskError: plans for unknown or repeated slots, plans that differ in a setting that a
            bank shares, or early stopping without ``after_epoch``.
    """
    _check(bank, plans, after_epoch)
    tracks = [
        Track(plan, bank.slots.index(plan.slot))
        for plan in sorted(plans, key=lambda plan: bank.slots.index(plan.slot))
        if plan.examples
    ]
    if tracks:
        with _buffered(bank) as buffer:
            trainer = _Trainer(runtime, bank, buffer, tracks, pad_token_id)
            trainer.run(after_epoch, on_step, checkpoint)
    reports = {track.plan.slot: report_of(track) for track in tracks}
    return [reports.get(plan.slot, nothing_to_train(plan)) for plan in plans]


def _check(bank: AdapterBank, plans: Sequence[SlotPlan], after_epoch: AfterEpoch | None) -> None:
    names = [plan.slot for plan in plans]
    unknown = sorted(set(names) - set(bank.slots))
    if unknown or len(set(names)) != len(names):
        raise TaskError(
            f"plans must name distinct slots of the bank ({', '.join(bank.slots[:8])}); "
            f"got {', '.join(unknown or names)}"
        )
    for name in SHARED_BY_THE_BANK:
        values = {getattr(plan.config, name) for plan in plans}
        if len(values) > 1:
            raise TaskError(f"slots of one bank share {name}; got {sorted(values)}")
    if after_epoch is None and any(plan.config.early_stopping for plan in plans):
        raise TaskError("early_stopping needs validation scores; no after_epoch was given")


@contextmanager
def _buffered(bank: AdapterBank) -> Iterator[SlotBuffer]:
    """The bank's parameters as one buffer inside the block, as before (with new values) after."""
    own = bank.parameters
    buffer = SlotBuffer(own)
    bank.parameters = buffer.parameters
    try:
        yield buffer
    finally:
        bank.parameters = own
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(buffer.parameters[name])


@contextmanager
def _recomputing(runtime: Runtime, wanted: bool) -> Iterator[None]:
    """Checkpoint the decoder layers (only they are put into training mode, not their parts)."""
    layers = list(runtime.decoder.layers) if wanted else []  # type: ignore[arg-type]
    for layer in layers:
        layer.training = layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.training = layer.gradient_checkpointing = False


class _Trainer:
    """One bank's training run."""

    def __init__(
        self,
        runtime: Runtime,
        bank: AdapterBank,
        buffer: SlotBuffer,
        tracks: list[Track],
        pad_token_id: int,
    ) -> None:
        self.runtime, self.bank, self.buffer, self.tracks = runtime, bank, buffer, tracks
        self.pad_token_id = pad_token_id
        config: TrainingConfig = tracks[0].plan.config
        self.tokens_per_pass = config.tokens_per_pass
        self.recompute_activations = config.recompute_activations
        self.ranks = Ranks.current()
        self.start = bank.snapshot()
        self.optimizer = SlotAdamW(
            buffer,
            betas=config.adam_betas,
            epsilon=config.adam_epsilon,
            weight_decay=config.weight_decay,
        )

    def run(
        self,
        after_epoch: AfterEpoch | None,
        on_step: OnStep | None,
        checkpoint: TrainingCheckpoint | None,
    ) -> None:
        epochs = max(track.plan.config.epochs for track in self.tracks)
        lock_steps = [self._epoch_length(epoch) for epoch in range(epochs)]
        first_epoch, skip = self._resume(checkpoint)
        done = sum(lock_steps[:first_epoch]) + skip
        for epoch in range(first_epoch, epochs):
            running = self._running(epoch)
            if not running:
                break
            # Not around ``after_epoch``: decoding attaches the bank by itself.
            with self.bank.attached(), _recomputing(self.runtime, self.recompute_activations):
                for step in self._epoch(epoch, running, skip=skip):
                    done += 1
                    if on_step is not None:
                        on_step(done, sum(lock_steps))
                    if checkpoint is not None and checkpoint.due:
                        self._save(checkpoint, epoch=epoch, steps=step + 1)
            skip = 0
            self._note_shifts([track for track in running if track.shared])
            if after_epoch is not None:
                stop_early(running, self.ranks.agreed(after_epoch(epoch)), self.buffer)
        self._restore_best()

    def _epoch_length(self, epoch: int) -> int:
        return max(
            (t.plan.steps_per_epoch for t in self.tracks if epoch < t.plan.config.epochs), default=0
        )

    def _running(self, epoch: int) -> list[Track]:
        return [t for t in self.tracks if epoch < t.plan.config.epochs and not t.stopped]

    def _resume(self, checkpoint: TrainingCheckpoint | None) -> tuple[int, int]:
        """Take over what an earlier attempt saved: the epoch it was in, its steps done in it."""
        saved = None if checkpoint is None else checkpoint.open()
        if saved is None:
            return 0, 0
        stored, values = saved
        tensors = {name: tensor.to(self.runtime.device) for name, tensor in stored.items()}
        self.optimizer.restore(tensors, steps=values["optimizer_steps"])
        for track in self.tracks:
            track.restore(tensors, values["tracks"][track.plan.slot])
        return int(values["epoch"]), int(values["steps"])

    def _save(self, checkpoint: TrainingCheckpoint, *, epoch: int, steps: int) -> None:
        tensors = self.optimizer.state()
        for track in self.tracks:
            tensors |= track.tensors()
        values = {
            "epoch": epoch,
            "steps": steps,
            "optimizer_steps": self.optimizer.steps,
            "tracks": {track.plan.slot: track.values() for track in self.tracks},
        }
        checkpoint.save(tensors, values)

    def _epoch(self, epoch: int, running: list[Track], *, skip: int) -> Iterator[int]:
        """Take the epoch's steps from number ``skip`` on; yields each when it is done."""
        steps = [track.plan.epoch_steps(epoch) for track in running]
        for k in range(skip, max(map(len, steps))):
            active = [
                (track, own[k]) for track, own in zip(running, steps, strict=True) if k < len(own)
            ]
            self._step(active)
            self._note_shifts([track for track, _ in active if not track.shared])
            yield k

    def _step(self, active: list[tuple[Track, list[Example]]]) -> None:
        """One optimizer step of every active slot, over as many passes as it takes."""
        weights = torch.zeros(len(self.bank.slots), dtype=torch.float64)
        steps = {track.slot: track.done for track, _ in active}
        seeds = {track.slot: track.plan.seed for track, _ in active}
        for track, examples in active:
            weights[track.slot] = 1 / sum(example.trained_tokens for example in examples)
        weights = weights.to(self.runtime.device)
        losses = torch.zeros_like(weights)
        rows = [Row(t.slot, k, e) for t, examples in active for k, e in enumerate(examples)]
        if self.ranks.world > 1:
            rows = self.ranks.share(sorted(rows, key=longest_first))
        for part in compose_passes(rows, tokens_per_pass=self.tokens_per_pass):
            keys = [DropoutKey(seeds[row.slot], steps[row.slot], row.place) for row in part]
            losses += self._pass(part, keys, weights)
        self.ranks.add_up(self.buffer.gradients, losses)
        slots = [track.slot for track, _ in active]
        own_losses = losses[slots]
        self.optimizer.step(
            slots,
            learning_rates=[track.learning_rate() for track, _ in active],
            clip_norms=[track.plan.config.clip_norm for track, _ in active],
            losses=own_losses,
        )
        frozen = self.optimizer.frozen[slots]
        for place, (track, _) in enumerate(active):
            track.done += 1
            track.losses.append(own_losses[place])
            track.finite.append(~frozen[place])

    def _pass(self, rows: list[Row], keys: list[DropoutKey], weights: torch.Tensor) -> torch.Tensor:
        """Forward and backward over some rows; returns the slots' shares of the loss, ``[slots]``.

        Token losses are weighted by 1 / trained tokens of the slot's whole step, so a step that
        is split gives the gradient of the undivided one.
        """
        device = self.runtime.device
        layout = Layout.of([row.slot for row in rows], device=device)
        state = Pass(layout, self.bank.for_pass(layout, dropout=keys))
        token_ids = self._token_ids(rows)
        targets = _targets(rows, width=token_ids.shape[1])
        places, target_ids, slots = (torch.tensor(column, device=device) for column in targets)
        with self.runtime.running(state):
            hidden = self.runtime.hidden_states(token_ids.to(device), state)
            picked = hidden.flatten(0, 1).index_select(0, places)
            losses, gradient = self._head(picked.detach(), target_ids, weights[slots])
            self.buffer.backward(picked, gradient)
        return torch.zeros_like(weights).index_add_(0, slots, losses)

    def _token_ids(self, rows: list[Row]) -> torch.Tensor:
        width = max(row.example.input_tokens for row in rows)
        pad = [self.pad_token_id] * width
        ids = [list(row.example.token_ids[: row.example.input_tokens]) for row in rows]
        return torch.tensor([[*own, *pad[len(own) :]] for own in ids])

    def _head(
        self, hidden: torch.Tensor, target_ids: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted token losses ``[tokens]`` and the gradient of their sum, ``[tokens, width]``.

        The head is frozen, so its part of the backward pass is done at once, chunk by chunk:
        logits of all tokens never exist at the same time.
        """
        chunk = max(1, LOGITS_PER_CHUNK // int(self.runtime.model.config.vocab_size))
        losses, gradients = [], []
        for part, goal, weight in zip(
            hidden.split(chunk), target_ids.split(chunk), weights.split(chunk), strict=True
        ):
            leaf = part.requires_grad_()
            logits = self.runtime.logits(leaf)
            nll = torch.nn.functional.cross_entropy(logits, goal, reduction="none")
            weighted = nll * weight.to(nll.dtype)
            gradients.append(torch.autograd.grad(weighted.sum(), leaf)[0])
            losses.append(weighted.detach().double())
        return torch.cat(losses), torch.cat(gradients)

    def _note_shifts(self, tracks: list[Track]) -> None:
        if tracks:
            norms = self.bank.shift_norms(self.start)
            for track in tracks:
                track.shifts.append(norms[track.slot])

    def _restore_best(self) -> None:
        with torch.no_grad():
            for track in self.tracks:
                if track.best is not None:
                    self.buffer.values[track.slot].copy_(track.best)
                    del track.shifts[track.best_shifts :]


def compose_passes(rows: Sequence[Row], *, tokens_per_pass: int) -> list[list[Row]]:
    """Cut a step's rows into passes of at most ``tokens_per_pass`` padded tokens.

    Longest rows first, so that rows of like length share a pass and little is padded; within a
    pass rows stand by slot. Lengths alone decide, so what a slot's tokens are never changes how
    its neighbours are computed. A single row longer than the limit gets a pass of its own.
    """
    ordered = sorted(rows, key=longest_first)
    passes: list[list[Row]] = []
    for row in ordered:
        width = passes[-1][0].example.input_tokens if passes else 0
        if passes and (len(passes[-1]) + 1) * width <= tokens_per_pass:
            passes[-1].append(row)
        else:
            passes.append([row])
    return [sorted(part, key=lambda row: (row.slot, row.place)) for part in passes]


def longest_first(row: Row) -> tuple[int, int, int]:
    """Order of a step's rows; ties by slot and place."""
    return (-row.example.input_tokens, row.slot, row.place)


def _targets(rows: Sequence[Row], *, width: int) -> tuple[list[int], list[int], list[int]]:
    """For every trained token: where its prediction stands in the flat pass, its id, its slot."""
    places: list[int] = []
    ids: list[int] = []
    slots: list[int] = []
    for k, row in enumerate(rows):
        for begin, end in row.example.trained:
            places += range(k * width + begin - 1, k * width + end - 1)
            ids += row.example.token_ids[begin:end]
            slots += [row.slot] * (end - begin)
    return places, ids, slots
