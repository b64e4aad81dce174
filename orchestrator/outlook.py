"""What a run would do here: cells, what is done, where trials would run, how long, at what cost.

Reads the workspace and the model's files; writes and starts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

from data.manifest import Prepared, load_prepared
from data.shards import USERS_PER_SHARD
from orchestrator.adopted import adopted_sha256
from orchestrator.candidate_cells import STAGE
from orchestrator.choices import Choices, with_choices
from orchestrator.embedding import clusters_are_made
from orchestrator.estimate import Estimate, Prices
from orchestrator.forecast import Forecast, forecast_plan
from orchestrator.frozen import frozen_hashes
from orchestrator.model_facts import remembered_facts, resolved_dtype
from orchestrator.placement import Placement
from orchestrator.plan import Facts, Plan, PlannedCell, make_plan
from orchestrator.search import most_cells
from orchestrator.study import Request, check_request, renamed
from results.ledger import Ledger

USUAL_USERS = 24
"""Users of the synthetic source where nothing else is said."""


@dataclass(frozen=True, slots=True)
class ArmCells:
    """Cells of one arm; ``seconds`` of trials for those to do, None without an estimate."""

    stage: str
    arm: str
    cells: int
    done: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Outlook:
    """A plan beside the ledger."""

    plan: Plan
    placement: Placement
    rows: tuple[ArmCells, ...]
    notes: tuple[str, ...]
    shards: int = 0
    """Files of prepared users."""
    estimate: Estimate | None = None
    cost: float | None = None
    """Of the whole run at the given prices; None without prices (or with one of GPUs alone, where
    there are none), or without an estimate."""
    searched: tuple[PlannedCell, ...] = ()
    """Stand-ins for the search's cells: their ids are no cell's."""

    def as_json(self) -> dict[str, Any]:
        """For ``plan --json``."""
        return {
            "study": self.plan.study,
            "placement": asdict(self.placement),
            "shards": self.shards,
            "estimate": asdict(self.estimate) if self.estimate else None,
            "cost": self.cost,
            "arms": [asdict(row) for row in self.rows],
            "cells": [
                {"cell_id": cell.cell_id, "arm": cell.arm, "stage": cell.stage}
                | {"purpose": cell.spec.purpose, "seed": cell.spec.seed, "split": cell.spec.split}
                | {"users": len(cell.spec.users), "depends_on": list(cell.depends_on)}
                | {"stand_in": stand_in}
                for cells, stand_in in ((self.searched, True), (self.plan.cells, False))
                for cell in cells
            ],
            "notes": list(self.notes),
        }


def look_ahead(request: Request, *, prices: Prices | None = None, probe: bool = False) -> Outlook:
    """Plan a study as far as the workspace tells; raises what ``check_request`` raises.

    Args:
        request: what a run would be asked for.
        prices: of an hour.
        probe: whether to measure this machine for an estimate of time: some seconds.
    """
    placement = check_request(request)
    prepared = None if request.fresh else load_prepared(request.workspace.root)
    facts, notes = _facts(request, prepared)
    request = renamed(request, model_sha256=facts.model_sha256)
    ledger = Ledger(request.workspace.root)
    search, choices = searched_cells(request, facts, ledger)
    searched = {cell.cell_id for cells in search.values() for cell in cells.finished}
    study = with_choices(request.study, choices)
    plan = make_plan(request.settings, study=study, facts=facts)
    done = set(ledger.finished(cell.cell_id for cell in plan.cells))
    notes.append(told_placement(placement))
    if search and not choices:
        notes.append(
            "the search's cells are the most that it can need; what it chooses, and so which of "
            "the other cells are done, is known at its end"
        )
    forecast = None
    stand_ins = tuple(cell for own in search.values() for cell in own.cells)
    whole = replace(plan, cells=(*plan.cells, *stand_ins))
    if probe and len(done | searched) < len(whole.cells):
        forecast = forecast_plan(request, whole, placement, done=done | searched, prepared=prepared)
        notes += forecast.notes
    prices, nodes = prices or Prices(), request.nodes or (request.machine,)
    gpus = sum(node.gpus for node in nodes)
    notes += prices.notes(gpus=gpus, where="here" if request.address is None else "in the cluster")
    cost = None
    if forecast is not None and forecast.estimate is not None:
        cost = prices.cost(forecast.estimate.total_seconds, gpus=gpus, nodes=len(nodes))
    return Outlook(
        plan,
        placement,
        tuple(sorted(_rows(whole, done | searched, forecast), key=_search_first)),
        tuple(notes),
        shards=ceil((len(facts.users) + len(facts.cold_start_users)) / USERS_PER_SHARD),
        estimate=forecast.estimate if forecast else None,
        cost=cost,
        searched=stand_ins,
    )


def told_placement(placement: Placement) -> str:
    """«up to 8 trials at a time, each with 1 CPU and 0.25 GPU»."""
    each = " and ".join(f"{amount:g} {name}" for name, amount in placement.resources().items())
    if placement.actors == 1:
        return f"1 trial at a time, with {each}"
    return f"up to {placement.actors} trials at a time, each with {each}"


@dataclass(frozen=True, slots=True)
class ArmSearch:
    """Stand-ins for the cells of an arm's search, as many as it may need, and how many are done."""

    cells: list[PlannedCell]
    done: int

    @property
    def finished(self) -> list[PlannedCell]:
        """As many of them as are done; which ones does not matter here."""
        return self.cells[: self.done]


def searched_cells(
    request: Request, facts: Facts, ledger: Ledger
) -> tuple[dict[str, ArmSearch], Choices]:
    """The searched arms, and what was chosen for them where their search is done."""
    settings, study = request.settings, request.study
    if settings.search.method == "none":
        return {}, {}
    from orchestrator.search_stage import open_search

    search = open_search(settings, study=study, facts=facts, ledger=ledger)
    search.next_cells()
    most = most_cells(settings, study=study, facts=facts)
    done = {arm: min(search.done(arm), len(cells)) for arm, cells in most.items()}
    if search.result is None:
        return {arm: ArmSearch(cells, done[arm]) for arm, cells in most.items()}, {}
    over = {arm: ArmSearch(cells[: done[arm]], done[arm]) for arm, cells in most.items()}
    return over, search.result.choices


def _facts(request: Request, prepared: Prepared | None) -> tuple[Facts, list[str]]:
    """The facts that are known here; stand-ins with a note for those that a run will find."""
    settings, notes = request.settings, []
    model = _hashes(request)
    if prepared is None:
        held_out = settings.data.cold_start_share
        everybody = settings.data.users or USUAL_USERS
        users = round(everybody * (1 - held_out))
        notes.append(f"the data are not prepared yet: about {users} users are assumed")
        names: Sequence[str] = [f"user_{n}" for n in range(users)]
        cold: Sequence[str] = [f"cold_{n}" for n in range(everybody - users)]
    else:
        names, cold = prepared.users, prepared.cold_start_users
    if model is None:
        notes.append("the model was not used here yet: nothing can be found done")
    clusters = prepared.clusters_sha256 if prepared else "unknown"
    if prepared and not clusters_are_made(prepared, settings=settings, study=request.study):
        notes.append("clusters will be made anew: no cell of a cluster arm can be found done")
        clusters = "unknown"
    facts = Facts(
        data_sha256=prepared.data_sha256 if prepared else "unknown",
        items_sha256=prepared.items_sha256 if prepared else {"val": "unknown", "test": "unknown"},
        users=tuple(names),
        cold_start_users=tuple(cold),
        model_sha256=model[0] if model else "unknown",
        template_sha256=model[1] if model else "unknown",
        dtype=resolved_dtype(settings.model, device=request.machine.device),
        clusters_sha256=clusters,
        adopted_sha256=adopted_sha256(settings),
    )
    return facts, notes


def _hashes(request: Request) -> tuple[str, str] | None:
    """Of the model and its template, if this workspace knows it, under this or another name."""
    settings, workspace = request.settings, request.workspace
    known = remembered_facts(settings.model, settings.prompt, workspace=workspace.root)
    if known is not None:
        return known.model_sha256, known.template_sha256
    return None if request.fresh else frozen_hashes(workspace, settings.model)


def _search_first(row: ArmCells) -> bool:
    return row.stage != STAGE


def _rows(plan: Plan, done: set[str], forecast: Forecast | None) -> list[ArmCells]:
    arms: dict[tuple[str, str], list[str]] = {}
    for cell in plan.cells:
        arms.setdefault((cell.stage, cell.arm), []).append(cell.cell_id)
    known = forecast.seconds if forecast else {}
    return [
        ArmCells(
            stage,
            arm,
            len(cells),
            sum(name in done for name in cells),
            sum(known[name] for name in cells if name not in done) if known else None,
        )
        for (stage, arm), cells in arms.items()
    ]
