"""``REPRODUCIBILITY.md``: what was run, on what, with which seeds, and how to run it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.ablations import is_variant
from results.cold_warm import PURPOSE as COLD_WARM
from results.collector import Collected
from results.files import write_atomic
from results.record import Record
from results.stage_times import StageTime, total_of

STAGE_OF = {"none": "baseline", "all": "all-persona", "cluster": "cluster", "user": "per-persona"}


@dataclass(frozen=True, slots=True)
class ReproducibilityFacts:
    """What the records do not say themselves.

    ``versions``: package → version in the driver; ``hardware``: class of machine, no host names;
    ``commands``: in order, exact; ``data``: source, hashes and numbers of what was prepared.
    """

    study: str
    commit: str
    commands: Sequence[str]
    versions: Mapping[str, str]
    hardware: Mapping[str, str]
    data: Mapping[str, Any]
    model: Mapping[str, str]
    prepare_seconds: float | None = None
    planned_and_spent: Sequence[StageTime] = ()
    """Seconds of trials foretold and spent, the search's among them."""
    expected: Sequence[tuple[str, str]] = ()
    """(machine, time) of the whole study elsewhere, from measurements."""


def write_reproducibility(
    workspace: Path, collected: Collected, facts: ReproducibilityFacts
) -> Path:
    """Write the file; everything in it comes from the records and the facts."""
    records = list(collected.records.values())
    sections = [
        f"# Reproducibility: study `{facts.study}`",
        "A cell's numbers are a pure function of its config and its rows. The same commands on the "
        "same versions give the same tables to the byte; other hardware moves float32 results by "
        "some 1e-6, which can flip a token of a greedy reply.",
        "## Commands\n\n" + _block(facts.commands),
        "## Environment\n\n" + _table(("package", "version"), facts.versions.items()),
        "## Hardware\n\n"
        + _table(("what", "value"), [*facts.hardware.items(), *_workers(records)]),
        "## Seeds\n\n" + _seeds(records),
        "## Data and items\n\n" + _table(("what", "value"), facts.data.items()),
        "## Base model\n\n" + _table(("what", "value"), facts.model.items()),
        f"## Source\n\nCommit `{facts.commit}`; cells by commit of the code that ran them:\n\n"
        + _table(("commit", "cells"), _count(r.environment.get("commit", "?") for r in records)),
        "## Time\n\n" + _times(records, facts),
        "## Configs\n\nEvery arm's resolved config is in `configs/`; every cell's, with the hashes "
        "of its files and of its parent, in `results/ledger/<cell>/record.json`.",
    ]
    return write_atomic(workspace / "REPRODUCIBILITY.md", "\n\n".join(sections).encode() + b"\n")


def _block(lines: Sequence[str]) -> str:
    return "```\n" + "\n".join(lines) + "\n```"


def _table(header: tuple[str, str], rows: Any) -> str:
    lines = [f"| {header[0]} | {header[1]} |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _count(values: Any) -> list[tuple[str, int]]:
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return sorted(found.items())


def _workers(records: Sequence[Record]) -> list[tuple[str, str]]:
    names = ("device", "machine", "python", "torch", "transformers", "ray")
    return [
        (f"workers: {name}", ", ".join(sorted({r.environment.get(name, "?") for r in records})))
        for name in names
    ]


def _seeds(records: Sequence[Record]) -> str:
    seeds = {r.arm: sorted({o.seed for o in records if o.arm == r.arm}) for r in records}
    table = _table(
        ("arm", "seeds"), ((arm, ", ".join(map(str, own))) for arm, own in seeds.items())
    )
    return (
        table + "\n\nStreams are named, not counted: order of examples (slot seed, epoch), dropout "
        "(slot seed, step, row, module), start of LoRA's A (seed, module), swapped partners "
        "(seed), sampling (seed, item). Statistics use a seed of their own (`statistics.seed`)."
    )


def _stage(record: Record) -> str:
    if is_variant(record.arm):
        return "ablations"
    if record.purpose == COLD_WARM:
        return "cold against warm"
    return "few-shot" if record.spec.get("few_shot_examples") else STAGE_OF[record.grouping]


def _times(records: Sequence[Record], facts: ReproducibilityFacts) -> str:
    stages: dict[str, float] = {}
    for record in records:
        stage = _stage(record)
        stages[stage] = stages.get(stage, 0.0) + record.seconds.get("total", 0.0)
    rows = [(stage, f"{seconds:.0f} s of trials") for stage, seconds in stages.items()]
    if facts.prepare_seconds is not None:
        rows.insert(0, ("prepare", f"{facts.prepare_seconds:.0f} s"))
    text = _table(("stage", "time"), rows)
    text += "\n\nTrials run side by side: divide by the number of actors for wall time."
    foretold = [time for time in facts.planned_and_spent if time.planned is not None]
    if foretold:
        text += "\n\nForetold by a probe before the run, and spent, in seconds of trials:\n\n"
        text += _planned(foretold)
    if facts.expected:
        text += "\n\nExpected elsewhere:\n\n" + _table(("machine", "whole study"), facts.expected)
    return text


def _planned(times: Sequence[StageTime]) -> str:
    lines = ["| stage | planned | spent | spent / planned |", "|---|---|---|---|"]
    for time in (*times, total_of(times)):
        ratio = "n/a" if time.factor is None else f"{time.factor:.2f}"
        lines.append(f"| {_cell(time.stage)} | {time.planned:.0f} | {time.spent:.0f} | {ratio} |")
    return "\n".join(lines)
