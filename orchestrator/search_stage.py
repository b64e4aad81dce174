"""The search as a stage of a run: over the ledger as far as it goes, then by a sweep."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from orchestrator.arm_search import CellResult, Read, Shown, Trail
from orchestrator.exit_codes import InfrastructureError
from orchestrator.plan import Facts
from orchestrator.search import Search, Searched, search_study
from orchestrator.settings import Settings
from orchestrator.sweeping import Sweeper
from results.collector import ITEMS_FILE
from results.files import write_csv
from results.ledger import Ledger
from results.search import CELL_COLUMNS, cells_path, search_path
from search_spaces.space import Study

METRICS = ("nll", "rouge_l")
"""What a search looks at: it chooses by the first."""
ONLY = 0
"""The variant of a cell that scores one candidate."""


def open_search(settings: Settings, *, study: Study, facts: Facts, ledger: Ledger) -> Search:
    """The search of a study over what its ledger holds."""
    trail = Trail()
    steps = search_study(settings, study=study, facts=facts, read=reader(ledger), trail=trail)

    def finished(cell_ids: Collection[str]) -> Collection[str]:
        return ledger.finished(cell_ids).keys()

    return Search(steps, finished=finished, trail=trail)


def run_search(search: Search, *, sweeper: Sweeper, ledger: Ledger) -> Searched:
    """Take a search to its end, by a sweep where the ledger does not suffice.

    Raises:
        InfrastructureError: the sweep ended before the search did.
    """
    cells, finished = search.next_cells()
    if cells:
        sweeper.run(
            cells,
            finished=set(finished),
            ledger=ledger,
            more=search.next_cells,
            trail=search.trail,
        )
    if search.result is None:
        raise InfrastructureError("the search stopped halfway; give the same command again")
    return search.result


def reader(ledger: Ledger) -> Read:
    """Reads results of finished cells, each once."""

    @cache
    def found(cell_id: str) -> CellResult | None:
        record = ledger.load(cell_id)
        if record is None:
            return None
        best = max((row["val_rouge_l"] for row in record.curve), default=None)
        means = {}
        if ITEMS_FILE in record.files:
            means = user_means(ledger.path(cell_id, ITEMS_FILE))
        return CellResult(
            means.get("nll", {}),
            record.seconds.get("total", 0.0),
            best_rouge_l=best,
            rouge_l=means.get("rouge_l", {}),
        )

    # What failed may be there at the next look.
    def read(cell_id: str) -> CellResult | None:
        return found(cell_id) if (ledger.root / cell_id).is_dir() else None

    return read


def user_means(path: Path) -> dict[str, dict[int, dict[str, float]]]:
    """Metric → variant → user → mean over the user's items, of the metrics that are there."""
    there = set(pq.read_schema(path).names)
    metrics = [name for name in METRICS if name in there]
    named = ["user_id", *metrics, *({"variant"} & there)]
    items = pd.read_parquet(path, columns=named)
    if "variant" not in items:
        items["variant"] = ONLY
    means = items.groupby(["variant", "user_id"], sort=False, as_index=False)[metrics].mean()
    found: dict[str, dict[int, dict[str, float]]] = {metric: {} for metric in metrics}
    for metric in metrics:
        rows = zip(means["variant"], means["user_id"], means[metric], strict=True)
        for variant, user, value in rows:
            found[metric].setdefault(int(variant), {})[str(user)] = float(value)
    return found


def history_table(searched: Searched) -> pd.DataFrame:
    """One row per candidate and rung, as ``results.search`` reads it."""
    most: dict[tuple[str, int], int] = {}
    for one in searched.history:
        place = (one.arm, one.rung)
        most[place] = max(most.get(place, 0), len(one.scores))
    table = pd.DataFrame([_row(one, most[one.arm, one.rung]) for one in searched.history])
    # Whole numbers, and nothing where the rungs are numbers of users.
    return table.astype({"epochs": "Int64"}) if len(table) else table


def _row(one: Shown, most: int) -> dict[str, Any]:
    scores = list(one.scores.values())
    return {
        "arm": one.arm,
        "candidate": one.candidate,
        "rung": one.rung,
        "epochs": one.epochs,
        "users": len(scores),
        "lacking_users": most - len(scores),
        "nll": sum(scores) / len(scores) if scores else None,
        "rouge_l": one.rouge_l,
        "promoted": one.promoted,
        "chosen": one.chosen,
        "seconds": one.seconds,
        "settings": json.dumps(dict(one.config), sort_keys=True),
    }


def write_history(searched: Searched, root: Path, *, study: str) -> Path:
    """Write ``results/search/<study>.csv``."""
    return write_csv(search_path(root, study), history_table(searched))


def write_cells(search: Search, root: Path, *, study: str, ledger: Ledger) -> Path:
    """Write which cells the search asked for, and the seconds of those that the ledger has."""
    rows = []
    for name, arm in search.tried.items():
        record = ledger.load(name)
        seconds = None if record is None else record.seconds.get("total", 0.0)
        rows.append({"cell_id": name, "arm": arm, "seconds": seconds})
    return write_csv(cells_path(root, study), pd.DataFrame(rows, columns=list(CELL_COLUMNS)))


def told_choices(searched: Searched) -> list[str]:
    """One line per arm: what was chosen, and against which validation score of the default."""
    lines = []
    for arm, config in searched.choices.items():
        last = [one for one in searched.history if one.arm == arm]
        end = max(one.rung for one in last)
        shown = {one.candidate: one for one in last if one.rung == end}
        best = next(one for one in shown.values() if one.chosen)
        what = ", ".join(f"{name}={json.dumps(value)}" for name, value in config.items())
        own = "the default" if best.candidate == 0 else what
        lines.append(f"{arm}: {own}; validation NLL {_mean(best)}, the default's {_mean(shown[0])}")
    return lines


def _mean(one: Shown) -> str:
    scores = list(one.scores.values())
    return f"{sum(scores) / len(scores):.4f}" if scores else "n/a"
