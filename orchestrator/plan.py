"""The plan: arms × seeds × blocks of users → cells with their ids, before anything runs.

Pure: the same settings and facts give the same plan on every machine. A child's spec names its
parent's cell id, so ids chain and all of them are known in advance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from orchestrator.exit_codes import InputError
from orchestrator.identity import cell_id
from orchestrator.layers import with_differences
from orchestrator.settings import Settings
from search_spaces.space import Arm, Study, Variant
from tasks.cell import CellSpec, Purpose
from tasks.config import AdapterConfig, TrainingConfig
from tasks.splits import ScoredSplit

STAGES = {"none": "baseline", "all": "global", "cluster": "cluster", "user": "per_user"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the plan must know of the world: data, items, users and the base model, by hash.

    ``users`` are the warm users' keys in order, ``cold_start_users`` those of the others;
    ``dtype`` is the precision that ``auto`` means here, so that records of a CPU and of a GPU
    never mix.
    """

    data_sha256: str
    items_sha256: Mapping[str, str]
    users: tuple[str, ...]
    model_sha256: str
    template_sha256: str
    dtype: Literal["float32", "bfloat16", "float16", "float64"]
    cold_start_users: tuple[str, ...] = ()
    clusters_sha256: str = ""
    """Hash of who is in which cluster."""
    adopted_sha256: Mapping[str, str] = field(default_factory=dict)
    """Kind of adapter → hash of the PEFT folder that serves as its all-persona adapter."""


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
    variant: Variant | None = None
    """The arm's place in an ablation, if it has one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All cells of a study, prerequisites before what needs them."""

    study: str
    cells: tuple[PlannedCell, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages in order."""
        return tuple(dict.fromkeys(cell.stage for cell in self.cells))

    @property
    def ids(self) -> set[str]:
        """Ids of all cells."""
        return {cell.cell_id for cell in self.cells}

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
    maker = _Maker(settings, facts, arms=study.arms)
    cells: list[PlannedCell] = []
    shared: dict[tuple[str, int], str] = {}
    by_name = {arm.name: arm for arm in study.arms}
    for arm in study.arms:
        default = by_name.get(arm.variant.default) if arm.variant is not None else None
        # A variant without a difference is its default arm.
        if default is not None and maker.settings_of(arm) == maker.settings_of(default):
            continue
        for cell in maker.cells_of(arm, shared):
            cells.append(cell)
            if cell.spec.purpose in ("train", "adopt"):
                shared[arm.name, cell.spec.seed] = cell.cell_id
            if cell.spec.purpose == "personalize":
                maker.personal.setdefault((arm.name, cell.spec.seed), []).append(cell.cell_id)
    return Plan(study.name, tuple({cell.cell_id: cell for cell in cells}.values()))


class _Maker:
    """Makes the cells of arms; holds what their specs share."""

    def __init__(self, settings: Settings, facts: Facts, *, arms: Sequence[Arm]) -> None:
        self.settings = settings
        self.facts = facts
        gated = [arm for arm in arms if arm.gated]
        asked = [*(arm.name for arm in gated), *(arm.start for arm in gated)]
        self.asked_by_gates = {name for name in asked if name is not None}
        self.from_clusters = {arm.name for arm in arms if arm.grouping == "cluster"}
        self.own_settings: dict[str, Settings] = {}
        self.blocks = blocks_of(facts.users, settings.block_users)
        self.personal: dict[tuple[str, int], list[str]] = {}
        """Arm and seed → cells with per-user adapters, blocks in order."""
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
            case _ if arm.identify is not None:
                yield from self._identify(arm, shared)
            case "none" if arm.few_shot:
                yield from self._few_shot(arm)
            case "none":
                yield from self._baseline(arm)
            case "all" | "cluster":
                for seed in self.settings.seeds:
                    yield from self._shared(arm, seed, shared)
            case "user" if arm.from_few is not None:
                for seed in self.settings.seeds:
                    yield from self._from_few(arm, seed, shared)
            case "user":
                for seed in self.settings.seeds:
                    yield from self._personal(arm, seed, shared)

    def _baseline(self, arm: Arm) -> Iterator[PlannedCell]:
        """Validation first, as a sanity check; its first block twice, to see that it repeats."""
        for split in _VAL_THEN_TEST:
            for seed in self._untrained_seeds():
                for block in self.blocks:
                    yield self._cell(arm, "evaluate", seed=seed, users=block, split=split)
        seed, users = self.settings.seeds[0], self.blocks[0]
        original, again = (
            self._cell(arm, purpose, seed=seed, users=users, split=_VAL_THEN_TEST[0])
            for purpose in _ONCE_AND_AGAIN
        )
        yield replace(again, depends_on=(original.cell_id,))

    def _few_shot(self, arm: Arm) -> Iterator[PlannedCell]:
        examples = self.settings.few_shot.examples
        for seed in self._untrained_seeds():
            for block in self.blocks:
                yield self._cell(
                    arm, "evaluate", seed=seed, users=block, few_shot_examples=examples
                )

    def _untrained_seeds(self) -> tuple[int, ...]:
        """Nothing is trained: only sampling knows a seed."""
        seeds = self.settings.seeds
        return seeds if self.settings.decoding.do_sample else seeds[:1]

    def _shared(
        self, arm: Arm, seed: int, shared: Mapping[tuple[str, int], str]
    ) -> Iterator[PlannedCell]:
        train = self._shared_adapter(arm, seed, shared)
        yield train
        splits: tuple[ScoredSplit, ...] = ("test",)
        for split in (*splits, "gate") if arm.name in self.asked_by_gates else splits:
            for block in self.blocks:
                yield self._cell(
                    arm,
                    "evaluate",
                    seed=seed,
                    users=block,
                    split=split,
                    adapter=self._adapter(arm),
                    parent=train.cell_id,
                    generate=self._generates(arm, seed),
                )

    def _shared_adapter(
        self, arm: Arm, seed: int, shared: Mapping[tuple[str, int], str]
    ) -> PlannedCell:
        """Trained here, or taken over from a PEFT folder, which knows no seed."""
        # An adapter from elsewhere has one shape, and an ablation's variant another.
        adoptable = arm.grouping == "all" and arm.variant is None
        adopted = self.facts.adopted_sha256.get(arm.adapter) if adoptable else None
        own: dict[str, Any] = {
            "users": self.facts.users,
            "split": "val",
            "adapter": self._adapter(arm),
            "parent": self._start(arm, seed, shared),
        }
        if adopted is not None:
            return self._cell(arm, "adopt", seed=seed, adopted_sha256=adopted, **own)
        return self._cell(arm, "train", seed=seed, training=self._training(arm), **own)

    def _personal(
        self, arm: Arm, seed: int, shared: Mapping[tuple[str, int], str]
    ) -> Iterator[PlannedCell]:
        parent = self._start(arm, seed, shared)
        for block in self.blocks:
            own = self._cell(
                arm,
                "personalize",
                seed=seed,
                users=block,
                adapter=self._adapter(arm),
                training=self._training(arm),
                parent=parent,
                swapped_control=arm.swapped_control,
                generate=self._generates(arm, seed),
            )
            yield own
            if arm.gated:
                yield self._cell(
                    arm,
                    "evaluate",
                    seed=seed,
                    users=block,
                    split="gate",
                    adapter=self._adapter(arm),
                    parents=(own.cell_id,),
                )
            if arm.traced and seed == self.settings.seeds[0]:
                yield self._cell(
                    arm,
                    "trace",
                    seed=seed,
                    users=block,
                    split="choice",
                    adapter=self._adapter(arm),
                    training=self._training(arm),
                    parent=parent,
                    generate=False,
                )

    def _from_few(
        self, arm: Arm, seed: int, shared: Mapping[tuple[str, int], str]
    ) -> Iterator[PlannedCell]:
        """Cold-start users, or the first warm ones, after few exchanges; no token budget."""
        wanted = self.settings.cold_warm
        warm = self.facts.users[: wanted.warm_users]
        users = self.facts.cold_start_users if arm.from_few == "cold" else warm
        parent = self._start(arm, seed, shared)
        for block in blocks_of(users, self.settings.block_users):
            yield self._cell(
                arm,
                "adapt_from_few",
                seed=seed,
                users=block,
                adapter=self._adapter(arm),
                training=self._training(arm).model_copy(update={"token_budget": None}),
                parent=parent,
                exchange_counts=tuple(sorted(set(wanted.exchanges))),
            )

    def _identify(self, arm: Arm, shared: Mapping[tuple[str, int], str]) -> Iterator[PlannedCell]:
        """All users at once, since they are ranked among each other."""
        per_user = arm.identify == "likelihood"
        seeds = self.settings.seeds if arm.start is not None else self.settings.seeds[:1]
        for seed in seeds:
            yield self._cell(
                arm,
                "identify",
                seed=seed,
                users=self.facts.users,
                representation=arm.identify,
                adapter=None if arm.adapter == "none" else self._adapter(arm),
                parent=None if per_user else self._start(arm, seed, shared),
                parents=self._per_user_adapters(arm, seed) if per_user else (),
            )

    def _per_user_adapters(self, arm: Arm, seed: int) -> tuple[str, ...]:
        found = self.personal.get((str(arm.start), seed))
        if found is None:
            raise _not_listed(arm)
        return tuple(found)

    def _start(self, arm: Arm, seed: int, shared: Mapping[tuple[str, int], str]) -> str | None:
        if arm.start is not None and (arm.start, seed) not in shared:
            raise _not_listed(arm)
        return None if arm.start is None else shared[arm.start, seed]

    def _generates(self, arm: Arm, seed: int) -> bool:
        """Variants generate for the first seed alone; likelihoods cost a fraction of it."""
        return arm.variant is None or seed == self.settings.seeds[0]

    def settings_of(self, arm: Arm) -> Settings:
        """The study's settings with the arm's own differences."""
        if not arm.settings:
            return self.settings
        if arm.name not in self.own_settings:
            self.own_settings[arm.name] = with_differences(
                self.settings, arm.settings, where=f"arm {arm.name}"
            )
        return self.own_settings[arm.name]

    def _adapter(self, arm: Arm) -> AdapterConfig:
        own = self.settings_of(arm)
        return own.lora if arm.adapter == "lora" else own.prefix

    def _training(self, arm: Arm) -> TrainingConfig:
        own = self.settings_of(arm)
        by_adapter = {
            "all": {"lora": own.shared.lora, "prefix": own.shared.prefix},
            "cluster": {"lora": own.cluster.lora, "prefix": own.cluster.prefix},
            "user": {"lora": own.personal.lora, "prefix": own.personal.prefix},
        }
        return by_adapter[arm.grouping][arm.adapter]

    def _cell(
        self,
        arm: Arm,
        purpose: Purpose,
        *,
        split: ScoredSplit = "test",
        parent: str | None = None,
        **own: Any,
    ) -> PlannedCell:
        spec = CellSpec(
            arm=arm.name,
            purpose=purpose,
            grouping=arm.grouping,
            split=split,
            items_sha256=self._items(arm, split),
            clusters_sha256=self._clusters(arm),
            parent=parent,
            **own,
            **self.common,
        )
        depends_on = (*(() if parent is None else (parent,)), *spec.parents)
        return PlannedCell(
            cell_id(spec), spec, stage_of(arm), arm.name, depends_on, work_of(spec), arm.variant
        )

    def _items(self, arm: Arm, split: ScoredSplit) -> str:
        """Hash of the item list; of cold-start users and halves of validation, from the data's."""
        if arm.from_few != "cold" and split not in ("gate", "choice"):
            return self.facts.items_sha256[split]
        whose = "cold start" if arm.from_few == "cold" else "warm"
        return hashlib.sha256(f"{whose} {split} {self.facts.data_sha256}".encode()).hexdigest()

    def _clusters(self, arm: Arm) -> str | None:
        """Hash of who is in which cluster, for arms whose adapters know clusters."""
        known = arm.grouping == "cluster" or arm.start in self.from_clusters
        return self.facts.clusters_sha256 if known else None


def _not_listed(arm: Arm) -> InputError:
    return InputError(
        f"arm {arm.name} starts from {arm.start}, which the study does not list before it"
    )


def stage_of(arm: Arm) -> str:
    """The stage that an arm's cells belong to."""
    if arm.variant is not None:
        return "ablation"
    if arm.identify is not None:
        return "persona_prediction"
    if arm.from_few is not None:
        return "cold_start"
    return "few_shot" if arm.few_shot else STAGES[arm.grouping]


_VAL_THEN_TEST: tuple[ScoredSplit, ScoredSplit] = ("val", "test")
_ONCE_AND_AGAIN: tuple[Purpose, Purpose] = ("evaluate", "repeat")

_SESSIONS = 10
"""Sessions of a user's validation or test part, roughly; their replies are the unit of work."""
_EXCHANGES = 5 * _SESSIONS
_LIKELIHOOD_SHARE = 0.2
"""Work of the true replies' likelihoods, as a share of that of generating replies."""


def work_of(spec: CellSpec) -> float:
    """Rough work of a cell: sessions decoded, plus a third of that for each one trained.

    Used for the order of cells and the time left, never for identity or results.
    """
    users = len(spec.users)
    sessions = _SESSIONS if spec.generate else _SESSIONS * _LIKELIHOOD_SHARE
    if spec.purpose == "identify":
        return users * (1 + users / 50) if spec.representation == "likelihood" else float(users)
    if spec.purpose == "try":
        steps = sum(one.epochs * (one.examples or _SESSIONS) / 9 for one in spec.variants)
        return float(users * (len(spec.variants) * sessions / 2 + steps))
    if spec.training is None:
        return float(users * sessions)
    epochs = spec.training.epochs
    if spec.purpose == "trace":
        scored = (epochs + 1) * sessions / 2
        return float(users * (scored + epochs * (spec.training.examples or _SESSIONS) / 9))
    if spec.purpose == "train":
        validation = epochs * _SESSIONS if spec.training.early_stopping else 0
        return float(users * (validation + epochs * 2 * _SESSIONS / 3))
    if spec.purpose == "adapt_from_few":
        every = [*spec.exchange_counts, _EXCHANGES]
        return float(users * ((len(every) + 1) * _SESSIONS + epochs * sum(every) / 9))
    decoded = sessions * (2 if spec.swapped_control else 1)
    return float(users * (decoded + epochs * (spec.training.examples or _SESSIONS) / 9))
