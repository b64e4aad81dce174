"""Planted truth: do the statistics keep their promises on simulated studies?

Each study is one table of per-user lifts whose truth is known. Every test is tried under its own
null, on normal, t3 and tied symmetric lifts; intervals must cover, the stated detectable lift must
be detected four times in five, Holm must hold the family's error, and the gate must find the users
who are harmed. A method that misses its nominal rate is printed beside it, whether or not the
acceptance asks for it.

    python -m benchmarks.statistics --out FILE.json            20,000 studies per case, minutes
    python -m benchmarks.statistics --out FILE.json --studies 2000
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.planted_truth import (
    LIFTS,
    USERS,
    Finding,
    cluster_findings,
    family_findings,
    gate_findings,
    mcnemar_findings,
    null_findings,
    null_studies,
    power_findings,
    seed_findings,
    tost_findings,
)
from results.paired_tests import SIGN_FLIP_EXACT_USERS

SEED = 20_260_101


def run(*, studies: int, resamples: int, seed: int) -> list[Finding]:
    """Every finding; progress goes to stderr."""
    found = []
    for name in LIFTS:
        for n_users in USERS:
            started = time.perf_counter()
            numbers = null_studies(name, n_users, studies=studies, resamples=resamples, seed=seed)
            found += null_findings(name, n_users, numbers)
            seconds = time.perf_counter() - started
            print(f"{name} lifts of {n_users} users: {seconds:.0f} s", file=sys.stderr)
    for part in (
        tost_findings,
        power_findings,
        family_findings,
        mcnemar_findings,
        seed_findings,
        gate_findings,
        cluster_findings,
    ):
        found += part(studies=studies, seed=seed)
    return found


def line(one: Finding) -> str:
    """One finding as a line of the printed table."""
    verdict = ("passed" if one.passed else "FAILED") if one.required else "reported"
    rate = f"{100 * one.rate:6.2f} % ± {100 * one.standard_error:.2f}"
    return (
        f"{verdict:8} {rate}  {one.question} · {one.lifts}, n={one.n_users}  {one.remark}".rstrip()
    )


def main() -> int:
    """Run, print and write; exit code 1 where an acceptance is not met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--studies", type=int, default=20_000, help="simulated studies per case")
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    started = time.perf_counter()
    found = run(studies=options.studies, resamples=options.resamples, seed=options.seed)
    seconds = time.perf_counter() - started
    passed = all(one.passed for one in found if one.required)
    settings = {
        "studies": options.studies,
        "resamples": options.resamples,
        "seed": options.seed,
        "sign_flip_exact_users": SIGN_FLIP_EXACT_USERS,
        "seconds": round(seconds, 1),
    }
    report = {**settings, "passed": passed, "findings": [asdict(one) for one in found]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    print("\n".join(line(one) for one in found))
    print(f"{'passed' if passed else 'NOT PASSED'} in {seconds:.0f} s, written to {options.out}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
