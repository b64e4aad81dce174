"""AdamW over stacked adapters: every slot has its own step count, learning rate and clipping.

All parameters of a bank lie side by side in one buffer ``[slots, width]``, and so do their
gradients: one update is a dozen operations however many modules carry an adapter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from tasks.config import TaskError

CLIP_EPSILON = 1e-6
"""Added to the norm by ``torch.nn.utils.clip_grad_norm_``."""


class SlotBuffer:
    """Parameters ``[slots, …]`` gathered into one buffer, and their gradients into another.

    Attributes:
        values: all parameters, ``[slots, width]``.
        gradients: their gradients, ``[slots, width]``.
        parameters: leaves under the given names whose data are slices of ``values``.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor]) -> None:
        self.values = torch.cat([p.detach().flatten(1) for p in parameters.values()], dim=1)
        self.gradients = torch.zeros_like(self.values)
        self.parameters: dict[str, torch.Tensor] = {}
        self._gradient_views: list[torch.Tensor] = []
        begin = 0
        for name, given in parameters.items():
            end = begin + given[0].numel()
            own = self.values[:, begin:end].detach().view(given.shape)
            self.parameters[name] = own.requires_grad_()
            self._gradient_views.append(self.gradients[:, begin:end].view(given.shape))
            begin = end

    def backward(self, outputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add the parameters' gradients, given that of ``outputs``."""
        leaves = list(self.parameters.values())
        found = torch.autograd.grad(outputs, leaves, gradient)
        for view, new in zip(self._gradient_views, found, strict=True):
            view.add_(new)


class SlotAdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) for the slots of a buffer.

    A slot's numbers are those of ``torch.nn.utils.clip_grad_norm_`` and ``torch.optim.AdamW`` on
    that slot alone. A slot whose loss, gradient or update is not finite keeps its parameters and
    is frozen for good; nothing is copied to the host to find that out.
    """

    def __init__(
        self,
        buffer: SlotBuffer,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.buffer, self.betas, self.epsilon = buffer, betas, epsilon
        self.weight_decay = weight_decay
        slots = buffer.values.shape[0]
        self.first = torch.zeros_like(buffer.values)
        self.second = torch.zeros_like(buffer.values)
        self.steps = [0] * slots
        self.frozen = torch.zeros(slots, dtype=torch.bool, device=buffer.values.device)

    def step(
        self,
        slots: Sequence[int],
        *,
        learning_rates: Sequence[float],
        clip_norms: Sequence[float],
        losses: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Move the given slots by their gradients, then clear all gradients.

        Args:
            slots: ascending; every other slot stays, its optimizer state too.
            learning_rates: of this step, one per given slot.
            clip_norms: largest gradient norm, one per given slot.
            losses: ``[given]``; a slot whose loss is not finite is frozen.

        Returns:
            Gradient norms before clipping, ``[given]``.

        Raises:
            TaskError: the arguments have different lengths.
        """
        if not len(slots) == len(learning_rates) == len(clip_norms):
            raise TaskError(
                f"{len(slots)} slots, {len(learning_rates)} learning rates and "
                f"{len(clip_norms)} clip norms; one of each per slot is needed"
            )
        rows = _Rows(slots, of=self.buffer.values.shape[0], device=self.buffer.values.device)
        gradient = rows.take(self.buffer.gradients)
        norms = torch.linalg.vector_norm(gradient, dim=1)
        columns = self._columns(slots, learning_rates, clip_norms)
        gradient *= (columns[0] / (norms[:, None] + CLIP_EPSILON)).clamp_max(1.0)
        values = rows.take(self.buffer.values)
        new = values * columns[1] if self.weight_decay else values.clone()
        new -= self._update(rows, gradient, columns)
        finite = norms.isfinite() & new.isfinite().all(dim=1)
        if losses is not None:
            finite &= losses.isfinite()
        moving = finite & ~rows.take(self.frozen)
        rows.put(self.buffer.values, torch.where(moving[:, None], new, values))
        rows.put(self.frozen, ~moving)
        self.buffer.gradients.zero_()
        return norms

    def state(self) -> dict[str, torch.Tensor]:
        """Parameters, both moments and the frozen slots; with ``steps`` all that ``step`` needs."""
        return {
            "optimizer.values": self.buffer.values,
            "optimizer.first": self.first,
            "optimizer.second": self.second,
            "optimizer.frozen": self.frozen,
        }

    def restore(self, state: Mapping[str, torch.Tensor], *, steps: Sequence[int]) -> None:
        """Go on from what ``state`` and ``steps`` were."""
        with torch.no_grad():
            for name, own in self.state().items():
                own.copy_(state[name])
        self.steps = [int(step) for step in steps]

    def _columns(
        self, slots: Sequence[int], learning_rates: Sequence[float], clip_norms: Sequence[float]
    ) -> torch.Tensor:
        """Clip norm, decay, step size, root of the second correction: ``[4, given, 1]``."""
        table = []
        for slot, rate, clip in zip(slots, learning_rates, clip_norms, strict=True):
            self.steps[slot] += 1
            corrections = [1 - beta ** self.steps[slot] for beta in self.betas]
            decay = 1 - rate * self.weight_decay
            table.append((clip, decay, rate / corrections[0], math.sqrt(corrections[1])))
        columns = torch.tensor(table, dtype=torch.float64).T.unsqueeze(-1)
        return columns.to(self.buffer.values)

    def _update(self, rows: _Rows, gradient: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        beta1, beta2 = self.betas
        first, second = rows.take(self.first), rows.take(self.second)
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        rows.put(self.first, first)
        rows.put(self.second, second)
        scale = (second.sqrt() / columns[3]).add_(self.epsilon)
        return first.div(scale).mul_(columns[2])


class _Rows:
    """Rows of stacked tensors: a view where the slots are a contiguous run, else a copy."""

    def __init__(self, slots: Sequence[int], *, of: int, device: torch.device) -> None:
        self.begin, self.count = slots[0], len(slots)
        is_run = list(slots) == list(range(slots[0], slots[0] + len(slots)))
        self.index = None if is_run else torch.tensor(slots, device=device)
        if slots[-1] >= of:
            raise TaskError(f"slot {slots[-1]} was named; there are {of}")

    def take(self, stacked: torch.Tensor) -> torch.Tensor:
        if self.index is None:
            return stacked.narrow(0, self.begin, self.count)
        return stacked.index_select(0, self.index)

    def put(self, stacked: torch.Tensor, rows: torch.Tensor) -> None:
        if self.index is not None:
            stacked.index_copy_(0, self.index, rows)
        elif rows.data_ptr() != stacked.narrow(0, self.begin, self.count).data_ptr():
            stacked.narrow(0, self.begin, self.count).copy_(rows)


def warmup_steps(total_steps: int, *, warmup_ratio: float) -> int:
    """Number of warm-up steps, rounded up as the transformers trainer does."""
    return math.ceil(total_steps * warmup_ratio)


def schedule_factor(kind: str, step: int, *, total_steps: int, warmup: int) -> float:
    """Share of the learning rate at ``step`` (from 0), as transformers' schedules have it.

    ``get_linear_schedule_with_warmup``, ``get_cosine_schedule_with_warmup`` and
    ``get_constant_schedule_with_warmup``: with a warm-up of w steps, step k < w has the share
    k / w, so the very first step has a learning rate of 0; without one, step 0 has the full
    rate. The linear and cosine ones would reach 0 at ``total_steps``, one past the last step.
    """
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, total_steps - warmup)
    match kind:
        case "linear":
            return max(0.0, 1.0 - progress)
        case "cosine":
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
        case "constant":
            return 1.0
        case _:
            raise TaskError(f"schedule {kind!r} is unknown; there are linear, cosine, constant")
