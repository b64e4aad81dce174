"""Cells that try candidates: those of the ordinary plan, turned to what choices may see.

A shared arm's candidate is trained as the study would train it, with the epochs of its rung, and
scored on the choosing half of validation; at the last rung the training *is* the study's own cell.
Candidates of a per-user arm that fit one bank are variants of one cell: base, data and small
kernels are shared, and which candidates share is part of the cell's identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.candidates import Config
from orchestrator.choices import Choices, lineage, with_choices
from orchestrator.identity import canonical_json, cell_id
from orchestrator.plan import Facts, PlannedCell, blocks_of, make_plan, work_of
from orchestrator.search_ranges import SECTIONS
from orchestrator.settings import Settings
from search_spaces.space import Arm, Study
from tasks.cell import CellSpec
from tasks.config import SHARED_BY_THE_BANK

STAGE = "search"
TRAINED = ("train", "adopt")


@dataclass(frozen=True, slots=True)
class Tried:
    """A cell that scores candidates; ``numbers`` are theirs, in the order of its variants."""

    cell: PlannedCell
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trials:
    """The cells of some candidates on one rung.

    ``before`` are the trainings that the others need; the last of each candidate's costs time of
    its own (``spent``: cell id → numbers of the candidates it was for).
    """

    before: tuple[PlannedCell, ...]
    tried: tuple[Tried, ...]
    spent: Mapping[str, tuple[int, ...]]

    @property
    def cells(self) -> list[PlannedCell]:
        """All of them, prerequisites first, each once."""
        every = [*self.before, *(one.cell for one in self.tried)]
        return list({cell.cell_id: cell for cell in every}.values())


def is_per_user(arm: Arm) -> bool:
    """Whether the rungs of an arm's search are numbers of users."""
    return arm.grouping == "user"


def training_name(arm: Arm, field: str) -> str:
    """Dotted name of a setting of the arm's training."""
    return f"{SECTIONS[arm.grouping]}.{arm.adapter}.{field}"


class CandidateCells:
    """Makes the cells of one arm's candidates.

    Args:
        settings: of the study; its first seed is searched with.
        study: the arms.
        facts: data, users and model.
        arm: the arm that is searched.
        choices: what was chosen for the arms it builds upon.
    """

    def __init__(
        self, settings: Settings, *, study: Study, facts: Facts, arm: Arm, choices: Choices
    ) -> None:
        self.settings = settings
        # One block of all users: a plan of many thousands per candidate would take its time.
        one = {"seeds": settings.seeds[:1], "block_users": max(2, len(facts.users))}
        self.one_block = settings.model_copy(update=one)
        self.facts, self.arm, self.choices = facts, arm, choices
        line = [replace(one, gated=False, traced=False) for one in lineage(study, arm)]
        self.line = Study(study.name, study.summary, arms=tuple(line))
        digest = hashlib.sha256(f"warm choice {facts.data_sha256}".encode()).hexdigest()
        self.scored: dict[str, Any] = {
            "split": "choice",
            "items_sha256": digest,
            "swapped_control": False,
            "generate": settings.search.replies,
        }

    def on_users(self, configs: Mapping[int, Config], users: Sequence[str]) -> Trials:
        """Per-user candidates on the users that a rung adds, those that fit together in banks."""
        before: dict[str, PlannedCell] = {}
        banks: dict[str, dict[int, CellSpec]] = {}
        for number, config in configs.items():
            cells = self._ordinary(config)
            before |= {c.cell_id: c for c in cells if c.spec.purpose in TRAINED}
            spec = next(c.spec for c in cells if c.spec.purpose == "personalize")
            banks.setdefault(_bank_name(spec), {})[number] = spec
        tried = [
            Tried(self._packed(part, block), tuple(part))
            for bank in banks.values()
            for part in _parts(bank, self.settings.search.variants_per_cell)
            for block in blocks_of(users, self.settings.block_users)
        ]
        return Trials(tuple(before.values()), tuple(tried), {})

    def after_epochs(self, configs: Mapping[int, Config], epochs: int) -> Trials:
        """Candidates of a shared arm, each trained for the rung's epochs."""
        before: dict[str, PlannedCell] = {}
        tried: list[Tried] = []
        spent: dict[str, tuple[int, ...]] = {}
        for number, config in configs.items():
            cells = self._ordinary({**config, training_name(self.arm, "epochs"): epochs})
            trained = [cell for cell in cells if cell.spec.purpose in TRAINED]
            before |= {cell.cell_id: cell for cell in trained}
            own = trained[-1].cell_id
            spent[own] = (*spent.get(own, ()), number)
            tried += [
                Tried(
                    _planned(cell.spec.model_copy(update=self.scored | {"users": block})), (number,)
                )
                for cell in cells
                if cell.arm == self.arm.name and cell.spec.purpose == "evaluate"
                for block in blocks_of(self.facts.users, self.settings.block_users)
            ]
        return Trials(tuple(before.values()), tuple(tried), spent)

    def _ordinary(self, config: Config) -> list[PlannedCell]:
        """The cells that the study would have with this config, of this arm and its line.

        Those of blocks have all users in one.
        """
        study = with_choices(self.line, {**self.choices, self.arm.name: config})
        plan = make_plan(self.one_block, study=study, facts=self.facts)
        return [replace(cell, stage=STAGE) for cell in plan.cells]

    def _packed(self, specs: Mapping[int, CellSpec], block: tuple[str, ...]) -> PlannedCell:
        variants = tuple(spec.training for spec in specs.values())
        changes = {"purpose": "try", "users": block, "training": None, "variants": variants}
        first = next(iter(specs.values()))
        return _planned(first.model_copy(update=self.scored | changes))


def _planned(spec: CellSpec) -> PlannedCell:
    depends_on = () if spec.parent is None else (spec.parent,)
    return PlannedCell(cell_id(spec), spec, STAGE, spec.arm, depends_on, work_of(spec))


def _bank_name(spec: CellSpec) -> str:
    """Equal for trainings that one bank can hold: adapter, start, and what slots share."""
    assert spec.training is not None
    assert spec.adapter is not None
    adapter = spec.adapter.model_dump(mode="json")
    training = spec.training.model_dump(mode="json", include=set(SHARED_BY_THE_BANK))
    return canonical_json([adapter, spec.parent, training])


def _parts(specs: Mapping[int, CellSpec], most: int) -> Iterator[dict[int, CellSpec]]:
    numbers = list(specs)
    for begin in range(0, len(numbers), most):
        yield {number: specs[number] for number in numbers[begin : begin + most]}
