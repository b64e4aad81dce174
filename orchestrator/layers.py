"""Settings from their layers, later ones winning.

Defaults ← preset of the device ← preset of the model ← study ← ``--config`` ← ``--set``.

All errors are found at once; each names its file and line or its option.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from orchestrator.exit_codes import InputError
from orchestrator.presets import DEVICE_PRESETS, preset_for
from orchestrator.python_reading import read_python
from orchestrator.settings import MAPPINGS, Settings, setting_names
from orchestrator.yaml_reading import Entry, Problem, read_option, read_yaml
from search_spaces.space import Study

_LISTED = 6
_ALIKE = 0.75


class SettingsError(InputError):
    """Settings that cannot be used; the message lists everything that is wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, problems)))


def resolve_settings(
    study: Study,
    *,
    config: Path | None = None,
    options: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
) -> Settings:
    """The settings of a run.

    Args:
        study: gives its own differences.
        config: a YAML file, or a Python file with the same classes.
        options: texts of ``--set``, as ``name=value``.
        flags: values of own options (``--model``), by dotted name; they win.
        device: class of the devices that trials run on; decides how much goes into a pass.

    Raises:
        SettingsError: unknown or duplicate names, wrong types, a file that cannot be read.
    """
    problems: list[Problem] = []
    entries = _given(study.settings, f"study {study.name}")
    if config is not None:
        found, wrong = (read_python if config.suffix == ".py" else read_yaml)(config)
        entries += found
        problems += wrong
    for option in map(read_option, options):
        (problems if isinstance(option, Problem) else entries).append(option)  # type: ignore[arg-type]
    entries += _given(flags or {}, "command line")
    misplaced = _misplaced(entries)
    good = [entry for entry in entries if entry not in misplaced]
    presets = _given(DEVICE_PRESETS[device], f"preset of {device}")
    settings, wrong = _validated(presets + _with_preset(good))
    problems += [*misplaced.values(), *wrong]
    if settings is None or problems:
        raise SettingsError(problems)
    return settings


def with_differences(settings: Settings, differences: Mapping[str, Any], *, where: str) -> Settings:
    """Settings with some of them changed, by dotted name; ``where`` says who asks, in errors.

    Raises:
        SettingsError: unknown names, wrong types.
    """
    entries = _given(differences, where)
    misplaced = _misplaced(entries)
    good = [entry for entry in entries if entry not in misplaced]
    changed, wrong = _validated(good, base=settings)
    if changed is None or misplaced or wrong:
        raise SettingsError([*misplaced.values(), *wrong])
    return changed


def _given(values: Mapping[str, Any], where: str) -> list[Entry]:
    return [Entry(tuple(name.split(".")), value, where) for name, value in values.items()]


def _with_preset(entries: list[Entry]) -> list[Entry]:
    """The preset of the model that the layers choose goes below them all."""
    names = [entry.value for entry in entries if entry.path == ("model", "name")]
    preset = preset_for(str(names[-1]) if names else Settings().model.name)
    return _given(preset.settings, f"preset of {preset.model}") + entries if preset else entries


def _misplaced(entries: Iterable[Entry]) -> dict[Entry, Problem]:
    """Names that do not exist, and sections that got a value."""
    names = setting_names()
    problems = {}
    for entry in entries:
        dotted = ".".join(entry.path)
        if any(dotted.startswith(f"{mapping}.") for mapping in MAPPINGS):
            continue
        if dotted not in names:
            message = f"unknown setting {dotted!r}; {hint(dotted)}"
            problems[entry] = Problem(entry.where, message)
        elif names[dotted]:
            inside = [name for name in names if name.startswith(f"{dotted}.")]
            some = ", ".join(inside[:_LISTED])
            message = f"{dotted!r} is a section, give one of its settings: {some}"
            problems[entry] = Problem(entry.where, message)
    return problems


def hint(dotted: str) -> str:
    """What an unknown name of a setting probably meant, or what there is."""
    names = setting_names()
    leaves = [name for name, section in names.items() if not section]
    parent, _, last = dotted.rpartition(".")
    siblings = {
        name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == parent
    }
    near = get_close_matches(last, siblings, n=1, cutoff=_ALIKE)
    if near:
        return f"did you mean {siblings[near[0]]!r}?"
    same = [name for name in leaves if name.rpartition(".")[2] == last]
    if same:
        return f"did you mean {' or '.join(map(repr, same[:_LISTED]))}?"
    short = [name for name in siblings if _initials(name) == last]
    if short:
        return f"did you mean {siblings[short[0]]!r}?"
    # Inside a section that exists, a name is not to be taken for like one by the section alone.
    near = [] if siblings and parent else get_close_matches(dotted, leaves, n=1, cutoff=_ALIKE)
    if near:
        return f"did you mean {near[0]!r}?"
    listed = siblings or dict.fromkeys(Settings.model_fields)
    where = f"in {parent!r} " if siblings and parent else ""
    return f"{where}there are: {', '.join(listed)}"


def _initials(name: str) -> str:
    """``lr`` of ``learning_rate``."""
    return "".join(word[0] for word in name.split("_"))


def _validated(
    entries: Sequence[Entry], *, base: Settings | None = None
) -> tuple[Settings | None, list[Problem]]:
    tree = (base or Settings()).model_dump()
    where: dict[tuple[str, ...], str] = {}
    for entry in entries:
        *parents, last = _in_mapping(entry.path)
        branch = tree
        for name in parents:
            # A mapping that nothing is in yet does not stand in the tree.
            branch = branch.setdefault(name, {})
        branch[last] = entry.value
        where[entry.path] = entry.where
    try:
        return Settings.model_validate(tree), []
    except ValidationError as error:
        details = error.errors()
        # A list none of whose entries can be used is called too short beside.
        lists = {detail["loc"][:-1] for detail in details if detail["type"] != "too_short"}
        told = [one for one in details if one["type"] != "too_short" or one["loc"] not in lists]
        return None, [_problem(dict(detail), where) for detail in told]


def _in_mapping(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path with what stands in a mapping as one name, dots and all: ``data.roles.gpt-4.1``."""
    for mapping in MAPPINGS:
        parts = tuple(mapping.split("."))
        if path[: len(parts)] == parts and len(path) > len(parts):
            return (*parts, ".".join(path[len(parts) :]))
    return path


def _problem(detail: dict[str, Any], where: Mapping[tuple[str, ...], str]) -> Problem:
    """One of pydantic's errors in our words, at the place where the value was given."""
    location = tuple(str(part) for part in detail["loc"])
    given = [path for path in where if location[: len(path)] == path]
    # A rule about a whole section is broken by one of the values given inside it.
    given = given or [path for path in where if path[: len(location)] == location]
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "tuple_type":
        message = f"is to be a list, as [{detail['input']}], not {detail['input']!r}"
    elif detail["type"] == "too_short":
        message = f"is to have at least {detail['ctx']['min_length']} item, not none"
    elif detail["type"] != "value_error":
        message = f"{message[0].lower()}{message[1:]}, not {detail['input']!r}"
    if detail["type"] == "string_type":
        message += '; put text that looks like a number or a truth value into quotes: "…"'
    return Problem(
        ", ".join(dict.fromkeys(where[path] for path in given)) or "settings",
        f"{'.'.join(location)} {message}",
    )
