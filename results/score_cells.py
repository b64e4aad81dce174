"""What a cell of a score table may hold: one plain number, or nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from results.record import RecordError

NO_SCORE = ("", "na", "n/a", "nan", "null", "none")
"""Cells that say that a user has no score; any other text must be a number."""
# Not what ``float`` takes: that reads 0_5 as 5, and digits of any script.
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_COMMA_NUMBER = re.compile(r"[+-]?(?:\d+,\d+|,\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class DecimalMark:
    """How a table writes decimals; ``reason`` says why its commas are not read, if they are not."""

    comma: bool = False
    reason: str = ""

    @classmethod
    def of(cls, cells: Iterable[str]) -> DecimalMark:
        """The mark of all cells together: a comma where it can be nothing else."""
        kept = [cell for cell in cells if "," in cell or "." in cell]
        commas = [cell for cell in kept if _COMMA_NUMBER.fullmatch(cell)]
        if not commas:
            return cls()
        if len(commas) < len(kept):
            return cls(reason="other cells are not written with a comma")
        if all(_THOUSANDS.fullmatch(cell) for cell in commas):
            return cls(reason="the comma may be one of decimals or of thousands")
        return cls(comma=True)


def score(cell: str, *, where: str, mark: DecimalMark) -> float:
    """A cell as a number, NaN for none.

    Raises:
        RecordError: it is no plain finite number; ``where`` begins the message.
    """
    if cell.lower() in NO_SCORE:
        return float("nan")
    plain = cell.replace(",", ".") if mark.comma and _COMMA_NUMBER.fullmatch(cell) else cell
    number = float(plain) if _NUMBER.fullmatch(plain) else math.inf
    if not math.isfinite(number):
        reason = f" ({mark.reason})" if mark.reason and "," in cell else ""
        raise RecordError(
            f"{where} is {cell!r}{reason}; a finite number like 0.5 or 1e-3, or an empty cell for "
            "a user without a score, is needed"
        )
    return number
