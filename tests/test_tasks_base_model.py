"""Base models from local folders: found, checked, fingerprinted, never running foreign code."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch

import tasks.base_model
from tasks.base_model import (
    check_model_exists,
    load_base,
    load_tokenizer,
    model_fingerprint,
    resolve_dtype,
)
from tasks.config import ModelConfig, TaskError
from tasks.prompt import template_sha256
from tests.tiny_models import tiny_base, tiny_model, tiny_tokenizer

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-llama"
    tiny_model("llama").save_pretrained(path)
    tiny_tokenizer("chatml").save_pretrained(path)
    return path


def test_load_gives_a_frozen_model_with_equal_outputs(folder: Path) -> None:
    base = load_base(ModelConfig(name=str(folder)), device="cpu")
    ids = torch.arange(20)[None]
    assert torch.equal(base.model(ids).logits, tiny_model("llama")(ids).logits)
    assert not base.model.training
    assert not any(weight.requires_grad for weight in base.model.parameters())
    assert (base.device.type, base.dtype) == ("cpu", torch.float32)
    assert base.template_sha256 == template_sha256(tiny_tokenizer("chatml"))


def test_precision_is_the_config_s_or_the_device_s(folder: Path) -> None:
    config = ModelConfig(name=str(folder), dtype="float64")
    assert load_base(config, device="cpu").model.lm_head.weight.dtype == torch.float64
    auto = ModelConfig()
    assert resolve_dtype(auto, device=torch.device("cpu")) == torch.float32
    assert resolve_dtype(auto, device=torch.device("cuda")) == torch.bfloat16


def test_fingerprint_follows_weights_and_config_and_nothing_else(folder: Path) -> None:
    config = ModelConfig(name=str(folder))
    before = model_fingerprint(config)
    (folder / "README.md").write_text("about")
    (folder / "training_log.json").write_text("{}")
    assert model_fingerprint(config) == before == load_base(config, device="cpu").fingerprint
    tiny_model("llama", seed=1).save_pretrained(folder)
    changed = model_fingerprint(config)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-3}))
    assert len({before, changed, model_fingerprint(config)}) == 3


def test_tokenizer_gets_a_padding_token(folder: Path) -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(ModelConfig(name=str(folder))).pad_token == "<|im_end|>"


def test_slips_of_a_folder_or_of_embedded_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TaskError, match="did you mean 'embedded'"):
        check_model_exists(ModelConfig(name="embeded"))
    wrong = str(folder.parent / "tiny-lama")
    with pytest.raises(TaskError, match=f"did you mean '{folder}'"):
        check_model_exists(ModelConfig(name=wrong))
    monkeypatch.chdir(folder.parent)
    with pytest.raises(TaskError, match="did you mean 'tiny-llama'"):
        check_model_exists(ModelConfig(name="tiny-lama"))
    with pytest.raises(TaskError, match=r"is no folder\. Give 'embedded'"):
        check_model_exists(ModelConfig(name="./nothing/like/it"))


def test_folder_without_safetensors_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(TaskError, match=r"has no \*\.safetensors"):
        check_model_exists(ModelConfig(name=str(folder)))


def test_check_reads_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"broken")
    check_model_exists(ModelConfig(name=str(folder)))
    with pytest.raises(TaskError, match="cannot be loaded"):
        load_base(ModelConfig(name=str(folder)), device="cpu")


def test_code_in_a_model_folder_is_never_run(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('code was run')")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(TaskError, match="cannot be loaded"):
        load_base(ModelConfig(name=str(folder)), device="cpu")


def test_hub_trouble_is_retried_with_growing_pauses(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    pauses: list[float] = []

    def download(name: str, *, local_files_only: bool = False, **_: object) -> str:
        assert name == "owner/name"
        calls.append(local_files_only)
        if local_files_only or len(calls) < 4:
            raise ConnectionError("no route")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(tasks.base_model.time, "sleep", pauses.append)
    assert tasks.base_model.find_model(ModelConfig(name="owner/name")) == folder
    assert calls == [True, False, False, False]
    assert pauses == [1.0, 2.0]


def test_hub_out_of_reach_is_a_task_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(tasks.base_model.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(TaskError, match="the hub cannot be reached"):
        tasks.base_model.find_model(ModelConfig(name="owner/name"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TaskError, match="offline mode"):
        check_model_exists(ModelConfig(name="owner/name"))


def test_cached_hub_model_needs_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(_: str, *, local_files_only: bool = False, **__: object) -> str:
        assert local_files_only
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    config = ModelConfig(name="owner/name", revision="abc")
    check_model_exists(config)
    assert load_base(config, device="cpu").fingerprint == f"owner/name@{folder.name}"


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_tiny_bases_see_their_whole_context(family: str) -> None:
    base = tiny_base(family, "chatml", dtype=torch.float64)
    ids = torch.arange(2, 42)[None]
    other = ids.clone()
    other[0, 0] = 1
    difference = (base.model(ids).logits - base.model(other).logits)[0, :, :].abs().amax(-1)
    reach = 31 if family == "mistral" else 40  # two layers of a 16-token window
    assert (difference[:reach] > 0).all()
    assert (difference[reach:] == 0).all()
