"""What orchestration costs: planning, trivial trials, and real trials against a bare loop.

``python -m benchmarks.orchestration --out FILE.json`` measures

- planning 100,000 simulated users, the queue included;
- 1,000 trivial trials through a real sweep: trials a second, growth of the driver;
- the same per-user cells of the embedded base by a bare loop without Ray and through a sweep with
  one actor, in pairs: what the sweep adds from the first cell's result to the last one's. Before
  it, both import their libraries and load the base; Ray starts and ends once for a whole study.

Exit code 1 where a limit of the project is not met.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data.shards import shard_name, write_index, write_shard
from orchestrator.cell_queue import CellQueue
from orchestrator.cluster import ray_session
from orchestrator.layers import resolve_settings
from orchestrator.placement import Machine, place
from orchestrator.plan import Facts, PlannedCell, make_plan
from orchestrator.probe import sample_users
from orchestrator.settings import DataChoice
from orchestrator.sweep import CELL_WORKER, SweepOptions, run_sweep
from orchestrator.worker import CellReport, CellWorker, Places
from search_spaces.catalog import STUDIES
from search_spaces.space import LORA_PER_USER, Study
from tasks.cell import CellSpec

LIMITS = {
    "planning_seconds": 10.0,
    "trivial_trials_per_second": 15.0,
    "driver_growth_mb": 300.0,
    "overhead_percent": 10.0,
}
PAGE_BYTES = 4096
TRIVIAL_WORKER = "benchmarks.orchestration:TrivialWorker"
DEFAULTS = resolve_settings(STUDIES["per_persona"])


@dataclass(frozen=True, slots=True)
class Planning:
    """Users planned, their cells, seconds."""

    users: int
    cells: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Trivial:
    """Trials that do nothing but write a file; ``seconds`` without the first trial's start."""

    trials: int
    start_seconds: float
    seconds: float
    trials_per_second: float
    driver_growth_mb: float


@dataclass(frozen=True, slots=True)
class Overhead:
    """One pair: the cells after the first by a bare loop and by a sweep, in seconds.

    ``fixed`` is the rest of the sweep's time: Ray's experiment, the worker, the first cell.
    """

    cells: int
    loop: float
    sweep: float
    fixed: float

    @property
    def percent(self) -> float:
        """What the sweep adds to the loop."""
        return 100 * (self.sweep / self.loop - 1)


class TrivialWorker:
    """Writes a file and reports; what remains is the orchestration alone."""

    def __init__(self, places: Places) -> None:
        self.places = places

    def run(
        self, cell_id: str, spec: CellSpec, *, staging: Path, smaller_passes: bool = False
    ) -> CellReport:
        """Leave the cell's id in staging."""
        staging.mkdir(parents=True)
        (staging / "done.txt").write_text(cell_id)
        return CellReport(cell_id, True, str(staging), "", 0.5, 0.0)

    def environment(self) -> dict[str, str]:
        """Nothing to tell."""
        return {}


class _Watch:
    """Stands for the ledger and notes when the first and the last cell came back."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last = 0.0

    def keep(
        self, cell: PlannedCell, report: CellReport, environment: dict[str, str], attempts: int
    ) -> str | None:
        self.last = time.perf_counter()
        self.first = self.first or self.last
        shutil.rmtree(report.staging)
        return None

    def lose(self, cell: PlannedCell, error: str, attempts: int) -> None:
        raise RuntimeError(f"{cell.arm}: {error}")


def plan_users(users: int) -> Planning:
    """Make the main study's plan for so many users, and its queue."""
    facts = _facts(tuple(f"user_{n}" for n in range(users)))
    began = time.perf_counter()
    plan = make_plan(DEFAULTS, study=STUDIES["per_persona"], facts=facts)
    queue = CellQueue(plan.cells)
    queue.take(8)
    return Planning(users, len(plan.cells), time.perf_counter() - began)


def _facts(users: tuple[str, ...]) -> Facts:
    hashes = {name: name[0] * 64 for name in ("data", "model", "prompt")}
    return Facts(
        data_sha256=hashes["data"],
        items_sha256={"val": "v" * 64, "test": "t" * 64},
        users=users,
        model_sha256=hashes["model"],
        template_sha256=hashes["prompt"],
        dtype="float32",
    )


def run_trivial(trials: int, folder: Path) -> Trivial:
    """So many trivial trials through a sweep on two actors."""
    study = Study("baseline", "", STUDIES["baseline"].arms)
    users = tuple(f"user_{n}" for n in range(2 * trials))
    settings = DEFAULTS.model_copy(update={"block_users": 4})
    cells = make_plan(settings, study=study, facts=_facts(users)).cells[:trials]
    with ray_session(Machine(2, 0), dashboard=False):
        # Tune's own libraries are in the driver before it is weighed.
        _swept(cells[:4], folder / "warm", actors=2, worker=TRIVIAL_WORKER)
        gc.collect()
        before = _resident_bytes()
        began = time.perf_counter()
        watch = _swept(cells, folder / "all", actors=2, worker=TRIVIAL_WORKER)
        ended = time.perf_counter()
        growth = (_resident_bytes() - before) / 1e6
    assert watch.first is not None
    seconds = ended - watch.first
    start = watch.first - began
    return Trivial(trials, start, seconds, (trials - 1) / seconds, growth)


def _swept(cells: Sequence[PlannedCell], folder: Path, *, actors: int, worker: str) -> _Watch:
    watch, places = _Watch(), _places(folder)
    placement = place([Machine(actors, 0)], threads=1)
    options = SweepOptions(places, placement, folder / "tune", worker=worker)
    run_sweep(cells, finished=set(), options=options, keeper=watch)
    return watch


def _places(folder: Path) -> Places:
    found = Places(folder / "shards", folder / "ledger", folder / "staging")
    for path in (found.shards, found.ledger, found.staging):
        path.mkdir(parents=True, exist_ok=True)
    return found


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def compare(cells: Sequence[PlannedCell], folder: Path, *, data: Path) -> Overhead:
    """The cells by a bare loop, then by a sweep with one actor; the base is loaded by both."""
    places = _places(folder / "loop")
    shutil.copytree(data, places.shards, dirs_exist_ok=True)
    worker, ends = CellWorker(places), []
    for cell in cells:
        report = worker.run(cell.cell_id, cell.spec, staging=places.staging / cell.cell_id)
        assert report.ok, report.error
        ends.append(time.perf_counter())
    shutil.copytree(data, _places(folder / "sweep").shards, dirs_exist_ok=True)
    with ray_session(Machine(1, 0), dashboard=False):
        began = time.perf_counter()
        watch = _swept(cells, folder / "sweep", actors=1, worker=CELL_WORKER)
        whole = time.perf_counter() - began
    assert watch.first is not None
    sweep = watch.last - watch.first
    return Overhead(len(cells) - 1, ends[-1] - ends[0], sweep, whole - sweep)


def overhead_cells(users: int, *, shards: Path) -> tuple[PlannedCell, ...]:
    """Per-user LoRA cells of four users each, over synthetic users written to ``shards``."""
    made = sample_users(DataChoice(sessions=30), prepared=None, most=users)
    shards.mkdir(parents=True)
    write_shard(shards / shard_name(0), made)
    places = {user.user_key: (0, row) for row, user in enumerate(made)}
    write_index(shards, places, cluster_of={}, cold_start=frozenset())
    study = Study("overhead", "", (replace(LORA_PER_USER, start=None),))
    settings = DEFAULTS.model_copy(update={"block_users": 4})
    return make_plan(settings, study=study, facts=_facts(tuple(u.user_key for u in made))).cells


def measure(*, users: int, trials: int, pairs: int, block_users: int) -> dict[str, Any]:
    """All measurements, and the figures that have a limit."""
    planning = plan_users(users)
    with tempfile.TemporaryDirectory(prefix="orchestration-") as name:
        folder = Path(name)
        trivial = run_trivial(trials, folder / "trivial")
        cells = overhead_cells(block_users, shards=folder / "data")
        found = [compare(cells, folder / f"pair-{n}", data=folder / "data") for n in range(pairs)]
    figures = {
        "planning_seconds": planning.seconds,
        "trivial_trials_per_second": trivial.trials_per_second,
        "driver_growth_mb": trivial.driver_growth_mb,
        "overhead_percent": statistics.median(pair.percent for pair in found),
    }
    return {
        "planning": asdict(planning),
        "trivial": asdict(trivial),
        "overhead": [asdict(pair) | {"percent": pair.percent} for pair in found],
        "figures": {name: round(value, 2) for name, value in figures.items()},
        "limits": LIMITS,
        "passed": {name: within(name, value) for name, value in figures.items()},
    }


def within(name: str, value: float) -> bool:
    """Whether a figure keeps its limit: trials a second have a least value, all others a most."""
    limit = LIMITS[name]
    return value >= limit if name == "trivial_trials_per_second" else value <= limit


def main() -> int:
    """Measure, print and write; exit code 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--users", type=int, default=100_000, help="simulated users to plan")
    parser.add_argument("--trials", type=int, default=1_000, help="trivial trials")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of loop and sweep")
    parser.add_argument("--block-users", type=int, default=24, help="users of the real trials")
    options = parser.parse_args()
    report = measure(
        users=options.users,
        trials=options.trials,
        pairs=options.pairs,
        block_users=options.block_users,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    for name, value in report["figures"].items():
        verdict = "passed" if report["passed"][name] else "NOT PASSED"
        print(f"{name}: {value:g} (limit {LIMITS[name]:g}): {verdict}")
    return 0 if all(report["passed"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
