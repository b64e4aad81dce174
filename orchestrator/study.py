"""One study from its settings to its report: prepare → embed → search → plan → sweep → report.

Each step finds its finished part and does the rest, so the same command twice does the work once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace

from data.catalog import resolve_source
from data.manifest import Prepared, load_prepared
from orchestrator.adopted import adopted_sha256, bring_adopted
from orchestrator.choices import Choices, with_choices
from orchestrator.cluster import RaySession, check_shared_storage, ray_session
from orchestrator.embedding import with_clusters
from orchestrator.exit_codes import ExitCode, InputError
from orchestrator.finish import Summary, finish, finished_key, has_scores, known_summary
from orchestrator.forecast import Forecast, Probed, forecast_plan, is_worth_it, keep_forecast
from orchestrator.frozen import check_frozen, check_frozen_facts, under_frozen_name
from orchestrator.keeper import source_commit
from orchestrator.left_out import left_out
from orchestrator.model_facts import (
    ModelFacts,
    model_facts,
    model_traits,
    remembered_facts,
    resolved_dtype,
)
from orchestrator.model_fit import check_fit
from orchestrator.placement import Machine, Placement
from orchestrator.placing import place_study
from orchestrator.plan import Facts, Plan, make_plan
from orchestrator.repeating import cells_to_repeat
from orchestrator.search import check_searchable
from orchestrator.settings import Settings
from orchestrator.signals import StopSignal
from orchestrator.status import StatusFile
from orchestrator.stored_workspace import held
from orchestrator.sweep_view import duration
from orchestrator.sweeping import Screen, Sweeper
from orchestrator.tracking import check_trackers
from orchestrator.workspace import Workspace, clear, leave_nothing, write_configs
from results.files import crash_point
from results.ledger import Ledger
from results.record import Record
from search_spaces.space import Study


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked for, and where it is to run."""

    study: Study
    settings: Settings
    workspace: Workspace
    machine: Machine
    fresh: bool = False
    only_failed: bool = False
    address: str | None = None
    gpu_fraction: float | None = None
    gpus_per_global_trial: int = 1
    dashboard: bool = True
    nodes: tuple[Machine, ...] = ()
    """Of the cluster at ``address``; ``machine`` is then the one that decides the device."""


def renamed(request: Request, *, model_sha256: str) -> Request:
    """The request with the base model under the name that the workspace's cells know it by."""
    settings, workspace = under_frozen_name(
        request.settings, request.workspace, model_sha256=model_sha256
    )
    return replace(request, settings=settings, workspace=workspace)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    summary: Summary
    ran: int
    reused: int
    failures: tuple[str, ...]
    seconds: float

    @property
    def exit_code(self) -> ExitCode:
        """Zero unless something failed."""
        return ExitCode.FAILED_TRIALS if self.failures else ExitCode.DONE


def check_request(request: Request) -> Placement:
    """Everything that can be known to be wrong before anything is written or started.

    Raises:
        DataError, TaskError, InputError: what is wrong and what to do.
    """
    settings = request.settings
    if request.only_failed and not request.workspace.ledger.is_dir():
        raise InputError(
            f"--only-failed repeats what failed, and nothing was run in {request.workspace.name} "
            "yet: leave it out, or give another --workspace"
        )
    check_trackers(settings.tracking)
    source, location = resolve_source(settings.data.source)
    if source.place in ("FOLDER", "FILE"):
        source.fetch(location, request.workspace.root, settings.data.prepare_settings())
    known = remembered_facts(settings.model, settings.prompt, workspace=request.workspace.root)
    if known is None:
        from tasks.base_model import check_model_exists
        from tasks.encoder import check_encoder_exists

        check_model_exists(settings.model)
        check_encoder_exists(settings.evaluation.encoder)
    adopted = adopted_sha256(settings)
    check_searchable(settings, study=request.study, adopted=adopted)
    if not request.fresh:
        check_frozen(request.workspace, settings)
    check_base(request)
    return place_study(
        settings,
        workspace=request.workspace.root,
        machine=request.machine,
        nodes=request.nodes,
        gpu_fraction=request.gpu_fraction,
        gpus_per_global_trial=request.gpus_per_global_trial,
    )


def check_base(request: Request, *, download: bool = False) -> None:
    """Whether the base can be studied, and so with these settings.

    A hub model that is not in the cache is looked at only where it may be downloaded.

    Raises:
        TaskError, InputError: it cannot.
    """
    settings, root = request.settings, request.workspace.root
    traits = model_traits(settings.model, settings.prompt, workspace=root, download=download)
    if traits is not None:
        check_fit(settings, request.study, traits)


def run_study(request: Request, *, screen: Screen, stop: StopSignal) -> Outcome:
    """Run what is missing of a study, then its tables and report.

    Raises:
        DataError, TaskError, InputError: bad input; no cell was run.
        InfrastructureError: Ray or the disk failed; the same command goes on.
        Interrupted: stopped; the same command goes on.
    """
    began = time.monotonic()
    root = request.workspace.root
    started = False
    if request.workspace.storage is None:
        check_request(request)
    try:
        with held(request.workspace) as mine, ExitStack() as stack:
            # Before anything is thrown away.
            placement = check_request(request)
            if request.fresh:
                clear(request.workspace)
                if mine.stored is not None:
                    mine.stored.clear()
            Ledger(root).clean_staging()
            check_base(request, download=True)
            ray = _Ray(request, screen, stack, stop)
            prepared = _prepared(request, ray, screen)
            facts, model = find_facts(request, prepared)
            check_frozen_facts(request.workspace, facts)
            request = renamed(request, model_sha256=facts.model_sha256)
            bring_adopted(request.settings, request.workspace.places(), base=model.model_sha256)
            make_plan(request.settings, study=request.study, facts=facts)  # Refuses what is bad.
            started = True
            stop.drain_seconds = request.settings.drain_seconds
            tell = None if mine.stored is None else mine.stored.tell
            status = StatusFile(root, study=request.study.name, tell=tell)
            sweeper = Sweeper(
                request.workspace,
                placement,
                screen,
                stop,
                status,
                ray.start,
                study=request.study.name,
                tracking=request.settings.tracking,
                checkpoint_seconds=request.settings.checkpoint_minutes * 60,
                fence=mine.confirm,
                stored=mine.stored,
            )
            chosen = _choices(request, facts=facts, sweeper=sweeper, prepared=prepared)
            study = with_choices(request.study, chosen.choices)
            plan = make_plan(request.settings, study=study, facts=facts)
            run = _Run(request, plan, chosen, sweeper)
            return run.go(prepared=prepared, facts=facts, model=model, began=began)
    finally:
        if not started:
            leave_nothing(request.workspace)


class _Ray:
    """Ray, started when something first needs it and kept for the rest of the run."""

    def __init__(
        self, request: Request, screen: Screen, stack: ExitStack, stop: StopSignal
    ) -> None:
        self._request = request
        self._screen = screen
        self._stack = stack
        self._stop = stop
        self.session: RaySession | None = None

    def start(self) -> RaySession:
        if self.session is None:
            request = self._request
            self.session = self._stack.enter_context(
                ray_session(
                    request.machine,
                    address=request.address,
                    dashboard=request.dashboard,
                    on_lost=self._stop.fail,
                )
            )
            self._stop.renew()
            if request.address is not None:
                check_shared_storage(request.workspace.storage or request.workspace.root)
            if self.session.dashboard:
                self._screen.say(
                    f"Ray dashboard: http://{self.session.dashboard} (token: {self.session.token})"
                )
            if self.session.without:
                self._screen.say(
                    f"Note: Ray's dashboard did not come up ({self.session.without}); the run goes "
                    "on without it"
                )
        return self.session


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What a search left: its choices, the ids of cells that it ran now, what was probed for it."""

    choices: Choices = field(default_factory=dict)
    ran: frozenset[str] = frozenset()
    probed: Probed | None = None


def _choices(request: Request, *, facts: Facts, sweeper: Sweeper, prepared: Prepared) -> _Chosen:
    """What the search chooses for the study's arms; nothing where none was asked for."""
    if request.settings.search.method == "none":
        return _Chosen()
    from orchestrator.search_stage import (
        open_search,
        run_search,
        told_choices,
        write_cells,
        write_history,
    )

    study, ledger = request.study, Ledger(request.workspace.root)
    sweeper.screen.say(f"Searching ({request.settings.search.method}) on validation …")
    probed = _forecast_search(request, facts, ledger, sweeper=sweeper, prepared=prepared)
    search = open_search(request.settings, study=study, facts=facts, ledger=ledger)
    searched = run_search(search, sweeper=sweeper, ledger=ledger)
    write_history(searched, request.workspace.root, study=study.name)
    write_cells(search, request.workspace.root, study=study.name, ledger=ledger)
    for line in told_choices(searched):
        sweeper.screen.say(f"Chosen for {line}")
    return _Chosen(searched.choices, frozenset(ledger.finished(search.missing)), probed)


def _forecast_search(
    request: Request, facts: Facts, ledger: Ledger, *, sweeper: Sweeper, prepared: Prepared
) -> Probed | None:
    """Say what the search and the study take at most, before the first candidate is tried."""
    from orchestrator.outlook import searched_cells

    searches, choices = searched_cells(request, facts, ledger)
    if choices:
        return None  # The search is done already.
    plan = make_plan(request.settings, study=request.study, facts=facts)
    done = ledger.finished(plan.ids).keys() | {
        cell.cell_id for own in searches.values() for cell in own.finished
    }
    stand_ins = [cell for own in searches.values() for cell in own.cells]
    whole = replace(plan, cells=(*plan.cells, *stand_ins))
    if not is_worth_it(whole, done):
        return None
    if request.address is not None:
        sweeper.start_ray()
    found = forecast_plan(request, whole, sweeper.placement, done=done, prepared=prepared)
    if found.estimate is not None:
        keep_forecast(request.workspace.root, found.estimate, study=plan.study)
        whole_seconds, search_seconds = found.estimate.total_seconds, found.estimate.search_seconds
        sweeper.screen.say(
            f"Expected: about {duration(whole_seconds)}, of which up to {duration(search_seconds)} "
            "for the search (at the most cells that it can need, each like the default)"
        )
        _say_notes(found, sweeper)
    return found.probed


def _say_notes(found: Forecast, sweeper: Sweeper) -> None:
    for note in found.notes:
        sweeper.screen.say(f"Note: {note}")


def _prepared(request: Request, ray: _Ray, screen: Screen) -> Prepared:
    """The data, prepared and clustered now unless they are there already."""
    from data.prepare import prepare

    root, data = request.workspace.root, request.settings.data
    if request.fresh or load_prepared(root) is None:
        screen.say(f"Preparing the data ({data.source}) …")
        ray.start()
    prepared = prepare(
        data.source, workspace=root, settings=data.prepare_settings(), fresh=request.fresh
    )
    prepared = with_clusters(
        prepared, settings=request.settings, study=request.study, say=screen.say
    )
    for warning in prepared.warnings:
        screen.say(f"Warning: {warning}")
    for line in left_out(prepared):
        screen.say(line)
    return prepared


def prepare_only(request: Request, *, screen: Screen, stop: StopSignal) -> Prepared:
    """The first steps of a run alone; raises what ``run_study`` raises for bad input."""
    if request.settings.data.embeddings == "always":
        from tasks.encoder import check_encoder_exists

        check_encoder_exists(request.settings.evaluation.encoder)
    source, location = resolve_source(request.settings.data.source)
    if source.place in ("FOLDER", "FILE"):
        settings = request.settings.data.prepare_settings()
        source.fetch(location, request.workspace.root, settings)
    # It is over too soon for a dashboard to be looked at.
    request = replace(request, dashboard=False)
    try:
        with held(request.workspace), ExitStack() as stack:
            return _prepared(request, _Ray(request, screen, stack, stop), screen)
    finally:
        leave_nothing(request.workspace)


def find_facts(request: Request, prepared: Prepared) -> tuple[Facts, ModelFacts]:
    """What the plan must know; downloads a hub model that is not in the cache."""
    settings = request.settings
    model = model_facts(settings.model, settings.prompt, workspace=request.workspace.root)
    facts = Facts(
        data_sha256=prepared.data_sha256,
        items_sha256=prepared.items_sha256,
        users=prepared.users,
        cold_start_users=prepared.cold_start_users,
        model_sha256=model.model_sha256,
        template_sha256=model.template_sha256,
        dtype=resolved_dtype(settings.model, device=request.machine.device),
        clusters_sha256=prepared.clusters_sha256,
        adopted_sha256=adopted_sha256(settings),
    )
    return facts, model


@dataclass(frozen=True, slots=True)
class _Run:
    """A study whose plan is known."""

    request: Request
    plan: Plan
    chosen: _Chosen
    sweeper: Sweeper

    def go(self, *, prepared: Prepared, facts: Facts, model: ModelFacts, began: float) -> Outcome:
        workspace, settings = self.request.workspace, self.request.settings
        say, status = self.sweeper.screen.say, self.sweeper.status
        ledger = Ledger(workspace.root)
        records: Mapping[str, Record] = ledger.finished(cell.cell_id for cell in self.plan.cells)
        for warning in other_versions(records, now=source_commit()):
            say(f"Warning: {warning}")
        todo = self._todo(records, ledger)
        reused = len(records.keys() - todo)
        key = finished_key(records, self.plan, settings, prepared=prepared)
        known = known_summary(workspace, key)
        if not todo:
            say(self._nothing_to_do(reused))
        if not todo and known is not None:
            return self._outcome(known, records, ledger, reused=reused, began=began)
        write_configs(
            workspace,
            settings,
            study=self.request.study,
            plan=self.plan,
            facts=facts,
            base_name=model.base_name,
            choices=self.chosen.choices,
        )
        if todo:
            self._forecast(prepared, done=self.plan.ids - todo)
            records = self._sweep(todo, records, ledger)
            key = finished_key(records, self.plan, settings, prepared=prepared)
        if not has_scores(self.plan, records):
            return self._nothing_scored(records, ledger, reused=reused, began=began)
        self.sweeper.fence()
        crash_point("before-report")
        say("Tables, statistics, figures and report …")
        status.update("reporting")
        summary = finish(
            workspace,
            self.plan,
            records,
            settings=settings,
            prepared=prepared,
            base_name=model.base_name,
            key=key,
        )
        outcome = self._outcome(summary, records, ledger, reused=reused, began=began)
        status.update(
            "failed" if outcome.failures else "done",
            summary=asdict(summary),
            seconds=round(outcome.seconds, 1),
            failures=list(outcome.failures),
        )
        return outcome

    def _todo(self, records: Mapping[str, Record], ledger: Ledger) -> set[str]:
        """Ids of the cells to run: all that lack a record, or those alone that failed."""
        if not self.request.only_failed:
            return self.plan.ids - records.keys()
        todo = cells_to_repeat(self.plan, records, ledger.failures())
        ledger.reopened |= todo & records.keys()
        return todo

    def _nothing_to_do(self, done: int) -> str:
        if done == len(self.plan.cells):
            return f"All {done} cells of study {self.plan.study} are done."
        missing = len(self.plan.cells) - done
        return (
            f"No cell of study {self.plan.study} failed; {missing} of {len(self.plan.cells)} were "
            "never run: go on without --only-failed"
        )

    def _sweep(
        self, todo: set[str], records: Mapping[str, Record], ledger: Ledger
    ) -> Mapping[str, Record]:
        """Run cells, and then those whose parents came out with other bytes than they had used."""
        tried: set[str] = set()
        while todo:
            tried |= todo
            done = records.keys() - todo
            cells = [cell for cell in self.plan.cells if cell.cell_id in todo | done]
            self.sweeper.run(cells, finished=done, ledger=ledger)
            records = ledger.finished(cell.cell_id for cell in self.plan.cells)
            todo = (self.plan.ids & ledger.reopened) - tried
        return records

    def _forecast(self, prepared: Prepared, *, done: set[str]) -> None:
        """Say how long the run should take, and keep that for the report."""
        request, plan = self.request, self.plan
        if not is_worth_it(plan, done):
            return
        if request.address is not None:
            self.sweeper.start_ray()
        found = forecast_plan(
            request,
            plan,
            self.sweeper.placement,
            done=done,
            prepared=prepared,
            probed=self.chosen.probed,
        )
        if found.estimate is not None:
            keep_forecast(request.workspace.root, found.estimate, study=plan.study)
            self.sweeper.screen.say(f"Expected: about {duration(found.estimate.total_seconds)}")
            if self.chosen.probed is None:
                _say_notes(found, self.sweeper)

    def _nothing_scored(
        self, records: Mapping[str, Record], ledger: Ledger, *, reused: int, began: float
    ) -> Outcome:
        """Every cell that scores anything failed: there is nothing to report but that."""
        self.sweeper.screen.say("No cell was scored, so there is no report.")
        nothing = Summary(key="", rows=(), report="")
        outcome = self._outcome(nothing, records, ledger, reused=reused, began=began)
        self.sweeper.status.update("failed", failures=list(outcome.failures))
        return outcome

    def _outcome(
        self,
        summary: Summary,
        records: Mapping[str, Record],
        ledger: Ledger,
        *,
        reused: int,
        began: float,
    ) -> Outcome:
        return Outcome(
            summary=summary,
            # What the search ran is no less run, also where the study then finds it done.
            ran=len(records) - reused + len(self.chosen.ran),
            reused=reused - len(self.chosen.ran & records.keys()),
            failures=tuple(failures_of(self.plan, records, ledger)),
            seconds=time.monotonic() - began,
        )


def other_versions(records: Mapping[str, Record], *, now: str) -> list[str]:
    """A warning where records were made by other code than ``now``; the report lists them all."""
    commits = Counter(record.environment.get("commit", "unknown") for record in records.values())
    others = {commit: number for commit, number in commits.items() if commit != now}
    if not others:
        return []
    listed = ", ".join(f"{number} by {commit}" for commit, number in sorted(others.items()))
    return [
        f"of {len(records)} finished cells some were made by other code than this one ({now}): "
        f"{listed}. They are used as they are; REPRODUCIBILITY.md counts them. To make all of them "
        "anew: --fresh, or another --workspace"
    ]


def failures_of(plan: Plan, records: Mapping[str, Record], ledger: Ledger) -> list[str]:
    """One line per cell without a record, and per adapter that failed inside one."""
    notes = ledger.failures()
    lines = []
    for cell in plan.cells:
        record = records.get(cell.cell_id)
        if record is None:
            error = str(notes.get(cell.cell_id, {}).get("error", "not run")).strip()
            lines.append(f"{cell.arm} ({cell.cell_id}): {error.splitlines()[-1]}")
            continue
        lines += [
            f"{cell.arm}, {slot.slot}: {slot.reason}"
            for slot in record.slots
            if slot.status == "failed"
        ]
    return lines
