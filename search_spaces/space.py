"""What a study is made of: arms (grouping × adapter × starting point), settings, search ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from search_spaces.ranges import Range


@dataclass(frozen=True, slots=True)
class Variant:
    """An arm's place in an ablation: which setting has which value, and against which arm."""

    ablation: str
    setting: str
    """Dotted name of the ablated setting; the default arm has the study's own value of it."""
    value: Any
    default: str
    """Name of the arm that it is compared with."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to adapt the base: who shares an adapter × which adapter × where it starts from.

    ``start`` names the arm whose adapter this one starts from (None: from the base itself).
    ``swapped_control`` asks for each user's score under another user's adapter. ``few_shot`` puts
    the user's own online examples into the prompt; nothing is trained then. ``from_few`` scores
    cold-start or warm users after none, few and all of their first exchanges; such an arm is shown
    by itself and never compared with the others, whose users differ. ``identify`` asks whose
    message is this, by sentence vectors, mean-pooled hidden states (of the base, or with the
    ``start`` arm's adapter), or the likelihood under each user's adapter of the ``start`` arm.
    ``gated`` adds the no-harm gate as an arm: a user's adapter is kept only where it beats the
    ``start`` arm's on validation exchanges that nothing else has used. ``traced`` asks how the
    gain on validation grows with the number of updates, for the first seed. ``settings`` holds this
    arm's own differences from the study's settings, by dotted name: an ablation's or a search's
    variant is an arm of another name with other settings. ``variant`` marks an ablation's: such an
    arm is compared with its default alone and shown by itself, and it generates replies for the
    study's first seed only, while the true replies' likelihood is scored for all.
    """

    name: str
    grouping: Literal["none", "all", "cluster", "user"]
    adapter: Literal["none", "lora", "prefix"]
    start: str | None = None
    swapped_control: bool = False
    gated: bool = False
    traced: bool = False
    few_shot: bool = False
    from_few: Literal["cold", "warm"] | None = None
    identify: Literal["encoder", "hidden", "likelihood"] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    variant: Variant | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """A named study: its arms in order, and only its differences from the default settings.

    ``settings`` maps dotted keys (``personal.lora.learning_rate``) to values. Prerequisite arms
    (an arm's ``start``) must be listed too, before the arms that need them. ``search`` says what
    ``--search`` may vary: name of an arm → dotted setting → range.
    """

    name: str
    summary: str
    arms: tuple[Arm, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Mapping[str, Range]] = field(default_factory=dict)


BASELINE = Arm("baseline", "none", "none")
FEW_SHOT = Arm("few_shot", "none", "none", few_shot=True)
PREFIX_ALL = Arm("prefix_all", "all", "prefix")
LORA_ALL = Arm("lora_all", "all", "lora")
PREFIX_PER_USER = Arm("prefix_per_user", "user", "prefix", start="prefix_all", swapped_control=True)
LORA_PER_USER = Arm("lora_per_user", "user", "lora", start="lora_all", swapped_control=True)
PREFIX_CLUSTER = Arm("prefix_cluster", "cluster", "prefix", start="prefix_all")
LORA_CLUSTER = Arm("lora_cluster", "cluster", "lora", start="lora_all")
PREFIX_CLUSTER_USER = Arm(
    "prefix_cluster_user", "user", "prefix", start="prefix_cluster", swapped_control=True
)
LORA_CLUSTER_USER = Arm(
    "lora_cluster_user", "user", "lora", start="lora_cluster", swapped_control=True
)
PREFIX_COLD_START = Arm("prefix_cold_start", "user", "prefix", start="prefix_all", from_few="cold")
PREFIX_WARM_START = Arm("prefix_warm_start", "user", "prefix", start="prefix_all", from_few="warm")
LORA_COLD_START = Arm("lora_cold_start", "user", "lora", start="lora_all", from_few="cold")
LORA_WARM_START = Arm("lora_warm_start", "user", "lora", start="lora_all", from_few="warm")

IDENTIFY = (
    Arm("identify_encoder", "none", "none", identify="encoder"),
    Arm("identify_base", "none", "none", identify="hidden"),
    Arm("identify_prefix_all", "all", "prefix", start="prefix_all", identify="hidden"),
    Arm("identify_lora_all", "all", "lora", start="lora_all", identify="hidden"),
    Arm(
        "identify_prefix_per_user",
        "user",
        "prefix",
        start="prefix_per_user",
        identify="likelihood",
    ),
    Arm("identify_lora_per_user", "user", "lora", start="lora_per_user", identify="likelihood"),
)
"""Persona prediction: one arm per representation, each after the arm whose adapters it uses."""
