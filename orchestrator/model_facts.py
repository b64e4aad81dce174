"""What the plan must know of the base model, remembered so that a finished study is found fast.

Hashing gigabytes of weights and loading a tokenizer take their time; both depend on files alone.
So the answer is kept with the sizes and times of the files it came from.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from data.writing import write_json
from orchestrator.trial_memory import ModelShape
from tasks.config import ModelConfig, PromptConfig

MEMORY = Path("results/model_facts.json")
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

    Raises:
        TaskError: there is no such model.
    """
    known = remembered_facts(model, prompt, workspace=workspace)
    if known is not None:
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
    entry = {"facts": asdict(found), "files": _stats(folder)}
    write_json(workspace / MEMORY, {_key(model, prompt): entry}, depth=3)
    return found


def remembered_facts(
    model: ModelConfig, prompt: PromptConfig, *, workspace: Path
) -> ModelFacts | None:
    """The facts if they are remembered and no file of the model has changed; reads no weights."""
    try:
        memory = json.loads((workspace / MEMORY).read_text(encoding="utf-8"))
        entry = memory[_key(model, prompt)]
        facts = ModelFacts(**entry["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts if entry["files"] == _stats(Path(facts.folder)) else None


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
