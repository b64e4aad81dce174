"""The forecast of a run: probed once before it begins, kept, and told beside what was spent."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.manifest import Prepared
from data.writing import write_json
from orchestrator.candidate_cells import STAGE
from orchestrator.cluster import NoAnswerError, ask_a_node
from orchestrator.estimate import (
    Estimate,
    Speeds,
    UserSizes,
    cell_seconds,
    estimate,
    kind_of,
)
from orchestrator.model_facts import model_shape
from orchestrator.placement import Placement
from orchestrator.plan import Plan, PlannedCell
from results.stage_times import StageTime

if TYPE_CHECKING:
    from orchestrator.study import Request
    from results.record import Record

FORECASTS = Path("results/forecasts.json")
WORTH_WORK = 2000.0
"""Work (``plan.work_of``) below which a run makes no forecast: it would take as long as the run."""
BUSY_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe found: sizes of users and speeds of steps, and what is to be said of it."""

    sizes: UserSizes
    speeds: Speeds
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Forecast:
    """An estimate with the seconds of every cell, or the reason why there is none.

    ``probed`` serves further forecasts of the same run.
    """

    estimate: Estimate | None
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    probed: Probed | None = None


def forecast_plan(
    request: Request,
    plan: Plan,
    placement: Placement,
    *,
    done: Collection[str],
    prepared: Prepared | None,
    probed: Probed | None = None,
) -> Forecast:
    """Measure for some seconds where trials run, and schedule the plan's missing cells there.

    ``probed``: from an earlier forecast of the same run; nothing is measured again.
    """
    found: Probed | str = probed or _probe(request, plan, placement, done=done, prepared=prepared)
    if isinstance(found, str):
        return Forecast(None, {}, (f"no estimate of time: {found}",))
    sizes, speeds = found.sizes, found.speeds
    whole = estimate(plan.cells, finished=done, sizes=sizes, speeds=speeds, actors=placement.actors)
    seconds = {c.cell_id: cell_seconds(c.spec, sizes=sizes, speeds=speeds) for c in plan.cells}
    return Forecast(whole, seconds, found.notes, found)


def _probe(
    request: Request,
    plan: Plan,
    placement: Placement,
    *,
    done: Collection[str],
    prepared: Prepared | None,
) -> Probed | str:
    """What was measured, or why nothing was."""
    from orchestrator.probe import (
        CLUSTER_SECONDS,
        MOST_USERS,
        can_probe,
        measure,
        measure_within,
        miniatures,
        sample_users,
        shortened,
    )

    settings = request.settings
    here = "here" if request.address is None else "on the cluster"
    places = request.workspace.places()
    model = places.model(settings.model)
    shape = model_shape(model, settings.prompt, workspace=request.workspace.root)
    if not can_probe(shape, device=request.machine.device):
        return (
            f"the base is too large to be measured {here} in some seconds; run a part first "
            "(--users 20 in a workspace of its own) and multiply what its REPORT.md says was spent"
        )
    users = sample_users(settings.data, prepared=prepared, most=MOST_USERS)
    if not users:
        return "no user of these data can be read"
    small = [shortened(user) for user in users]
    cells = cells_to_measure(plan, done=done)
    specs = [
        spec.model_copy(update={"model": places.model(spec.model)})
        for spec in miniatures(cells, users=[user.user_key for user in small])
    ]
    if not specs:
        return "none of the cells to do is of a kind that is measured"
    if request.address is None:
        found = measure(specs, users=small)
        return Probed(UserSizes.of(users), found.speeds, _busy(found.cpu_share, "this machine"))
    resources = placement.resources()
    try:
        found = ask_a_node(
            measure_within,
            resources.get("GPU", 0.0),
            specs,
            small,
            machine=request.machine,
            address=request.address,
            resources=resources,
            seconds=CLUSTER_SECONDS,
        )
    except NoAnswerError as error:
        return f"the probe on the cluster gave none ({error})"
    notes = [*_busy(found.cpu_share, "the cluster's node")]
    if len(request.nodes) > 1:
        notes.append(f"measured on one of {len(request.nodes)} nodes, as if all were like it")
    return Probed(UserSizes.of(users), found.speeds, tuple(notes))


def cells_to_measure(plan: Plan, *, done: Collection[str]) -> list[PlannedCell]:
    """The cells that are not done, and of done ones those that show the speed of their adapters.

    An adapter's speed is measured where it is trained, and just that may be done already.
    """
    missing = [cell for cell in plan.cells if cell.cell_id not in done]
    kinds = {kind_of(cell.spec) for cell in missing}
    like = [c for c in plan.cells if c.cell_id in done and kind_of(c.spec) in kinds]
    return [*missing, *like]


def _busy(cpu_share: float, what: str) -> tuple[str, ...]:
    if cpu_share >= BUSY_SHARE:
        return ()
    got = f"the probe got {cpu_share:.0%} of a CPU"
    return (f"{what} is busy now ({got}); the estimate is for when it is not",)


def is_worth_it(plan: Plan, done: Collection[str]) -> bool:
    """Whether a run is long enough that a forecast is no burden."""
    return sum(cell.work for cell in plan.cells if cell.cell_id not in done) >= WORTH_WORK


def keep_forecast(workspace: Path, found: Estimate, *, study: str) -> None:
    """Remember what a study is expected to take.

    Of a stage with as many cells as before, the first forecast stays: a run that goes on is
    measured against what was said at its beginning.
    """
    everything = _read(workspace)
    known = everything.get(study, {})
    stages = dict(known)
    for stage, seconds in found.stages.items():
        if known.get(stage, {}).get("cells") != found.cells[stage]:
            stages[stage] = {"seconds": round(seconds, 1), "cells": found.cells[stage]}
    if stages != known:
        write_json(workspace / FORECASTS, everything | {study: stages}, depth=3)


def planned_stages(workspace: Path, *, study: str) -> dict[str, float]:
    """Seconds of trials that each stage was expected to take; empty where nothing was said."""
    return {stage: one["seconds"] for stage, one in _read(workspace).get(study, {}).items()}


def _read(workspace: Path) -> dict[str, dict[str, dict[str, float]]]:
    try:
        values = json.loads((workspace / FORECASTS).read_text(encoding="utf-8"))
        return {
            str(study): {
                str(stage): {name: float(one[name]) for name in ("seconds", "cells")}
                for stage, one in stages.items()
            }
            for study, stages in values.items()
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}


def stage_times(workspace: Path, plan: Plan, records: Mapping[str, Record]) -> list[StageTime]:
    """Planned and spent seconds of each stage, a search's cells before the others.

    Raises:
        RecordError: the list of the search's cells cannot be read.
    """
    from results.search import cells_path, read_cells

    planned = planned_stages(workspace, study=plan.study)
    times = [
        StageTime(
            stage=stage,
            cells=len(cells),
            failed=sum(cell.cell_id not in records for cell in cells),
            planned=planned.get(stage),
            spent=sum(_seconds(records[c.cell_id]) for c in cells if c.cell_id in records),
        )
        for stage in plan.stages
        for cells in (plan.of_stage(stage),)
    ]
    searched = read_cells(cells_path(workspace, plan.study))
    # The last training of a shared arm is the study's own.
    own = searched[~searched["cell_id"].isin(plan.ids)]
    if len(own):
        search = StageTime(
            stage=STAGE,
            cells=len(own),
            failed=int(own["seconds"].isna().sum()),
            planned=planned.get(STAGE),
            spent=float(own["seconds"].sum()),
        )
        times.insert(0, search)
    return times


def _seconds(record: Record) -> float:
    return record.seconds.get("total", 0.0)
