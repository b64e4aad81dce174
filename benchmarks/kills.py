"""SIGKILLs of the driver at random times, each followed by the same command.

``python -m benchmarks.kills --kills 25 --out FILE.json`` runs a small study undisturbed, then again
in another workspace with a kill after a random time, as often as asked, and then to its end. Told
are the records expected, found, duplicated and lost, the trials that each kill cost, what was left
of processes and temporary files, and whether the tables equal the undisturbed run's to the byte.
Exit code 1 where anything of this is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from results.ledger import Ledger

STUDY = (
    *("--study", "per_persona", "--users", "16", "--no-dashboard", "--set", "data.sessions=16"),
    *("--set", "data.cold_start_share=0.0", "--set", "block_users=2"),
    *("--set", "shared.lora.epochs=1", "--set", "decoding.max_new_tokens=48"),
    *("--set", "statistics.resamples=200", "--set", "cold_warm.warm_users=2"),
)
ACTORS = 2
"""Most trials that run at a time: as many as this study's machine has CPUs, two at most."""
GONE_SECONDS = 90.0
"""Ray's own agents wait a minute for their cluster to come back before they end."""
WINDOW_SECONDS = 4.0
"""So short that there are trials left to interrupt until the last kills."""


@dataclass(slots=True)
class Figures:
    """What came out."""

    kills: int = 0
    killed_after_seconds: list[float] = field(default_factory=list)
    records_after: list[int] = field(default_factory=list)
    trials_cost: list[int] = field(default_factory=list)
    """Attempts without a record that each kill left behind."""
    processes_left: list[str] = field(default_factory=list)
    """What of the killed runs still lived ``GONE_SECONDS`` after the last one."""
    records_expected: int = 0
    records_found: int = 0
    records_lost: int = 0
    duplicated: int = 0
    problems: list[str] = field(default_factory=list)
    temporaries_left: int = 0
    equal_tables: bool = False

    @property
    def good(self) -> bool:
        """Whether a study may be killed like this."""
        counts = (self.records_lost, self.duplicated, self.temporaries_left)
        return (
            self.equal_tables
            and not self.problems
            and not any(counts)
            and not self.processes_left
            and max(self.trials_cost, default=0) <= ACTORS
        )


def start(workspace: Path) -> subprocess.Popen[bytes]:
    """The command, in a session of its own."""
    words = ["run", "--workspace", str(workspace), *STUDY]
    log = workspace.with_suffix(".log").open("ab")
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *words],
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill(run: subprocess.Popen[bytes]) -> set[psutil.Process]:
    """Kill the driver alone; the processes of its run, which have to end by themselves."""
    driver = psutil.Process(run.pid)
    family = {driver, *driver.children(recursive=True)}
    run.send_signal(signal.SIGKILL)
    run.wait()
    return family


def left_after(families: set[psutil.Process], seconds: float) -> list[str]:
    """Those that live on for longer, by what they were started as; killed then."""
    _, alive = psutil.wait_procs(list(families), timeout=seconds)
    left = []
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            left.append(" ".join(process.cmdline()[:3])[-60:])
            process.kill()
    return left


def tables(workspace: Path) -> dict[str, bytes]:
    """The per-user tables and statistics of a finished study."""
    places = [*(workspace / "results").glob("*/per_user_*.csv")]
    places += (workspace / "results" / "stats").glob("*.csv")
    return {p.relative_to(workspace).as_posix(): p.read_bytes() for p in sorted(places)}


def to_the_end(workspace: Path) -> float:
    """Run the study until it is done; seconds until its first record."""
    began, run, first = time.monotonic(), start(workspace), 0.0
    while run.poll() is None:
        if not first and records(workspace):
            first = time.monotonic() - began
        time.sleep(0.05)
    code = run.wait()
    if code != 0:
        told = workspace.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
        raise SystemExit(f"the study ended with {code}: {told}")
    return first


def measure(folder: Path, *, kills: int, seed: int) -> Figures:
    """Kill a study so often, and compare it with one that was not.

    Half of the kills fall between the command and the time that a first record takes, half within
    ``WINDOW_SECONDS`` of the run's first own record: a run is mostly start, and would hardly ever
    be killed in its trials otherwise.
    """
    calm, wild = folder / "calm", folder / "wild"
    beginning = to_the_end(calm)
    chance, found = random.Random(seed), Figures()
    families: set[psutil.Process] = set()
    while found.kills < kills:
        began, run = time.monotonic(), start(wild)
        if chance.random() < 0.5:
            ended = ends_within(run, chance.uniform(0.5, beginning))
        else:
            new_record(run, wild)
            ended = ends_within(run, chance.uniform(0.0, WINDOW_SECONDS))
        if ended:
            # Done before its time: kills fall into what a finished study still does.
            beginning = max(1.5, beginning * 0.8)
            continue
        found.kills += 1
        found.killed_after_seconds.append(round(time.monotonic() - began, 2))
        # The same command comes at once, while Ray's own agents of the killed run still wait.
        families |= kill(run)
        ledger = Ledger(wild)
        staged = ledger.staging.glob("*") if ledger.staging.is_dir() else ()
        found.trials_cost.append(sum(path.is_dir() for path in staged))
        found.records_after.append(len(list(ledger.records())))
    to_the_end(wild)
    found.processes_left = left_after(families, GONE_SECONDS)
    return compare(found, calm=calm, wild=wild)


def ends_within(run: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a run is over after so long."""
    try:
        run.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def new_record(run: subprocess.Popen[bytes], workspace: Path) -> None:
    """Wait for a run's first own record, or its end."""
    before = records(workspace)
    while run.poll() is None and records(workspace) == before:
        time.sleep(0.02)


def records(workspace: Path) -> set[Path]:
    """Folders of the cells in the ledger."""
    return set((workspace / "results" / "ledger").glob("[!.]*"))


def compare(found: Figures, *, calm: Path, wild: Path) -> Figures:
    """The killed study's records and tables beside the undisturbed one's."""
    one, other = ({r.cell_id: r for r in Ledger(place).records()} for place in (calm, wild))
    found.records_expected, found.records_found = len(one), len(other)
    found.records_lost = len(one.keys() - other.keys())
    found.duplicated = len(other.keys() - one.keys()) + len(Ledger(wild).duplicates)
    found.problems = Ledger(wild).problems()
    found.temporaries_left = sum(".tmp-" in path.name for path in wild.rglob("*"))
    found.equal_tables = bool(tables(calm)) and tables(calm) == tables(wild)
    return found


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        found = measure(Path(name), kills=given.kills, seed=given.seed)
    text = json.dumps({**asdict(found), "good": found.good}, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())
