"""Named presets: what a base model needs beside the recipe. A new preset is one row here.

Values were chosen on validation data. The recipe's own ranges suit bases of 0.5B–7B parameters;
a model of a million parameters needs larger steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
            "personal.lora.learning_rate": 5e-3,
            "personal.prefix.learning_rate": 1e-1,
        },
    ),
}


def preset_for(model: str) -> Preset | None:
    """The preset of a base model, if there is one."""
    return next((preset for preset in PRESETS.values() if preset.model == model), None)
