"""``experiment_registry.csv``: every arm that was ever scored here, one row per split and seed."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from results.analysis import PRIMARY_METRIC
from results.collector import Collected
from results.contrasts import GATED, gate_fallback, is_gated
from results.files import DECIMALS, without_formula, write_atomic
from results.gate import gate_choices, gated_scores
from results.record import GATE_SPLIT, MetricInfo, Record, RecordError
from results.score_table import SWAPPED

COLUMNS = [
    *("arm", "split", "date", "commit", "macro_rouge_l", "macro_verbosity_error"),
    *("seed", "data_sha256", "items_sha256", "model_sha256", "n_users", "n_cells", "cells_sha256"),
]
KEY = ("arm", "split", "seed", "cells_sha256")


def append_registry(collected: Collected, path: Path, *, commit: str) -> Path:
    """Add the rows that are not there yet; what is there stays as it is, byte for byte.

    A row is known by its arm, split, seed and cells, so the same records are added once. The file
    is written anew under a temporary name, so that a killed driver leaves no half row.

    Args:
        collected: the records and their scores.
        path: the registry; made if it is not there.
        commit: for cells whose record does not say by which commit it was made.

    Raises:
        RecordError: the file has other columns.
    """
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    have = _known_keys(known, path)
    rows = registry_rows(collected, commit=commit)
    new = [row for row in rows if tuple(str(row[name]) for name in KEY) not in have]
    if known and not new:
        return path
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if not known:
        writer.writeheader()
    elif not known.endswith("\n"):
        text.write("\n")
    writer.writerows({name: without_formula(value) for name, value in row.items()} for row in new)
    return write_atomic(path, (known + text.getvalue()).encode())


def _known_keys(text: str, path: Path) -> set[tuple[str, ...]]:
    if not text:
        return set()
    reader = csv.DictReader(io.StringIO(text))
    if lost := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise RecordError(
            f"{path} has no column {lost[0]!r}: it is not this program's registry; move it away"
        )
    return {tuple(row[name] for name in KEY) for row in reader}


def registry_rows(collected: Collected, *, commit: str) -> list[dict[str, Any]]:
    """One row per arm × split × seed that has scores; controls and gated arms have their own.

    ``commit`` is that of the code which ran the cells, not of the program that writes the row;
    several are told by a space.
    """
    table = collected.table
    whole = _with_gated(table[table["slice"] == "all"], collected.metrics)
    records = _by_arm(collected)
    keys = ["arm", "split", "seed"]
    users = whole.groupby(keys, observed=True)["user_id"].nunique()
    macro = whole.groupby([*keys, "metric"], observed=True)["value"].mean()
    rows = []
    for key in sorted(users.index):
        arm, split, seed = str(key[0]), str(key[1]), int(key[2])
        behind = _behind(records, arm, split, seed)
        cells = "+".join(sorted(record.cell_id for record in behind))
        spec = behind[0].spec
        rows.append({
            "arm": arm, "split": split, "seed": seed, "commit": _commits(behind, commit),
            "date": max(record.finished_utc for record in behind)[:10],
            **{
                f"macro_{metric}": _decimals(macro.get((*key, metric)))
                for metric in ("rouge_l", "verbosity_error")
            },
            **{name: spec[name] for name in ("data_sha256", "items_sha256", "model_sha256")},
            "n_users": int(users[key]), "n_cells": len(behind),
            "cells_sha256": hashlib.sha256(cells.encode()).hexdigest()[:16],
        })  # fmt: skip
    return rows


def _with_gated(whole: pd.DataFrame, metrics: Mapping[str, MetricInfo]) -> pd.DataFrame:
    """Scores over all items, and those of the arms that the no-harm gate makes of them."""
    if PRIMARY_METRIC not in metrics:
        return whole
    better = metrics[PRIMARY_METRIC].higher_is_better
    choices = gate_choices(whole, PRIMARY_METRIC, higher_is_better=better)
    if choices.empty:
        return whole
    scores = gated_scores(whole, choices)
    return pd.concat([whole, scores[scores["arm"].astype(str).map(is_gated)]], ignore_index=True)


def _behind(
    records: Mapping[tuple[str, str, int], list[Record]], arm: str, split: str, seed: int
) -> list[Record]:
    """The records that an arm's scores come from; a gated arm's also say who was kept."""
    plain = arm.removesuffix(SWAPPED).removesuffix(GATED)
    if not is_gated(arm):
        return records[(plain, split, seed)]
    names = (plain, gate_fallback(plain) or plain)
    return [one for name in names for part in (split, GATE_SPLIT)
            for one in records.get((name, part, seed), [])]  # fmt: skip


def _commits(behind: Sequence[Record], otherwise: str) -> str:
    return " ".join(sorted({one.environment.get("commit", otherwise) for one in behind}))


def _by_arm(collected: Collected) -> dict[tuple[str, str, int], list[Record]]:
    """Scored records by arm, split and seed."""
    found: dict[tuple[str, str, int], list[Record]] = {}
    for record in collected.records.values():
        if record.purpose not in ("train", "repeat"):
            found.setdefault((record.arm, record.split, record.seed), []).append(record)
    return found


def _decimals(value: Any) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.{DECIMALS}f}"
