"""How fast ``prepare`` is, and whether its time grows linearly with the number of users.

``python -m benchmarks.prepare --users 2000 20000 --out FILE.json`` writes synthetic users in
EdgeWisePersona's format (10 messages a session, some 18 words a message), prepares them with a
fresh local Ray on the given CPUs, each in a process of its own, and reports seconds after Ray's
start, sessions per second, processor seconds and the peak memory of all processes together.
On a busy machine the processor seconds say more than the clock.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SESSIONS, MESSAGES = 50, 10
TEXT = """please turn on the lights set volume temperature living room bedroom music soft warm
bright today evening thanks could you i would like it cozy great lovely not too loud"""
WORDS = tuple(TEXT.split())
DIFFERENT_TEXTS = 50_000


def write_users(folder: Path, users: int) -> int:
    """Write ``users`` users of 50 sessions with random text; returns the bytes of the sessions."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    texts = [
        f"{' '.join(rng.choices(WORDS, k=rng.randint(8, 28)))} {rng.randint(0, 99)}."
        for _ in range(DIFFERENT_TEXTS)
    ]
    (folder / "characters.jsonl").write_text('{"character": "-"}\n' * users, encoding="utf-8")
    routine = {"triggers": {"weather": "sunny"}, "actions": {"tv": {"volume": 20}}}
    line = json.dumps({"routines": [routine] * 4}) + "\n"
    (folder / "routines.jsonl").write_text(line * users, encoding="utf-8")
    with (folder / "sessions.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(users):
            sessions = [_session(rng, texts, number) for number in range(SESSIONS)]
            file.write(json.dumps({"sessions": sessions}) + "\n")
    return (folder / "sessions.jsonl").stat().st_size


def _session(rng: random.Random, texts: list[str], number: int) -> dict[str, Any]:
    messages = [
        {"role": ("user", "assistant")[turn % 2], "text": rng.choice(texts)}
        for turn in range(MESSAGES)
    ]
    applied = [rng.randint(0, 3)] if rng.random() < 0.75 else []
    meta = {"weather": "sunny", "time_of_day": "night"}
    return {"session_id": number, "meta": meta, "messages": messages, "applied_routines": applied}


def family(root: int) -> set[int]:
    """Process ``root`` and all processes below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    found = {root}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found


def _stat(pid: int) -> list[str]:
    """Fields of ``/proc/PID/stat`` after the name; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds(root: int) -> float:
    """Processor time that the family has used, ended and awaited children included."""
    ticks = sum(sum(map(int, _stat(pid)[11:15])) for pid in family(root))
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(root: int) -> int:
    """Proportional memory of the family: shared pages count once."""
    return sum(map(_proportional_bytes, family(root)))


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def measure(users: int, cpus: int, folder: str, answer: Any) -> None:
    """Prepare the users in ``folder`` once and send the figures to ``answer``."""
    import ray

    from data.prepare import prepare
    from data.settings import DataSettings

    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        _temp_dir=str(Path(folder, "ray")),
    )
    # Start Ray Data and its workers before the clock: the figure is «after start-up».
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.range(2 * cpus, override_num_blocks=2 * cpus).map_batches(lambda x: x).materialize()
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(1.0):
            peak[0] = max(peak[0], resident_bytes(os.getpid()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    load, used, started = os.getloadavg()[0], cpu_seconds(os.getpid()), time.perf_counter()
    prepared = prepare(
        str(Path(folder, "raw")), workspace=Path(folder, "workspace"), settings=DataSettings()
    )
    seconds = time.perf_counter() - started
    used = cpu_seconds(os.getpid()) - used
    stop.set()
    watcher.join()
    answer.send(
        {
            "users": users,
            "sessions": users * SESSIONS,
            "seconds": round(seconds, 2),
            "sessions_per_second": round(users * SESSIONS / seconds),
            "cpu_seconds": round(used, 2),
            "peak_gib": round(peak[0] / 2**30, 2),
            "stages_seconds": prepared.seconds,
            "load_before": load,
        }
    )
    ray.shutdown()


def run(users: int, cpus: int) -> dict[str, Any]:
    """Figures for one number of users, measured in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="prep-") as folder:
        raw_bytes = write_users(Path(folder, "raw"), users)
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=measure, args=(users, cpus, folder, there))
        process.start()
        there.close()
        row: dict[str, Any] = here.recv()
        process.join()
    return row | {"raw_mib": round(raw_bytes / 2**20, 1)}


def main() -> None:
    """Measure every number of users and write the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for users in options.users:
        rows.append(run(users, options.cpus))
        print(json.dumps(rows[-1]))
    first, last = rows[0], rows[-1]
    growth = (last["seconds"] / first["seconds"]) / (last["users"] / first["users"])
    result = {
        "machine": f"{platform.machine()}, {options.cpus} CPUs for Ray, {os.cpu_count()} in all",
        "rows": rows,
        "seconds_growth_per_user_growth": round(growth, 3),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
