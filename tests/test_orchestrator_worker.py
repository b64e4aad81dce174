"""What a worker makes of a cell's errors."""

from __future__ import annotations

import pytest
import torch

from orchestrator.worker import is_out_of_memory
from tasks.cell import CellSpec, with_smaller_passes
from tasks.config import DecodingConfig, LoraConfig, TrainingConfig


def test_a_full_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 58)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(MemoryError())
    wrapped = ValueError("cannot train")
    wrapped.__cause__ = caught.value
    assert is_out_of_memory(wrapped)
    with pytest.raises(RuntimeError) as other:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(other.value)
    assert not is_out_of_memory(ValueError("the memory of it"))


def test_smaller_passes_halve_what_a_pass_holds_and_nothing_else() -> None:
    spec = CellSpec(
        arm="lora_per_user",
        purpose="personalize",
        grouping="user",
        adapter=LoraConfig(),
        training=TrainingConfig(tokens_per_pass=100),
        decoding=DecodingConfig(rows_per_pass=1, prefill_tokens_per_pass=8192),
        users=("user_1",),
        data_sha256="d",
        items_sha256="i",
        template_sha256="t",
        model_sha256="m",
    )
    small = with_smaller_passes(spec)
    assert small.training == TrainingConfig(tokens_per_pass=64, recompute_activations=True)
    assert small.decoding == DecodingConfig(rows_per_pass=1, prefill_tokens_per_pass=4096)
    same = {"training": spec.training, "decoding": spec.decoding}
    assert small.model_copy(update=same) == spec
    assert with_smaller_passes(spec.model_copy(update={"training": None})).training is None
