"""What a file is that was given as JSON Lines: told by its first bytes, before anything starts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from data.reading import BOM
from data.schema import DataError

FIRST_BYTES = 1 << 16
_LOOKED_AT = 5
_SHOWN = 40

_PANDAS = 'import pandas; pandas.read_{kind}({file}).to_json({made}, orient="records", lines=True)'
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "is compressed with gzip", "unpack it first: gunzip --keep {path}"),
    (b"\x28\xb5\x2f\xfd", "is compressed with Zstandard", "unpack it first: unzstd {path}"),
    (b"\xfd7zXZ\x00", "is compressed with xz", "unpack it first: unxz --keep {path}"),
    (b"BZh", "is compressed with bzip2", "unpack it first: bunzip2 --keep {path}"),
    (b"\x04\x22\x4d\x18", "is compressed with lz4", "unpack it first: unlz4 {path}"),
    (b"PAR1", "is a Parquet table", "write it as JSON Lines: {parquet}"),
    (b"ARROW1", "is an Arrow (Feather) table", "write it as JSON Lines: {feather}"),
    (
        b"\xff\xff\xff\xff",
        "is an Arrow stream",
        "write it as JSON Lines, as datasets' to_json does",
    ),
    (b"ORC", "is an ORC table", "write it as JSON Lines: {orc}"),
    (b"Obj\x01", "is an Avro file", "write it as JSON Lines"),
    (b"SQLite format 3\x00", "is an SQLite database", "write its table as JSON Lines"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file", "write it as JSON Lines"),
    (b"%PDF", "is a PDF", "give the data themselves"),
    (b"\xd0\xcf\x11\xe0", "is an old Office file (.xls?)", "write its sheet as JSON Lines"),
    (b"\x80\x02", "is a Python pickle", "write it as JSON Lines"),
    (b"\x80\x03", "is a Python pickle", "write it as JSON Lines"),
    (b"\x80\x04", "is a Python pickle", "write it as JSON Lines"),
    (b"\x80\x05", "is a Python pickle", "write it as JSON Lines"),
    (b"version https://git-lfs", "is a pointer of Git LFS", "fetch the file: git lfs pull"),
)
"""First bytes, what the file then is, what to do. A name in braces is one of ``_ways``."""


def check_form(path: Path, *, wanted: str = "one session a line, as a JSON object") -> None:
    """Raise DataError where the file cannot hold JSON Lines; it says what the file is instead.

    Only its first bytes are read. Single bad rows are no matter of this check.
    """
    try:
        with path.open("rb") as file:
            start = file.read(FIRST_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    found = _form(start, whole=len(start) < FIRST_BYTES)
    if found is not None:
        what, how = found
        raise DataError(f"{path} {what}, but {wanted}, is expected: {how.format(**_ways(path))}")


def _ways(path: Path) -> dict[str, str]:
    """Commands that make JSON Lines of the file."""
    made = path.with_suffix(".jsonl")
    made = made if made != path else path.with_suffix(".lines.jsonl")
    file, into = shlex.quote(str(path)), shlex.quote(str(made))
    ways = {
        kind: "python -c "
        + shlex.quote(
            _PANDAS.format(kind=kind, file=json.dumps(str(path)), made=json.dumps(str(made)))
        )
        for kind in ("parquet", "feather", "orc")
    }
    return ways | {"path": file, "made": into}


def _form(start: bytes, *, whole: bool) -> tuple[str, str] | None:
    """What the file is and what to do; None where it can be JSON Lines."""
    for magic, what, how in _MAGIC:
        if start.startswith(magic):
            return what, how
    if start.startswith(b"PK\x03\x04"):
        excel = b"xl/" in start or b"[Content_Types].xml" in start
        what = "is an Excel workbook" if excel else "is a zip archive"
        return what, "write its sheet as JSON Lines" if excel else "unpack it first: unzip {path}"
    return _encoding(start) or _text_form(start.removeprefix(BOM), whole=whole)


def _encoding(start: bytes) -> tuple[str, str] | None:
    """UTF-16 and UTF-32 with or without their mark, and other bytes that are no text."""
    wide = "iconv -f {0} -t UTF-8 {{path}} > {{made}}"
    if start.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "is UTF-32", f"save it as UTF-8: {wide.format('UTF-32')}"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "is UTF-16", f"save it as UTF-8: {wide.format('UTF-16')}"
    for name, zeros, signs in (
        ("LE", start[1:64:2], start[0:64:2]),
        ("BE", start[0:64:2], start[1:64:2]),
    ):
        if len(zeros) > 1 and not any(zeros) and all(signs):
            return f"is UTF-16{name}", f"save it as UTF-8: {wide.format(f'UTF-16{name}')}"
    if b"\x00" in start[:1024]:
        return "is no text", "give a text file"
    return None


def _text_form(start: bytes, *, whole: bool) -> tuple[str, str] | None:
    """Text that is no JSON Lines: nothing at all, one JSON value, a table, a page."""
    lines = [line.strip() for line in start.splitlines() if line.strip()]
    if not lines:
        return ("is empty", "give a file with rows") if whole else None
    if b"\n" not in start and b"\r" in start.strip():
        return "ends its lines with CR alone", "save it with LF: tr '\\r' '\\n' < {path} > {made}"
    first = lines[0]
    if first.startswith(b"[") and not _goes_on_as_rows(lines):
        return "is a JSON array", "write one element a line: jq -c '.[]' {path} > {made}"
    if first.startswith(b"{"):
        return _spread(lines, whole=whole)
    if any(line.startswith(b"{") for line in lines[1:_LOOKED_AT]):
        return None  # A bad row among others.
    return _no_json(lines)


def _goes_on_as_rows(lines: list[bytes]) -> bool:
    return _is_json(lines[0]) and any(line.startswith(b"{") for line in lines[1:_LOOKED_AT])


def _spread(lines: list[bytes], *, whole: bool) -> tuple[str, str] | None:
    """One JSON value over several lines; a first line that is merely broken is a bad row."""
    if len(lines) < 2 or any(line.startswith(b"{") and _is_json(line) for line in lines):
        return None
    alone = lines[0] == b"{" or lines[0].endswith((b",", b"[", b"{", b":"))
    if alone or (whole and _is_json(b"\n".join(lines))):
        return "has JSON over several lines", "write one object a line: jq -c . {path} > {made}"
    return None


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _no_json(lines: list[bytes]) -> tuple[str, str] | None:
    first = lines[0].decode("utf-8", "replace")
    shown = repr(first[:_SHOWN] + ("…" if len(first) > _SHOWN else ""))
    if first[:9].lower() in ("<!doctype", "<html") or first[:5].lower() in ("<html", "<?xml"):
        return f"is a page or XML ({shown})", "download the data themselves"
    if first[0] in '"-0123456789tfn' and _is_json(lines[0]):
        return None  # JSON, if no object: each row tells what it is.
    for name, sign in (("CSV", ","), ("TSV", "\t"), ("CSV (semicolons)", ";")):
        if sign in first:
            return f"looks like {name} ({shown})", "write each row as a JSON object on a line"
    return f"is no JSON (it begins with {shown})", "write each row as a JSON object on a line"
