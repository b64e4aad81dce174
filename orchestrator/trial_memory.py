"""How much memory a trial needs, from the base model's config alone. Pure; reads no weights.

An estimate for placing trials, never a limit on what they may do: what a trial really takes is
bounded by ``tasks.memory``, and one that does not fit is tried again with smaller passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.config import LoraConfig, PrefixConfig

ELEMENT_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = 0.53
"""Bytes per weight of a 4-bit linear layer with doubly quantized scales (QLoRA, section 3)."""
COPIES_OF_ADAPTER = 6
"""Value, gradient, Adam's two moments, the start that shifts count from, the best epoch."""
LOGITS_BYTES = 3 << 28
"""One chunk of the head's float32 logits with its loss and gradient (``tasks.training``)."""
ENCODER_BYTES = 1 << 28
RESERVE = 1.2
"""For the allocator's unused blocks and what is not counted here."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a Llama-, Mistral- or Qwen2-family decoder."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    inner: int
    tied: bool
    query_bias: bool = False

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """From the values of ``config.json``; raises KeyError where a size is missing."""
        heads = int(config["num_attention_heads"])
        return cls(
            vocabulary=int(config["vocab_size"]),
            width=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            key_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            inner=int(config["intermediate_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            query_bias=config.get("model_type") == "qwen2" or bool(config.get("attention_bias")),
        )

    @property
    def embedding_weights(self) -> int:
        """Weights of the embedding and of the head."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def layer_weights(self) -> int:
        """Weights of one decoder layer's linear parts."""
        queries, keys = self.heads * self.head_dim, self.key_heads * self.head_dim
        return 2 * self.width * (queries + keys) + 3 * self.width * self.inner

    @property
    def parameters(self) -> int:
        """All weights, norms and biases included."""
        biases = (self.heads + 2 * self.key_heads) * self.head_dim if self.query_bias else 0
        per_layer = self.layer_weights + 2 * self.width + biases
        return self.embedding_weights + self.layers * per_layer + self.width


@dataclass(frozen=True, slots=True)
class Work:
    """What the largest cells of a study put into memory at a time."""

    dtype: str
    quantized: bool
    block_users: int
    adapters: tuple[LoraConfig | PrefixConfig, ...]
    tokens_per_pass: int
    recompute_activations: bool
    rows_per_pass: int
    prefill_tokens_per_pass: int
    max_total_tokens: int


@dataclass(frozen=True, slots=True)
class TrialMemory:
    """Bytes of one trial; training and decoding never happen at the same time."""

    weights: int
    adapters: int
    training: int
    decoding: int

    @property
    def total(self) -> int:
        """Highest need with the reserve."""
        work = max(self.training, self.decoding)
        return int(RESERVE * (self.weights + self.adapters + work + ENCODER_BYTES))


def trial_memory(shape: ModelShape, work: Work) -> TrialMemory:
    """The need of a trial that holds one base, one block's adapters, and one pass."""
    element = ELEMENT_BYTES[work.dtype]
    return TrialMemory(
        weights=_weights(shape, element=element, quantized=work.quantized),
        adapters=max((_adapter(shape, own) for own in work.adapters), default=0)
        * (work.block_users * 4 * COPIES_OF_ADAPTER),
        training=_training(shape, work, element=element),
        decoding=_decoding(shape, work, element=element),
    )


def _weights(shape: ModelShape, *, element: int, quantized: bool) -> int:
    if not quantized:
        return shape.parameters * element
    linear = shape.layers * shape.layer_weights
    return int(linear * NF4_BYTES) + (shape.parameters - linear) * element


def _adapter(shape: ModelShape, adapter: LoraConfig | PrefixConfig) -> int:
    """Parameters of one adapter."""
    keys = shape.key_heads * shape.head_dim
    if isinstance(adapter, PrefixConfig):
        return 2 * shape.layers * adapter.tokens * keys
    queries = shape.heads * shape.head_dim
    sides = {
        **{"q_proj": shape.width + queries, "o_proj": queries + shape.width},
        **{"k_proj": shape.width + keys, "v_proj": shape.width + keys},
        **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), shape.width + shape.inner),
    }
    everything = "all-linear" in adapter.target_modules
    named = sides if everything else [name for name in sides if name in adapter.target_modules]
    return shape.layers * adapter.rank * sum(sides[name] for name in named)


def _training(shape: ModelShape, work: Work, *, element: int) -> int:
    """Activations that one pass keeps for its backward pass.

    A frozen linear layer keeps no input; norms keep theirs in float32, the attention its queries,
    keys, values and output, the feed-forward part three tensors of its inner width.
    """
    queries, keys = shape.heads * shape.head_dim, shape.key_heads * shape.head_dim
    per_layer = element * (4 * shape.width + 2 * queries + 4 * keys + 4 * shape.inner)
    per_layer += 2 * 4 * shape.width
    kept = shape.layers * (element * shape.width if work.recompute_activations else per_layer)
    kept += per_layer if work.recompute_activations else 0
    tokens = max(work.tokens_per_pass, work.max_total_tokens)
    return tokens * (kept + _mask(shape, work, element=element)) + LOGITS_BYTES


def _decoding(shape: ModelShape, work: Work, *, element: int) -> int:
    """Keys and values of all rows, the widest tensors of one layer, logits of one step."""
    keys = shape.key_heads * shape.head_dim
    cache = work.rows_per_pass * work.max_total_tokens * 2 * shape.layers * keys * element
    widest = element * (4 * shape.width + 3 * shape.inner) + _mask(shape, work, element=element)
    logits = work.rows_per_pass * shape.vocabulary * 4 * 2
    return cache + max(work.prefill_tokens_per_pass, work.max_total_tokens) * widest + logits


def _mask(shape: ModelShape, work: Work, *, element: int) -> int:
    """Bytes of the additive mask per token of a pass; heads that share keys are folded."""
    return work.max_total_tokens * (shape.heads // shape.key_heads) * element
