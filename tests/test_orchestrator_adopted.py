"""Adapters named in the settings are checked with the request, before anything is written."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from benchmarks.peft_reference import quiet_peft
from orchestrator.adopted import adopted_sha256
from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode, InputError
from orchestrator.settings import Settings
from tasks.adapters.base_shapes import base_shapes
from tasks.adapters.peft_io import read_peft
from tasks.base_model import EMBEDDED_FOLDER
from tasks.config import LoraConfig as OurLora
from tasks.config import ModelConfig, PrefixConfig, TaskError
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEFT's own adapters of the embedded base, and one of another model."""
    root = tmp_path_factory.mktemp("adapters")
    made = {
        "plain": LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
        "all": LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"),
        "first": LoraConfig(r=8, lora_alpha=16, target_modules=r".*\.0\..*\.(q|v)_proj"),
        "prefix": PrefixTuningConfig(num_virtual_tokens=20, task_type="CAUSAL_LM"),
        "pissa": LoraConfig(
            r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights="pissa"
        ),
    }
    with quiet_peft():
        for name, config in made.items():
            base = AutoModelForCausalLM.from_pretrained(EMBEDDED_FOLDER, dtype=torch.float32)
            get_peft_model(base, deepcopy(config)).save_pretrained(str(root / name))
        get_peft_model(tiny_model("llama"), deepcopy(made["plain"])).save_pretrained(
            str(root / "other")
        )
        get_peft_model(tiny_model("llama"), deepcopy(made["prefix"])).save_pretrained(
            str(root / "short")
        )
    return root


def adopting(folder: Path, *, kind: str = "lora", **more: object) -> Settings:
    return Settings.model_validate({"shared": {f"{kind}_from": str(folder)}, **more})


def test_plain_folders_pass_and_are_hashed(folders: Path) -> None:
    lora = adopted_sha256(adopting(folders / "plain"))
    prefix = adopted_sha256(adopting(folders / "prefix", kind="prefix"))
    every = adopting(folders / "all", lora={"target_modules": ["all-linear"]})
    assert lora.keys() == {"lora"}
    assert prefix.keys() == {"prefix"}
    assert len({*lora.values(), *prefix.values(), *adopted_sha256(every).values()}) == 3
    assert adopted_sha256(Settings()) == {}


@pytest.mark.parametrize(
    ("name", "kind", "more", "message"),
    [
        ("pissa", "lora", {}, "init_lora_weights='pissa' is not supported"),
        ("none", "lora", {}, "has no adapter_config.json and no adapter_model.safetensors"),
        ("prefix", "lora", {}, "it is a prefix adapter, a lora is wanted"),
        ("plain", "prefix", {}, "it is a lora adapter, a prefix is wanted"),
        ("plain", "lora", {"lora": {"rank": 4}}, "it has lora.rank=8, the settings have 4"),
        ("all", "lora", {}, "it has lora.target_modules=down_proj,gate_proj"),
        # What only the base's layers can tell.
        ("other", "lora", {}, "does not fit the base: it has layers.0.self_attn.q_proj.A of shape"),
        ("first", "lora", {}, "does not fit the base: it has no layers.1.self_attn.q_proj.A"),
        ("short", "prefix", {}, "does not fit the base: it has prefix of shape"),
        (
            "plain",
            "lora",
            {"lora": {"target_modules": ["all-linear"]}},
            "does not fit the base: it has no layers.0.mlp.down_proj.A",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_setting_s_name(
    name: str, kind: str, more: dict[str, object], message: str, folders: Path
) -> None:
    with pytest.raises((InputError, TaskError)) as caught:
        adopted_sha256(adopting(folders / name, kind=kind, **more))
    assert message in str(caught.value)
    assert f"shared.{kind}_from: " in str(caught.value)
    assert str(folders / name) in str(caught.value)


def test_a_changed_folder_is_looked_at_again(folders: Path, tmp_path: Path) -> None:
    for path in (folders / "plain").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = adopted_sha256(adopting(tmp_path))
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    with pytest.raises(TaskError, match="use_dora=True"):
        adopted_sha256(adopting(tmp_path))
    assert before == adopted_sha256(adopting(folders / "plain"))


def test_an_adapter_of_another_base_is_refused_early(folders: Path, tmp_path: Path) -> None:
    for path in (folders / "plain").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "adapter_model.safetensors"
    save_file(load_file(weights), weights, metadata={"base": "fingerprint-of-another"})
    with pytest.raises(TaskError, match="made for base fingerprint-"):
        adopted_sha256(adopting(tmp_path))


def test_a_run_is_refused_before_anything_is_written(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = tmp_path / "w"
    words = ["run", "--study", "global", "--workspace", str(workspace)]
    named = ("--set", f"shared.lora_from={folders / 'pissa'}")
    assert main([*words, *named]) == ExitCode.BAD_INPUT
    told = " ".join(capsys.readouterr().err.split())
    assert "init_lora_weights='pissa'" in told
    assert "path_initial_model_for_weight_conversion" in told
    assert "Traceback" not in told
    assert not workspace.exists()


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("all-linear",)])
def test_shapes_of_the_base_are_those_of_an_adapter_that_peft_makes(
    targets: tuple[str, ...], folders: Path
) -> None:
    shapes = base_shapes(ModelConfig(), OurLora(target_modules=targets))
    name = "all" if targets == ("all-linear",) else "plain"
    state = read_peft(folders / name, base="")
    assert shapes == {name: tuple(tensor.shape[1:]) for name, tensor in state.tensors.items()}


def test_shapes_of_a_prefix_are_those_of_peft_s(folders: Path) -> None:
    shapes = base_shapes(ModelConfig(), PrefixConfig(tokens=20))
    state = read_peft(folders / "prefix", base="")
    assert shapes == {"prefix": tuple(state.tensors["prefix"].shape[1:])}


def test_a_model_that_its_config_does_not_make_has_no_known_shapes(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((EMBEDDED_FOLDER / name).read_bytes())
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text('{"model_type": "of_tomorrow"}')
    assert base_shapes(ModelConfig(name=str(tmp_path)), OurLora()) is None
