"""What a study's settings must fit in its base model. Knows no torch, so that it is found fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CHANGING_ROPES = ("dynamic", "longrope", "su")
"""Their angles change with the longest row of a pass: behind the first positions a row's result
would depend on its neighbors."""


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """Of one base model.

    ``linear`` are the names of linear layers that LoRA can be put on, ``closed`` those of linear
    layers that get their tokens without their rows, or not in every pass. ``positions`` is how
    many a row may take; None where the model sets no limit.
    """

    linear: tuple[str, ...]
    closed: tuple[str, ...]
    positions: int | None


EMBEDDED_TRAITS = ModelTraits(
    linear=("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
    closed=(),
    positions=2048,
)
"""Of the shipped base; a test holds them against its files."""


def positions_of(config: Mapping[str, Any]) -> int | None:
    """Positions that a model was made for, from the values of its config; None without a limit."""
    limit = config.get("max_position_embeddings")
    if limit is None:
        return None
    return max(1, min(_with_rope(int(limit), rope) for rope in _ropes(config)))


def _ropes(config: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The rope's parameters, of each kind of layer where they differ."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = [value for value in found.values() if isinstance(value, Mapping)]
    return nested or [found]


def _with_rope(limit: int, rope: Mapping[str, Any]) -> int:
    """Scaled ropes reach further, some by what the limit says already (Llama 3's)."""
    kind = rope.get("rope_type") or rope.get("type")
    original, factor = rope.get("original_max_position_embeddings"), rope.get("factor") or 1.0
    if kind in CHANGING_ROPES:
        return int(original or limit)
    if kind == "linear":
        return int(limit * factor)
    return max(limit, int(original * factor)) if kind == "yarn" and original else limit
