"""Settings that the base cannot serve are refused before anything is started, with what it has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import orchestrator.model_facts
import tasks.inspection
from orchestrator.exit_codes import InputError
from orchestrator.layers import resolve_settings
from orchestrator.model_facts import MEMORY, model_facts, model_traits
from orchestrator.model_fit import check_fit
from orchestrator.outlook import look_ahead
from orchestrator.placement import Machine
from orchestrator.settings import Settings
from orchestrator.study import Request, check_request, run_study
from orchestrator.workspace import Workspace
from search_spaces.catalog import STUDIES
from tasks.base_model import EMBEDDED_FOLDER
from tasks.config import ModelConfig, PromptConfig, TaskError
from tasks.traits import EMBEDDED_TRAITS, ModelTraits

SHORT = replace(EMBEDDED_TRAITS, positions=256)
SHARED_EXPERTS = ModelTraits(("q_proj", "v_proj"), ("gate_proj", "up_proj"), None)


def settings(study: str, *options: str) -> Settings:
    return resolve_settings(STUDIES[study], options=options)


def fit(study: str, traits: ModelTraits, *options: str) -> None:
    check_fit(settings(study, *options), STUDIES[study], traits)


@pytest.mark.parametrize("study", STUDIES)
def test_the_defaults_of_every_study_fit_the_shipped_base(study: str) -> None:
    fit(study, EMBEDDED_TRAITS)


REFUSED: dict[str, tuple[str, ModelTraits, Sequence[str], str]] = {
    "names of another family": (
        "global",
        EMBEDDED_TRAITS,
        ("lora.target_modules=[c_attn]",),
        "no linear layer of this model is called 'c_attn'; it has: down_proj, .*'all-linear'",
    ),
    "one name misspelt among good ones": (
        "per_persona",
        EMBEDDED_TRAITS,
        ("lora.target_modules=[q_proj,v_prj]",),
        "called 'v_prj'; did you mean 'v_proj'",
    ),
    "an ablation's arm": (
        "ablation",
        ModelTraits(("qkv_proj", "o_proj"), (), None),
        ("lora.target_modules=[qkv_proj]",),
        "arm .*: lora.target_modules: no linear layer of this model is called 'q_proj'",
    ),
    "a search's range": (
        "global",
        EMBEDDED_TRAITS,
        ("search.method=grid", "search.ranges=['prefix.tokens = 10, 1500']"),
        "search of prefix_all: decoding.max_total_tokens is .* and prefix.tokens 1500, .* 2048 pos",
    ),
    "layers that get tokens without rows": (
        "global",
        SHARED_EXPERTS,
        ("lora.target_modules=[all-linear]",),
        "LoRA cannot be put on gate_proj, up_proj of this model",
    ),
    "prompts beyond the positions": (
        "baseline",
        SHORT,
        ("decoding.max_new_tokens=12",),
        r"max_total_tokens is 1024, but rows of this model have 256 .*max_total_tokens=256",
    ),
    "prompts and prefix together": (
        "global",
        SHORT,
        ("decoding.max_new_tokens=12", "decoding.max_total_tokens=250"),
        r"is 250 and prefix.tokens 20, .*--set decoding.max_total_tokens=236",
    ),
    "no room for a prompt": (
        "baseline",
        EMBEDDED_TRAITS,
        ("decoding.max_new_tokens=300", "decoding.max_total_tokens=256"),
        "max_new_tokens is 300, which leaves no prompt of decoding.max_total_tokens 256",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_base_cannot_serve_is_refused(case: str) -> None:
    study, traits, options, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        fit(study, traits, *options)


def test_what_no_arm_uses_is_no_matter() -> None:
    fit("baseline", EMBEDDED_TRAITS, "lora.target_modules=[c_attn]")
    fit("baseline", SHORT, "decoding.max_new_tokens=12", "decoding.max_total_tokens=256")
    fit("baseline", replace(SHORT, positions=None))


@pytest.fixture
def request_for(tmp_path: Path) -> Any:
    def made(study: str, *options: str, model: str = "embedded") -> Request:
        return Request(
            study=STUDIES[study],
            settings=settings(study, f"model.name={model}", *options),
            workspace=Workspace(tmp_path / "workspace"),
            machine=Machine(cpus=2, gpus=0),
        )

    return made


def altered(tmp_path: Path, **values: Any) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED_FOLDER, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tie_word_embeddings": False}, "lack 1 of .*: lm_head.weight"),
        ({"max_position_embeddings": 256}, "have 256 positions"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantized \(gptq\)"),
        ({"model_type": "gpt_neox"}, "lack"),
    ],
)
def test_a_bad_base_ends_plan_and_run_before_anything_is_written(
    values: dict[str, Any], words: str, request_for: Any, tmp_path: Path
) -> None:
    request = request_for("baseline", model=str(altered(tmp_path, **values)))
    nothing: Any = None
    for way in (
        look_ahead,
        check_request,
        lambda own: run_study(own, screen=nothing, stop=nothing),
    ):
        with pytest.raises((TaskError, InputError), match=words):
            way(request)
        assert not request.workspace.root.exists()


def test_names_of_another_family_end_a_plan(request_for: Any) -> None:
    with pytest.raises(InputError, match="called 'c_attn'"):
        look_ahead(request_for("global", "lora.target_modules=[c_attn]"))


def test_what_is_remembered_has_passed_the_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts of an older program, which did not check, do not count; this one's cost nothing."""
    model, prompt = ModelConfig(name=str(altered(tmp_path))), PromptConfig()
    facts = model_facts(model, prompt, workspace=tmp_path)
    (key, entry), *_ = json.loads((tmp_path / MEMORY).read_text()).items()
    asked: list[ModelConfig] = []

    def inspect(config: ModelConfig, *, prompt: PromptConfig) -> ModelTraits:
        asked.append(config)
        raise TaskError("looked at")

    monkeypatch.setattr(tasks.inspection, "inspect_model", inspect)
    assert model_facts(model, prompt, workspace=tmp_path) == facts
    assert model_traits(model, prompt, workspace=tmp_path) == EMBEDDED_TRAITS
    assert not asked
    old = {name: entry[name] for name in ("facts", "files")}
    other = entry | {"checked": entry["checked"] | {"transformers": "5.0.0"}}
    orchestrator.model_facts._inspected.cache_clear()
    for remembered in (old, other):
        (tmp_path / MEMORY).write_text(json.dumps({key: remembered}))
        with pytest.raises(TaskError, match="looked at"):
            model_traits(model, prompt, workspace=tmp_path)
