"""What collecting costs: from a ledger's records to the one tidy table.

``python -m benchmarks.collect --out FILE.json`` writes two ledgers of simulated scores through the
ledger's own door and collects each in a process of its own, so that the peak memory is that of
collecting alone: 200 users × 12 arms × 5 seeds with 50 items a user, and 100,000 users × 8 arms
with 10 items a user.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from results.collector import ITEMS_FILE, ExpectedCell, collect
from results.ledger import Ledger

ARMS = (
    *("baseline", "few_shot", "prefix_all", "lora_all", "prefix_per_user", "lora_per_user"),
    *("prefix_cluster", "lora_cluster", "prefix_cluster_user", "lora_cluster_user"),
    *("adapter_a_all", "adapter_b_all"),
)
SCORES = (
    *("rouge_l", "verbosity_error", "embedding_similarity", "nll", "action_f1"),
    *("routine_action_f1", "distinct_2", "sentiment_distance", "formality_distance"),
)
METRICS = {name: {"higher_is_better": True, "unit": "score", "title": name} for name in SCORES}
MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of a study."""

    users: int
    arms: int
    seeds: int
    items: int
    """Items of a user."""
    block_users: int


SHAPES = {
    "200 users": Shape(users=200, arms=12, seeds=5, items=50, block_users=12),
    "100,000 users": Shape(users=100_000, arms=8, seeds=1, items=10, block_users=250),
}


def cells_of(shape: Shape) -> Iterator[ExpectedCell]:
    """The scored cells of a study of this size; nothing is trained without a seed."""
    names = [f"user_{number}" for number in range(shape.users)]
    for arm in ARMS[: shape.arms]:
        untrained = arm in ARMS[:2]
        purpose = "personalize" if arm.endswith("_user") else "evaluate"
        for seed in range(1 if untrained else shape.seeds):
            for start in range(0, shape.users, shape.block_users):
                users = tuple(names[start : start + shape.block_users])
                yield ExpectedCell(f"{arm}-{seed}-{start}", arm, seed, users, "test", purpose)


def write_ledger(workspace: Path, shape: Shape) -> None:
    """Records and items of every cell, by the ledger itself."""
    ledger = Ledger(workspace)
    rng = np.random.default_rng(0)
    for cell in cells_of(shape):
        staging = ledger.staging / cell.cell_id
        staging.mkdir(parents=True)
        pq.write_table(_items(cell, shape.items, rng), staging / ITEMS_FILE)
        outcome = {
            "spec": _spec(cell), "slots": _slots(cell), "curve": [], "seconds": {"total": 1.0},
            "counts": {}, "metrics": METRICS,
        }  # fmt: skip
        (staging / "outcome.json").write_text(json.dumps(outcome))
        ledger.commit(cell.cell_id, staging=staging, attempts=1, environment={})


def _spec(cell: ExpectedCell) -> dict[str, Any]:
    same = ("items_sha256", "data_sha256", "decoding", "evaluation", "prompt", "model_sha256")
    return {
        "arm": cell.arm,
        "purpose": cell.purpose,
        "grouping": "user" if cell.purpose == "personalize" else "all",
        "adapter": {"kind": "lora"},
        "seed": cell.seed,
        "split": cell.split,
        "users": list(cell.users),
        "parent": None,
        **dict.fromkeys(same, "equal"),
    }


def _slots(cell: ExpectedCell) -> list[dict[str, Any]]:
    if cell.purpose != "personalize":
        return []
    track = {"losses": [1.0] * 10, "shift_norms": [0.1] * 10}
    return [
        {"slot": user, "status": "ok", "steps": 10, "examples": 10, "trained_tokens": 500, **track}
        for user in cell.users
    ]


def _items(cell: ExpectedCell, items: int, rng: np.random.Generator) -> pa.Table:
    """Items of the block's users, under the own adapter and, where there is one, another's."""
    controls = ("own", "swapped") if cell.purpose == "personalize" else ("own",)
    users = np.repeat(cell.users, items)
    numbers = np.tile(np.arange(items), len(cell.users))
    count = len(users)
    text = "The lamp in the kitchen is on, and the heating follows at seven."
    one = {
        "item_id": [
            f"{user}/{n // 5}/{1 + 2 * (n % 5)}" for user, n in zip(users, numbers, strict=False)
        ],
        "user_id": users,
        "session_id": numbers // 5,
        "turn": 1 + 2 * (numbers % 5),
        "adapter_of": users,
        "routine_driven": numbers % 2 == 0,
        **{name: [text] * count for name in ("query", "reference", "output")},
        "output_words": rng.integers(1, 30, count),
        **{name: rng.uniform(size=count) for name in SCORES},
    }
    return pa.concat_tables(pa.table({**one, "control": [control] * count}) for control in controls)


def collect_once(workspace: Path, shape: Shape) -> dict[str, Any]:
    """Seconds and peak memory of this process, and the size of what came out."""
    began = time.perf_counter()
    collected = collect(Ledger(workspace), list(cells_of(shape)))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds,
        "peak_bytes": peak,
        "records": len(collected.records),
        "scores": len(collected.table),
        "missing": len(collected.missing),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(prog="benchmarks.collect", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out")
    parser.add_argument("--collect", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.collect:
        print(json.dumps(collect_once(Path(options.collect), SHAPES[options.shapes[0]])))
        return
    figures = {name: _measured(name) for name in options.shapes}
    if options.out:
        Path(options.out).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _measured(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_ledger(Path(folder), SHAPES[name])
        command = [sys.executable, "-m", "benchmarks.collect", "--shapes", name]
        done = subprocess.run([*command, "--collect", folder], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(
        f"{name}: {found['records']:,} records to {found['scores']:,} scores in "
        f"{found['seconds']:.1f} s, peak {found['peak_bytes'] / MEBIBYTE:,.0f} MiB, "
        f"{found['missing']} missing",
        flush=True,
    )
    return found | {"shape": asdict(SHAPES[name])}


if __name__ == "__main__":
    main()
