"""What the plan must know of the base model, remembered so that a finished study is found fast.

Hashing gigabytes of weights and loading a tokenizer take their time; both depend on files alone.
So the answer is kept with the sizes and times of the files it came from.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from data.writing import write_json
from orchestrator.trial_memory import ModelShape
from tasks.config import ModelConfig, PromptConfig
from tasks.traits import EMBEDDED_TRAITS, ModelTraits

MEMORY = Path("results/model_facts.json")
CHECKS = 1
"""Goes up when base models are checked for more than before: what is remembered then ends."""
Dtype = Literal["float32", "bfloat16", "float16", "float64"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Hashes of the base model and of its rendered chat template, and its resolved precision.

    ``base_name`` is a hub id or an absolute folder: what PEFT writes into its configs.
    """

    model_sha256: str
    template_sha256: str
    base_name: str
    folder: str


def model_facts(model: ModelConfig, prompt: PromptConfig, *, workspace: Path) -> ModelFacts:
    """The facts, from memory where the files have not changed; downloads a hub model if needed.

    A model whose facts are remembered has passed its checks.

    Raises:
        TaskError: there is no such model, or it cannot be studied.
    """
    known = remembered_facts(model, prompt, workspace=workspace)
    traits = model_traits(model, prompt, workspace=workspace, download=True)
    if known is not None and _remembered_traits(model, prompt, workspace=workspace) == traits:
        return known
    from tasks.base_model import EMBEDDED, find_model, load_tokenizer, model_fingerprint
    from tasks.prompt import template_sha256

    folder = find_model(model).resolve()
    local = model.name == EMBEDDED or Path(model.name).expanduser().is_dir()
    found = ModelFacts(
        model_sha256=model_fingerprint(model),
        template_sha256=template_sha256(load_tokenizer(model), prompt=prompt),
        base_name=str(folder) if local else model.name,
        folder=str(folder),
    )
    assert traits is not None  # It may have been downloaded.
    entry = {"facts": asdict(found), "files": _stats(folder)}
    entry |= {"checked": _checks(), "traits": asdict(traits)}
    write_json(workspace / MEMORY, {_key(model, prompt): entry}, depth=3)
    return found


def remembered_facts(
    model: ModelConfig, prompt: PromptConfig, *, workspace: Path
) -> ModelFacts | None:
    """The facts if they are remembered and no file of the model has changed; reads no weights."""
    try:
        return ModelFacts(**_entry(model, prompt, workspace=workspace)["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _entry(model: ModelConfig, prompt: PromptConfig, *, workspace: Path) -> dict[str, Any]:
    """What is remembered of a model; raises where it is nothing, unreadable or of other files."""
    memory = json.loads((workspace / MEMORY).read_text(encoding="utf-8"))
    entry: dict[str, Any] = memory[_key(model, prompt)]
    if entry["files"] != _stats(Path(entry["facts"]["folder"])):
        raise ValueError("the model's files have changed")
    return entry


def model_traits(
    model: ModelConfig, prompt: PromptConfig, *, workspace: Path, download: bool = False
) -> ModelTraits | None:
    """What settings must fit in the model, which is checked for it unless that is remembered.

    None for a hub model that is not in the cache, unless it may be downloaded.

    Raises:
        TaskError: there is no such model, or it cannot be studied.
    """
    from tasks.base_model import EMBEDDED

    if model.name == EMBEDDED:
        return EMBEDDED_TRAITS  # It ships with the program; a worker checks it as any other.
    known = _remembered_traits(model, prompt, workspace=workspace)
    if known is not None:
        return known
    from tasks.base_model import find_model, model_at_hand

    folder = find_model(model) if download else model_at_hand(model)
    return None if folder is None else _inspected(model, prompt, json.dumps(_stats(folder)))


@lru_cache(maxsize=8)
def _inspected(model: ModelConfig, prompt: PromptConfig, files: str) -> ModelTraits:
    """``files`` is part of the key alone: a changed model is looked at again."""
    from tasks.inspection import inspect_model

    return inspect_model(model, prompt=prompt)


def _remembered_traits(
    model: ModelConfig, prompt: PromptConfig, *, workspace: Path
) -> ModelTraits | None:
    try:
        entry = _entry(model, prompt, workspace=workspace)
        if entry["checked"] != _checks():
            return None
        traits = entry["traits"]
        return ModelTraits(tuple(traits["linear"]), tuple(traits["closed"]), traits["positions"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _checks() -> dict[str, str]:
    """What a check depends on beside the model's files."""
    return {"checks": str(CHECKS)} | {name: version(name) for name in ("torch", "transformers")}


def model_shape(model: ModelConfig, prompt: PromptConfig, *, workspace: Path) -> ModelShape | None:
    """The base's sizes from its config, without its weights; None for families not known here."""
    known = remembered_facts(model, prompt, workspace=workspace)
    try:
        if known is not None:
            path = Path(known.folder) / "config.json"
            return ModelShape.of_config(json.loads(path.read_text(encoding="utf-8")))
        from tasks.base_model import read_config

        return ModelShape.of_config(read_config(model))
    except (OSError, KeyError, ValueError):
        return None


def resolved_dtype(model: ModelConfig, *, device: Literal["cpu", "cuda"]) -> Dtype:
    """The precision asked for; ``auto`` is bfloat16 on GPUs and float32 on CPUs."""
    if model.dtype != "auto":
        return model.dtype
    return "bfloat16" if device == "cuda" else "float32"


def _key(model: ModelConfig, prompt: PromptConfig) -> str:
    return json.dumps([model.model_dump(), prompt.model_dump()], sort_keys=True)


def _stats(folder: Path) -> dict[str, Any]:
    """Size (bytes) and time (ns) of each file, links of a hub cache followed."""
    if not folder.is_dir():
        return {}
    stats = {path.name: path.stat() for path in sorted(folder.iterdir()) if path.is_file()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
