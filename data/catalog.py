"""The sources: ``--data`` takes a name, a name with a place (``edgewise:FOLDER``) or a path."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

from data import edgewise, hub, jsonl
from data.forms import check_form
from data.reading import ROLES, RawUser, Scan, UserLines
from data.schema import DataError
from data.settings import DataSettings
from data.writing import write_json


class ReadUser(Protocol):
    """Reads one user's rows in a worker."""

    def __call__(
        self, user: UserLines, files: Sequence[Path], *, roles: Mapping[str, str] = ROLES
    ) -> RawUser:
        """The user's sessions in the order of the file, and the rows that cannot be used."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where dialogues come from.

    ``fetch`` (location, workspace, settings) makes the raw files be there and returns their
    place, ``scan`` finds the users in it, ``read_user`` reads one user's rows (``roles``: what
    the names of roles mean).
    """

    name: str
    summary: str
    place: str
    fetch: Callable[[str, Path, DataSettings], Path]
    scan: Callable[[Path], Scan]
    read_user: ReadUser


def _given_folder(location: str, workspace: Path, settings: DataSettings) -> Path:
    return edgewise.check_folder(Path(location).resolve())


def _given_file(location: str, workspace: Path, settings: DataSettings) -> Path:
    path = Path(location).resolve()
    check_form(path)
    return path


def _from_hub(location: str, workspace: Path, settings: DataSettings) -> Path:
    return hub.fetch_hub(location, workspace)


def _made(location: str, workspace: Path, settings: DataSettings) -> Path:
    """Write the synthetic files into the workspace, unless they are there with these settings."""
    from data.synthetic import write_synthetic

    folder = workspace / "data" / "raw" / "synthetic"
    made_with: dict[str, Any] = {
        "users": settings.users or 24,
        "sessions": settings.sessions,
        "seed": settings.seed,
        "signal": settings.signal,
    }
    mark = folder / "made_with.json"
    if not mark.is_file() or json.loads(mark.read_text(encoding="utf-8")) != made_with:
        mark.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_synthetic(folder, **made_with)
        write_json(mark, made_with)
    return edgewise.check_folder(folder.resolve())


SOURCES: dict[str, Source] = {
    "edgewise": Source(
        name="edgewise",
        summary="folder with EdgeWisePersona's characters, routines and sessions .jsonl",
        place="FOLDER",
        fetch=_given_folder,
        scan=edgewise.scan,
        read_user=edgewise.read_user,
    ),
    "jsonl": Source(
        name="jsonl",
        summary="one session a line: persona_id, session_id or timestamp, messages",
        place="FILE",
        fetch=_given_file,
        scan=jsonl.scan,
        read_user=jsonl.read_user,
    ),
    "hub": Source(
        name="hub",
        summary="EdgeWisePersona's files from the Hugging Face hub, at a fixed revision",
        place="OWNER/NAME[@REVISION]",
        fetch=_from_hub,
        scan=edgewise.scan,
        read_user=edgewise.read_user,
    ),
    "synthetic": Source(
        name="synthetic",
        summary="generated smart-home households with a signal dial; needs no download",
        place="",
        fetch=_made,
        scan=edgewise.scan,
        read_user=edgewise.read_user,
    ),
}


def resolve_source(text: str) -> tuple[Source, str]:
    """What ``--data`` names: the source and the place in it.

    Raises DataError that says what came, what is allowed, and what was probably meant.
    """
    name, colon, place = text.partition(":")
    if name in SOURCES and (colon or text == name):
        source = SOURCES[name]
        if bool(place) != bool(source.place):
            raise DataError(f"{text!r} is incomplete or has too much: {_form(source)} is expected")
        if source.place in ("FOLDER", "FILE"):
            _check_place(place, wanted=source.place)
        return source, place
    path = Path(text)
    if path.is_dir():
        return SOURCES["edgewise"], text
    if path.is_file():
        return SOURCES["jsonl"], text
    raise DataError(_unknown(text))


def _check_place(place: str, *, wanted: str) -> None:
    path = Path(place)
    if not (path.is_dir() if wanted == "FOLDER" else path.is_file()):
        raise DataError(_unknown(place))


def _form(source: Source) -> str:
    return f"{source.name}:{source.place}" if source.place else source.name


def _unknown(text: str) -> str:
    path = Path(text)
    parent = path.parent if path.parent.is_dir() else None
    beside = (
        {entry.name: str(path.parent / entry.name) for entry in parent.iterdir()} if parent else {}
    )
    names = {**beside, **{name: name for name in SOURCES}}
    near = get_close_matches(path.name, names, n=1)
    hint = f" Did you mean {names[near[0]]!r}?" if near else ""
    allowed = ", ".join(map(_form, SOURCES.values()))
    return (
        f"{text!r} is neither a source nor an existing folder or file.{hint}\n"
        f"Allowed: {allowed}, a folder with the three edgewise files, or a .jsonl file."
    )
