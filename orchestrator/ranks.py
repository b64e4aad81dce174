"""One cell in several processes, one for each GPU of its trial (``tasks.data_parallel``).

Each process is a fresh interpreter: that works inside any actor, and a process group ends with
the processes that formed it. The first rank alone writes the cell's files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.cell import CellSpec

if TYPE_CHECKING:
    from orchestrator.worker import Places

POLL_SECONDS = 0.2


def run_in_ranks(
    spec: CellSpec,
    *,
    places: Places,
    staging: Path,
    processes: int,
    smaller_passes: bool,
    checkpoint_seconds: float,
) -> float:
    """Run a cell in so many processes; returns what ``CellWorker`` says of it.

    Raises:
        RuntimeError: a process failed; with the end of what it wrote.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = {
            "spec": spec.model_dump(mode="json"),
            "places": places.told(),
            "staging": str(staging),
            "processes": processes,
            "smaller_passes": smaller_passes,
            "checkpoint_seconds": checkpoint_seconds,
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        logs = [folder / f"rank-{rank}.log" for rank in range(processes)]
        _wait([_start(folder, rank, log) for rank, log in enumerate(logs)], logs)
        return float(json.loads((folder / "macro.json").read_text(encoding="utf-8")))


def _start(folder: Path, rank: int, log: Path) -> subprocess.Popen[bytes]:
    # -P, and the paths of this process: it finds the modules that this one has, whatever lies in
    # the folder that both were started in.
    command = [sys.executable, "-P", "-m", "orchestrator.ranks", str(folder), str(rank)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with log.open("wb") as out:
        return subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)


def _wait(ranks: Sequence[subprocess.Popen[bytes]], logs: Sequence[Path]) -> None:
    """Until all are done; where one fails, the others would wait for it forever."""
    try:
        while any(rank.poll() is None for rank in ranks):
            failed = [place for place, rank in enumerate(ranks) if rank.poll()]
            if failed:
                break
            time.sleep(POLL_SECONDS)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for rank, log in zip(ranks, logs, strict=True):
        if rank.returncode > 0:
            raise RuntimeError(log.read_text(encoding="utf-8", errors="replace")[-4000:])
    if any(rank.returncode for rank in ranks):
        raise RuntimeError("a process of the process group was killed")


def _run_rank(folder: Path, rank: int) -> None:
    import torch
    from torch import distributed

    from orchestrator.worker import CellWorker, Places

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=job["processes"],
    )
    try:
        worker = CellWorker(Places.from_told(job["places"]))
        worker.checkpoint_seconds = float(job["checkpoint_seconds"])
        spec = CellSpec.model_validate_json(json.dumps(job["spec"]))
        staging = Path(job["staging"])
        macro = worker.run_here(
            spec, staging=staging, smaller_passes=job["smaller_passes"], write=rank == 0
        )
        if rank == 0:
            (folder / "macro.json").write_text(json.dumps(macro), encoding="utf-8")
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("rank", type=int)
    given = parser.parse_args()
    _run_rank(given.folder, given.rank)
