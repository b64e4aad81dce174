"""What a raced search of a per-user arm costs, in full runs of one config.

    python -m benchmarks.search_race --users 200 --out race.json

Candidates race over users (10 %, 30 %, all) on validation, with and without packing candidates
into banks; beside them stands the chosen config's run on test items, swapped control included.
Seconds are CPU time of this one process, so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.personal_gain import NoEncoder
from benchmarks.work import synthetic_users
from data.schema import UserData
from orchestrator.arm_search import CellResult
from orchestrator.choices import with_choices
from orchestrator.layers import resolve_settings
from orchestrator.plan import Facts, PlannedCell, make_plan
from orchestrator.search import Search, Searched, search_study
from orchestrator.search_stage import ONLY
from orchestrator.settings import Settings
from search_spaces.recipe import recipe_of
from search_spaces.space import LORA_ALL, LORA_PER_USER, Study
from tasks.adapters.bank import AdapterState
from tasks.base_model import BaseModel, load_base
from tasks.cell import CellOutcome
from tasks.config import ModelConfig
from tasks.trial import run_cell

ARM = LORA_PER_USER.name
STUDY = Study("race", "", arms=(LORA_ALL, LORA_PER_USER), search=recipe_of(ARM))


def main() -> None:
    """Write one JSON file; print its main numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--method", default="random", choices=("grid", "random", "optuna"))
    parser.add_argument("--alone", action="store_true", help="also without packing")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        users = synthetic_users(Path(folder), users=options.users, sessions=options.sessions)
    found = measure(users, options)
    print(json.dumps(found, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


@dataclass(slots=True)
class Bench:
    """Runs cells in this process and notes what they cost."""

    users: Sequence[UserData]
    base: BaseModel
    states: dict[str, AdapterState] = field(default_factory=dict)
    results: dict[str, CellResult] = field(default_factory=dict)

    def run(self, cell: PlannedCell) -> CellOutcome:
        """One cell; its adapters are kept for those that start from them."""
        by_key = {user.user_key: user for user in self.users}
        began = time.process_time()
        outcome = run_cell(
            cell.spec,
            users=[by_key[key] for key in cell.spec.users],
            base=self.base,
            encoder=NoEncoder(),
            parent=self.states.get(cell.spec.parent or ""),
        )
        seconds = time.process_time() - began
        if outcome.adapters is not None:
            self.states[cell.cell_id] = outcome.adapters
        self.results[cell.cell_id] = CellResult(_scores(outcome), seconds)
        return outcome

    def search(self, settings: Settings, facts: Facts) -> tuple[Searched, float]:
        """A whole search, and the seconds of its own cells."""
        steps = search_study(settings, study=STUDY, facts=facts, read=self.results.get)
        search = Search(steps, finished=lambda names: self.results.keys() & set(names))
        spent = 0.0
        while True:
            cells, finished = search.next_cells()
            if search.result is not None:
                return search.result, spent
            for cell in cells:
                if cell.cell_id not in finished:
                    self.run(cell)
                    spent += self.results[cell.cell_id].seconds * (cell.spec.purpose == "try")


def _scores(outcome: CellOutcome) -> dict[int, dict[str, float]]:
    if outcome.items is None or "variant" not in outcome.items:
        return {ONLY: {}}
    scores: dict[int, dict[str, float]] = {}
    means = outcome.items.groupby(["variant", "user_id"], as_index=False)["nll"].mean()
    for variant, user, nll in zip(means["variant"], means["user_id"], means["nll"], strict=True):
        scores.setdefault(int(variant), {})[str(user)] = float(nll)
    return scores


def measure(users: Sequence[UserData], options: argparse.Namespace) -> dict[str, Any]:
    """Search, then run the chosen config alone."""
    base = load_base(ModelConfig(), device="cpu")
    facts = Facts(
        data_sha256="",
        items_sha256={"val": "", "test": ""},
        users=tuple(user.user_key for user in users),
        model_sha256=base.fingerprint,
        template_sha256=base.template_sha256,
        dtype="float32",
    )
    flags = {"search.method": options.method, "search.samples": options.samples}
    flags |= {"shared.lora.epochs": 1, "shared.lora.early_stopping": False}
    settings = resolve_settings(STUDY, flags=flags)
    bench = Bench(users, base)
    searched, packed = bench.search(settings, facts)
    plan = make_plan(settings, study=with_choices(STUDY, searched.choices), facts=facts)
    full = [cell for cell in plan.cells if cell.spec.purpose == "personalize"]
    for cell in full:
        bench.run(cell)
    one = sum(bench.results[cell.cell_id].seconds for cell in full)
    rungs: dict[int, list[int]] = {}
    for shown in searched.history:
        rungs.setdefault(shown.rung, []).append(len(shown.scores))
    found: dict[str, Any] = {
        "users": len(users),
        "rungs": [{"candidates": len(n), "users": max(n)} for n in rungs.values()],
        "search_seconds": round(packed, 1),
        "full_run_seconds": round(one, 1),
        "search_in_full_runs": round(packed / one, 2),
    }
    if options.alone:
        own = resolve_settings(STUDY, flags=flags | {"search.variants_per_cell": 1})
        again, alone = bench.search(own, facts)
        found |= {"search_alone_seconds": round(alone, 1)}
        found |= {"same_choice": dict(again.choices) == dict(searched.choices)}
    return found


if __name__ == "__main__":
    main()
