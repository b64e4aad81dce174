"""Per-user score tables from CSV files made anywhere: one row per user, one column per metric."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from results.record import RecordError

NO_SCORE = ("", "na", "n/a", "nan", "null", "none")
"""Cells that say that a user has no score; any other text must be a number."""


def read_scores(path: Path, *, id_column: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Scores of a CSV file: users (text, in the file's order) × metrics, NaN where a cell is empty.

    Args:
        path: a file with a header line, in UTF-8; other columns are passed over.
        id_column: the column that names the user.
        metrics: the columns to read as numbers.

    Raises:
        RecordError: no such file or column, a user twice or without a name, or a cell that is no
            finite number; with file and line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            _check_header(path, header, (id_column, *metrics))
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error
    places = [header.index(name) for name in (id_column, *metrics)]
    found: dict[str, list[float]] = {}
    for line, row in rows:
        if len(row) != len(header):
            raise RecordError(
                f"{path}, line {line}: {len(row)} cells, but {len(header)} columns in the header"
            )
        user, *cells = (row[place].strip() for place in places)
        if not user or user in found:
            what = f"{id_column} {user!r} a second time" if user else f"no {id_column}"
            raise RecordError(f"{path}, line {line}: {what}; one row per user is needed")
        found[user] = [
            _score(path, line, name, cell) for name, cell in zip(metrics, cells, strict=True)
        ]
    if not found:
        raise RecordError(f"{path} has a header and no rows; one row per user is needed")
    return pd.DataFrame.from_dict(found, orient="index", columns=list(metrics), dtype=float)


def _check_header(path: Path, header: Sequence[str], wanted: Sequence[str]) -> None:
    """Every wanted column is there once; all that are not are named, with what was meant."""
    wrong = []
    for name in wanted:
        if header.count(name) > 1:
            wrong.append(f"{name!r} stands there {header.count(name)} times")
        elif name not in header:
            near = get_close_matches(name, header, n=1)
            wrong.append(f"{name!r} is missing" + (f"; did you mean {near[0]!r}?" if near else ""))
    if wrong:
        raise RecordError(
            f"{path}: {'; '.join(wrong)} (its columns: {', '.join(header) or 'none'})"
        )


def _score(path: Path, line: int, metric: str, cell: str) -> float:
    if cell.lower() in NO_SCORE:
        return float("nan")
    try:
        score = float(cell)
    except ValueError:
        score = math.inf
    if not math.isfinite(score):
        raise RecordError(
            f"{path}, line {line}: {metric} is {cell!r}; a finite number, or an empty cell for a "
            "user without a score, is needed"
        )
    return score
