"""What a search tried and chose: its table, as written beside a study's results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from results.record import RecordError

COLUMNS = (
    *("arm", "candidate", "rung", "epochs", "users", "lacking_users", "nll", "rouge_l"),
    *("promoted", "chosen", "seconds", "settings"),
)


def search_path(root: Path, study: str) -> Path:
    """Where a study's search is told: one row per candidate and rung."""
    return root / "results" / "search" / f"{study}.csv"


def read_history(path: Path) -> pd.DataFrame:
    """The rows of a search, settings as mappings; empty where there was none.

    Raises:
        RecordError: the file holds something else.
    """
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        table = pd.read_csv(path)
        table["settings"] = pd.Series(map(_settings, table["settings"]), dtype=object)
        return table[list(COLUMNS)]
    except (ValueError, KeyError) as error:
        raise RecordError(f"{path} cannot be read ({error}): run the search again") from error


def _settings(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found
