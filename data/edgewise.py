"""Source ``edgewise``: a folder with EdgeWisePersona's three files, in which line i is user i.

``characters.jsonl`` is only counted: the hidden description of a persona never enters a study.
A user's id is the line's number from 0. The files carry no time: order is ``session_id`` order.
Ids are whole numbers, also where they are written 12.0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.forms import check_form
from data.messages import parse_messages
from data.reading import (
    ROLES,
    BadRowError,
    RawSession,
    RawUser,
    Scan,
    UserLines,
    check_unchanged,
    kind_of,
    parse_id,
    parse_object,
    read_spans,
    scan_lines,
    text_of,
    texts_of,
    whole_numbers,
)
from data.schema import DataError, Json

FILES = ("characters.jsonl", "routines.jsonl", "sessions.jsonl")
ROUTINES, SESSIONS = 1, 2

Setting = tuple[str, str, str]


def check_folder(folder: Path) -> Path:
    """The folder, if all three files stand in it; a DataError that names the missing otherwise.

    Each is looked at for what it is (``data.forms``).
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks {', '.join(missing)}: an edgewise folder holds {', '.join(FILES)}"
            f"{_what_else(folder)}"
        )
    for name in FILES:
        check_form(folder / name, wanted="one user a line, as a JSON object")
    return folder


def _what_else(folder: Path) -> str:
    """The file of the folder that was probably meant; empty where there is not just one."""
    found = [path for path in sorted(folder.glob("*.jsonl")) if path.name not in FILES]
    return f"; to read {found[0].name} itself: --data {found[0]}" if len(found) == 1 else ""


def scan(folder: Path) -> Scan:
    """Find every user's lines and the files' hashes. Files of different length: see below.

    A line that another file has and this one lacks counts as a bad row, so that
    ``skip_bad_rows`` can allow it; its user is then left out.
    """
    files = tuple(check_folder(folder) / name for name in FILES)
    lines = [scan_lines(path) for path in files]
    longest = max(map(len, lines))
    shortest = min(map(len, lines))
    users = tuple(
        UserLines(str(i), (lines[ROUTINES].span(ROUTINES, i), lines[SESSIONS].span(SESSIONS, i)))
        for i in range(shortest)
    )
    if longest == 0:
        raise DataError(f"{folder}: the three files are empty; line i of each must be user i")
    sizes = ", ".join(f"{p.name} {len(n)}" for p, n in zip(files, lines, strict=True))
    short = min(lines, key=len)
    bad = tuple(
        BadRowError(
            str(short.path), i + 1, f"missing: line i of the three files is user i ({sizes})"
        )
        for i in range(shortest, longest)
    )
    hashes = {path.name: found.sha256 for path, found in zip(files, lines, strict=True)}
    versions = tuple(found.version for found in lines)
    scan = Scan(files=files, sha256=hashes, users=users, bad_rows=bad, versions=versions)
    check_unchanged(scan)
    return scan


def read_user(
    user: UserLines, files: Sequence[Path], *, roles: Mapping[str, str] = ROLES
) -> RawUser:
    """One user's sessions; a line that cannot be used leaves the user without sessions."""
    counts: Counter[str] = Counter()
    try:
        routines, sessions = (
            _parse(files[span.file], read_spans(files[span.file], [span])[0], span.line)
            for span in user.spans
        )
        settings = _routine_settings(routines, file=files[ROUTINES], line=user.spans[0].line)
        line = user.spans[1].line
        rows = _sessions(sessions, settings, counts, file=files[SESSIONS], line=line, roles=roles)
    except BadRowError as error:
        return RawUser(user.persona_id, [], [error])
    return RawUser(user.persona_id, rows, [], counts)


def _parse(path: Path, row: bytes, line: int) -> Json:
    return parse_object(row, file=str(path), line=line)


def _routine_settings(value: Json, *, file: Path, line: int) -> list[list[Setting]]:
    """Settings of each routine as (device, setting, value); null ones do not exist."""
    routines = value.get("routines")
    if not isinstance(routines, list):
        came = "nothing" if "routines" not in value else kind_of(routines)
        raise BadRowError(str(file), line, f"lacks 'routines', a list of routines ({came} there)")
    return [_settings_of(routine, file=file, line=line) for routine in routines]


def _settings_of(routine: object, *, file: Path, line: int) -> list[Setting]:
    actions = routine.get("actions") if isinstance(routine, dict) else None
    if not isinstance(actions, dict | None):
        raise BadRowError(
            str(file), line, f"a routine's actions must be an object: {actions!r:.60}"
        )
    return [
        (text_of(device), text_of(setting), text_of(came))
        for device, settings in (actions or {}).items()
        if isinstance(settings, dict)
        for setting, came in settings.items()
        if came is not None
    ]


def _sessions(
    value: Json,
    settings: list[list[Setting]],
    counts: Counter[str],
    *,
    file: Path,
    line: int,
    roles: Mapping[str, str],
) -> list[RawSession]:
    sessions = value.get("sessions")
    if not isinstance(sessions, list):
        came = "nothing" if "sessions" not in value else kind_of(sessions)
        raise BadRowError(str(file), line, f"lacks 'sessions', a list of sessions ({came} there)")
    return [
        _session(entry, settings, counts, file=file, line=line, number=number, roles=roles)
        for number, entry in enumerate(sessions, 1)
    ]


def _session(
    entry: object,
    settings: list[list[Setting]],
    counts: Counter[str],
    *,
    file: Path,
    line: int,
    number: int,
    roles: Mapping[str, str],
) -> RawSession:
    def fail(reason: str) -> BadRowError:
        return BadRowError(str(file), line, f"session {number} of the line: {reason}")

    if not isinstance(entry, dict):
        raise fail(f"must be an object, not {kind_of(entry)}")
    session_id = parse_id(entry.get("session_id"), fail=fail, what="session_id", text=False)
    if "messages" not in entry:
        raise fail(f"lacks 'messages' (fields there: {', '.join(entry)})")
    applied = whole_numbers(entry.get("applied_routines"), fail=fail, what="applied_routines")
    known = tuple(index for index in applied or () if 0 <= index < len(settings))
    if len(known) < len(applied or ()):
        counts["applied_routines_unknown"] += 1
    return RawSession(
        line=line,
        session_id=session_id,
        timestamp=None,
        messages=parse_messages(entry["messages"], fail=fail, counts=counts, roles=roles),
        context=texts_of(entry.get("meta"), fail=fail, what="meta"),
        applied_routines=None if applied is None else known,
        routine_settings=None
        if applied is None
        else tuple(dict.fromkeys(row for index in known for row in settings[index])),
    )
