"""Everything after the ledger: collect → tables → statistics → figures → report → models."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.manifest import Prepared
from data.naming import safe_folder_name
from data.writing import write_json
from orchestrator.ablation_points import ablation_points
from orchestrator.export import export_models
from orchestrator.facts import report_facts, reproducibility_facts
from orchestrator.forecast import stage_times
from orchestrator.identity import canonical_json
from orchestrator.keeper import source_commit
from orchestrator.plan import Plan
from orchestrator.settings import Settings
from orchestrator.workspace import Workspace
from results.files import crash_point
from results.ledger import Ledger
from results.record import ARM_PURPOSES, Record

if TYPE_CHECKING:
    from results.analysis import Analysis
    from results.collector import ExpectedCell

SUMMARY_FILE = Path("results/summary.json")
REGISTRY_FILE = "experiment_registry.csv"


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One arm on the primary metric; lift, interval and counts are against the baseline.

    A number that cannot be had is None.
    """

    arm: str
    macro: float | None
    lift: float | None
    low: float | None
    high: float | None
    helped: int | None
    hurt: int | None
    users: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What the command line shows at the end."""

    key: str
    rows: tuple[ArmRow, ...]
    report: str
    findings: tuple[str, ...] = ()
    """Sentences on persona prediction, where the study has it."""
    warnings: tuple[str, ...] = ()
    """What the scores cannot say; told before them."""


def finished_key(
    records: Mapping[str, Record], plan: Plan, settings: Settings, *, prepared: Prepared
) -> str:
    """Hash of all that the report depends on: two runs with equal keys need one report."""
    about = {
        "study": plan.study,
        "cells": {name: record.attempt for name, record in records.items()},
        "expected": [cell.cell_id for cell in plan.cells],
        "clusters": prepared.clusters_sha256,
        "statistics": settings.statistics.model_dump(mode="json"),
        "search": settings.search.model_dump(mode="json"),
        "commit": source_commit(),
    }
    return hashlib.sha256(canonical_json(about).encode()).hexdigest()


def known_summary(workspace: Workspace, key: str) -> Summary | None:
    """The summary of an earlier run if it was made from just these records."""
    try:
        values = json.loads((workspace.root / SUMMARY_FILE).read_text(encoding="utf-8"))
        rows = tuple(ArmRow(**row) for row in values["rows"])
        findings, warnings = (tuple(map(str, values[name])) for name in ("findings", "warnings"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = values["key"] == key and workspace.report.is_file()
    return Summary(key, rows, str(values["report"]), findings, warnings) if whole else None


def has_scores(plan: Plan, records: Mapping[str, Record]) -> bool:
    """Whether any record holds scored items of an arm; an ablation's variants are none."""
    found = (records.get(cell.cell_id) for cell in plan.cells if cell.variant is None)
    return any(
        "items.parquet" in record.files and record.purpose in ARM_PURPOSES
        for record in found
        if record is not None
    )


def expected_cells(plan: Plan, *, variants: bool = False) -> list[ExpectedCell]:
    """The plan's arms as the collector knows them, or the variants of its ablations.

    A repetition of a cell is no result: nothing is missing where it is.
    """
    from results.collector import ExpectedCell

    return [
        ExpectedCell(
            cell_id=cell.cell_id,
            arm=cell.arm,
            seed=cell.spec.seed,
            users=cell.spec.users,
            split=cell.spec.split,
            purpose=cell.spec.purpose,
        )
        for cell in plan.cells
        if (cell.variant is not None) == variants and cell.spec.purpose != "repeat"
    ]


def finish(
    workspace: Workspace,
    plan: Plan,
    records: Mapping[str, Record],
    *,
    settings: Settings,
    prepared: Prepared,
    base_name: str,
    key: str,
) -> Summary:
    """Write every table, figure and report of a study, and its adapters as PEFT folders.

    Raises:
        RecordError: arms that cannot be compared, or no scores at all.
    """
    from results.analysis import Thresholds, analyze
    from results.collector import collect
    from results.decisions import decide
    from results.figures import draw_figures, write_captions
    from results.nothing_scored import scoring_warnings
    from results.persona_report import finish_persona
    from results.registry import append_registry
    from results.report import write_report
    from results.report_ablations import finish_ablations
    from results.report_search import finish_search
    from results.report_spent import spent_told
    from results.reproducibility import write_reproducibility
    from results.tables import TableFacts, write_tables

    ledger = Ledger(workspace.root)
    collected = collect(ledger, expected_cells(plan))
    variants = collect(ledger, expected_cells(plan, variants=True))
    facts = TableFacts(commit=source_commit(), folder_name=safe_folder_name)
    write_tables(collected, workspace.root, facts=facts)
    analysis = analyze(
        collected,
        seed=settings.statistics.seed,
        margin=settings.statistics.margin,
        resamples=settings.statistics.resamples,
        clusters=_clusters(prepared),
        thresholds=Thresholds(
            stable_share_hurt=settings.statistics.stable_share_hurt,
            high_variance_share=settings.statistics.high_variance_share,
        ),
    )
    again = report_command(workspace, plan.study)
    persona = finish_persona(
        workspace.root,
        collected,
        command=again,
        clusters=_clusters(prepared),
        seed=settings.statistics.seed,
        resamples=settings.statistics.resamples,
    )
    ablations = finish_ablations(
        workspace.root,
        collected,
        variants,
        ablation_points(plan),
        command=again,
        seed=settings.statistics.seed,
        resamples=settings.statistics.resamples,
    )
    search = finish_search(
        workspace.root, study=plan.study, method=settings.search.method, command=again
    )
    figures = [
        *search.figures,
        *draw_figures(workspace.root, collected, analysis, command=again),
        *persona.figures,
        *ablations.figures,
    ]
    write_captions(workspace.root, figures)
    crash_point("in-report")
    told = report_facts(plan, records, settings=settings, prepared=prepared)
    warnings = scoring_warnings(collected.table, analysis)
    told |= {"warnings": warnings}
    told |= baseline_repeat(ledger, plan)
    told |= persona.told(told)
    told |= ablations.told(told)
    told |= search.told(told)
    retried = sum(record.attempts > 1 for record in records.values())
    told |= spent_told(stage_times(workspace.root, plan, records), retried=retried, known=told)
    decisions = decide(analysis, persona=persona.change)
    write_report(workspace.root, collected, analysis, decisions, figures, told)
    how = reproducibility_facts(
        plan, records, settings=settings, prepared=prepared, base_name=base_name
    )
    append_registry(variants, workspace.root / REGISTRY_FILE, commit=facts.commit)
    everything = replace(collected, records={**collected.records, **variants.records})
    write_reproducibility(workspace.root, everything, how)
    export_models(workspace, plan, finished=set(records), base_name=base_name)
    findings = tuple(finding.replace("**", "") for finding in persona.findings)
    summary = Summary(key, tuple(arm_rows(analysis)), workspace.report.name, findings, warnings)
    write_json(workspace.root / SUMMARY_FILE, asdict(summary), depth=1)
    return summary


def report_command(workspace: Workspace, study: str) -> str:
    """What makes figures and report again; without the place where that is the current folder."""
    here = workspace.storage is None and workspace.root == Path.cwd()
    place = "" if here else f" --workspace {shlex.quote(workspace.name)}"
    return f"python -m orchestrator report --study {study}{place}"


def baseline_repeat(ledger: Ledger, plan: Plan) -> dict[str, Any]:
    """What a second run of a baseline cell gave, as a fact of the report; empty without one."""
    from results.repetition import compare_runs

    for cell in plan.cells:
        if cell.spec.purpose == "repeat":
            found = compare_runs(ledger, first=cell.depends_on[0], again=cell.cell_id)
            return {} if found is None else {"baseline_repeat": found}
    return {}


def _clusters(prepared: Prepared) -> dict[str, int]:
    path = prepared.workspace / "data" / "splits" / "cluster_map.json"
    found: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    return found


def arm_rows(analysis: Analysis) -> list[ArmRow]:
    """The primary metric of every arm, swapped controls included."""
    macro = analysis.macro[analysis.macro["metric"] == analysis.primary_metric]
    rows = []
    for row in macro.to_dict(orient="records"):
        arm = str(row["arm"])
        lift = analysis.row(f"{arm} - baseline")
        numbers = {} if lift is None else {str(k): v for k, v in lift.items()}
        rows.append(
            ArmRow(
                arm=arm,
                macro=_number(row["mean"]),
                lift=_number(numbers.get("mean_lift")),
                low=_number(numbers.get("low")),
                high=_number(numbers.get("high")),
                helped=_count(numbers.get("helped")),
                hurt=_count(numbers.get("hurt")),
                users=int(row["n_users"]),
            )
        )
    return rows


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def _count(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
