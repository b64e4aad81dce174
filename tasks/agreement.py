"""Whether the runtime computes a model as the model's own code does.

The runtime brings in an attention of its own and runs rows of unequal length side by side. A
model that asks for more than that (scores that are scaled otherwise, a state beside keys and
values) would be trained and would answer with other numbers than its own, without an error. So
the logits of both ways are compared before a model is used: over two rows padded on the right,
and over one more token from the key-value cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from tasks.adapters.lora import ALL_LINEAR, LoraBank, target_names
from tasks.cache import KeyValueCache
from tasks.config import LoraConfig, TaskError
from tasks.layout import Layout
from tasks.runtime import Pass, Runtime, decoder_of

ROW_TOKENS = (24, 17)
"""Lengths of the two rows; the last token of each is the one that comes from the cache."""
BARS = {
    torch.float64: 1e-5,  # Some models take the softmax of their attention in float32.
    torch.float32: 2e-4,
    torch.float16: 0.05,
    torch.bfloat16: 0.15,
}
"""By precision: the largest relative difference of a position that rounding may make."""
HALF_PRECISION_SHARE = 0.5
"""Share of positions that may be above the bar in half precision: where two experts are nearly
tied, rounding decides which of them computes the token."""


@dataclass(frozen=True, slots=True)
class Logits:
    """Of all real positions but the last of each row, ``[positions, vocabulary]``; of the last."""

    prompt: torch.Tensor
    step: torch.Tensor


def check_agreement(model: PreTrainedModel) -> None:
    """Compare the runtime's logits with the model's own, of a model without a runtime so far.

    Raises:
        TaskError: they differ by more than the model's precision explains, or the runtime cannot
            run such a model; says what, as a clause about the model.
    """
    decoder_of(model)
    ids = _token_ids(model)
    with torch.no_grad(), _plain_attention(model):
        own = _tried(lambda: _own(model, ids), "its own code fails on this machine")
        ours = _tried(lambda: _ours(Runtime(model), ids), "its layers are built otherwise")
    _compare(own, ours, dtype=_dtype(model), where="")


def check_adapted_agreement(model: PreTrainedModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compare a LoRA on all linear layers with the same weights merged; ``model`` keeps them.

    Returns:
        Names of linear layers that LoRA can be put on, and of those that it cannot: they get
        their tokens without their rows (shared experts), or not in every pass.

    Raises:
        TaskError: the logits differ.
    """
    ids = _token_ids(model)
    runtime = Runtime(model)
    with torch.no_grad():
        linear, closed = _linear_names(runtime, ids)
        if not linear:
            return (), closed
        bank = _random_lora(runtime, linear)
        ours = _tried(lambda: _ours(runtime, ids, bank), "its linear layers are built otherwise")
        for name in bank.targets:
            a, b = (bank.parameters[f"{name}.{factor}"][0] for factor in "AB")
            weight: Any = runtime.decoder.get_submodule(name).weight
            weight += bank.scale * (b @ a)
        with _plain_attention(model):
            own = _own(model, ids)
    _compare(own, ours, dtype=_dtype(model), where=" with a LoRA on its linear layers")
    return linear, closed


def _linear_names(runtime: Runtime, ids: torch.Tensor) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Last parts of linear layers' names: of those that every pass runs with all rows, and not."""
    shapes: dict[str, list[torch.Size]] = {}
    handles = [
        runtime.decoder.get_submodule(name).register_forward_hook(
            lambda _, inputs, __, name=name: shapes.setdefault(name, []).append(
                inputs[0].shape[:-1]
            )
        )
        for name in target_names(runtime.decoder, (ALL_LINEAR,))
    ]
    with runtime.running(Pass(Layout.of(range(len(ids)), device=ids.device), None)) as state:
        runtime.hidden_states(ids, state)
    for handle in handles:
        handle.remove()
    names = target_names(runtime.decoder, (ALL_LINEAR,))
    endings = {name.rpartition(".")[2] for name in names}
    closed = {name.rpartition(".")[2] for name in names if shapes.get(name) != [ids.shape]}
    return tuple(sorted(endings - closed)), tuple(sorted(closed))


def _random_lora(runtime: Runtime, linear: tuple[str, ...]) -> LoraBank:
    config = LoraConfig(rank=2, alpha=4.0, dropout=0.0, target_modules=linear)
    bank = LoraBank(runtime, config=config, slots=("one",))
    stream = torch.Generator().manual_seed(1)
    for name, tensor in bank.parameters.items():
        if name.endswith(".B"):
            tensor.copy_(torch.randn(tensor.shape, generator=stream) / 4)
    return bank


@contextmanager
def _plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """The attention of the model's own file inside the block; afterwards what was before."""
    before = model.config._attn_implementation
    model.config._attn_implementation = "eager"
    try:
        yield
    finally:
        model.config._attn_implementation = before


def _tried(compute: Callable[[], Logits], trouble: str) -> Logits:
    """What ``compute`` gives; a TaskError where it cannot."""
    try:
        return compute()
    except (TaskError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip() or "no words").splitlines()[0]
        raise TaskError(f"{trouble} ({type(error).__name__}: {reason})") from error


def _token_ids(model: PreTrainedModel) -> torch.Tensor:
    """``[2, tokens]``; what stands behind the end of the shorter row is padding."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    stream = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (len(ROW_TOKENS), max(ROW_TOKENS)), generator=stream)
    return ids.to(model.device)


def _own(model: PreTrainedModel, ids: torch.Tensor) -> Logits:
    """By the model's own ``forward``, each row alone and without a cache."""
    rows = [model(input_ids=ids[r : r + 1, :n], use_cache=False).logits[0] for r, n in _ends()]
    return Logits(
        torch.cat([row[:-1] for row in rows]).double(),
        torch.stack([row[-1] for row in rows]).double(),
    )


def _ours(runtime: Runtime, ids: torch.Tensor, bank: LoraBank | None = None) -> Logits:
    """By the runtime, both rows under the bank's one slot."""
    if bank is None:
        return _passes(runtime, ids, None)
    with bank.attached():
        return _passes(runtime, ids, bank)


def _passes(runtime: Runtime, ids: torch.Tensor, bank: LoraBank | None) -> Logits:
    """The prompts in one pass, then the last tokens behind cached ones."""
    layout = Layout.of([0] * len(ROW_TOKENS), device=ids.device)
    adapters = None if bank is None else bank.for_pass(layout)
    state = Pass(layout, adapters, collected=[])
    with runtime.running(state):
        hidden = runtime.hidden_states(ids[:, :-1], state)
        prompt = runtime.logits(hidden)
    pairs = state.collected or []
    layers = len(runtime.decoder.layers)  # type: ignore[arg-type]
    if len(pairs) != layers:
        raise TaskError(f"its attention runs {len(pairs)} times in {layers} layers")
    cache = KeyValueCache.empty(len(ROW_TOKENS), pairs)
    places, lengths = list(range(len(ROW_TOKENS))), [tokens - 1 for tokens in ROW_TOKENS]
    cache.fill(places, pairs, sources=places, lengths=lengths)
    cache.reserve(max(ROW_TOKENS))
    state = Pass(layout, adapters, cache=cache, used=max(ROW_TOKENS))
    last = torch.stack([ids[r, n - 1] for r, n in _ends()])
    with runtime.running(state):
        step = runtime.logits(runtime.hidden_states(last[:, None], state)[:, 0])
    real = [prompt[r, : n - 1] for r, n in _ends()]
    return Logits(torch.cat(real).double(), step.double())


def _ends() -> list[tuple[int, int]]:
    return list(enumerate(ROW_TOKENS))


def _compare(own: Logits, ours: Logits, *, dtype: torch.dtype, where: str) -> None:
    _compare_part(own.prompt, ours.prompt, dtype=dtype, where=f"on prompts{where}")
    _compare_part(own.step, ours.step, dtype=dtype, where=f"behind cached tokens{where}")


def _compare_part(own: torch.Tensor, ours: torch.Tensor, *, dtype: torch.dtype, where: str) -> None:
    """Both ``[positions, vocabulary]``; what all logits of a position share does not count."""
    if not bool(own.isfinite().all()):
        raise TaskError("its own logits are not finite")
    difference, spread = _centered(ours - own), _centered(own)
    relative = difference.norm(dim=-1) / spread.norm(dim=-1).clamp_min(torch.finfo(dtype).tiny)
    above = ~(relative <= BARS[dtype])  # Also what is no number.
    allowed = HALF_PRECISION_SHARE if dtype.itemsize == 2 else 0.0
    if float(above.double().mean()) > allowed:
        raise TaskError(
            f"the logits computed here differ from its own by up to "
            f"{float((ours - own).abs().max()):.2g} {where} ({float(relative.max()):.0%} of their "
            f"spread; rounding explains {BARS[dtype]:.1%})"
        )


def _centered(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.mean(dim=-1, keepdim=True)


def _dtype(model: PreTrainedModel) -> torch.dtype:
    found: torch.dtype = model.get_input_embeddings().weight.dtype
    return found
