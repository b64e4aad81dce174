"""Where a plan's arms stand on the axes of its ablations, as ``results.ablations`` knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.choices import SHAPES
from orchestrator.plan import Plan, PlannedCell
from results.ablations import Point
from search_spaces.space import Variant

EXAMPLES = ".examples"


def ablation_points(plan: Plan) -> list[Point]:
    """Variants and their defaults: by ablation and default, numbers in ascending order."""
    variants = {cell.arm: cell.variant for cell in plan.cells if cell.variant is not None}
    lines: dict[tuple[str, str], list[Point]] = {}
    for arm, variant in variants.items():
        line = lines.setdefault((variant.ablation, variant.default), [])
        if not line:
            line.append(_default(variant, plan))
        line.append(_point(plan, arm, variant))
    return [point for line in lines.values() for point in _sorted(line)]


def _sorted(line: Sequence[Point]) -> Sequence[Point]:
    if any(isinstance(point.value, str) for point in line):
        return line
    return sorted(line, key=lambda point: (point.value, not point.is_default))


def _point(plan: Plan, arm: str, variant: Variant) -> Point:
    return Point(
        ablation=variant.ablation,
        arm=arm,
        default=variant.default,
        value=_shown(variant.value),
        nested=_starts(plan, arm) == _starts(plan, variant.default),
        examples=variant.value if variant.setting.endswith(EXAMPLES) else None,
    )


def _default(variant: Variant, plan: Plan) -> Point:
    """The default has its own value, chosen or given; a budget's token budget goes with it."""
    specs = [cell.spec for cell in plan.cells if cell.arm == variant.default and cell.spec.adapter]
    training = next((spec.training for spec in specs if spec.training is not None), None)
    of_shape = variant.setting.startswith(SHAPES)
    value = getattr(specs[0].adapter if of_shape else training, variant.setting.rpartition(".")[2])
    examples, tokens = None, None
    if variant.setting.endswith(EXAMPLES) and training is not None:
        examples, tokens = training.examples, training.token_budget
    return Point(
        ablation=variant.ablation,
        arm=variant.default,
        default=variant.default,
        value=_shown(value),
        examples=examples,
        detail=f"at most {tokens} trained tokens" if tokens is not None else "",
    )


def _shown(value: Any) -> float | str:
    """A number as it is, names of modules as text."""
    return value if isinstance(value, int | float) else " + ".join(value)


def _starts(plan: Plan, arm: str) -> set[str | None]:
    """Adapters that an arm's per-user ones start from; of a shared arm its own trained ones."""
    return {cell.spec.parent for cell in _scored(plan, arm)}


def _scored(plan: Plan, arm: str) -> list[PlannedCell]:
    purposes = ("evaluate", "personalize")
    return [
        cell
        for cell in plan.cells
        if cell.arm == arm and cell.spec.purpose in purposes and cell.spec.split == "test"
    ]
