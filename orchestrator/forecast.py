"""The forecast of a run: probed once before it begins, kept, and told beside what was spent."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.manifest import Prepared
from data.writing import write_json
from orchestrator.estimate import Estimate, UserSizes, cell_seconds, estimate
from orchestrator.model_facts import model_shape
from orchestrator.placement import Placement
from orchestrator.plan import Plan

if TYPE_CHECKING:
    from orchestrator.study import Request

FORECASTS = Path("results/forecasts.json")
WORTH_WORK = 2000.0
"""Work (``plan.work_of``) below which a run makes no forecast: it would take as long as the run."""
BUSY_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Forecast:
    """An estimate with the seconds of every cell, or the reason why there is none."""

    estimate: Estimate | None
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()


def forecast_plan(
    request: Request,
    plan: Plan,
    placement: Placement,
    *,
    done: Collection[str],
    prepared: Prepared | None,
) -> Forecast:
    """Measure this machine for some seconds and schedule the plan's missing cells on it."""
    from orchestrator.probe import MOST_USERS, can_probe, measure, sample_users

    settings = request.settings
    if request.address is not None:
        return Forecast(None, {}, ("no estimate of time: trials run on a cluster, not here",))
    shape = model_shape(settings.model, settings.prompt, workspace=request.workspace.root)
    if not can_probe(shape, device=request.machine.device):
        why = "no estimate of time: the base is too large to be measured here in some seconds"
        return Forecast(None, {}, (why,))
    users = sample_users(settings.data, prepared=prepared, most=MOST_USERS)
    if not users:
        return Forecast(None, {}, ("no estimate of time: no user of these data can be read",))
    found = measure([c for c in plan.cells if c.cell_id not in done], users=users)
    sizes, speeds = UserSizes.of(users), found.speeds
    whole = estimate(plan.cells, finished=done, sizes=sizes, speeds=speeds, actors=placement.actors)
    seconds = {c.cell_id: cell_seconds(c.spec, sizes=sizes, speeds=speeds) for c in plan.cells}
    return Forecast(whole, seconds, _busy(found.cpu_share))


def _busy(cpu_share: float) -> tuple[str, ...]:
    if cpu_share >= BUSY_SHARE:
        return ()
    got = f"the probe got {cpu_share:.0%} of a CPU"
    return (f"this machine is busy now ({got}); the estimate is for when it is not",)


def is_worth_it(plan: Plan, done: Collection[str]) -> bool:
    """Whether a run is long enough that a forecast is no burden."""
    return sum(cell.work for cell in plan.cells if cell.cell_id not in done) >= WORTH_WORK


def keep_forecast(workspace: Path, found: Estimate, *, study: str) -> None:
    """Remember what a study is expected to take; the first forecast of its stages stays."""
    known = _read(workspace)
    stages = {stage: round(seconds, 1) for stage, seconds in found.stages.items()}
    if set(known.get(study, {})) != set(stages):
        write_json(workspace / FORECASTS, known | {study: stages}, depth=2)


def planned_stages(workspace: Path, *, study: str) -> dict[str, float]:
    """Seconds of trials that each stage was expected to take; empty where nothing was said."""
    return _read(workspace).get(study, {})


def _read(workspace: Path) -> dict[str, dict[str, float]]:
    try:
        values = json.loads((workspace / FORECASTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def planned_and_spent(
    plan: Plan, spent: Mapping[str, float], *, planned: Mapping[str, float]
) -> Sequence[tuple[str, float, float]]:
    """(stage, planned, spent) seconds of trials, of the stages that a forecast was made for.

    Args:
        plan: whose cells are meant.
        spent: cell id → seconds.
        planned: stage → seconds.
    """
    seconds: dict[str, float] = {}
    for cell in plan.cells:
        seconds[cell.stage] = seconds.get(cell.stage, 0.0) + spent.get(cell.cell_id, 0.0)
    return [(stage, planned[stage], seconds[stage]) for stage in plan.stages if stage in planned]
