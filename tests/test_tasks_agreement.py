"""Every architecture is computed as its own code does, or refused by what it has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import tasks.runtime
from tasks.agreement import check_adapted_agreement, check_agreement
from tasks.config import TaskError
from tasks.runtime import Runtime, decoder_of
from tasks.stand_in import stand_in

torch.set_num_threads(1)

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
BOTH_KINDS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 7}
LONG_ROPE = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": 64,
    }
}

EXACT: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": 7},
    "ministral": BOTH_KINDS,
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 7},
    "qwen3": {},
    "gemma": {},
    "gemma2": BOTH_KINDS | {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
    "gemma3_text": BOTH_KINDS | {"query_pre_attn_scalar": 16},
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": LONG_ROPE,
    "olmo2": {},
    "olmo3": BOTH_KINDS,
    "smollm3": {"no_rope_layers": [1, 0]},
    "starcoder2": {"sliding_window": 7},
    "stablelm": {"use_qkv_bias": True},
    "glm": {"partial_rotary_factor": 0.5},
    "exaone4": BOTH_KINDS,
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "attention_multiplier": 0.4},
    "cohere": {"logit_scale": 0.0625, "use_qk_norm": True},
    "cohere2": BOTH_KINDS | {"logit_scale": 0.25},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": EXPERTS,
    "gpt_oss": BOTH_KINDS | {"num_local_experts": 4, "num_experts_per_tok": 2},
}
MLA = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gpt_neox": ({}, "no decoder layers at model.layers"),
    "gpt2": ({"n_embd": 32, "n_head": 4, "n_layer": 2}, "no decoder layers at model.layers"),
    "bloom": ({"n_head": 4, "n_layer": 2}, "no decoder layers at model.layers"),
    "mpt": ({"d_model": 32, "n_heads": 4, "n_layers": 2}, "no decoder layers at model.layers"),
    "falcon": ({}, "no decoder layers at model.layers"),
    "opt": ({"ffn_dim": 48, "word_embed_proj_dim": 32}, "no decoder layers at model.layers"),
    "bert": ({}, "no decoder layers at model.layers"),
    "rwkv": ({"attention_hidden_size": 32}, "no decoder layers at model.layers"),
    "deepseek_v2": (MLA | {"v_head_dim": 8, "n_group": 1}, "latent attention"),
    "deepseek_v3": (MLA | {"v_head_dim": 8, "n_group": 1, "topk_group": 1}, "latent attention"),
    "llama4_text": ({"attention_chunk_size": 8, "num_local_experts": 2}, "chunked_attention"),
    "mamba": ({}, "layers of kind linear_attention"),
    "qwen3_next": (EXPERTS | {"layer_types": ["linear_attention", "full_attention"]}, "linear_att"),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "layers of kind conv"),
    "diffllama": ({}, "its attention runs 4 times in 2 layers"),
    "doge": ({}, "differ from its own by up to .* on prompts"),
}


def tiny(kind: str, own: dict[str, Any]) -> PreTrainedModel:
    """A model of an architecture with nothing at the zeros and ones of a usual start."""
    known = CONFIG_MAPPING[kind]().to_dict()
    sizes = {name: value for name, value in SIZES.items() if name in known}
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**sizes | own))
    return stand_in(empty)


@pytest.mark.parametrize("kind", EXACT)
def test_model_is_computed_as_its_own_code_does(kind: str) -> None:
    model = tiny(kind, EXACT[kind])
    before = model.config._attn_implementation
    check_agreement(model)
    assert model.config._attn_implementation == before
    linear, _ = check_adapted_agreement(model)
    assert linear


@pytest.mark.parametrize("kind", REFUSED)
def test_model_is_refused_by_what_it_has(kind: str) -> None:
    own, words = REFUSED[kind]
    with pytest.raises(TaskError, match=words):
        check_agreement(tiny(kind, own))


@pytest.mark.parametrize("wrapped", ["gemma3", "bart"])
def test_text_part_of_another_model_is_refused(wrapped: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[wrapped]())
    with pytest.raises(TaskError, match=r"wrapped in a multimodal|no decoder layers"):
        decoder_of(model)


def test_shared_experts_are_closed_to_lora() -> None:
    sizes = EXPERTS | {"shared_expert_intermediate_size": 16}
    linear, closed = check_adapted_agreement(tiny("qwen2_moe", sizes))
    assert "q_proj" in linear
    assert "gate_proj" in closed


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "phi3"])
def test_rounding_is_no_difference(kind: str, dtype: torch.dtype) -> None:
    check_agreement(tiny(kind, EXACT[kind]).to(dtype))


def test_precision_that_its_own_code_does_not_run_in_is_told() -> None:
    with pytest.raises(TaskError, match=r"its own code fails on this machine \(RuntimeError: "):
        check_agreement(tiny("mixtral", EXACT["mixtral"]).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_an_attention_leaves_out_is_told(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault of old: a scale, a window or a sink that the runtime passes over."""
    whole = tasks.runtime._attention

    def forgetful(*given: Any, **named: Any) -> Any:
        return whole(*given, **{**named, "sliding_window": None, "s_aux": None, "softcap": None})

    monkeypatch.setattr(tasks.runtime, "_attention", forgetful)
    for kind in ("mistral", "gemma2", "gpt_oss"):
        with pytest.raises(TaskError, match=r"differ from its own by up to [\d.e+]+ on prompts"):
            check_agreement(tiny(kind, EXACT[kind]).to(dtype))


@pytest.mark.parametrize("kind", ["granite", "cohere", "gemma2"])
def test_logits_are_those_of_the_model_with_their_gradient(kind: str) -> None:
    model = tiny(kind, EXACT[kind]).double()
    ids = torch.arange(10)[None]
    own = model(ids).logits
    hidden = model.model(ids).last_hidden_state[0, 3:5].detach().requires_grad_()
    logits = Runtime(model).logits(hidden)
    torch.testing.assert_close(logits, own[0, 3:5])
    (gradient,) = torch.autograd.grad(logits.square().sum(), hidden)
    assert bool((gradient != 0).any())
    assert "forward" not in vars(model.model)
