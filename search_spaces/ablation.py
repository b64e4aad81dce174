"""What the adapters' shape and the number of exchanges do: one quantity at a time.

LoRA's targets and rank and the prefix' length change the shape, so each of their variants is an
all-persona adapter of its own and per-user adapters that start from it. The number of online
exchanges changes the micro-update alone; the token budget is lifted there, so that so many
exchanges are so many. A variant whose settings are the study's own is the default arm itself and
is not run again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from search_spaces.space import (
    BASELINE,
    LORA_ALL,
    LORA_PER_USER,
    PREFIX_ALL,
    PREFIX_PER_USER,
    Arm,
    Study,
    Variant,
)

TARGETS = {"attention": ("q_proj", "v_proj"), "all_linear": ("all-linear",)}
RANKS = (4, 8, 16)
PREFIX_LENGTHS = (10, 20, 50, 100)
ONLINE_BUDGETS = (4, 8, 12, 20)


def variant(
    arm: Arm,
    name: str,
    *,
    ablation: str,
    setting: str,
    value: Any,
    start: str | None = None,
    **also: Any,
) -> Arm:
    """The arm with another value of one setting, as ``<arm>.<name>``.

    Args:
        arm: what it is compared with.
        name: of the variant.
        ablation: which one it belongs to.
        setting: dotted name of the ablated setting.
        value: what the setting is here.
        start: arm that it starts from, where that is not the default arm's own start.
        also: settings that must change along, with ``__`` for the dots.
    """
    together = {setting: value} | {key.replace("__", "."): own for key, own in also.items()}
    return replace(
        arm,
        name=f"{arm.name}.{name}",
        start=start or arm.start,
        swapped_control=False,
        settings=together,
        variant=Variant(ablation, setting, value, default=arm.name),
    )


def of_shape(kind: str, name: str, **quantity: Any) -> tuple[Arm, Arm]:
    """One shape of adapter: trained for everybody, and for single users from there."""
    everybody, single = _DEFAULTS[kind]
    shared = variant(everybody, name, **quantity)
    return shared, variant(single, name, start=shared.name, **quantity)


_DEFAULTS = {"lora": (LORA_ALL, LORA_PER_USER), "prefix": (PREFIX_ALL, PREFIX_PER_USER)}

_OF_TARGETS = [
    of_shape(
        "lora", f"targets_{name}", ablation="lora_targets", setting="lora.target_modules", value=own
    )
    for name, own in TARGETS.items()
]
# alpha goes with the rank, so that the scale alpha / rank stays the recipe's.
_OF_RANK = [
    of_shape(
        "lora",
        f"rank_{rank}",
        ablation="lora_rank",
        setting="lora.rank",
        value=rank,
        lora__alpha=2.0 * rank,
    )
    for rank in RANKS
]
_OF_LENGTH = [
    of_shape(
        "prefix",
        f"tokens_{tokens}",
        ablation="prefix_length",
        setting="prefix.tokens",
        value=tokens,
    )
    for tokens in PREFIX_LENGTHS
]
_OF_BUDGET = [
    variant(
        single,
        f"examples_{examples}",
        ablation="online_budget",
        setting=f"personal.{kind}.examples",
        value=examples,
        **{f"personal__{kind}__token_budget": None},
    )
    for kind, (_, single) in _DEFAULTS.items()
    for examples in ONLINE_BUDGETS
]

STUDY = Study(
    name="ablation",
    summary="LoRA targets and rank, prefix length, online budget: variants against the default.",
    arms=(
        *(BASELINE, PREFIX_ALL, LORA_ALL, PREFIX_PER_USER, LORA_PER_USER),
        *(arm for pair in (*_OF_TARGETS, *_OF_RANK, *_OF_LENGTH) for arm in pair),
        *_OF_BUDGET,
    ),
    settings={"seeds": (0, 1, 2)},
)
