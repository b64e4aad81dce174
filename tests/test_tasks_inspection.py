"""What is known of a base before its weights are read, and refused by name where it is bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import T5Config

import tasks.inspection
from tasks.base_model import EMBEDDED_FOLDER, load_base
from tasks.config import ModelConfig, TaskError
from tasks.inspection import inspect_model
from tasks.traits import EMBEDDED_TRAITS, positions_of
from tests.tiny_models import tiny_model, tiny_tokenizer

torch.set_num_threads(1)
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tiny"
    tiny_model("llama").save_pretrained(path)
    tiny_tokenizer("chatml").save_pretrained(path)
    return path


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder: Path, words: str, **config: Any) -> None:
    """By the look before and by the load, alike and without a traceback of others."""
    model = ModelConfig(name=str(folder), **config)
    for check in (inspect_model, lambda own: load_base(own, device="cpu")):
        with pytest.raises(TaskError, match=words) as caught:
            check(model)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_shipped_base_has_the_traits_that_are_written_down() -> None:
    assert inspect_model(ModelConfig()) == EMBEDDED_TRAITS
    moved = ModelConfig(name=str(EMBEDDED_FOLDER))
    assert inspect_model(moved) == EMBEDDED_TRAITS


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_traits_of_a_folder(family: Any, tmp_path: Path) -> None:
    tiny_model(family).save_pretrained(tmp_path)
    tiny_tokenizer("nosystem").save_pretrained(tmp_path)
    traits = inspect_model(ModelConfig(name=str(tmp_path)))
    assert (traits.linear, traits.closed) == (EMBEDDED_TRAITS.linear, ())
    assert traits.positions == 1280


WEIGHTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "no head": (
        lambda own: {name: own[name] for name in own if name != "lm_head.weight"},
        "lack 1 of 21 weights .*: lm_head.weight",
    ),
    "one layer short": (
        lambda own: {name: own[name] for name in own if "layers.1." not in name},
        r"lack 9 of 21 weights .*: model.layers.1.input_layernorm.weight, .*, …",
    ),
    "wrong prefix": (
        lambda own: {f"module.{name}": tensor for name, tensor in own.items()},
        r"lack 21 of 21 weights .*; they have module.lm_head.weight, .* instead",
    ),
    "other shape": (
        lambda own: own | {"model.norm.weight": torch.ones(7)},
        r"another shape .*: model.norm.weight has \(7,\), \(32,\) is wanted",
    ),
    "a bias that the config leaves out": (
        lambda own: own | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)},
        "no place for: model.layers.0.self_attn.q_proj.bias",
    ),
    "more layers than the config": (
        lambda own: own | {"model.layers.2.self_attn.q_proj.weight": torch.ones(32, 32)},
        "no place for: model.layers.2.self_attn.q_proj.weight",
    ),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_do_not_fit_the_config_are_refused_by_name(case: str, folder: Path) -> None:
    change, words = WEIGHTS[case]
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    refused(folder, words)


def test_names_that_mean_the_same_are_fine(folder: Path) -> None:
    """A base model's own names, buffers of old, parts of their own, a head that is tied."""
    path = folder / "model.safetensors"
    own = load_file(path)
    del own["lm_head.weight"]
    plain = {name.removeprefix("model."): tensor for name, tensor in own.items()}
    old = {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "vision.patch": torch.ones(2)}
    save_file(plain | old, path, metadata={"format": "pt"})
    edit_config(folder, tie_word_embeddings=True)
    config = ModelConfig(name=str(folder))
    inspect_model(config)
    model: Any = load_base(config, device="cpu").model
    assert torch.equal(model.lm_head.weight, own["model.embed_tokens.weight"])


def test_broken_files_are_refused_before_any_weight_is_read(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"broken")
    refused(folder, "cannot be loaded")


def test_folder_of_base_and_adapter_is_refused(folder: Path) -> None:
    """The library would load the adapter, and its base, in the place of the weights given."""
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "else/where"}')
    refused(folder, r"holds an adapter .* shared.lora_from")


def test_model_of_another_kind_is_refused(folder: Path) -> None:
    T5Config(d_model=32, d_ff=48, num_layers=2, num_heads=4).save_pretrained(folder)
    refused(folder, "cannot be loaded: Unrecognized configuration class .*T5Config")


def test_latent_attention_is_refused_by_name(folder: Path) -> None:
    from tests.test_tasks_agreement import MLA, tiny

    model = tiny("deepseek_v3", MLA | {"v_head_dim": 8, "n_group": 1, "topk_group": 1})
    model.save_pretrained(folder)
    edit_config(folder, vocab_size=128)
    with pytest.raises(TaskError, match=r"latent attention \(MLA\)|above the 128"):
        inspect_model(ModelConfig(name=str(folder)))


def test_quantized_files_need_their_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    monkeypatch.setattr(tasks.inspection, "find_spec", lambda name: None)
    with pytest.raises(TaskError, match=r"quantized with bitsandbytes.*persona-sweep\[quant\]"):
        inspect_model(ModelConfig(name=str(folder)))
    for method in ("gptq", "no_such_method"):
        edit_config(folder, quantization_config={"quant_method": method, "bits": 4})
        with pytest.raises(TaskError, match=rf"quantized \({method}\) and not for here"):
            inspect_model(ModelConfig(name=str(folder)))


def test_plain_files_that_are_called_quantized_are_refused(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    edit_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(TaskError, match=r"its files hold plain ones; .*model.quantization=4bit"):
        inspect_model(ModelConfig(name=str(folder)))


def test_quantized_files_are_told_from_missing_ones(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    base = load_base(ModelConfig(quantization="4bit"), device="cpu")
    base.model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    config = ModelConfig(name=str(tmp_path))
    assert inspect_model(config) == EMBEDDED_TRAITS
    again = load_base(config, device="cpu")
    layer: Any = again.model.get_decoder().layers[0].self_attn.q_proj
    assert type(layer).__name__ == "Linear4bit"
    assert layer.training, "its kernel for evaluation has no gradient"
    path = tmp_path / "model.safetensors"
    own = {name: own for name, own in load_file(path).items() if "up_proj" not in name}
    save_file(own, path, metadata={"format": "pt"})
    with pytest.raises(TaskError, match=r"lack 4 of .* model.layers.0.mlp.up_proj.weight"):
        inspect_model(config)


@pytest.mark.parametrize("special", [True, False])
def test_tokens_above_the_embedding_are_refused(special: bool, folder: Path) -> None:
    tokenizer = tiny_tokenizer("chatml")
    extra = [AddedToken(f"<|extra_{n}|>", special=special) for n in range(20)]
    tokenizer.add_tokens([*extra, AddedToken("<|end|>", special=True)])
    assert len(tokenizer) > 300
    if special:
        tokenizer.save_pretrained(folder)
        inspect_model(ModelConfig(name=str(folder)))  # Nothing ever writes them.
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|end|>")
    tokenizer.save_pretrained(folder)
    with pytest.raises(TaskError, match=r"tokens above the 300 of its embedding: '<\|e"):
        inspect_model(ModelConfig(name=str(folder)))


def rope(limit: int, **own: Any) -> dict[str, Any]:
    if "original" in own:
        own["original_max_position_embeddings"] = own.pop("original")
    return {"max_position_embeddings": limit, "rope_scaling": own}


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({}, None),
        (rope(131072, rope_type="llama3", factor=8.0, original=8192), 131072),
        (rope(4096, type="linear", factor=4.0), 16384),
        (rope(32768, rope_type="yarn", factor=4.0, original=32768), 131072),
        (rope(131072, rope_type="longrope", original=4096), 4096),
        (rope(4096, type="dynamic", factor=2.0), 4096),
        (
            rope(512, full_attention={"rope_type": "linear", "factor": 8.0}, sliding_attention={}),
            512,
        ),
    ],
)
def test_positions_follow_the_rope(config: dict[str, Any], positions: int | None) -> None:
    assert positions_of(config) == positions
