"""The search of one arm: its candidates on its rungs, until one is chosen."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.candidate_cells import CandidateCells, Trials, is_per_user, training_name
from orchestrator.candidates import BATCH, Config, Space, candidates, setting_value, space_of
from orchestrator.choices import Choices, with_choices
from orchestrator.layers import with_differences
from orchestrator.plan import Facts, PlannedCell
from orchestrator.racing import (
    DEFAULT,
    Standing,
    epoch_rungs,
    most_candidates,
    promoted,
    ranking,
    user_rungs,
)
from orchestrator.settings import Settings
from search_spaces.ranges import Range
from search_spaces.space import Arm, Study


@dataclass(frozen=True, slots=True)
class CellResult:
    """What a search reads of a finished cell.

    ``scores`` has for each variant (0 where there is but one) the users' mean negative
    log-likelihood of their true replies, ``rouge_l`` their mean ROUGE-L where replies were
    generated; ``best_rouge_l`` is the best of a shared training's curve.
    """

    scores: Mapping[int, Mapping[str, float]]
    seconds: float
    best_rouge_l: float | None = None
    rouge_l: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


Read = Callable[[str], CellResult | None]
"""Result of a cell by its id; None if it has none, because it failed."""

Cells = Generator[list[PlannedCell], None, Any]


@dataclass(slots=True)
class Shown:
    """What one candidate showed on one rung."""

    arm: str
    candidate: int
    config: Config
    rung: int
    epochs: int | None
    """Of the training, where the rungs are epochs."""
    scores: dict[str, float]
    """Of all users the candidate was scored on by then."""
    seconds: float = 0.0
    replies: dict[str, float] = field(default_factory=dict)
    """Mean ROUGE-L of the same users, where replies were generated."""
    best_rouge_l: float | None = None
    """Of the training's own validation, where it has one."""
    promoted: bool = False
    chosen: bool = False

    @property
    def rouge_l(self) -> float | None:
        """Macro ROUGE-L beside the score; None where nothing was generated."""
        if self.replies:
            return sum(self.replies.values()) / len(self.replies)
        return self.best_rouge_l


@dataclass(slots=True)
class Trail:
    """What a search tries, for people who watch it; its arms fill it as they go."""

    tries: dict[str, str] = field(default_factory=dict)
    """Cell id → «candidate 3, rung 1 of 2»."""
    arms: list[ArmSearch] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """How each arm stands, as plain JSON values; reads results of cells that are done."""
        return [row for arm in self.arms if (row := arm.standing()) is not None]


@dataclass(frozen=True, slots=True)
class _Trying:
    """Candidates on a rung that have not all ended."""

    configs: Mapping[int, Config]
    trials: Trials
    rung: int
    epochs: int | None


@dataclass(slots=True)
class ArmSearch:
    """The search of one arm."""

    settings: Settings
    space: Space
    cells: CandidateCells
    read: Read
    users: Sequence[str]
    epochs: int
    trail: Trail = field(default_factory=Trail)
    configs: list[Config] = field(default_factory=list)
    history: list[Shown] = field(default_factory=list)
    _trying: _Trying | None = None

    def run(self) -> Generator[list[PlannedCell], None, Config]:
        """Yields the cells that are needed; returns the chosen config."""
        self.trail.arms.append(self)
        yield from self._first_rung()
        for rung in range(1, self._rungs):
            numbers = promoted(self._standings(rung - 1))
            for one in self._on(rung - 1):
                one.promoted = one.candidate in numbers
            yield from self._try({n: self.configs[n] for n in numbers}, rung)
        last = self._rungs - 1
        best = ranking(self._standings(last))[0]
        for one in self._on(last):
            one.chosen = one.candidate == best
        return self.configs[best]

    def _first_rung(self) -> Cells:
        """Everybody; what is asked for next may depend on what came before."""
        how = self.settings.search
        assert how.method != "none"
        while True:
            found = candidates(
                how.method, self.space, samples=how.samples, seed=how.seed, scores=self._told()
            )
            new = {n: found[n] for n in range(len(self.configs), len(found))}
            if not new:
                return
            self.configs = found
            yield from self._try(new, rung=0)

    def _told(self) -> list[float | None]:
        """First-rung scores in order; None for a candidate that lacks a user of the default's."""
        standings = self._standings(0)
        wanted = standings[DEFAULT].scores.keys() if standings else set()
        return [None if wanted - s.scores.keys() else s.macro for s in standings]

    @property
    def _per_user(self) -> bool:
        return is_per_user(self.cells.arm)

    @property
    def _rungs(self) -> int:
        return len(user_rungs(self.users) if self._per_user else epoch_rungs(self.epochs))

    def _on(self, rung: int) -> list[Shown]:
        return [one for one in self.history if one.rung == rung]

    def _standings(self, rung: int) -> list[Standing]:
        shown = sorted(self._on(rung), key=lambda one: one.candidate)
        return [Standing(one.candidate, one.scores) for one in shown]

    def most_cells(self) -> list[PlannedCell]:
        """Stand-ins for the cells of all rungs if every candidate can be had, all as the default.

        Their ids are no cell's; trainings of other arms are left out.
        """
        found = []
        for rung, batches in enumerate(self._most_batches()):
            for batch, together in enumerate(batches):
                trials = self._trials(dict.fromkeys(range(together), self.space.default), rung)
                own = [cell for cell in trials.before if cell.cell_id in trials.spent]
                cells = [*own, *(one.cell for one in trials.tried)]
                found += _renamed(cells, end=f"-{rung}-{batch}")
        return found

    def _most_batches(self) -> list[list[int]]:
        """Rungs → numbers of candidates whose cells are made together."""
        how = self.settings.search
        most = most_candidates(how.samples, self._rungs)
        if not self._per_user:
            return [[1] * candidates for candidates in most]
        batch = BATCH if how.method == "optuna" else how.samples
        first = [min(batch, how.samples - begin) for begin in range(0, how.samples, batch)]
        return [first, *([candidates] for candidates in most[1:])]

    def _trials(self, configs: Mapping[int, Config], rung: int) -> Trials:
        if self._per_user:
            return self.cells.on_users(configs, user_rungs(self.users)[rung])
        return self.cells.after_epochs(configs, epoch_rungs(self.epochs)[rung])

    def _try(self, configs: Mapping[int, Config], rung: int) -> Cells:
        """Try candidates on a rung, and note what they showed."""
        epochs = None if self._per_user else epoch_rungs(self.epochs)[rung]
        trials = self._trials(configs, rung)
        self._trying = _Trying(configs, trials, rung, epochs)
        tried = {one.cell.cell_id: one.numbers for one in trials.tried}
        for cell_id, numbers in {**trials.spent, **tried}.items():
            words = f"{told_candidates(numbers)}, rung {rung + 1} of {self._rungs}"
            self.trail.tries[cell_id] = words
        yield trials.cells
        self._trying = None
        for number, config in configs.items():
            self.history.append(self._shown(number, config, trials, rung=rung, epochs=epochs))

    def standing(self) -> dict[str, Any] | None:
        """The best so far on the last rung that anybody has ended; None before the first."""
        shown = [one for one in (*self.history, *self._ended()) if one.scores]
        rung = max((one.rung for one in shown), default=0)
        scores = {one.candidate: one.scores for one in shown if one.rung == rung}
        if not scores:
            return None
        field_ = [Standing(number, own) for number, own in sorted(scores.items())]
        best = ranking(field_)[0]
        macro = {standing.number: standing.macro for standing in field_}
        trying = self._trying
        coming = trying.configs.keys() if trying is not None and trying.rung == rung else ()
        return {
            "arm": self.cells.arm.name,
            "rung": rung + 1,
            "rungs": self._rungs,
            "tried": len(scores),
            "candidates": len({*scores, *coming}),
            "best": best,
            "nll": macro[best],
            "default_nll": macro.get(DEFAULT),
        }

    def _ended(self) -> list[Shown]:
        """What those candidates of the present rung showed of whom all cells are there."""
        now = self._trying
        if now is None:
            return []
        whole = [
            number
            for number in now.configs
            if all(self.read(t.cell.cell_id) for t in now.trials.tried if number in t.numbers)
        ]
        return [
            self._shown(number, now.configs[number], now.trials, rung=now.rung, epochs=now.epochs)
            for number in whole
        ]

    def _shown(
        self, number: int, config: Config, trials: Trials, *, rung: int, epochs: int | None
    ) -> Shown:
        shown = Shown(self.cells.arm.name, number, config, rung, epochs, scores={})
        for before in self._on(rung - 1) if self._per_user else ():
            if before.candidate == number:
                shown.scores |= before.scores
                shown.replies |= before.replies
        for one in trials.tried:
            result = self.read(one.cell.cell_id) if number in one.numbers else None
            if result is not None:
                variant = one.numbers.index(number)
                shown.scores |= result.scores.get(variant, {})
                shown.replies |= result.rouge_l.get(variant, {})
                shown.seconds += result.seconds / len(one.numbers)
        for cell, numbers in trials.spent.items():
            result = self.read(cell) if number in numbers else None
            if result is not None:
                shown.seconds += result.seconds / len(numbers)
                shown.best_rouge_l = result.best_rouge_l
        return shown


def _renamed(cells: Sequence[PlannedCell], *, end: str) -> list[PlannedCell]:
    """Cells under ids of their own (equal cells too), dependencies among them included."""
    ids = [f"{cell.cell_id}{end}-{place}" for place, cell in enumerate(cells)]
    names = {cell.cell_id: new for cell, new in zip(cells, ids, strict=True)}
    return [
        replace(
            cell, cell_id=new, depends_on=tuple(names.get(name, name) for name in cell.depends_on)
        )
        for cell, new in zip(cells, ids, strict=True)
    ]


def told_candidates(numbers: Sequence[int]) -> str:
    """«candidate 3», «the default and candidates 1–7»."""
    others = [number for number in sorted(numbers) if number != DEFAULT]
    default = "the default" if DEFAULT in numbers else ""
    if not others:
        return default
    listed = ", ".join(map(str, others))
    if len(others) > 2 and others[-1] - others[0] == len(others) - 1:
        listed = f"{others[0]}–{others[-1]}"
    word = "candidate" if len(others) == 1 else "candidates"
    return " and ".join(filter(None, (default, f"{word} {listed}")))


def arm_search(
    name: str,
    settings: Settings,
    study: Study,
    facts: Facts,
    *,
    ranges: Mapping[str, Range],
    choices: Choices,
    read: Read,
    trail: Trail | None = None,
) -> ArmSearch:
    """The search of an arm, with what was chosen for the arms below it."""
    arm = _arm(with_choices(study, choices), name)
    own = (
        with_differences(settings, arm.settings, where=f"arm {name}") if arm.settings else settings
    )
    epochs = setting_value(own, training_name(arm, "epochs"), arm=name)
    return ArmSearch(
        settings,
        space_of(name, ranges, own),
        CandidateCells(settings, study=study, facts=facts, arm=_arm(study, name), choices=choices),
        read,
        facts.users,
        int(epochs),
        trail or Trail(),
    )


def _arm(study: Study, name: str) -> Arm:
    return next(arm for arm in study.arms if arm.name == name)
