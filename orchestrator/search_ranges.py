"""What a study's search varies: its own ranges, with those that a person gives instead."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from orchestrator.exit_codes import InputError
from orchestrator.layers import hint
from orchestrator.settings import SearchSettings, setting_names
from orchestrator.yaml_reading import Problem, read_option
from search_spaces.ranges import Choice, IntRange, LogUniform, Range, Uniform
from search_spaces.space import Arm, Study

SECTIONS = {"all": "shared", "cluster": "cluster", "user": "personal"}
"""Grouping of an arm → section of the settings that says how it is trained."""
_SPAN = re.compile(r"(?P<low>\S+)\s*\.\.\s*(?P<high>\S+?)(\s+(?P<scale>log|step\s+(?P<step>\d+)))?")
EXAMPLES = "personal.lora.learning_rate = 1e-3 .. 2e-2 log, personal.lora.epochs = 1 .. 5, or "
EXAMPLES += "lora.rank = 4, 8, 16"


def ranges_of(
    search: SearchSettings, *, study: Study, adopted: Collection[str] = ()
) -> dict[str, Mapping[str, Range]]:
    """Arm → dotted setting → range, arms in the study's order.

    A range in ``search.ranges`` replaces the study's range of that setting, or adds one, for every
    searched arm that the setting is about. Arms that are taken over from elsewhere are left out.

    Args:
        search: the settings.
        study: the arms, and the ranges of its own.
        adopted: kinds of adapters whose all-persona one is not trained here.

    Raises:
        InputError: no arm of that name is searched, or a range that cannot be read or is about
            nothing that is searched.
    """
    arms = {arm.name: arm for arm in study.arms}
    trained = {
        name: dict(ranges)
        for name, ranges in study.search.items()
        if not (arms[name].grouping == "all" and arms[name].adapter in adopted)
    }
    _check_names(search.arms, trained, study)
    found = {name: own for name, own in trained.items() if not search.arms or name in search.arms}
    for text in search.ranges:
        setting, given = read_range(text)
        if setting_names().get(setting, True):
            raise InputError(f"search.ranges {text!r}: unknown setting; {hint(setting)}")
        about = [name for name in found if is_about(setting, arms[name])]
        if not about:
            raise InputError(
                f"search.ranges {text!r}: it changes how none of the searched arms is trained "
                f"({', '.join(found)})"
            )
        for name in about:
            if arms[name].grouping != "user" and setting.endswith(".epochs"):
                raise InputError(
                    f"search.ranges {text!r}: epochs are the rungs of the search of {name}; "
                    f"say how many the last one has with --set {setting}=NUMBER"
                )
            found[name][setting] = given
    return {name: found[name] for name in arms if name in found}


def is_about(setting: str, arm: Arm) -> bool:
    """Whether a search of the arm may vary the setting.

    An arm that starts from another's adapter cannot change the adapter's shape.
    """
    own = (f"{SECTIONS[arm.grouping]}.{arm.adapter}.",)
    return setting.startswith((*own, f"{arm.adapter}.") if arm.start is None else own)


def read_range(text: str) -> tuple[str, Range]:
    """A dotted setting and its range: ``name = low .. high [log | step N]`` or ``name = a, b, c``.

    Raises:
        InputError: the text is neither.
    """
    name, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not name or not values:
        raise InputError(f"search.ranges {text!r} is no range; give {EXAMPLES}")
    try:
        span = _SPAN.fullmatch(values)
        return name, _span(span) if span else Choice(tuple(_listed(values)))
    except ValueError as error:
        raise InputError(f"search.ranges {text!r}: {error}") from error


def _span(found: re.Match[str]) -> Range:
    low, high = _value(found["low"]), _value(found["high"])
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float):
            raise ValueError(f"a range goes from a number to a number, not to {end!r}")
    if found["scale"] == "log":
        return LogUniform(float(low), float(high))
    if isinstance(low, int) and isinstance(high, int):
        return IntRange(low, high, step=int(found["step"] or 1))
    if found["step"]:
        raise ValueError("steps are for whole numbers")
    return Uniform(float(low), float(high))


def _listed(values: str) -> list[Any]:
    return [_value(part.strip()) for part in values.split(",")]


def _value(text: str) -> Any:
    """A value as ``--set`` reads it."""
    entry = read_option(f"x={text}")
    if isinstance(entry, Problem):
        raise ValueError(entry.message)
    return entry.value


def _check_names(wanted: Sequence[str], trained: Collection[str], study: Study) -> None:
    unknown = [name for name in wanted if name not in trained]
    if unknown:
        near = get_close_matches(unknown[0], trained, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(trained) or "none"
        raise InputError(
            f"search.arms: {unknown[0]!r} is no arm that study {study.name} can search; "
            f"{hint}there are: {listed}"
        )
