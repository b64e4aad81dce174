"""Report and export from what a workspace holds, without running a cell or asking for settings."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from data.manifest import Prepared, load_prepared
from orchestrator.choices import with_choices
from orchestrator.exit_codes import InputError
from orchestrator.exporting import Wanted, export_adapters
from orchestrator.finish import finish, finished_key
from orchestrator.plan import Facts, Plan, make_plan
from orchestrator.settings import Settings
from orchestrator.stored_workspace import held, refresh
from orchestrator.study import Outcome, failures_of
from orchestrator.workspace import Workspace, study_config
from results.ledger import Ledger
from results.record import Record
from search_spaces.space import Study


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """A study that was run in this workspace."""

    workspace: Workspace
    settings: Settings
    prepared: Prepared
    plan: Plan
    base_name: str
    ledger: Ledger
    records: dict[str, Record]


def find_study_of(study: Study, workspace: Workspace) -> FoundStudy:
    """A study's plan and what the workspace has of it.

    Raises:
        InputError: the workspace holds no such study, or its config cannot be read.
    """
    root = workspace.root
    path = study_config(workspace, study.name)
    prepared = load_prepared(root)
    if prepared is None or not path.is_file():
        known = sorted(p.stem.removeprefix("study_") for p in workspace.configs.glob("study_*"))
        there = f"it holds {', '.join(known)}" if known else "it holds none"
        raise InputError(
            f"{workspace.name} holds no study {study.name!r} ({there}): run it first, or give "
            "--workspace"
        )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        settings = Settings.model_validate_json(json.dumps(stored["settings"]))
        facts = Facts(
            items_sha256=prepared.items_sha256,
            data_sha256=prepared.data_sha256,
            users=prepared.users,
            cold_start_users=prepared.cold_start_users,
            **{name: stored["facts"][name] for name in _STORED_FACTS},
        )
        base_name = str(stored["base_name"])
        choices = {str(arm): dict(config) for arm, config in stored.get("choices", {}).items()}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): run the study again") from error
    plan = make_plan(settings, study=with_choices(study, choices), facts=facts)
    ledger = Ledger(root)
    records = ledger.finished(cell.cell_id for cell in plan.cells)
    return FoundStudy(workspace, settings, prepared, plan, base_name, ledger, records)


_STORED_FACTS = ("model_sha256", "template_sha256", "dtype", "clusters_sha256", "adopted_sha256")


def report_again(study: Study, workspace: Workspace) -> Outcome:
    """Tables, statistics, figures and report from the ledger.

    Raises:
        InputError: the workspace holds no such study.
        RecordError: no scores, or arms that cannot be compared.
    """
    began = time.monotonic()
    # Where there is no study, no lock and no folder is to be left behind.
    known = find_study_of(study, workspace) if workspace.storage is None else None
    with held(workspace):
        found = known or find_study_of(study, workspace)
        key = finished_key(found.records, found.plan, found.settings, prepared=found.prepared)
        summary = finish(
            found.workspace,
            found.plan,
            found.records,
            settings=found.settings,
            prepared=found.prepared,
            base_name=found.base_name,
            key=key,
        )
    failures = tuple(failures_of(found.plan, found.records, found.ledger))
    return Outcome(summary, 0, len(found.records), failures, time.monotonic() - began)


def export_again(study: Study, workspace: Workspace, wanted: Wanted) -> int:
    """Adapters of a finished study in a folder of their own; returns their number.

    Raises:
        InputError: no such study here, or no such arm or user in it.
    """
    refresh(workspace)
    found = find_study_of(study, workspace)
    return export_adapters(
        found.workspace,
        found.plan,
        wanted,
        finished=set(found.records),
        prepared=found.prepared,
        base_name=found.base_name,
    )
