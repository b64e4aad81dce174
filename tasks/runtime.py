"""One frozen causal language model, run over rows that belong to many adapters.

The model's own code computes embeddings, projections and positions; this file brings the
attention in, through the hook that transformers has for it (``ALL_ATTENTION_FUNCTIONS``), so that
prefixes, windows and the key-value cache follow the rows of a pass:

- rows are padded on the right and positions start behind the row's own prefix, so a row's result
  does not depend on its neighbours' lengths;
- prefix keys and values enter here rather than through a cache object, which activation
  checkpointing would drop;
- query heads that share a key head are folded into the query axis, so keys are never repeated.

Works for models whose every decoder layer calls ``attention_interface(module, query, key, value,
…)`` once, with ``module.layer_idx``. Whether a model is computed as its own code does, is never
taken on trust: ``tasks.agreement`` compares the two before a model is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from tasks.cache import KeyValueCache
from tasks.config import TaskError
from tasks.layout import Layout

ATTENTION_NAME = "adapter_bank"
DECODER_NAME = "model"
"""Where the decoder stands in its model; paths of exported adapters begin with it."""
LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})


class PassAdapters(Protocol):
    """What a bank contributes to one pass (made by ``AdapterBank.for_pass``)."""

    def prefix(self, layer: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Keys and values ``[rows, kv_heads, tokens, head_dim]`` before the row's own."""

    def prefix_lengths(self) -> torch.Tensor | None:
        """True prefix length of each row, ``[rows]``; None where there is no prefix."""


@dataclass(slots=True)
class Pass:
    """State of one forward pass, read by the attention and by the banks' hooks."""

    layout: Layout
    adapters: PassAdapters | None
    cache: KeyValueCache | None = None
    collected: list[tuple[torch.Tensor, torch.Tensor]] | None = None
    used: int = 0
    masks: dict[tuple[int | None, int], torch.Tensor] = field(default_factory=dict)


class Runtime:
    """Runs the decoder of one frozen model; one pass at a time.

    Raises:
        TaskError: the model's layers do not follow the attention hook.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        AttentionInterface.register(ATTENTION_NAME, _attention)
        model.config._attn_implementation = ATTENTION_NAME
        model.requires_grad_(False)
        self.model = model
        self.decoder = decoder_of(model)
        self.current: Pass | None = None
        for layer in self.decoder.layers:  # type: ignore[union-attr]
            layer.self_attn.bank_runtime = self

    @classmethod
    def of(cls, model: PreTrainedModel) -> Runtime:
        """The model's runtime; made once per model."""
        known = getattr(model, "bank_runtime", None)
        if known is None:
            known = cls(model)
            # Around nn.Module's registry: a runtime is no part of the model's weights.
            object.__setattr__(model, "bank_runtime", known)
        return known

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the hidden states."""
        return self.model.get_input_embeddings().weight.dtype

    @contextmanager
    def running(self, state: Pass) -> Iterator[Pass]:
        """Keep a pass current until the block ends: backward may recompute layers in it."""
        previous, self.current = self.current, state
        try:
            yield state
        finally:
            self.current = previous

    def hidden_states(self, token_ids: torch.Tensor, state: Pass) -> torch.Tensor:
        """Last hidden states ``[rows, tokens, width]`` of right-padded ``[rows, tokens]``.

        Must be called inside ``running(state)``. With a cache, one token per row is expected.
        """
        start = _row_starts(state, rows=token_ids.shape[0], device=token_ids.device)
        steps = torch.arange(token_ids.shape[1], device=token_ids.device)
        positions = start[:, None] + steps[None, :]
        output: Any = self.decoder(input_ids=token_ids, position_ids=positions, use_cache=False)
        return output.last_hidden_state

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 (or float64) logits ``[…, vocabulary]`` of hidden states ``[…, width]``.

        By the model's own way from its decoder's output, so that what stands there beside the
        head (a scale, a soft cap) counts.
        """
        rows = hidden.reshape(1, -1, hidden.shape[-1])
        with self._decoder_gives(rows):
            output: Any = self.model(inputs_embeds=rows, use_cache=False)
        scores: torch.Tensor = output.logits.reshape(*hidden.shape[:-1], -1)
        return scores if scores.dtype == torch.float64 else scores.float()

    @contextmanager
    def _decoder_gives(self, hidden: torch.Tensor) -> Iterator[None]:
        """Inside the block the decoder computes nothing: these are its last hidden states."""
        own = self.decoder.__dict__.get("forward")

        def given(*_: Any, **__: Any) -> MoeModelOutputWithPast:
            return MoeModelOutputWithPast(last_hidden_state=hidden)

        self.decoder.forward = given
        try:
            yield
        finally:
            del self.decoder.forward
            if own is not None:
                self.decoder.forward = own


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """The model's decoder, whose layers adapters can be put into.

    Raises:
        TaskError: the model is built otherwise; says how.
    """
    if model.config.is_encoder_decoder:
        raise TaskError("it is the decoder of an encoder-decoder model")
    if model.config.get_text_config() is not model.config:
        raise TaskError("its text part is wrapped in a multimodal model")
    kinds = set(getattr(model.config, "layer_types", None) or ()) - LAYER_TYPES
    if kinds:
        raise TaskError(f"it has layers of kind {', '.join(sorted(kinds))}")
    decoder = getattr(model, DECODER_NAME, None)
    layers = list(getattr(decoder, "layers", []))
    if not isinstance(decoder, nn.Module) or not layers:
        raise TaskError(f"it has no decoder layers at {DECODER_NAME}.layers")
    for place, layer in enumerate(layers):
        if getattr(getattr(layer, "self_attn", None), "layer_idx", None) != place:
            raise TaskError(f"its layer {place} ({type(layer).__name__}) has no usual attention")
    if getattr(model.config, "kv_lora_rank", None) is not None:
        raise TaskError("it has latent attention (MLA)")
    return decoder


def _row_starts(state: Pass, *, rows: int, device: torch.device) -> torch.Tensor:
    """Position of each row's first token: behind its cache, or behind its prefix."""
    if state.cache is not None:
        return state.cache.lengths
    lengths = state.adapters.prefix_lengths() if state.adapters is not None else None
    return torch.zeros(rows, dtype=torch.long, device=device) if lengths is None else lengths


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer over prefix, cache and own tokens; see the module's docstring.

    Shapes: query ``[rows, heads, tokens, head_dim]``, key and value ``[rows, kv_heads, …]``,
    ``s_aux`` (sinks, one per head) ``[heads]``; returns ``[rows, tokens, heads, head_dim]``.
    """
    runtime: Runtime = module.bank_runtime  # type: ignore[assignment]
    state = runtime.current
    if state is None:
        raise TaskError("the model is run outside of a pass; use Runtime.running")
    layer: int = module.layer_idx  # type: ignore[assignment]
    rows, heads, tokens, head_dim = query.shape
    if value.shape != key.shape:
        raise TaskError(
            f"its keys have {key.shape[-1]} dimensions a head and its values {value.shape[-1]}"
        )
    groups = heads // key.shape[1]
    key, value = _with_past(state, layer, key, value)
    mask = _mask(state, query, keys=key.shape[2], window=sliding_window, groups=groups)
    folded = query.reshape(rows, key.shape[1], groups * tokens, head_dim)
    if softcap is None and s_aux is None:
        output = scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
    else:
        sinks = None if s_aux is None else s_aux.reshape(-1, groups).repeat_interleave(tokens, 1)
        scale = head_dim**-0.5 if scaling is None else scaling
        output = _weighed(folded * scale, key, value, mask=mask, softcap=softcap, sinks=sinks)
    return output.reshape(rows, heads, tokens, head_dim).transpose(1, 2), None


def _weighed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    mask: torch.Tensor,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention whose scores are capped (Gemma 2) or share their weight with a sink (gpt-oss).

    Shapes as in ``_attention``, heads folded; ``sinks`` ``[kv_heads, groups · tokens]``.
    """
    scores = query @ key.transpose(2, 3)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    scores = scores + mask
    if sinks is not None:
        column = sinks.to(scores.dtype)[None, :, :, None].expand(scores.shape[0], -1, -1, 1)
        scores = torch.cat([scores, column], dim=-1)
    exact = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(dim=-1, dtype=exact)[..., : key.shape[2]]
    return weights.to(value.dtype) @ value


def _with_past(
    state: Pass, layer: int, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if state.cache is not None:
        state.cache.append(layer, key, value)
        return (
            state.cache.keys[layer][:, :, : state.used],
            state.cache.values[layer][:, :, : state.used],
        )
    prefix = state.adapters.prefix(layer) if state.adapters is not None else None
    if prefix is not None:
        key = torch.cat([prefix[0].to(key.dtype), key], dim=2)
        value = torch.cat([prefix[1].to(value.dtype), value], dim=2)
    if state.collected is not None:
        state.collected.append((key, value))
    return key, value


def _mask(
    state: Pass, query: torch.Tensor, *, keys: int, window: int | None, groups: int
) -> torch.Tensor:
    """Additive mask ``[rows or 1, 1, groups · tokens, keys]``, made once per pass and window.

    A boolean one would be made additive again in every layer.
    """
    if (window, groups) not in state.masks:
        visible = _visible(
            state, tokens=query.shape[2], keys=keys, window=window, device=query.device
        ).repeat(1, groups, 1)[:, None]
        hidden = torch.full((), float("-inf"), dtype=query.dtype, device=query.device)
        state.masks[window, groups] = torch.where(visible, hidden.new_zeros(()), hidden)
    return state.masks[window, groups]


def _visible(
    state: Pass, *, tokens: int, keys: int, window: int | None, device: torch.device
) -> torch.Tensor:
    """Which keys a token sees, ``[rows or 1, tokens, keys]``.

    A key is seen if its position is not after the token's and, with a sliding window, less than
    ``window`` before it. Prefix tokens take the positions before the row's first token, as they
    do in PEFT. Padding on the right is never seen by real tokens.
    """
    if state.cache is not None:
        own = state.cache.lengths[:, None, None]
        where = torch.arange(keys, device=device)[None, None, :]
        return _causal(own, where, window)
    padded = keys - tokens
    steps = torch.arange(tokens, device=device)
    lengths = state.adapters.prefix_lengths() if state.adapters is not None else None
    if lengths is None or padded == 0:
        return _causal(steps[None, :, None], steps[None, None, :], window)
    start = lengths[:, None] if bool((lengths != padded).any()) else lengths[:1, None]
    before = torch.arange(padded, device=device)[None, :].expand(start.shape[0], -1)
    positions = torch.cat([before, start + steps[None, :]], dim=1)
    real = torch.cat([before < start, torch.ones_like(start + steps, dtype=torch.bool)], dim=1)
    return _causal((start + steps)[:, :, None], positions[:, None, :], window) & real[:, None, :]


def _causal(own: torch.Tensor, where: torch.Tensor, window: int | None) -> torch.Tensor:
    seen = where <= own
    return seen if window is None else seen & (where > own - window)
