"""Randomly initialised models of well-known shapes: speed does not depend on the weights."""

from __future__ import annotations

import time

import torch
from transformers import (
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tasks.base_model import BaseModel

# Sizes from the models' public config.json files.
QWEN_05B = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
MISTRAL_7B = {
    "vocab_size": 32768,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "sliding_window": None,
}
NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SHAPES = ("qwen2.5-0.5b", "mistral-7b")


def random_base(shape: str, *, device: str) -> BaseModel:
    """A frozen random model of that shape: bfloat16 on a GPU, float32 on a CPU; no tokenizer."""
    where = torch.device(device)
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    torch.manual_seed(0)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with where:
            model = _make(shape)
    finally:
        torch.set_default_dtype(previous)
    return BaseModel(
        model=model.eval().requires_grad_(False),
        tokenizer=None,
        device=where,
        dtype=dtype,
        fingerprint=f"random-{shape}",
        template_sha256="",
    )


def _make(shape: str) -> PreTrainedModel:
    if shape == "mistral-7b":
        return MistralForCausalLM(MistralConfig(**MISTRAL_7B, **NO_SPECIAL))
    if shape == "qwen2.5-0.5b":
        return Qwen2ForCausalLM(Qwen2Config(**QWEN_05B, **NO_SPECIAL))
    raise ValueError(f"shape {shape!r} is unknown; there are {', '.join(SHAPES)}")


def linear_parameters(model: PreTrainedModel) -> int:
    """Weights that every token passes through: all but the input embedding, the head included."""
    config: LlamaConfig = model.config
    embedding = config.vocab_size * config.hidden_size
    total = sum(parameter.numel() for parameter in model.parameters())
    return total if config.tie_word_embeddings else total - embedding


def matmul_flops(device: str, *, threads: int = 1, size: int | None = None) -> float:
    """Floating point operations per second of a large square matrix product on this device."""
    gpu = device == "cuda"
    torch.set_num_threads(threads)
    side = size or (8192 if gpu else 1536)
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        for _ in range(4):
            left @ left
        if gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 4 * 2 * side**3 / best
