"""Settings from a Python file that names them with the program's own classes.

The file is run as the program it is, so only ``--config`` ever reads one, never a workspace::

    from orchestrator.settings import PersonalTraining, Settings
    from tasks.config import TrainingConfig

    settings = Settings(personal=PersonalTraining(lora=TrainingConfig(learning_rate=2e-3)))
"""

from __future__ import annotations

import runpy
import traceback
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.settings import Settings
from orchestrator.yaml_reading import Entry, Problem

NAME = "settings"


def read_python(path: Path) -> tuple[list[Entry], list[Problem]]:
    """All settings that the file gives (not their defaults), or what is wrong with it."""
    name = str(path)
    try:
        made = runpy.run_path(name, run_name="study_config")
    except OSError as error:
        return [], [Problem(name, f"cannot be read: {error.strerror}")]
    except ValidationError as error:
        return [], [_refused(name, error, dict(one)) for one in error.errors()]
    except SystemExit as error:
        message = f"it ends the program (exit code {error.code}); it is to make `settings` alone"
        return [], [Problem(_place(name, error), message)]
    except Exception as error:
        return [], [Problem(_place(name, error), f"{type(error).__name__}: {error}")]
    if not isinstance(made.get(NAME), Settings):
        what = f"is a {type(made[NAME]).__name__}" if NAME in made else "is missing"
        message = f"{NAME!r} {what}; write `settings = Settings(…)` of orchestrator.settings"
        return [], [Problem(name, message)]
    tree = made[NAME].model_dump(exclude_unset=True)
    return list(_leaves(tree, (), name)), []


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...], where: str) -> Iterator[Entry]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key), where)
        else:
            yield Entry((*path, key), value, where)


def _refused(name: str, error: ValidationError, detail: Mapping[str, Any]) -> Problem:
    location = ".".join(map(str, (error.title, *detail["loc"])))
    if detail["type"] == "extra_forbidden":
        *inside, last = map(str, detail["loc"])
        names = _fields(error.title, inside)
        near = get_close_matches(last, names, n=1)
        known = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
        return Problem(_place(name, error), f"{location} is no setting; {known}")
    return Problem(_place(name, error), f"{location}: {detail['msg']}, not {detail['input']!r}")


def _fields(title: str, inside: Sequence[str]) -> list[str]:
    """Names in the settings' class of this title, or in a section inside it."""
    model = _classes().get(title)
    for section in inside:
        kind: object = None if model is None else model.model_fields[section].annotation
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return [] if model is None else list(model.model_fields)


def _classes(model: type[BaseModel] = Settings) -> dict[str, type[BaseModel]]:
    """The settings' classes by name."""
    found = {model.__name__: model}
    for field in model.model_fields.values():
        kind: object = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= _classes(kind)
    return found


def _place(name: str, error: BaseException) -> str:
    """The file with the last of its own lines that was reached."""
    if isinstance(error, SyntaxError) and error.filename == name:
        return f"{name}:{error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == name
    ]
    return f"{name}:{lines[-1]}" if lines else name
