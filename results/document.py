"""A report as data: sections of paragraphs, tables and figures, rendered twice (Markdown, HTML)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from results.figure_style import Figure
from results.wording import interval, number


@dataclass(frozen=True)
class Cell:
    """A table's cell: what is read, and the number that it sorts by (None: by its text)."""

    text: str
    sort: float | None = None

    @property
    def key(self) -> str:
        """The number to sort by, as text; empty where the text sorts."""
        return "" if self.sort is None else repr(float(self.sort))


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a caption; cells in the columns named ``numeric`` stand right."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    kind: Literal["table"] = "table"

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        return [any(row[k].sort is not None for row in self.rows) for k in range(len(self.headers))]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph (``lead`` in larger type, ``note`` in smaller)."""

    text: str
    tone: Literal["plain", "lead", "note"] = "plain"
    kind: Literal["text"] = "text"


@dataclass(frozen=True, kw_only=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]
    kind: Literal["bullets"] = "bullets"


@dataclass(frozen=True, kw_only=True)
class Code:
    """Preformatted text: configs, commands."""

    text: str
    caption: str = ""
    kind: Literal["code"] = "code"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A figure of the set, by its data."""

    figure: Figure
    kind: Literal["figure"] = "figure"


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading below the section's own."""

    text: str
    kind: Literal["heading"] = "heading"


Block = Table | Text | Bullets | Code | Shown | Heading


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of the report; ``key`` is its anchor."""

    key: str
    title: str
    blocks: tuple[Block, ...]


def value(number_: float | int | None, *, digits: int = 3, signed: bool = False) -> Cell:
    """A number's cell; «n/a» sorts last."""
    known = number_ is not None and math.isfinite(number_)
    if isinstance(number_, int) and not isinstance(number_, bool):
        return Cell(f"{number_:,}", float(number_))
    text = number(number_, digits=digits, signed=signed)
    return Cell(text, float(number_) if known and number_ is not None else math.inf)


def span(low: float, high: float, *, digits: int = 3, signed: bool = False) -> Cell:
    """An interval's cell, sorted by its lower end."""
    known = math.isfinite(low) and math.isfinite(high)
    return Cell(
        interval(low, high, digits=digits, signed=signed), float(low) if known else math.inf
    )


def table(caption: str, headers: Sequence[str], rows: Iterable[Sequence[Cell | str]]) -> Table:
    """A table from cells or plain texts."""
    made = tuple(
        tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows
    )
    return Table(caption=caption, headers=tuple(headers), rows=made)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows by column name."""
    return [{str(key): item for key, item in row.items()} for row in frame.to_dict("records")]


def config_text(config: Any) -> str:
    """A config as indented JSON with sorted keys."""
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False, default=str)


def markdown_inline(text: str) -> str:
    """Text for a Markdown line: no HTML, no links that the writer did not mean, one line."""
    flat = " ".join(str(text).split())
    for raw, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("](", "]\\("), ("`", "\\`")):
        flat = flat.replace(raw, safe)
    return flat


def markdown_cell(text: str) -> str:
    """Text for a cell of a Markdown table: pipes are escaped as well."""
    return markdown_inline(text).replace("\\|", "|").replace("|", "\\|")


def markdown_fence(text: str) -> str:
    """A fence longer than any run of backticks in the text."""
    longest, run = 0, 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return "`" * max(3, longest + 1)
