"""The tables of a study as files, in the formats that DESIGN names; 6 decimals, written whole.

No table but the registry holds a time: two runs with equal numbers write equal bytes. Values are
means over seeds.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from results.collector import Collected
from results.files import DECIMALS, inside, remove_temporaries, write_atomic, write_csv, write_json
from results.registry import append_registry
from results.score_table import SWAPPED
from results.updates import PURPOSE as TRACE

BASELINE = "baseline"
LARGEST_EXPONENT = 700
"""Of e in float64, nearly."""
MOST_USER_FOLDERS = 1_000
SAMPLES = 20
SCORE_COLUMNS = ["rouge_l", "verbosity_error", "embedding_similarity", "output_length_std"]
DELTA = "delta_vs_baseline"
SHIFT_COLUMN = {"lora": "adapter_shift_norm", "prefix": "prefix_shift_norm"}
WORK_COLUMNS = ["steps", "examples", "trained_tokens"]
SAMPLE_COLUMNS = ("item_id", "user_id", "query", "reference", "output")


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What tables need beside the numbers."""

    commit: str
    folder_name: Callable[[str], str]
    """User key → safe folder name."""


def write_tables(collected: Collected, workspace: Path, *, facts: TableFacts) -> list[Path]:
    """All tables of the arms that have scores on test; returns their paths.

    For the holder of the workspace's lock: what a killed writer left is removed.

    Raises:
        RecordError: a folder name leads out of its folder, or the registry is not ours.
        OSError: the disk does not take it; no file is half-written.
    """
    results = workspace / "results"
    remove_temporaries(workspace)
    remove_temporaries(results, below=True, skip=("ledger", "tune"))
    arms = scored_arms(collected)
    sampled = sampled_items(collected)
    base = per_user(collected, BASELINE) if BASELINE in arms else None
    paths: list[Path] = []
    for arm in arms:
        folder = inside(results, arm)
        wide = per_user(collected, arm)
        if arm != BASELINE and base is not None:
            wide[DELTA] = deltas(collected, arm, wide, base)
        if is_per_user(collected, arm):
            paths += _per_user_files(collected, arm, wide, folder, facts)
        else:
            paths.append(write_csv(folder / "per_user_scores.csv", scores_table(wide)))
        paths.append(write_json(folder / f"{arm}_eval.json", summary(collected, arm, wide)))
        paths.append(write_samples(collected, arm, sampled, folder / "sample_outputs.jsonl"))
    for name, curve in collected.curves.groupby("arm", sort=True):
        path = inside(results, str(name)) / "training_curve.csv"
        paths.append(write_csv(path, curve.drop(columns="arm")))
    registry = workspace / "experiment_registry.csv"
    return [*paths, append_registry(collected, registry, commit=facts.commit)]


def scored_arms(collected: Collected) -> list[str]:
    """Arms with scores on test, controls left out, sorted."""
    table = collected.table
    arms = {str(arm) for arm in table.loc[table["split"] == "test", "arm"].unique()}
    return sorted(arm for arm in arms if not arm.endswith(SWAPPED))


def is_per_user(collected: Collected, arm: str) -> bool:
    """Whether the arm has an adapter for each user."""
    return any(r.arm == arm and r.grouping == "user" for r in collected.records.values())


def per_user(collected: Collected, arm: str, *, split: str = "test") -> pd.DataFrame:
    """One row per user, one column per metric (means over seeds), ``n_items`` last.

    ``n_items`` is the largest number that any metric of the user comes from.
    """
    table = collected.table
    own = table[(table["arm"] == arm) & (table["split"] == split) & (table["slice"] == "all")]
    wide = own.pivot_table(
        index="user_id", columns="metric", values="value", aggfunc="mean", observed=True
    )
    wide.index, wide.columns = wide.index.astype(str), wide.columns.astype(str)
    counts = own.groupby("user_id", observed=True)["n_items"].max()
    wide["n_items"] = counts.set_axis(counts.index.astype(str)).astype("int64")
    return wide.rename_axis(index="user_id", columns=None).sort_index()


def deltas(
    collected: Collected, arm: str, wide: pd.DataFrame, base: pd.DataFrame
) -> pd.Series[float]:
    """Difference in ROUGE-L of each user from the baseline, on the items that both answered."""
    if "rouge_l" not in wide or "rouge_l" not in base:
        return pd.Series(float("nan"), index=wide.index)
    found = wide["rouge_l"] - base["rouge_l"].reindex(wide.index)
    counts = base["n_items"].reindex(wide.index)
    uneven = counts.notna() & (counts != wide["n_items"])
    if uneven.any():
        both = pd.concat(
            [_item_means(collected, name) for name in (arm, BASELINE)], axis=1, join="inner"
        )
        common = (both.iloc[:, 0] - both.iloc[:, 1]).groupby(level="user_id").mean()
        found[uneven] = common.reindex(found.index[uneven])
    return found


def _item_means(collected: Collected, arm: str) -> pd.Series[float]:
    """ROUGE-L of each item, mean over seeds."""
    columns = ["user_id", "item_id", "rouge_l"]
    frames = [collected.items(arm, seed=seed, columns=columns) for seed in _seeds(collected, arm)]
    return pd.concat(frames).groupby(["user_id", "item_id"])["rouge_l"].mean()


def _seeds(collected: Collected, arm: str) -> list[int]:
    records = collected.records.values()
    return sorted({r.seed for r in records if r.arm == arm and r.split == "test"})


def scores_table(wide: pd.DataFrame) -> pd.DataFrame:
    """``per_user_scores.csv``: the named columns first, then every other metric."""
    first = [*SCORE_COLUMNS, "n_items", *([DELTA] if DELTA in wide else [])]
    others = sorted(set(wide.columns) - set(first))
    return wide.reindex(columns=first + others).reset_index()


def summary_table(collected: Collected, arm: str, wide: pd.DataFrame) -> pd.DataFrame:
    """``per_user_summary.csv`` of a per-user arm, with the shift of each user's adapter.

    Shift norm and work done are means over seeds too.
    """
    slots = collected.slots[collected.slots["arm"] == arm]
    shift_name = SHIFT_COLUMN[_adapter(collected, arm)]
    means = slots.groupby("user_id")[["shift_norm", *WORK_COLUMNS]].mean()
    joined = wide.join(means).rename(columns={"rouge_l": "ROUGE-L", "shift_norm": shift_name})
    first = ["ROUGE-L", "verbosity_error", DELTA, shift_name]
    others = sorted(set(joined.columns) - set(first))
    return joined.reindex(columns=first + others).reset_index()


def _adapter(collected: Collected, arm: str) -> str:
    return next(r.adapter for r in collected.records.values() if r.arm == arm)


def summary(collected: Collected, arm: str, wide: pd.DataFrame) -> dict[str, Any]:
    """``<arm>_eval.json``: macro metrics (means over users), deltas, shift norms, provenance.

    ``perplexity`` of the true replies is e to the macro ``nll``: the geometric mean over users.
    """
    records = [r for r in collected.records.values() if r.arm == arm and r.purpose != TRACE]
    slots = collected.slots[collected.slots["arm"] == arm]
    shifts = slots.groupby("user_id")["shift_norm"].mean()
    metrics = [name for name in wide.columns if name in collected.metrics]
    found = {
        "arm": arm,
        "split": "test",
        "n_users": len(wide),
        "n_items": int(wide["n_items"].sum()),
        "seeds": sorted({r.seed for r in records}),
        "macro": _rounded(wide[metrics].mean()),
        "shift_norm": _number(shifts.mean()) if len(shifts) else None,
        "shift_norms": _rounded(shifts) if len(shifts) <= MOST_USER_FOLDERS else None,
        "items_sha256": next(r.spec["items_sha256"] for r in records if r.split == "test"),
        "cells": sorted(r.cell_id for r in records),
    }
    if DELTA in wide:
        found[DELTA] = _number(wide[DELTA].mean())
    if "nll" in wide:
        nll = wide["nll"].mean()
        found["perplexity"] = _number(math.exp(nll)) if nll < LARGEST_EXPONENT else None
    validation = per_user(collected, arm, split="val")
    if len(validation):
        found["validation_macro"] = _rounded(validation.reindex(columns=metrics).mean())
    return found


def _rounded(values: pd.Series[Any]) -> dict[str, float | None]:
    return {str(name): _number(value) for name, value in values.items()}


def _number(value: float) -> float | None:
    """6 decimals, or None where there is no number."""
    return None if pd.isna(value) else round(float(value), DECIMALS)


def _per_user_files(
    collected: Collected, arm: str, wide: pd.DataFrame, folder: Path, facts: TableFacts
) -> list[Path]:
    """The arm's table, and each user's own file where they are not too many."""
    table = summary_table(collected, arm, wide)
    paths = [write_csv(folder / "per_user_summary.csv", table)]
    if len(table) > MOST_USER_FOLDERS:
        return paths
    swapped = per_user(collected, arm + SWAPPED).to_dict(orient="index")
    for row in table.to_dict(orient="records"):
        user = str(row.pop("user_id"))
        value: dict[str, Any] = {"user_id": user, "arm": arm}
        value |= {str(name): _number(number) for name, number in row.items()}
        if user in swapped:
            value["swapped"] = {str(name): _number(n) for name, n in swapped[user].items()}
        paths.append(write_json(inside(folder, facts.folder_name(user)) / "eval.json", value))
    return paths


def sampled_items(collected: Collected, *, samples: int = SAMPLES) -> list[str]:
    """The same items for all arms: a choice, by a fixed seed, of those that every arm has."""
    common: pd.Index[str] | None = None
    for arm in scored_arms(collected):
        items = collected.items(arm, seed=_seeds(collected, arm)[0], columns=["item_id"])
        own = pd.Index(items["item_id"])
        common = own if common is None else common.intersection(own)
    ordered = [] if common is None else sorted(set(common))
    return sorted(random.Random("sample-outputs").sample(ordered, min(samples, len(ordered))))


def write_samples(collected: Collected, arm: str, sampled: Sequence[str], path: Path) -> Path:
    """``sample_outputs.jsonl``: query, reference, output and metrics of the sampled items."""
    items = collected.items(arm, seed=_seeds(collected, arm)[0], item_ids=sampled)
    lines = [
        json.dumps(_sample(row, collected.metrics), ensure_ascii=True, allow_nan=False)
        for row in items.sort_values("item_id").to_dict(orient="records")
    ]
    return write_atomic(path, "".join(line + "\n" for line in lines).encode())


def _sample(row: Mapping[Any, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in SAMPLE_COLUMNS},
        "metrics": {name: _number(row[name]) for name in metrics if name in row},
    }
