"""Shapes of an adapter's tensors on a base model, found without the base's weights."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from tasks.adapters.lora import target_names
from tasks.adapters.prefix import NAME as PREFIX
from tasks.base_model import read_config
from tasks.config import AdapterConfig, LoraConfig, ModelConfig

Shapes = dict[str, tuple[int, ...]]


def base_shapes(model: ModelConfig, adapter: AdapterConfig) -> Shapes | None:
    """Shape of each tensor that one adapter has on a base, by the bank's names, without the slots.

    Args:
        model: its ``config.json`` alone is read; of a hub model that file is fetched.
        adapter: kind, rank or length, target modules.

    Returns:
        None for a model that is not there or not built from its config alone, which its own
        checks tell; the bank checks the shapes.

    Raises:
        TaskError: no module of that name in the model.
    """
    decoder = _empty_decoder(model)
    if decoder is None:
        return None
    if isinstance(adapter, LoraConfig):
        return _lora_shapes(decoder, adapter)
    return _prefix_shapes(decoder.config, tokens=adapter.tokens)


def _lora_shapes(decoder: Any, adapter: LoraConfig) -> Shapes:
    shapes: Shapes = {}
    for name in target_names(decoder, adapter.target_modules):
        module = decoder.get_submodule(name)
        shapes[f"{name}.A"] = (adapter.rank, int(module.in_features))
        shapes[f"{name}.B"] = (int(module.out_features), adapter.rank)
    return shapes


def _prefix_shapes(config: Any, *, tokens: int) -> Shapes | None:
    heads = config.num_attention_heads
    sizes = (
        config.num_hidden_layers,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
    )
    if not all(isinstance(size, int) for size in sizes):  # Some families' layers differ.
        return None
    layers, kv_heads, head_dim = sizes
    return {PREFIX: (layers, 2, kv_heads, tokens, head_dim)}


@lru_cache(maxsize=4)
def _empty_decoder(model: ModelConfig) -> Any:
    """The model's decoder layers on the meta device, which takes no memory; None if not known."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        values = read_config(model)
        values.pop("quantization_config", None)
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        with torch.device("meta"):
            decoder = AutoModelForCausalLM.from_config(config).get_decoder()
    except (AttributeError, KeyError, TypeError, ValueError):  # Told by the base's own checks.
        return None
    return decoder if hasattr(decoder, "layers") else None
