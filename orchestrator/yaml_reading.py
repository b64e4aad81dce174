"""YAML with line numbers, strict where YAML surprises: duplicate keys, ``no`` as false, tabs.

Numbers follow the YAML 1.2 core schema, so ``1e-4`` is a number (YAML 1.1 reads it as text).
Anchors and merge keys (``<<: *name``) are honoured; of YAML 1.1 they are the part people use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|nan)", re.IGNORECASE)
_TRUTH = {"true": True, "false": False}
_SURPRISES = {"yes", "no", "on", "off", "y", "n"}
"""Booleans in YAML 1.1, text in YAML 1.2: readers differ, so neither is guessed."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One setting as a file or an option gives it: dotted path, value, and where it stands."""

    path: tuple[str, ...]
    value: Any
    where: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in the input; ``where`` is ``file:line`` or the option's text."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


MOST_DIGITS = 100
"""Of a whole number: far above any setting, far below what Python refuses to read."""


class _DoubtfulError(ValueError):
    """A scalar that readers of YAML understand differently."""


TOO_DEEP = "is nested too deeply, or in itself; settings are `section: {name: value}`"


def read_yaml(path: Path) -> tuple[list[Entry], list[Problem]]:
    """All leaves of a YAML mapping with their lines, and everything wrong with the file."""
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        return [], [Problem(name, f"cannot be read: {reason}")]
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        return [], [_syntax_problem(name, error)]
    except yaml.YAMLError as error:
        return [], [Problem(name, f"is not YAML: {error}")]
    except RecursionError:
        return [], [Problem(name, TOO_DEEP)]
    if node is None:
        return [], [Problem(name, "is empty; remove --config, or write `seeds: [0]`")]
    if not isinstance(node, yaml.MappingNode):
        return [], [Problem(f"{name}:1", "must be a mapping, one `name: value` a line")]
    problems: list[Problem] = []
    try:
        return list(_leaves(node, (), name, problems, given={})), problems
    except RecursionError:
        return [], [Problem(name, TOO_DEEP)]


def _syntax_problem(name: str, error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    where = f"{name}:{mark.line + 1}" if mark else name
    message = error.problem or str(error)
    if "\\t" in message:
        message = "a tab cannot indent YAML; use spaces"
    return Problem(where, message)


def _leaves(
    node: yaml.MappingNode,
    path: tuple[str, ...],
    name: str,
    problems: list[Problem],
    *,
    given: dict[tuple[str, ...], int],
) -> Iterator[Entry]:
    """Settings below a mapping; ``given``: lines of those so far, however they were spelled."""
    seen: dict[str, int] = {}
    for key_node, value_node, merged in _pairs(node, name, problems):
        line = key_node.start_mark.line + 1
        where = f"{name}:{line}"
        if merged and isinstance(key_node, yaml.ScalarNode) and str(key_node.value) in seen:
            continue  # A mapping's own names win over merged ones, and earlier over later ones.
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(Problem(where, "a name must be plain text"))
            continue
        key = str(key_node.value)
        here = (*path, *key.split("."))
        section = isinstance(value_node, yaml.MappingNode)
        first = seen.get(key) if section else seen.get(key, given.get(here))
        if first is not None:
            problems.append(
                Problem(where, f"{'.'.join(here)} is given twice, first in line {first}")
            )
            continue
        seen[key] = line
        if isinstance(value_node, yaml.MappingNode):
            yield from _leaves(value_node, here, name, problems, given=given)
            continue
        given[here] = line
        try:
            yield Entry(here, _value(value_node), where)
        except _DoubtfulError as doubt:
            problems.append(Problem(where, f"{'.'.join(here)}: {doubt}"))


_MERGE = "tag:yaml.org,2002:merge"
"""Of a plain ``<<``."""


def _pairs(
    node: yaml.MappingNode, name: str, problems: list[Problem]
) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
    """Names and values of a mapping, its own first, then those that ``<<`` merges into it."""
    merges = []
    for key, value in node.value:
        if key.tag == _MERGE:
            merges.append((key, value))
        else:
            yield key, value, False
    for key, value in merges:
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(source, yaml.MappingNode):
                yield from ((k, v, True) for k, v, _ in _pairs(source, name, problems))
            else:
                where = f"{name}:{key.start_mark.line + 1}"
                message = "<< merges a section, as `<<: *name`, or a list of sections"
                problems.append(Problem(where, message))


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_value(entry) for entry in node.value]
    if isinstance(node, yaml.MappingNode):
        raise _DoubtfulError("a list of mappings is no setting")
    assert isinstance(node, yaml.ScalarNode)
    text = str(node.value)
    return _plain(text) if node.style is None else text


def _plain(text: str) -> Any:
    if text.lower() in _SURPRISES:
        raise _DoubtfulError(
            f'{text} is read as false or true by some; write true, false or "{text}"'
        )
    if text in ("", "~", "null"):
        return None
    if text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    if _INT.fullmatch(text):
        if len(text) > MOST_DIGITS:
            raise _DoubtfulError(f"{text[:12]}… is too long for a number")
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not isfinite(number):
            raise _DoubtfulError(f"{text[:20]} is too large for a number")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise _DoubtfulError(f"{text} is not a finite number")
    return text


def read_option(text: str) -> Entry | Problem:
    """``a.b=value`` of ``--set``; the value is a YAML scalar or ``[list]``, else plain text."""
    key, equals, raw = text.partition("=")
    where = f"--set {text}"
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        return Problem(where, "must be name=value, as in --set personal.lora.learning_rate=1e-4")
    try:
        node = yaml.compose(raw.strip(), Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        node = None
    except RecursionError:
        return Problem(where, TOO_DEEP)
    if node is None or isinstance(node, yaml.MappingNode):
        return Entry(path, raw.strip() or None, where)
    try:
        return Entry(path, _value(node), where)
    except _DoubtfulError as doubt:
        return Problem(where, str(doubt))
    except RecursionError:
        return Problem(where, TOO_DEEP)
