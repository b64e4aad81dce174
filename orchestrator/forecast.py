"""The forecast of a run: probed once before it begins, kept, and told beside what was spent."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.manifest import Prepared
from data.writing import write_json
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

if TYPE_CHECKING:
    from data.schema import UserData
    from orchestrator.probe import Measured
    from orchestrator.study import Request
    from tasks.cell import CellSpec

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
        MOST_USERS,
        ProbeError,
        can_probe,
        measure,
        miniatures,
        sample_users,
        shortened,
    )

    settings = request.settings
    here = "here" if request.address is None else "on the cluster"
    shape = model_shape(settings.model, settings.prompt, workspace=request.workspace.root)
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
    specs = list(miniatures(cells, users=[user.user_key for user in small]))
    if not specs:
        return "none of the cells to do is of a kind that is measured"
    if request.address is None:
        found = measure(specs, users=small)
        return Probed(UserSizes.of(users), found.speeds, _busy(found.cpu_share, "this machine"))
    try:
        found = _measured_there(request, specs, small, placement)
    except ProbeError as error:
        return f"the probe on the cluster gave none ({error})"
    notes = [*_busy(found.cpu_share, "the cluster's node")]
    if len(request.nodes) > 1:
        notes.append(f"measured on one of {len(request.nodes)} nodes, as if all were like it")
    return Probed(UserSizes.of(users), found.speeds, tuple(notes))


def _measured_there(
    request: Request, specs: Sequence[CellSpec], users: Sequence[UserData], placement: Placement
) -> Measured:
    """The probe on a node of the cluster, which a run has joined already and a plan has not."""
    import ray

    from orchestrator.cluster import ray_session
    from orchestrator.probe import measure_on_cluster

    with ExitStack() as stack:
        if not ray.is_initialized():
            session = ray_session(request.machine, address=request.address, dashboard=False)
            stack.enter_context(session)
        return measure_on_cluster(specs, users=users, resources=placement.resources())


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
