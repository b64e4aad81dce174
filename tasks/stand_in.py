"""A small model in the place of a large one: the same code and config, few layers, random weights.

What a model's code asks of its attention and of its head does not depend on its weights. So
whether the runtime can run a model is found out without reading them, in float32, where rounding
hides nothing, and with every parameter away from the zeros and ones at which most of them start.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from tasks.runtime import decoder_of

SMALL_PARAMETERS = 20_000_000
"""A model below this is taken as it is."""
WINDOW_TOKENS = 7
"""Windows become shorter than the rows that are compared, so that they matter."""
WINDOWS = ("sliding_window", "attention_chunk_size")
SIZES = {
    "vocab_size": 512,
    "vocab_size_per_layer_input": 512,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
}
"""Sizes of a large model that can be cut without changing what its code does."""
GAIN = 2.0
"""Makes attention scores large enough for a cap on them to show."""
RANDOM_BLOCK = 1_000_003
"""Random numbers that are drawn; a larger matrix repeats them, never at the same place of a row."""


def stand_in(whole: PreTrainedModel) -> PreTrainedModel:
    """A model to compare with, from the one at hand, whose weights may be on the meta device."""
    config = copy.deepcopy(whole.config)
    for name in WINDOWS:
        window = getattr(config, name, None)
        if isinstance(window, int) and not isinstance(window, bool):
            setattr(config, name, min(window, WINDOW_TOKENS))
    if sum(weight.numel() for weight in whole.parameters()) > SMALL_PARAMETERS:
        _cut(config, layers=_layers_of_all_kinds(decoder_of(whole)))
    with init_empty_weights(include_buffers=False):
        model = type(whole)(config)
    _fill(model)
    return model.eval().requires_grad_(False)


def _layers_of_all_kinds(decoder: nn.Module) -> int:
    """How many of the first layers show every kind of layer; at least two."""
    kinds = [_kind(layer) for layer in decoder.layers]  # type: ignore[union-attr]
    last = max(kinds.index(kind) for kind in set(kinds))
    return min(len(kinds), max(2, last + 1))


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    """What tells one layer's code path from another's: its parts, their sizes and settings."""
    return tuple(
        (name, type(part).__name__, _settings(part), *_shapes(part))
        for name, part in layer.named_modules()
    )


def _settings(part: nn.Module) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, repr(value))
        for name, value in sorted(vars(part).items())
        if isinstance(value, bool | int | float | str | None) and "idx" not in name
    )


def _shapes(part: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, weight in part.named_parameters(recurse=False):
        yield name, tuple(weight.shape)


def _cut(config: PretrainedConfig, *, layers: int) -> None:
    """Keep the first layers alone, with their entries in lists of one entry a layer."""
    before = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == before:
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers
    for name, size in SIZES.items():
        value = getattr(config, name, None)
        if isinstance(value, int):
            setattr(config, name, min(size, value))
        elif isinstance(value, list):  # One of each layer.
            setattr(config, name, [min(size, one) for one in value])
    if isinstance(getattr(config, "pad_token_id", None), int):
        config.pad_token_id = 0  # The whole vocabulary's may be none of the cut one's.


def _fill(model: PreTrainedModel) -> None:
    """Random values for all parameters, in place of none."""
    block = torch.randn(RANDOM_BLOCK, generator=torch.Generator().manual_seed(0))
    for part in model.modules():
        for name, empty in list(part.named_parameters(recurse=False)):
            value = nn.Parameter(_random(name, empty.shape, block), requires_grad=False)
            setattr(part, name, value)
    model.tie_weights()


def _random(name: str, shape: torch.Size, block: torch.Tensor) -> torch.Tensor:
    """Of a matrix normal, of a bias too, of a norm's weight and the like between 0.5 and 1.5."""
    numbers = math.prod(shape)
    normal = block.repeat(-(-numbers // len(block)))[:numbers].reshape(shape)
    if len(shape) >= 2:
        return normal.mul_(GAIN / shape[-1] ** 0.5)
    return normal.div_(4) if name.endswith("bias") else normal.tanh_().div_(2).add_(1)
