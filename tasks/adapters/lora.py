"""LoRA bank: ``A [slots, rank, in]`` and ``B [slots, out, rank]`` for every target module."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tasks.adapters.bank import AdapterBank, DropoutKey
from tasks.config import LoraConfig, TaskError
from tasks.layout import Layout
from tasks.runtime import Runtime
from tasks.seeds import seed_of

ALL_LINEAR = "all-linear"


def target_names(decoder: nn.Module, wanted: Sequence[str]) -> tuple[str, ...]:
    """Full names, inside the decoder, of the linear modules that get an adapter.

    Raises:
        TaskError: a name matches no linear module; the message lists those that exist.
    """
    linears = {
        name: module
        for name, module in decoder.named_modules()
        if name.startswith("layers.") and _is_linear(module)
    }
    endings = sorted({name.rpartition(".")[2] for name in linears})
    if tuple(wanted) == (ALL_LINEAR,):
        return tuple(linears)
    unknown = [name for name in wanted if name not in endings]
    if unknown:
        raise TaskError(
            f"target_modules: no linear module is called {', '.join(map(repr, unknown))}; "
            f"this model has {', '.join(endings)} (or {ALL_LINEAR!r})"
        )
    return tuple(name for name in linears if name.rpartition(".")[2] in wanted)


def _is_linear(module: nn.Module) -> bool:
    # Quantised linear layers are no nn.Linear in every library, but they say their sizes.
    return hasattr(module, "in_features") and hasattr(module, "out_features")


class LoraBank(AdapterBank):
    """Low-rank adapters for many slots; the base's linear layers gain ``scale · B A x``."""

    config: LoraConfig

    def __init__(
        self,
        runtime: Runtime,
        *,
        config: LoraConfig,
        slots: Sequence[str],
        seeds: Sequence[int] = (0,),
    ) -> None:
        """``seeds``: of the initial factors, one for each slot or one for all."""
        super().__init__(runtime, config=config, slots=slots)
        if len(seeds) not in (1, len(slots)):
            raise TaskError(f"{len(seeds)} seeds for {len(slots)} slots; give one each, or one")
        self.targets = target_names(runtime.decoder, config.target_modules)
        self.scale = config.alpha / config.rank
        self._handles: list[RemovableHandle] = []
        for name in self.targets:
            module = runtime.decoder.get_submodule(name)
            a, b = self._initial(name, module, seeds)
            self.parameters[f"{name}.A"] = a
            self.parameters[f"{name}.B"] = b

    def _initial(
        self, name: str, module: Any, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A as in PEFT (Kaiming uniform, a = √5), equal for slots of one seed; B is zero."""
        width, height, rank = int(module.in_features), int(module.out_features), self.config.rank
        drawn = {seed: self._drawn(name, seed, rank=rank, width=width) for seed in set(seeds)}
        device, count = self.runtime.device, len(self.slots)
        every = seeds if len(seeds) == count else [seeds[0]] * count
        a = torch.stack([drawn[seed] for seed in every]).to(device)
        b = torch.zeros(count, height, rank, dtype=self.dtype, device=device)
        return a.requires_grad_(), b.requires_grad_()

    def _drawn(self, name: str, seed: int, *, rank: int, width: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed_of("lora-init", seed, name))
        bound = 1 / math.sqrt(width)
        empty = torch.empty(rank, width, dtype=self.dtype)
        return empty.uniform_(-bound, bound, generator=generator)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks on the target modules add the current pass's low-rank part.

        Re-entrant: validation decodes in the midst of training, and must not add it twice.
        """
        if self._handles:
            yield
            return
        self._handles = [
            self.runtime.decoder.get_submodule(name).register_forward_hook(self._hook(name, place))
            for place, name in enumerate(self.targets)
        ]
        try:
            yield
        finally:
            for handle in self._handles:
                handle.remove()
            self._handles = []

    def _hook(self, name: str, place: int):  # type: ignore[no-untyped-def]
        def add(
            _module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
        ) -> torch.Tensor:
            state = self.runtime.current
            if state is None or not isinstance(state.adapters, LoraPass):
                return output
            return state.adapters.added(output, name, place, inputs[0])

        return add

    def for_pass(self, layout: Layout, *, dropout: Sequence[DropoutKey] | None = None) -> LoraPass:
        """See ``AdapterBank.for_pass``."""
        weights = {
            name: (
                layout.select(self.parameters[f"{name}.A"]).transpose(1, 2),
                layout.select(self.parameters[f"{name}.B"]).transpose(1, 2),
            )
            for name in self.targets
        }
        streams = None
        if dropout is not None and self.config.dropout > 0:
            streams = dropout_streams(dropout, device=self.runtime.device)
        return LoraPass(layout, weights, self.scale, self.config.dropout, streams)

    def shift_norms(self, start: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """‖scale · (B A − B₀ A₀)‖ over all targets (Frobenius), ``[slots]``.

        The factors alone say nothing: (B, A) and (2B, A/2) are the same adapter. The difference
        of products has rank ≤ 2r, so its norm is taken through 2r × 2r Gram matrices:
        ‖U V‖² = tr(UᵀU · V Vᵀ) with U = [B, −B₀] and V = [A; A₀].
        """
        total = torch.zeros(len(self.slots), dtype=torch.float64, device=self.runtime.device)
        with torch.no_grad():
            for name in self.targets:
                a, b = self.parameters[f"{name}.A"].double(), self.parameters[f"{name}.B"].double()
                a0, b0 = start[f"{name}.A"].double(), start[f"{name}.B"].double()
                u, v = torch.cat([b, -b0], dim=2), torch.cat([a, a0], dim=1)
                left, right = u.transpose(1, 2) @ u, v @ v.transpose(1, 2)
                total += (left * right.transpose(1, 2)).sum(dim=(1, 2)).clamp_min(0)
        return self.scale * total.sqrt()


@dataclass(slots=True)
class LoraPass:
    """A LoRA bank's part in one pass: ``Aᵀ [active, in, rank]`` and ``Bᵀ [active, rank, out]``."""

    layout: Layout
    weights: dict[str, tuple[torch.Tensor, torch.Tensor]]
    scale: float
    dropout_rate: float
    dropout_streams: torch.Tensor | None
    """``[rows]``; None outside of training."""

    def prefix(self, layer: int) -> None:
        """LoRA puts nothing before a row's tokens."""

    def prefix_lengths(self) -> None:
        """LoRA puts nothing before a row's tokens."""

    def added(self, output: torch.Tensor, name: str, place: int, x: torch.Tensor) -> torch.Tensor:
        """``output + scale · B A x``, ``[rows, tokens, out]``, for ``x [rows, tokens, in]``."""
        a, b = self.weights[name]
        scale = self.scale
        if self.dropout_streams is not None:
            x = x * kept(self.dropout_streams, module=place, rate=self.dropout_rate, like=x)
            scale /= kept_share(self.dropout_rate)
        # The factor goes where it is cheapest: onto ``rank`` numbers per token.
        inner = torch.bmm(self.layout.to_grid(x), a.to(x.dtype)) * scale
        b = b.to(x.dtype)
        if self.layout.places is None and output.dtype == x.dtype:
            summed = torch.baddbmm(self.layout.to_grid(output), inner, b)
            return self.layout.from_grid(summed, tokens=x.shape[1])
        return output + self.layout.from_grid(torch.bmm(inner, b), tokens=x.shape[1])


def dropout_streams(keys: Sequence[DropoutKey], *, device: torch.device) -> torch.Tensor:
    """One number per row that names the row's random stream, ``[rows]``, int64."""
    seeds = [seed_of("dropout", key.seed, key.step, key.row) for key in keys]
    return torch.tensor(seeds, dtype=torch.long, device=device)


def kept(streams: torch.Tensor, *, module: int, rate: float, like: torch.Tensor) -> torch.Tensor:
    """Dropout masks ``[rows, tokens, width]``: 1 where kept, 0 with probability ``rate``.

    The numbers are a hash of (row's stream, module, token, feature), SplitMix64's (Steele et al.
    2014, doi:10.1145/2660193.2660195), so no generator is seeded per row, a row's mask does not
    change with padding or neighbors, and every device draws the same. One 64-bit number serves
    four features, 16 bits each.
    """
    _, tokens, width = like.shape
    words = -(-width // 4)
    count = torch.arange(1, tokens * words + 1, device=like.device) * _GOLDEN
    start = _mixed(streams + _signed((module + 1) * _GOLDEN))
    numbers = _mixed(start[:, None] + count).view(torch.int16)
    kept_words = numbers >= round(rate * 65536) - 32768
    return kept_words.view(-1, tokens, words * 4)[..., :width].to(like.dtype)


def kept_share(rate: float) -> float:
    """The share of ones in ``kept``: 1 - ``rate``, to 16 bits."""
    return 1 - round(rate * 65536) / 65536


def _signed(number: int) -> int:
    """The int64 of the same 64 lowest bits."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_ROUNDS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)), (31, 1))


def _mixed(numbers: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finalizer on int64, whose right shift must be made unsigned by a mask."""
    for bits, factor in _ROUNDS:
        shifted = (numbers >> bits).bitwise_and_((1 << (64 - bits)) - 1)
        numbers = shifted.bitwise_xor_(numbers).mul_(factor)
    return numbers
