"""Fuzzing that is led by coverage: bytes that reach new branches of a reader are mutated further.

``python -m benchmarks.fuzz_coverage --reader settings --inputs 100000``, with the extra
``[fuzz]``, gives bytes to one of the readers of ``benchmarks.fuzz`` that read a single file,
starting from valid ones. It ends at the first input that raises anything but the reader's
declared error or takes longer than ``LIMIT_SECONDS``, with the input in ``crash-…``; exit code 0
where there is none.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["data", "orchestrator", "results", "search_spaces"]):
    from benchmarks.fuzz import LIMIT_SECONDS, SUFFIXES, TARGETS, time_limit

READERS = ("jsonl", "settings", "record")
MAX_BYTES = 4096
STARTS = 64


def main() -> None:
    """Make valid inputs, then fuzz; the fuzzer ends the process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reader", choices=READERS, required=True)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    target = TARGETS[given.reader]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        starts, path = Path(name) / "starts", Path(name) / SUFFIXES[given.reader]
        starts.mkdir()
        for number in range(STARTS):
            chance = random.Random(number)
            target.write(target.valid(chance), starts / str(number), chance)

        def read(content: bytes) -> None:
            path.write_bytes(content)
            try:
                with time_limit():
                    target.read(path)
            except target.errors:
                return

        words = [f"-runs={given.inputs}", f"-seed={given.seed}", f"-max_len={MAX_BYTES}"]
        limits = [f"-timeout={2 * LIMIT_SECONDS:.0f}", "-print_final_stats=1", str(starts)]
        atheris.Setup([sys.argv[0], *words, *limits], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
