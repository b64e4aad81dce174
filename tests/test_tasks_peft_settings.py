"""Adapters from elsewhere: read exactly as PEFT computes them, or refused by the setting's name."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from benchmarks.peft_reference import quiet_peft
from tasks.adapters.peft_io import check_shapes, made_for, read_peft
from tasks.adapters.peft_settings import LORA, PREFIX, check_settings
from tasks.config import TaskError
from tests.test_tasks_peft_io import BASE, bank_logits, peft_logits, random_bank
from tests.tiny_models import tiny_model

torch.set_num_threads(1)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
QV: dict[str, Any] = {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}


def saved(folder: Path, config: Any, *, seed: int | None = 5) -> Path:
    """A folder that PEFT writes; with a seed, all trained parameters are random."""
    with quiet_peft(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = get_peft_model(tiny_model("llama"), config)
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in peft.parameters():
                    if parameter.requires_grad:
                        drawn = torch.randn(parameter.shape, generator=generator)
                        parameter.copy_(0.3 * drawn)
        peft.save_pretrained(str(folder))
    return folder


def difference(folder: Path) -> float:
    """Between PEFT's own reading and ours, largest over logits."""
    with quiet_peft():
        loaded = PeftModel.from_pretrained(tiny_model("llama", dtype=torch.float64), str(folder))
    state = read_peft(folder, base=BASE)
    bank = random_bank(tiny_model("llama", dtype=torch.float64), state.config)
    bank.load(state, base=BASE)
    return float((bank_logits(bank, "bob") - peft_logits(loaded.eval())).abs().max())


EXACT = {
    "plain": LoraConfig(**QV),
    "causal": LoraConfig(**QV, task_type="CAUSAL_LM", lora_dropout=0.1),
    "gaussian": LoraConfig(**QV, init_lora_weights="gaussian"),
    "unset-start": LoraConfig(**QV, init_lora_weights=False),
    "rslora": LoraConfig(**{**QV, "r": 4}, use_rslora=True),
    "all-linear": LoraConfig(r=2, lora_alpha=3, target_modules="all-linear"),
    "pattern": LoraConfig(r=2, lora_alpha=3, target_modules=r".*\.(q|o)_proj"),
    "endings": LoraConfig(r=2, target_modules=["self_attn.k_proj", "mlp.up_proj"]),
    "rank-one": LoraConfig(r=1, lora_alpha=0.5, target_modules=["down_proj"]),
}


@pytest.mark.parametrize("name", EXACT)
def test_known_settings_are_read_as_peft_computes_them(name: str, tmp_path: Path) -> None:
    assert difference(saved(tmp_path, EXACT[name])) < 1e-5


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_an_adapter_of_a_changed_base_is_read_after_peft_has_made_it_plain(
    kind: str, tmp_path: Path
) -> None:
    config = LoraConfig(**QV, init_lora_weights=kind)
    with quiet_peft(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = get_peft_model(tiny_model("llama"), config)
        peft.save_pretrained(str(tmp_path / "start"))
        with torch.no_grad():
            for parameter in peft.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        raw, converted = tmp_path / "raw", tmp_path / "converted"
        peft.save_pretrained(str(raw))
        trained = peft_logits(peft.eval())
        peft.save_pretrained(
            str(converted), path_initial_model_for_weight_conversion=str(tmp_path / "start")
        )
    with pytest.raises(TaskError, match=f"init_lora_weights='{kind}' .*changed at the start"):
        read_peft(raw, base=BASE)
    assert difference(converted) < 1e-5
    state = read_peft(converted, base=BASE)
    bank = random_bank(tiny_model("llama"), state.config)
    bank.load(state, base=BASE)
    assert (bank_logits(bank, "ann") - trained).abs().max() < 1e-4


REFUSED = {
    "use_dora": LoraConfig(**QV, use_dora=True),
    "rank_pattern": LoraConfig(**QV, rank_pattern={"q_proj": 3}),
    "alpha_pattern": LoraConfig(**QV, alpha_pattern={"q_proj": 3}),
    "layers_to_transform": LoraConfig(**QV, layers_to_transform=[0]),
    "layers_pattern": LoraConfig(**QV, layers_to_transform=[0, 1], layers_pattern="layers"),
    "modules_to_save": LoraConfig(**QV, modules_to_save=["lm_head"]),
    "bias": LoraConfig(**QV, bias="all"),
    "lora_bias": LoraConfig(**QV, lora_bias=True),
    "layer_replication": LoraConfig(**QV, layer_replication=[[0, 2], [1, 2]]),
    "trainable_token_indices": LoraConfig(**QV, trainable_token_indices=[1, 2]),
    "exclude_modules": LoraConfig(**QV, exclude_modules=["layers.0.self_attn.q_proj"]),
    "alora_invocation_tokens": LoraConfig(
        **QV, alora_invocation_tokens=[1, 2], task_type="CAUSAL_LM"
    ),
    "init_lora_weights": LoraConfig(**QV, init_lora_weights="pissa_niter_2"),
    "target_parameters": LoraConfig(
        r=2, target_modules=[], target_parameters=["mlp.up_proj.weight"]
    ),
}


@pytest.mark.parametrize("key", REFUSED)
def test_settings_that_change_the_function_are_refused_by_name(key: str, tmp_path: Path) -> None:
    saved(tmp_path, REFUSED[key], seed=None)
    with pytest.raises(TaskError, match=rf"adapter_config.json: .*{key}=") as caught:
        read_peft(tmp_path, base=BASE)
    assert "train it again" in str(caught.value)
    assert "\n" not in str(caught.value)


def changed(folder: Path, **changes: object) -> Path:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("plain"), LoraConfig(**QV))


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    return saved(tmp_path_factory.mktemp("prefix"), config)


def copy(folder: Path, into: Path) -> Path:
    for name in (CONFIG, WEIGHTS):
        (into / name).write_bytes((folder / name).read_bytes())
    return into


@pytest.mark.parametrize(
    "changes",
    [
        *({"init_lora_weights": kind} for kind in ("olora", "corda", "loftq", "lora_ga", "eva")),
        *({"init_lora_weights": kind} for kind in ("orthogonal", "mica", "later", None, 1)),
        {"loftq_config": {"loftq_bits": 4}},
        {"eva_config": {"rho": 2.0}},
        {"corda_config": {"corda_method": "ipm"}},
        {"arrow_config": {"top_k": 3}},
        {"megatron_config": {"hidden_size": 8}},
        {"kasa_config": {}},
        {"use_qalora": True},
        {"use_bdlora": True},
        {"fan_in_fan_out": True},
        {"ensure_weight_tying": True},
        {"use_rslora": "yes"},
        {"use_dora": 1},
        {"task_type": "SEQ_CLS"},
        {"r": 2.0},
        {"r": True},
        {"lora_alpha": "16"},
        {"lora_alpha": float("nan")},
        {"target_modules": None},
        {"target_modules": []},
        {"a_setting_of_tomorrow": None},
        {"a_setting_of_tomorrow": False},
        {"a_setting_of_tomorrow": {"on": True}},
        {"num_virtual_tokens": 3},
    ],
)
def test_other_values_and_unknown_settings_are_refused(
    changes: dict[str, object], plain: Path, tmp_path: Path
) -> None:
    changed(copy(plain, tmp_path), **changes)
    with pytest.raises(TaskError, match=rf"adapter_config.json: {next(iter(changes))}="):
        read_peft(tmp_path, base=BASE)


@pytest.mark.parametrize(
    "changes",
    [
        {"modules_to_save": ["lm_head"]},
        {"num_transformer_submodules": 2},
        {"task_type": "SEQ_2_SEQ_LM"},
        {"prefix_projection": "no"},
        {"r": 8},
        {"later": 0},
    ],
)
def test_prefixes_have_a_list_of_their_own(
    changes: dict[str, object], prefix: Path, tmp_path: Path
) -> None:
    changed(copy(prefix, tmp_path), **changes)
    with pytest.raises(TaskError, match=rf"adapter_config.json: {next(iter(changes))}="):
        read_peft(tmp_path, base=BASE)


@pytest.mark.parametrize(
    ("config", "known"),
    [
        (LoraConfig(**QV), LORA),
        (PrefixTuningConfig(num_virtual_tokens=3, num_layers=2, token_dim=4), PREFIX),
    ],
)
def test_every_setting_of_this_peft_is_known(config: Any, known: dict[str, Any]) -> None:
    fields = {field.name for field in dataclasses.fields(config)} - {"runtime_config"}
    assert fields <= known.keys()


def test_all_that_is_wrong_is_told_at_once(plain: Path) -> None:
    settings = json.loads((plain / CONFIG).read_text())
    with pytest.raises(TaskError, match=r"bias='all', use_dora=True is not supported"):
        check_settings(plain, {**settings, "use_dora": True, "bias": "all"})


@pytest.mark.parametrize("kind", ["IA3", "LOHA", "ADALORA", "XLORA", "P_TUNING", None, 3, ["LORA"]])
def test_other_kinds_of_adapters_are_refused(kind: object, plain: Path, tmp_path: Path) -> None:
    changed(copy(plain, tmp_path), peft_type=kind)
    with pytest.raises(TaskError, match="is not supported; LORA and PREFIX_TUNING are"):
        read_peft(tmp_path, base=BASE)


@pytest.mark.parametrize("text", ["[]", "null", '"LORA"', "{", "\ufeff", "{}"])
def test_a_config_that_is_none_is_refused(text: str, plain: Path, tmp_path: Path) -> None:
    (copy(plain, tmp_path) / CONFIG).write_text(text, encoding="utf-8")
    with pytest.raises(TaskError, match=r"cannot be read|no object of settings|peft_type None"):
        read_peft(tmp_path, base=BASE)


ROOT = "base_model.model.model.layers"
Q_A, Q_B = f"{ROOT}.0.self_attn.q_proj.lora_A.weight", f"{ROOT}.0.self_attn.q_proj.lora_B.weight"


def with_tensors(plain: Path, into: Path, change: Any) -> Path:
    tensors = load_file(plain / WEIGHTS)
    change(tensors)
    copy(plain, into)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, into / WEIGHTS)
    return into


def swap(tensors: dict[str, torch.Tensor]) -> None:
    tensors[Q_A], tensors[Q_B] = tensors[Q_B], tensors[Q_A]


def rename(new: str) -> Any:
    return lambda tensors: tensors.update({new: tensors.pop(Q_A)})


def fill(value: float) -> Any:
    return lambda tensors: tensors[Q_B][3].fill_(value)


def drop_v(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if "v_proj" in name]:
        del tensors[name]


def add_k(tensors: dict[str, torch.Tensor]) -> None:
    for factor, of in (("A", Q_A), ("B", Q_B)):
        tensors[f"{ROOT}.0.self_attn.k_proj.lora_{factor}.weight"] = tensors[of].clone()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(Q_B), r"has layers.0.self_attn.q_proj.A, but no layers.*q_proj.B"),
        (swap, r"q_proj.A has shape \(32, 2\); r=2 .* asks for \(2, in\)"),
        (lambda t: t.update({Q_A: t[Q_A][:1]}), r"has shape \(1, 32\); r=2"),
        (lambda t: t.update({Q_A: t[Q_A][0]}), r"has shape \(32,\); r=2"),
        (fill(float("nan")), "lora_B.weight' has values that are not finite"),
        (fill(float("inf")), "lora_B.weight' has values that are not finite"),
        (lambda t: t.update({Q_A: t[Q_A].to(torch.int8)}), r"has torch.int8; floats"),
        (lambda t: t.update({Q_A: t[Q_A].to(torch.float8_e4m3fn)}), r"has torch.float8_e4m3fn"),
        (rename(f"{ROOT}.0.self_attn.q_proj.lora_A.default.weight"), "is no LoRA factor"),
        (rename(f"{ROOT}.0.self_attn.q_proj.lora_magnitude_vector"), "is no LoRA factor"),
        (rename("base_model.model.lm_head.lora_A.weight"), "is no LoRA factor"),
        (rename("transformer.h.0.attn.c_attn.lora_A.weight"), "is no LoRA factor"),
        (drop_v, r"has no tensors of v_proj, which target_modules"),
        (add_k, r"tensors of layers.0.self_attn.k_proj, which target_modules=\['q_proj'|\['v_proj"),
        (lambda t: t.clear(), "has no tensors"),
    ],
)
def test_tensors_that_are_not_what_the_config_says_are_refused(
    change: Any, message: str, plain: Path, tmp_path: Path
) -> None:
    with_tensors(plain, tmp_path, change)
    with pytest.raises(TaskError, match=message):
        read_peft(tmp_path, base=BASE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(dtype: torch.dtype, plain: Path, tmp_path: Path) -> None:
    def convert(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {name: tensor.to(dtype) for name, tensor in tensors.items()}

    assert difference(with_tensors(plain, tmp_path, convert)) < 1e-5


def test_a_prefix_holds_its_one_tensor_of_finite_numbers(prefix: Path, tmp_path: Path) -> None:
    tensors = load_file(prefix / WEIGHTS)
    copy(prefix, tmp_path)
    save_file(tensors | {"more": torch.zeros(2)}, tmp_path / WEIGHTS)
    with pytest.raises(TaskError, match="'more' is no part of a prefix"):
        read_peft(tmp_path, base=BASE)
    save_file({name: tensor / 0 for name, tensor in tensors.items()}, tmp_path / WEIGHTS)
    with pytest.raises(TaskError, match="not finite"):
        read_peft(tmp_path, base=BASE)


def test_shapes_of_another_base_are_told_with_both(plain: Path) -> None:
    state = read_peft(plain, base=BASE)
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in state.tensors.items()}
    check_shapes(state, shapes)
    name = "layers.0.self_attn.q_proj.A"
    for other, message in (
        (shapes | {name: (2, 64)}, r"q_proj.A of shape \(2, 32\), the base needs .*\(2, 64\)"),
        (shapes | {"layers.2.self_attn.q_proj.A": (2, 32)}, "it has no layers.2.self_attn.q_proj"),
        ({k: v for k, v in shapes.items() if k != name}, "the base needs no layers.0.self_attn"),
    ):
        with pytest.raises(TaskError, match=message):
            check_shapes(state, other)
    assert made_for(plain) is None
