"""Per-user score tables from CSV files made anywhere: one row per user, one column per metric.

What is read is what people see: cells are separated by commas, semicolons or tabs, whichever gives
the columns that are asked for; the text is UTF-8, or UTF-16 and UTF-32 with a byte order mark. Ids
and names count as Unicode NFC, so that an «é» is one letter however it was typed. A cell that is
no plain number is refused; nothing is guessed.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from results.record import RecordError
from results.score_cells import DecimalMark, score

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
OTHER_FORMATS = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "an Excel workbook or another ZIP file",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "an SQLite database",
}
"""Files by their first bytes that people take for tables, too."""
# The longer mark first: that of UTF-32 begins like that of UTF-16.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
LONGEST_CELL = 2**31 - 1
_SEPARATOR_LINE = re.compile('"?sep=(.)"?\r?\n', re.IGNORECASE)
"""Excel's own first line."""
Rows = list[tuple[int, list[str]]]


def read_scores(path: Path, *, id_column: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Scores of a CSV file: users (text, in the file's order) × metrics, NaN where a cell is empty.

    Args:
        path: a file with a header line; other columns are passed over.
        id_column: the column that names the user.
        metrics: the columns to read as numbers.

    Raises:
        RecordError: no such file or column, a file that is no table, a user twice or without a
            name, or a cell that is no finite number; with file, line and column.
    """
    wanted = (id_column, *metrics)
    header, rows = _table(path, wanted)
    names = [_same(name) for name in header]
    places = [names.index(_same(name)) for name in wanted]
    lines: dict[str, tuple[int, str]] = {}
    cells: list[tuple[int, list[str]]] = []
    for line, row in rows:
        if len(row) != len(header):
            raise RecordError(
                f"{path}, line {line}: {len(row)} cells, but {len(header)} columns in the header"
            )
        user, *own = (row[place].strip() for place in places)
        _check_user(path, line, id_column, user, lines)
        lines[_same(user)] = line, user
        cells.append((line, own))
    if not lines:
        raise RecordError(f"{path} has a header and no rows; one row per user is needed")
    mark = DecimalMark.of(cell for _, own in cells for cell in own)
    scores = [
        [
            score(cell, where=f"{path}, line {line}: {name}", mark=mark)
            for name, cell in zip(metrics, own, strict=True)
        ]
        for line, own in cells
    ]
    return pd.DataFrame(scores, index=pd.Index(list(lines)), columns=list(metrics), dtype=float)


def _same(name: str) -> str:
    """A name as it is compared: NFC, without white space around it."""
    return unicodedata.normalize("NFC", name.strip())


def _check_user(
    path: Path, line: int, id_column: str, user: str, lines: dict[str, tuple[int, str]]
) -> None:
    if user and _same(user) not in lines:
        return
    what = f"no {id_column}"
    if user:
        before, spelling = lines[_same(user)]
        what = f"{id_column} {user!r} a second time"
        if spelling != user:
            what += f", written in other code points in line {before} ({spelling!a} and "
            what += f"{user!a})"
    raise RecordError(f"{path}, line {line}: {what}; one row per user is needed")


def _table(path: Path, wanted: Sequence[str]) -> tuple[list[str], Rows]:
    """Header and rows with their lines, split by the separator that gives the wanted columns."""
    text = _text(path)
    told = _SEPARATOR_LINE.match(text)
    first = 0
    separators = list(SEPARATORS)
    if told:
        text, first, separators = text[told.end() :], 1, [told[1]]
    headers = {sign: _header(path, text, sign) for sign in separators}
    fitting = [sign for sign, header in headers.items() if not _wrong(header, wanted)]
    # Without one that fits, the error names the columns of the most likely separator.
    sign = fitting[0] if fitting else max(separators, key=lambda sign: len(headers[sign]))
    header = headers[sign]
    if wrong := _wrong(header, wanted):
        if text.lstrip().startswith(("{", "[")):
            raise RecordError(f"{path} looks like JSON: save the table as CSV, with a header line")
        shown = ", ".join(header) or "none"
        raise RecordError(f"{path}: {'; '.join(wrong)} (its columns: {shown})")
    rows = [(line + first, row) for line, row in _rows(path, text, sign)]
    return header, rows[1:]


def _text(path: Path) -> str:
    """The file as text.

    Raises:
        RecordError: it cannot be read, or is none.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read as a CSV file: {error}") from error
    for start, what in OTHER_FORMATS.items():
        if content.startswith(start):
            raise RecordError(f"{path} is {what}, not a CSV file: save the table as CSV in UTF-8")
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error
    if "\0" in text:
        raise RecordError(
            f"{path} holds NUL bytes: it is no text, or UTF-16 without a byte order mark; save the "
            "table as CSV in UTF-8"
        )
    return text


def _header(path: Path, text: str, separator: str) -> list[str]:
    rows = _rows(path, text, separator, header_only=True)
    return [name.strip() for name in rows[0][1]] if rows else []


def _rows(path: Path, text: str, separator: str, *, header_only: bool = False) -> Rows:
    """Rows with something in them, each with the line that it ends in."""
    rows: Rows = []
    try:
        with _long_cells():
            reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
            for row in reader:
                rows += [(reader.line_num, row)] if any(map(str.strip, row)) else []
                if rows and header_only:
                    break
    except csv.Error as error:
        # A quote that a wrong separator leaves inside a cell is no fault of the file.
        if header_only:
            return []
        raise RecordError(
            f"{path} cannot be read as a CSV file (line {len(rows) + 1} or later): {error}"
        ) from error
    return rows


@contextmanager
def _long_cells() -> Iterator[None]:
    """Cells of any length: texts of columns that are not compared are in nobody's way."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _wrong(header: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Every wanted column that is not there just once, with what was meant."""
    names = [_same(name) for name in header]
    wrong = []
    for name in wanted:
        times = names.count(_same(name))
        if times > 1:
            wrong.append(f"{name!r} stands there {times} times")
        elif not times:
            near = get_close_matches(name, header, n=1)
            wrong.append(f"{name!r} is missing" + (f"; did you mean {near[0]!r}?" if near else ""))
    return wrong
