"""The tables of a study as files, in the formats that DESIGN names; 6 decimals, written whole.

No table holds a time: two runs with equal numbers write equal bytes. Values are means over seeds.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from results.collector import SWAPPED, Collected
from results.files import write_atomic, write_csv, write_json

BASELINE = "baseline"
MOST_USER_FOLDERS = 1_000
SAMPLES = 20
SCORE_COLUMNS = ["rouge_l", "verbosity_error", "embedding_similarity", "output_length_std"]
REGISTRY_COLUMNS = [
    *("arm", "split", "date", "commit", "macro_rouge_l", "macro_verbosity_error"),
    *("seed", "data_sha256", "items_sha256", "model_sha256", "n_users", "cells"),
]
SHIFT_COLUMN = {"lora": "adapter_shift_norm", "prefix": "prefix_shift_norm"}


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What tables need beside the numbers."""

    commit: str
    folder_name: Callable[[str], str]
    """User key → safe folder name."""


def write_tables(collected: Collected, workspace: Path, *, facts: TableFacts) -> list[Path]:
    """All tables of the arms that have scores; returns their paths."""
    results = workspace / "results"
    paths: list[Path] = []
    sampled = sampled_items(collected)
    for arm in trained_arms(collected):
        folder = results / arm
        wide = per_user(collected, arm)
        if is_per_user(collected, arm):
            paths += _per_user_files(collected, arm, wide, folder, facts)
        else:
            paths.append(write_csv(folder / "per_user_scores.csv", scores_table(wide)))
            paths.append(write_json(folder / f"{arm}_eval.json", summary(collected, arm, wide)))
        paths.append(write_samples(collected, arm, sampled, folder / "sample_outputs.jsonl"))
        curve = collected.curves[collected.curves["arm"] == arm]
        if len(curve):
            paths.append(write_csv(folder / "training_curve.csv", curve.drop(columns="arm")))
    paths.append(append_registry(collected, workspace / "experiment_registry.csv", facts))
    return paths


def trained_arms(collected: Collected) -> list[str]:
    """Arms with scores on test, controls left out."""
    test = collected.table[collected.table["split"] == "test"]
    return [arm for arm in dict.fromkeys(test["arm"]) if not arm.endswith(SWAPPED)]


def is_per_user(collected: Collected, arm: str) -> bool:
    """Whether the arm has an adapter for each user."""
    return any(r.arm == arm and r.grouping == "user" for r in collected.records.values())


def per_user(collected: Collected, arm: str, *, split: str = "test") -> pd.DataFrame:
    """One row per user, one column per metric (means over seeds), ``n_items`` last."""
    table = collected.table
    own = table[(table["arm"] == arm) & (table["split"] == split) & (table["slice"] == "all")]
    wide = own.pivot_table(index="user_id", columns="metric", values="value", aggfunc="mean")
    wide["n_items"] = own[own["metric"] == "rouge_l"].groupby("user_id")["n_items"].max()
    wide["delta_vs_baseline"] = float("nan")
    if arm != BASELINE and (table["arm"] == BASELINE).any():
        wide["delta_vs_baseline"] = wide["rouge_l"] - per_user(collected, BASELINE)["rouge_l"]
    return wide


def scores_table(wide: pd.DataFrame) -> pd.DataFrame:
    """``per_user_scores.csv``: the named columns first, then every other metric."""
    first = [*SCORE_COLUMNS, "n_items", "delta_vs_baseline"]
    if wide["delta_vs_baseline"].isna().all():
        first.remove("delta_vs_baseline")
        wide = wide.drop(columns="delta_vs_baseline")
    others = sorted(set(wide.columns) - set(first))
    return wide.reindex(columns=first + others).reset_index()


def summary_table(collected: Collected, arm: str, wide: pd.DataFrame) -> pd.DataFrame:
    """``per_user_summary.csv`` of a per-user arm, with the shift of each user's adapter."""
    slots = collected.slots[collected.slots["arm"] == arm]
    shift_name = SHIFT_COLUMN[_adapter(collected, arm)]
    means = slots.groupby("user_id")[["shift_norm", "steps", "examples", "trained_tokens"]].mean()
    joined = wide.join(means).rename(columns={"rouge_l": "ROUGE-L", "shift_norm": shift_name})
    first = ["ROUGE-L", "verbosity_error", "delta_vs_baseline", shift_name]
    others = sorted(set(joined.columns) - set(first))
    return joined.reindex(columns=first + others).reset_index()


def _adapter(collected: Collected, arm: str) -> str:
    return next(r.adapter for r in collected.records.values() if r.arm == arm)


def summary(collected: Collected, arm: str, wide: pd.DataFrame) -> dict[str, Any]:
    """``<arm>_eval.json``: macro metrics (means over users), deltas, shift norms, provenance."""
    records = [r for r in collected.records.values() if r.arm == arm]
    slots = collected.slots[collected.slots["arm"] == arm]
    metrics = [name for name in wide.columns if name in collected.metrics]
    found = {
        "arm": arm,
        "split": "test",
        "n_users": len(wide),
        "n_items": int(wide["n_items"].sum()),
        "seeds": sorted({r.seed for r in records}),
        "macro": _rounded(wide[metrics].mean()),
        "delta_vs_baseline": _number(wide["delta_vs_baseline"].mean()),
        "shift_norms": {
            str(slot): _number(value)
            for slot, value in slots.groupby("user_id")["shift_norm"].mean().items()
        },
        "items_sha256": next(r.spec["items_sha256"] for r in records if r.split == "test"),
        "cells": sorted(r.cell_id for r in records),
    }
    if arm == BASELINE:
        validation = per_user(collected, arm, split="val")
        if len(validation):
            found["validation_macro"] = _rounded(validation[metrics].mean())
    return found


def _rounded(values: pd.Series[Any]) -> dict[str, float | None]:
    return {str(name): _number(value) for name, value in values.items()}


def _number(value: float) -> float | None:
    """6 decimals, or None where there is no number."""
    return None if pd.isna(value) else round(float(value), 6)


def _per_user_files(
    collected: Collected, arm: str, wide: pd.DataFrame, folder: Path, facts: TableFacts
) -> list[Path]:
    table = summary_table(collected, arm, wide)
    paths = [write_csv(folder / "per_user_summary.csv", table)]
    paths.append(write_json(folder / f"{arm}_eval.json", summary(collected, arm, wide)))
    if len(table) <= MOST_USER_FOLDERS:
        swapped = per_user(collected, arm + SWAPPED) if _has(collected, arm + SWAPPED) else None
        for row in table.to_dict(orient="records"):
            user = str(row["user_id"])
            value: dict[str, Any] = {
                str(k): v if isinstance(v, str) else _number(v) for k, v in row.items()
            }
            if swapped is not None and user in swapped.index:
                value["swapped"] = _rounded(swapped.T[user])
            paths.append(write_json(folder / facts.folder_name(user) / "eval.json", value))
    return paths


def _has(collected: Collected, arm: str) -> bool:
    return bool((collected.table["arm"] == arm).any())


def sampled_items(collected: Collected, *, samples: int = SAMPLES) -> list[str]:
    """The same items for all arms: a seed-fixed choice of those that every arm has."""
    common: set[str] | None = None
    for arm in trained_arms(collected):
        own = collected.items(arm, seed=_first_seed(collected, arm), columns=["item_id"])
        common = set(own["item_id"]) if common is None else common & set(own["item_id"])
    ordered = sorted(common or ())
    return sorted(random.Random("sample-outputs").sample(ordered, min(samples, len(ordered))))


def _first_seed(collected: Collected, arm: str) -> int:
    return min(r.seed for r in collected.records.values() if r.arm == arm)


def write_samples(collected: Collected, arm: str, sampled: Sequence[str], path: Path) -> Path:
    """``sample_outputs.jsonl``: query, reference, output and metrics of the sampled items."""
    items = collected.items(arm, seed=_first_seed(collected, arm))
    chosen = items[items["item_id"].isin(list(sampled))].sort_values("item_id")
    lines = [
        json.dumps(_sample(row, collected.metrics), ensure_ascii=False, allow_nan=False)
        for row in chosen.to_dict(orient="records")
    ]
    return write_atomic(path, "".join(line + "\n" for line in lines).encode())


def _sample(row: Mapping[Any, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("item_id", "user_id", "query", "reference", "output")},
        "metrics": {name: _number(row[name]) for name in metrics if name in row},
    }


def append_registry(collected: Collected, path: Path, facts: TableFacts) -> Path:
    """``experiment_registry.csv``: a row per arm × split × seed, appended and never rewritten.

    A row whose cells are in the registry already is not added again.
    """
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    have = {row["cells"] for row in csv.DictReader(io.StringIO(known))}
    rows = [row for row in registry_rows(collected, facts) if row["cells"] not in have]
    text = io.StringIO()
    writer = csv.DictWriter(text, REGISTRY_COLUMNS, lineterminator="\n")
    if not known:
        writer.writeheader()
    writer.writerows(rows)
    return write_atomic(path, (known + text.getvalue()).encode()) if rows or not known else path


def registry_rows(collected: Collected, facts: TableFacts) -> list[dict[str, Any]]:
    """One row per arm × split × seed that has scores."""
    whole = collected.table[collected.table["slice"] == "all"]
    rows = []
    for (arm, split, seed), scores in whole.groupby(["arm", "split", "seed"], sort=True):
        plain = str(arm).removesuffix(SWAPPED)
        records = [
            r for r in collected.records.values()
            if (r.arm, r.split, r.seed) == (plain, split, seed) and r.purpose != "train"
        ]  # fmt: skip
        macro = scores.groupby("metric")["value"].mean()
        spec = records[0].spec
        rows.append({
            "arm": arm, "split": split, "seed": seed,
            "date": max(r.finished_utc for r in records)[:10], "commit": facts.commit,
            "macro_rouge_l": f"{macro['rouge_l']:.6f}",
            "macro_verbosity_error": f"{macro['verbosity_error']:.6f}",
            **{name: spec[name] for name in ("data_sha256", "items_sha256", "model_sha256")},
            "n_users": scores["user_id"].nunique(),
            "cells": f"{arm}:" + "+".join(sorted(r.cell_id for r in records)),
        })  # fmt: skip
    return rows
