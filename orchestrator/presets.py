"""Named presets: what a base model or a class of devices needs beside the recipe.

A new preset is one row here. Learning rates were chosen on validation data: the recipe's own
ranges suit bases of 0.5B–7B parameters; a model of a million parameters needs larger steps. Sizes
of passes are found with ``python -m benchmarks.adapters --tune``; they are settings and not probed
at the start, because the composition of passes is part of a cell's identity.
"""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Preset:
    """Settings that apply where ``model.name`` is ``model``; dotted name → value."""

    model: str
    reason: str
    settings: Mapping[str, Any]


PRESETS: dict[str, Preset] = {
    "embedded": Preset(
        model="embedded",
        reason="a million parameters need larger steps, and a prefix larger ones than LoRA",
        settings={
            "shared.lora.learning_rate": 3e-3,
            "shared.lora.epochs": 3,
            "shared.prefix.learning_rate": 2e-1,
            "shared.prefix.epochs": 3,
            "shared.prefix.warmup_ratio": 0.05,
            "cluster.lora.learning_rate": 3e-3,
            "cluster.lora.epochs": 3,
            "cluster.prefix.learning_rate": 2e-1,
            "cluster.prefix.epochs": 3,
            "personal.lora.learning_rate": 5e-3,
            "personal.prefix.learning_rate": 1e-1,
            # 12 would take half a minute more on two cores.
            "cold_warm.warm_users": 8,
        },
    ),
}


def preset_for(model: str) -> Preset | None:
    """The preset of a base model, if there is one; the shipped one's also under a folder's name."""
    name = "embedded" if is_shipped(model) else model
    return next((preset for preset in PRESETS.values() if preset.model == name), None)


SHIPPED = Path(__file__).resolve().parent.parent / "tasks" / "embedded_base"


def is_shipped(model: str) -> bool:
    """Whether a folder holds the shipped model: the same model has the same preset."""
    try:
        folder = Path(model).expanduser()
        files = [(folder / name, SHIPPED / name) for name in ("config.json", "model.safetensors")]
        return all(a.is_file() and filecmp.cmp(a, b, shallow=False) for a, b in files)
    except (OSError, RuntimeError, ValueError):
        return False


DEVICE_PRESETS: dict[str, Mapping[str, Any]] = {
    # The settings' own defaults are a CPU's.
    "cpu": {},
    "cuda": {
        "block_users": 64,
        "decoding.rows_per_pass": 512,
        "decoding.prefill_tokens_per_pass": 32768,
        **{
            f"{stage}.{adapter}.tokens_per_pass": 16384
            for stage in ("shared", "cluster", "personal")
            for adapter in ("lora", "prefix")
        },
    },
}
"""Settings of a class of devices, below every other layer; dotted name → value."""
