"""What a search tried and chose: its table, and which settings the scores went along with. Pure.

One row per candidate and rung: ``arm, candidate`` (0 is the default config), ``rung, epochs``
(NaN where the rungs are numbers of users), ``users`` scored by then, ``lacking_users`` (whom
others have), ``nll`` (validation, mean over users of the mean per reply token), ``rouge_l`` (macro,
where replies were generated), ``promoted, chosen, seconds, settings``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from results.record import RecordError

COLUMNS = (
    *("arm", "candidate", "rung", "epochs", "users", "lacking_users", "nll", "rouge_l"),
    *("promoted", "chosen", "seconds", "settings"),
)
DEFAULT = 0
"""The candidate that is the study's config without a search."""
LEAST_CANDIDATES = 4
"""With fewer scored candidates a rank correlation says nothing."""


def search_path(root: Path, study: str) -> Path:
    """Where a study's search is told: one row per candidate and rung."""
    return root / "results" / "search" / f"{study}.csv"


CELL_COLUMNS = ("cell_id", "arm", "seconds")


def cells_path(root: Path, study: str) -> Path:
    """Where the cells of a study's search are listed; ``seconds`` is empty of one that failed."""
    return root / "results" / "search" / f"{study}_cells.csv"


def read_cells(path: Path) -> pd.DataFrame:
    """The cells of a search; empty where there was none.

    Raises:
        RecordError: the file holds something else.
    """
    if not path.is_file():
        return pd.DataFrame(columns=list(CELL_COLUMNS))
    try:
        # Hashes of digits alone, or like 12e5, are no numbers.
        return pd.read_csv(path, dtype={"cell_id": str})[list(CELL_COLUMNS)]
    except (ValueError, KeyError) as error:
        raise RecordError(f"{path} cannot be read ({error}): run the search again") from error


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


def arms_of(history: pd.DataFrame) -> list[str]:
    """Searched arms in order."""
    return [str(arm) for arm in dict.fromkeys(history["arm"])]


def rung_of(history: pd.DataFrame, arm: str, rung: int) -> pd.DataFrame:
    """The candidates of one rung, by number."""
    rows = history[(history["arm"] == arm) & (history["rung"] == rung)]
    return rows.sort_values("candidate")


def last_rung(history: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The candidates that came to the end; one of them is chosen."""
    return rung_of(history, arm, int(history.loc[history["arm"] == arm, "rung"].max()))


def scored_configs(history: pd.DataFrame, arm: str) -> pd.DataFrame:
    """First-rung candidates with all users: ``candidate, nll`` and one column per setting."""
    rows = rung_of(history, arm, 0)
    rows = rows[rows["nll"].notna() & (rows["lacking_users"] == 0)].reset_index(drop=True)
    settings = pd.DataFrame(list(rows["settings"]))
    return pd.concat([rows[["candidate", "nll"]], settings], axis=1)


def places(values: pd.Series) -> pd.Series:
    """Values as numbers to draw and to rank; what is no number has its place in sorted order."""
    if pd.api.types.is_numeric_dtype(values):
        return values.astype(float)
    order = {text: place for place, text in enumerate(sorted(map(str, values.unique())))}
    return values.map(lambda value: float(order[str(value)]))


def importance(history: pd.DataFrame, arm: str) -> pd.DataFrame:
    """How the validation score goes along with each setting: ``setting, correlation, configs``.

    Spearman's rank correlation with the negative log-likelihood of the first rung, where all
    candidates meet: below 0, larger values go along with better scores. Other settings vary at the
    same time and candidates are few, so it tells where to look, not what causes what. NaN for a
    setting that never varied.
    """
    configs = scored_configs(history, arm)
    rows = []
    for setting in configs.columns.drop(["candidate", "nll"]):
        values = places(configs[setting])
        varied = values.nunique() > 1 and configs["nll"].nunique() > 1
        enough = varied and len(configs) >= LEAST_CANDIDATES
        found = float(spearmanr(values, configs["nll"]).statistic) if enough else np.nan
        rows.append((str(setting), found, len(configs)))
    table = pd.DataFrame(rows, columns=["setting", "correlation", "configs"])
    order = table["correlation"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)
