"""What a study is made of: arms (grouping × adapter × starting point) and its own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to adapt the base: who shares an adapter × which adapter × where it starts from.

    ``start`` names the arm whose adapter this one starts from (None: from the base itself).
    ``swapped_control`` asks for each user's score under another user's adapter.
    """

    name: str
    grouping: Literal["none", "all", "cluster", "user"]
    adapter: Literal["none", "lora", "prefix"]
    start: str | None = None
    swapped_control: bool = False


@dataclass(frozen=True, slots=True)
class Study:
    """A named study: its arms in order, and only its differences from the default settings.

    ``settings`` maps dotted keys (``personal.lora.learning_rate``) to values. Prerequisite arms
    (an arm's ``start``) must be listed too, before the arms that need them.
    """

    name: str
    summary: str
    arms: tuple[Arm, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


BASELINE = Arm("baseline", "none", "none")
PREFIX_ALL = Arm("prefix_all", "all", "prefix")
LORA_ALL = Arm("lora_all", "all", "lora")
PREFIX_PER_USER = Arm("prefix_per_user", "user", "prefix", start="prefix_all", swapped_control=True)
LORA_PER_USER = Arm("lora_per_user", "user", "lora", start="lora_all", swapped_control=True)
