"""One line per stage at the end: passed, not passed or not run, each with its number."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from results.analysis import Analysis
from results.contrasts import BASELINE, is_all_persona, is_gated, is_per_user, is_swapped
from results.facts import Facts
from results.figure_style import Figure
from results.files import write_json
from results.wording import arm_title, number, p_text, plural, verdict

Status = Literal["passed", "not passed", "not run"]
NEEDED_FIGURES = 4
CHECKPOINTS_FILE = Path("results/checkpoints.json")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A stage's check; none is forced to pass."""

    stage: str
    status: Status
    detail: str


def checkpoints(analysis: Analysis, *, facts: Facts, figures: Sequence[Figure]) -> list[Checkpoint]:
    """The study's six checkpoints, in order."""
    return [
        _splits(facts),
        _baseline(analysis, facts),
        _shared(analysis),
        _per_user(analysis),
        _persona(facts),
        _outputs(analysis, figures),
    ]


def write_checkpoints(path: Path, done: Sequence[Checkpoint]) -> Path:
    """Write the checkpoints for ``read_checkpoints``."""
    return write_json(path, [asdict(one) for one in done])


def read_checkpoints(workspace: Path) -> list[Checkpoint]:
    """The checkpoints of a workspace's last report; none where there is no such report."""
    try:
        found = json.loads((workspace / CHECKPOINTS_FILE).read_text(encoding="utf-8"))
        return [Checkpoint(**one) for one in found]
    except (OSError, ValueError, TypeError):
        return []


def _check(stage: str, passed: bool, detail: str) -> Checkpoint:
    return Checkpoint(stage=stage, status="passed" if passed else "not passed", detail=detail)


def _not_run(stage: str, detail: str) -> Checkpoint:
    return Checkpoint(stage=stage, status="not run", detail=detail)


def _splits(facts: Facts) -> Checkpoint:
    stage = "Splits valid and leak-free"
    if "splits_valid" not in facts:
        return _not_run(stage, "the split was not validated")
    return _check(stage, facts["splits_valid"], facts.get("splits_detail", "no detail given"))


def _baseline(analysis: Analysis, facts: Facts) -> Checkpoint:
    stage = "Baseline reproducible"
    if BASELINE not in analysis.arms:
        return _not_run(stage, "there is no baseline arm")
    repeat = facts.get("baseline_repeat")
    if repeat is None:
        return _not_run(stage, "the baseline was run once; no repetition to compare with")
    told = (
        f"{plural(repeat.items, 'validation item')} of {plural(repeat.users, 'user')} answered "
        f"twice: {repeat.changed:,} came out otherwise, likelihoods differ by up to "
        f"{repeat.largest_nats:.2g} nats per token"
    )
    return _check(stage, repeat.same, told)


def _shared(analysis: Analysis) -> Checkpoint:
    stage = "All-persona arms differ measurably from the baseline"
    found = []
    for arm in filter(is_all_persona, analysis.arms):
        row = analysis.row(f"{arm} - {BASELINE}")
        if row is not None and math.isfinite(row["low"]):
            found.append((arm, row, verdict(row) in ("higher", "lower")))
    if not found:
        return _not_run(stage, "no all-persona arm with an interval")
    told = "; ".join(
        f"{arm_title(arm)} {number(row['mean_lift'], signed=True)}, "
        f"adjusted {p_text(row['p_adjusted'])}"
        for arm, row, _ in found
    )
    return _check(stage, all(clear for *_, clear in found), told)


def _per_user(analysis: Analysis) -> Checkpoint:
    stage = "Per-user results aggregate and drift is tracked"
    # A gated arm chooses among adapters and has none of its own that could drift.
    arms = [
        arm
        for arm in analysis.arms
        if is_per_user(arm) and not is_swapped(arm) and not is_gated(arm)
    ]
    if not arms:
        return _not_run(stage, "no per-user arm")
    told, complete = [], True
    macro = analysis.macro[analysis.macro["metric"] == analysis.primary_metric]
    sizes = macro.set_index("arm")["n_users"].to_dict()
    for arm in arms:
        tracked = int((analysis.drift.users["arm"] == arm).sum())
        scored = int(sizes.get(arm, 0))
        told.append(f"{arm_title(arm)}: {plural(scored, 'user')}, drift of {tracked:,}")
        complete &= scored == len(analysis.users) and tracked == scored
    return _check(stage, complete, "; ".join(told) + f" (study: {len(analysis.users):,})")


def _persona(facts: Facts) -> Checkpoint:
    stage = "Persona accuracy above chance"
    found = facts.get("persona_prediction")
    if not found:
        return _not_run(stage, "persona prediction was not part of this study")
    bar = max(found["chance"], found.get("null_99", found["chance"]))
    told = (
        f"accuracy {number(found['accuracy'])}, lower bound {number(found['low'])}, chance "
        f"{found['chance']:.4f}"
    )
    if "null_99" in found:
        told += f", 99th percentile under permuted labels {number(found['null_99'])}"
    return _check(stage, found["low"] > found["chance"] and found["accuracy"] > bar, told)


def _outputs(analysis: Analysis, figures: Sequence[Figure]) -> Checkpoint:
    known = int(analysis.comparisons["ci_low"].notna().sum())
    total = len(analysis.comparisons)
    there = [figure for figure in figures if all(path.exists() for path in figure.paths)]
    told = f"{known} of {total} comparisons have an interval; {plural(len(there), 'figure')} drawn"
    passed = known > 0 and len(there) >= NEEDED_FIGURES and len(there) == len(figures)
    return _check("Statistics and figures present", passed, told)
