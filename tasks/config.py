"""What a trial is told: adapters, training, decoding, evaluation. Frozen, strict, hashable.

Every field here can change the numbers, so all of it is part of a cell's identity. Defaults are
the study's recipe for 0.5B–7B bases; presets of other bases state only their differences.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class TaskError(ValueError):
    """A trial that cannot be run as asked; the message says what came and what is allowed."""


class Frozen(BaseModel):
    """Base of all settings: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LoraConfig(Frozen):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): W + (alpha / rank) · B A."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = (
        "q_proj",
        "v_proj",
    )
    """Names of linear modules, or ``("all-linear",)`` for every one inside the decoder layers."""


class PrefixConfig(Frozen):
    """Prefix tuning (Li & Liang 2021, arXiv:2101.00190): trained keys and values per layer."""

    kind: Literal["prefix"] = "prefix"
    tokens: int = Field(20, ge=1)
    init_text: str = (
        "You are a helpful assistant. Answer the way this household likes it: its usual settings, "
        "its names, its tone and length."
    )
    """Keys and values of this text start a prefix that has no parent."""


AdapterConfig = Annotated[LoraConfig | PrefixConfig, Field(discriminator="kind")]


class TrainingConfig(Frozen):
    """How one adapter is trained.

    A *step* uses ``examples_per_step`` examples. For shared adapters (all users, a cluster) an
    example is a whole session, with the loss on all its replies; for per-user micro-updates it
    is one exchange of the online slice with the true messages before it.
    """

    learning_rate: float = Field(3e-4, gt=0)
    epochs: int = Field(3, ge=1)
    examples_per_step: int = Field(1, ge=1)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    adam_betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.999)
    adam_epsilon: float = Field(1e-8, gt=0)
    examples: int | None = Field(None, ge=1)
    """Online examples per user (micro-updates); None for shared adapters: all train sessions."""
    token_budget: int | None = Field(None, ge=1)
    """Trained tokens per user, counted once and not per epoch; None lifts it."""
    early_stopping: bool = False
    """Stop when macro validation ROUGE-L has not improved for one epoch; keep the best epoch."""
    tokens_per_pass: int = Field(4096, ge=64)
    """Padded tokens of one forward pass; a step that needs more is split by accumulation."""
    recompute_activations: bool = False
    """Keep only each layer's input for the backward pass: less memory, a third more time."""


SHARED_BY_THE_BANK = (
    *("adam_betas", "adam_epsilon", "weight_decay"),
    *("tokens_per_pass", "recompute_activations"),
)
"""Settings of a training in which the slots of one bank cannot differ."""


class DecodingConfig(Frozen):
    """How replies are generated. Greedy by default; sampling draws from a generator per item."""

    max_new_tokens: int = Field(256, ge=1)
    max_total_tokens: int = Field(1024, ge=32)
    """Prompt + reply; the prompt is cut to ``max_total_tokens - max_new_tokens``, oldest first."""
    do_sample: bool = False
    temperature: float = Field(0.7, gt=0)
    top_p: float = Field(0.9, gt=0, le=1)
    rows_per_pass: int = Field(128, ge=1)
    """Replies that are decoded at the same time."""
    prefill_tokens_per_pass: int = Field(8192, ge=64)


class PromptConfig(Frozen):
    """What stands before the user's words. ``date_string`` pins templates that insert a date."""

    system: str = "You are a helpful assistant. Respond to the user's query."
    date_string: str = "01 Jan 2025"


class ModelConfig(Frozen):
    """The frozen base model: a hub id, a local folder, or ``embedded``."""

    name: str = "embedded"
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    """auto: float32 on CPUs, bfloat16 on GPUs."""
    quantization: Literal["none", "4bit"] = "none"
    """4bit: linear layers of the decoder as NF4 with double quantization (Dettmers et al. 2023,
    arXiv:2305.14314), computed in ``dtype``; needs the extra ``[quant]``."""


class EvaluationConfig(Frozen):
    """How replies are scored; equal for all arms of a study."""

    encoder: str = "embedded"
    """Sentence encoder for embedding similarity: ``embedded`` is all-MiniLM-L6-v2."""
    encoder_batch_size: int = Field(64, ge=1)
    validation_sessions: int | None = Field(None, ge=1)
    """Validation sessions per user that early stopping looks at (first ones); None: all."""
