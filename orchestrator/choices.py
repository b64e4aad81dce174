"""Chosen settings put onto the arms of a study, and onto those that build upon them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from search_spaces.space import Arm, Study

Choices = Mapping[str, Mapping[str, Any]]
"""Name of a searched arm → dotted setting → value."""

SHAPES = ("lora.", "prefix.")
"""Settings of the adapter itself: whoever starts from an adapter has the same ones."""


def with_choices(study: Study, choices: Choices) -> Study:
    """The study with what was chosen.

    An arm has the settings chosen for it, or for its like (same grouping, adapter and start: the
    cold-start arms are trained by the per-user recipe). The shape of an adapter goes on to every
    arm that starts from it. An ablation's variant differs by its own settings alone from what was
    chosen for the arm that it is compared with.
    """
    if not choices:
        return study
    made: dict[str, Arm] = {}
    for arm in study.arms:
        if arm.variant is not None and arm.variant.default in made:
            settings = {**made[arm.variant.default].settings, **arm.settings}
        else:
            settings = {
                **(_shape(made[arm.start]) if arm.start in made else {}),
                **arm.settings,
                **_chosen_for(arm, study, choices),
            }
        made[arm.name] = arm if settings == arm.settings else replace(arm, settings=settings)
    return replace(study, arms=tuple(made.values()))


def _shape(arm: Arm) -> dict[str, Any]:
    return {name: value for name, value in arm.settings.items() if name.startswith(SHAPES)}


def _chosen_for(arm: Arm, study: Study, choices: Choices) -> dict[str, Any]:
    if arm.name in choices:
        return dict(choices[arm.name])
    if arm.identify is not None or arm.settings:
        return {}
    kind = (arm.grouping, arm.adapter, arm.start)
    alike = (
        other.name
        for other in study.arms
        if other.name in choices and (other.grouping, other.adapter, other.start) == kind
    )
    return dict(choices.get(next(alike, ""), {}))


def lineage(study: Study, arm: Arm) -> list[Arm]:
    """The arms that an arm builds upon, first ones first, and the arm itself."""
    by_name = {other.name: other for other in study.arms}
    line = [arm]
    while line[0].start is not None and line[0].start in by_name:
        line.insert(0, by_name[line[0].start])
    return line


def levels(study: Study, searched: Mapping[str, Any]) -> list[list[str]]:
    """Searched arms, in groups whose searches do not wait for one another."""
    depth = {
        arm.name: sum(one.name in searched for one in lineage(study, arm)[:-1])
        for arm in study.arms
        if arm.name in searched
    }
    return [
        [name for name, own in depth.items() if own == level] for level in sorted({*depth.values()})
    ]
