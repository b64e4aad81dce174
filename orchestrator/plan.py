"""The plan: arms × seeds × blocks of users → cells with their ids, before anything runs.

Pure: the same settings and facts give the same plan on every machine. A child's spec names its
parent's cell id, so ids chain and all of them are known in advance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.exit_codes import InputError
from orchestrator.identity import cell_id
from orchestrator.settings import Settings
from search_spaces.space import Arm, Study
from tasks.cell import CellSpec
from tasks.config import AdapterConfig, TrainingConfig

STAGES = {"none": "baseline", "all": "global", "cluster": "cluster", "user": "per_user"}
Split = Literal["val", "test"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the plan must know of the world: data, items, users and the base model, by hash.

    ``users`` are the warm users' keys in order; ``dtype`` is the precision that ``auto`` means
    here, so that records of a CPU and of a GPU never mix.
    """

    data_sha256: str
    items_sha256: Mapping[str, str]
    users: tuple[str, ...]
    model_sha256: str
    template_sha256: str
    dtype: Literal["float32", "bfloat16", "float16", "float64"]


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell to be, and the cells that must be in the ledger before it can start."""

    cell_id: str
    spec: CellSpec
    stage: str
    arm: str
    depends_on: tuple[str, ...]
    work: float
    """Rough amount of work in replies decoded or trained; for order and time left alone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All cells of a study, prerequisites before what needs them."""

    study: str
    cells: tuple[PlannedCell, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages in order."""
        return tuple(dict.fromkeys(cell.stage for cell in self.cells))

    def of_stage(self, stage: str) -> tuple[PlannedCell, ...]:
        """The cells of one stage."""
        return tuple(cell for cell in self.cells if cell.stage == stage)


def blocks_of(users: Sequence[str], block_users: int) -> list[tuple[str, ...]]:
    """Users in order, cut into blocks; a last block of one user joins the one before it.

    A block of one has no partner for the swapped control.
    """
    cut = [tuple(users[i : i + block_users]) for i in range(0, len(users), block_users)]
    if len(cut) > 1 and len(cut[-1]) == 1:
        last = cut.pop()
        cut[-1] += last
    return cut


def make_plan(settings: Settings, *, study: Study, facts: Facts) -> Plan:
    """All cells of a study.

    Raises:
        InputError: no users, or an arm that starts from one that the study does not list first.
    """
    if not facts.users:
        raise InputError("no users to study: the data hold none outside the cold start")
    maker = _Maker(settings, facts)
    cells: list[PlannedCell] = []
    shared: dict[tuple[str, int], str] = {}
    for arm in study.arms:
        for cell in maker.cells_of(arm, shared):
            cells.append(cell)
            if cell.spec.purpose == "train":
                shared[arm.name, cell.spec.seed] = cell.cell_id
    return Plan(study.name, tuple({cell.cell_id: cell for cell in cells}.values()))


class _Maker:
    """Makes the cells of arms; holds what their specs share."""

    def __init__(self, settings: Settings, facts: Facts) -> None:
        self.settings = settings
        self.facts = facts
        self.blocks = blocks_of(facts.users, settings.block_users)
        self.common: dict[str, Any] = {
            "decoding": settings.decoding,
            "evaluation": settings.evaluation,
            "prompt": settings.prompt,
            "model": settings.model.model_copy(update={"dtype": facts.dtype}),
            "data_sha256": facts.data_sha256,
            "template_sha256": facts.template_sha256,
            "model_sha256": facts.model_sha256,
            "threads": settings.threads,
        }

    def cells_of(self, arm: Arm, shared: Mapping[tuple[str, int], str]) -> Iterator[PlannedCell]:
        match arm.grouping:
            case "none":
                yield from self._baseline(arm)
            case "all":
                for seed in self.settings.seeds:
                    yield from self._shared(arm, seed)
            case "user":
                for seed in self.settings.seeds:
                    yield from self._personal(arm, seed, shared)
            case _:
                raise InputError(f"arm {arm.name}: grouping {arm.grouping!r} cannot be planned yet")

    def _baseline(self, arm: Arm) -> Iterator[PlannedCell]:
        """Validation first, as a sanity check; greedy replies know no seed, so one is enough."""
        seeds = self.settings.seeds if self.settings.decoding.do_sample else self.settings.seeds[:1]
        for split in _VAL_THEN_TEST:
            for seed in seeds:
                for block in self.blocks:
                    yield self._cell(arm, "evaluate", seed=seed, users=block, split=split)

    def _shared(self, arm: Arm, seed: int) -> Iterator[PlannedCell]:
        train = self._cell(
            arm,
            "train",
            seed=seed,
            users=self.facts.users,
            split="val",
            adapter=self._adapter(arm),
            training=self._training(arm),
        )
        yield train
        for block in self.blocks:
            yield self._cell(
                arm,
                "evaluate",
                seed=seed,
                users=block,
                adapter=self._adapter(arm),
                parent=train.cell_id,
            )

    def _personal(
        self, arm: Arm, seed: int, shared: Mapping[tuple[str, int], str]
    ) -> Iterator[PlannedCell]:
        if arm.start is not None and (arm.start, seed) not in shared:
            raise InputError(
                f"arm {arm.name} starts from {arm.start}, which the study does not list before it"
            )
        for block in self.blocks:
            yield self._cell(
                arm,
                "personalize",
                seed=seed,
                users=block,
                adapter=self._adapter(arm),
                training=self._training(arm),
                parent=None if arm.start is None else shared[arm.start, seed],
                swapped_control=arm.swapped_control,
            )

    def _adapter(self, arm: Arm) -> AdapterConfig:
        return self.settings.lora if arm.adapter == "lora" else self.settings.prefix

    def _training(self, arm: Arm) -> TrainingConfig:
        part = self.settings.personal if arm.grouping == "user" else self.settings.shared
        return part.lora if arm.adapter == "lora" else part.prefix

    def _cell(
        self,
        arm: Arm,
        purpose: Literal["train", "evaluate", "personalize"],
        *,
        split: Split = "test",
        parent: str | None = None,
        **own: Any,
    ) -> PlannedCell:
        spec = CellSpec(
            arm=arm.name,
            purpose=purpose,
            grouping=arm.grouping,
            split=split,
            items_sha256=self.facts.items_sha256[split],
            parent=parent,
            **own,
            **self.common,
        )
        depends_on = () if parent is None else (parent,)
        stage = STAGES[arm.grouping]
        return PlannedCell(cell_id(spec), spec, stage, arm.name, depends_on, work_of(spec))


_VAL_THEN_TEST: tuple[Split, Split] = ("val", "test")

_SESSIONS = 10
"""Sessions of a user's validation or test part, roughly; their replies are the unit of work."""


def work_of(spec: CellSpec) -> float:
    """Rough work of a cell: sessions decoded, plus a third of that for each one trained.

    Used for the order of cells and the time left, never for identity or results.
    """
    users = len(spec.users)
    if spec.training is None:
        return float(users * _SESSIONS)
    epochs = spec.training.epochs
    if spec.purpose == "train":
        validation = epochs * _SESSIONS if spec.training.early_stopping else 0
        return float(users * (validation + epochs * 2 * _SESSIONS / 3))
    decoded = _SESSIONS * (2 if spec.swapped_control else 1)
    return float(users * (decoded + epochs * (spec.training.examples or _SESSIONS) / 9))
