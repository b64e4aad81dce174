"""How long cells will take: amounts of work × measured speeds, and a schedule of them. Pure.

A cell is a few kinds of steps: training on whole sessions or on single exchanges, replies decoded
and scored. A probe measures the seconds of one step of each kind (``orchestrator.probe``); here is
how many of them a cell has, and when the last of many cells ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import zip_longest
from typing import Literal

from data.schema import ItemId, Session, UserData, items_of, online_examples
from orchestrator.candidate_cells import STAGE
from orchestrator.cell_queue import CellQueue
from orchestrator.exit_codes import InputError
from orchestrator.plan import PlannedCell
from tasks.cell import CellSpec
from tasks.cold_start import first_exchanges
from tasks.config import TrainingConfig
from tasks.splits import choosing_sessions, scored_sessions

Kind = Literal["none", "few_shot", "lora", "prefix"]
Step = Literal["session", "character", "reply", "score"]
"""Training on a whole session, or on one character of an exchange and of the messages before it;
a reply decoded, a reply scored."""

LIKELIHOOD_SHARE = 0.2
"""Seconds of a true reply's likelihood, as a share of those of generating one."""
START_SECONDS = 20.0
"""Before the first cell ends anything: Ray, the data, and workers that import their libraries."""
REPORT_SECONDS = 5.0
DISPATCH_SECONDS = 0.3
"""Between two cells of an actor."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Seconds of one step, by kind of step and of adapter."""

    seconds: Mapping[tuple[Step, Kind], float]

    def of(self, step: Step, kind: Kind) -> float:
        """Seconds of a step; of any kind of adapter where this one was not measured."""
        known = self.seconds.get((step, kind))
        if known is None:
            alike = [value for (name, _), value in self.seconds.items() if name == step]
            known = max(alike, default=0.0)
        return known


@dataclass(frozen=True, slots=True)
class UserSizes:
    """What an average user has: sessions, and exchanges by what they are for."""

    train_sessions: float
    online: tuple[float, ...]
    """Characters of each exchange that a micro-update sees, in their order, context included."""
    first: tuple[float, ...]
    """The same of the exchanges that a user gives first."""
    replies: Mapping[str, float]
    """Split → items."""

    @classmethod
    def of(cls, users: Sequence[UserData]) -> UserSizes:
        """Means over some users; there must be one."""

        def mean(numbers: Iterable[int]) -> float:
            return sum(numbers) / len(users)

        return cls(
            train_sessions=mean(len(user.of_split("train")) for user in users),
            online=_mean_characters(users, lambda user: online_examples(user, EVERY)),
            first=_mean_characters(users, first_exchanges),
            replies={
                "val": mean(len(items_of(user, "val")) for user in users),
                "test": mean(len(items_of(user, "test")) for user in users),
                "gate": mean(_replies(scored_sessions(user, "gate")) for user in users),
                "choice": mean(_replies(choosing_sessions(user)) for user in users),
            },
        )


EVERY = 1 << 30


def _mean_characters(
    users: Sequence[UserData], exchanges: Callable[[UserData], Sequence[ItemId]]
) -> tuple[float, ...]:
    """Mean characters of the k-th exchange; a user who has fewer counts as zero there."""
    of_users = [characters_of(user, exchanges(user)) for user in users]
    return tuple(sum(column) / len(users) for column in zip_longest(*of_users, fillvalue=0))


def characters_of(user: UserData, exchanges: Sequence[ItemId]) -> list[int]:
    """Characters of each exchange with all messages before it: what a pass reads."""
    sessions = {session.session_id: session for session in user.sessions}
    return [
        sum(len(message.text) for message in sessions[one.session_id].messages[: one.turn + 1])
        for one in exchanges
    ]


def _replies(sessions: Sequence[Session]) -> int:
    return sum(len(session.item_turns) for session in sessions)


def kind_of(spec: CellSpec) -> Kind:
    """The kind of adapter that a cell's replies are decoded with."""
    if spec.few_shot_examples:
        return "few_shot"
    return "none" if spec.adapter is None else spec.adapter.kind


def steps_of(spec: CellSpec, sizes: UserSizes) -> dict[Step, float]:
    """How many steps of each kind a cell has.

    ``identify`` reads every user's test messages, under every user's adapter where it asks for
    likelihoods, without generating any.
    """
    users = len(spec.users)
    replies = users * sizes.replies[spec.split]
    match spec.purpose:
        case "adopt":
            return {}
        case "train":
            return _shared_steps(spec, sizes, _training(spec))
        case "try" if spec.grouping != "user":
            every = [_shared_steps(spec, sizes, one) for one in spec.variants]
            return {step: sum(one[step] for one in every) for step in every[0]}
        case "try":
            trained = users * sum(_characters(sizes, one) for one in spec.variants)
            scored = replies * (1 if spec.generate else LIKELIHOOD_SHARE)
            return {"character": trained, "reply": scored * len(spec.variants)}
        case "adapt_from_few":
            given = sum(sum(sizes.first[:n]) for n in {*spec.exchange_counts, EVERY})
            trained = users * given * _training(spec).epochs
            scored = replies * (len({0, *spec.exchange_counts}) + 1)
            return {"character": trained, "reply": scored}
        case "trace":
            trained = users * _characters(sizes, _training(spec))
            scored = replies * (1 if spec.generate else LIKELIHOOD_SHARE)
            return {"character": trained, "reply": scored * (_training(spec).epochs + 1)}
        case "identify":
            under = users if spec.representation == "likelihood" else 1
            return {"reply": replies * under * LIKELIHOOD_SHARE}
    controls = 2 if spec.swapped_control else 1
    scored = replies * controls
    steps: dict[Step, float] = {"reply": scored * (1 if spec.generate else LIKELIHOOD_SHARE)}
    if spec.generate:
        steps["score"] = scored
    if spec.training is not None:
        steps["character"] = users * _characters(sizes, spec.training)
    return steps


def _shared_steps(spec: CellSpec, sizes: UserSizes, training: TrainingConfig) -> dict[Step, float]:
    users = len(spec.users)
    validated = users * sizes.replies["choice"] * training.epochs
    return {"session": users * sizes.train_sessions * training.epochs, "reply": validated}


def _training(spec: CellSpec) -> TrainingConfig:
    assert spec.training is not None
    return spec.training


def _characters(sizes: UserSizes, training: TrainingConfig) -> float:
    """Characters that one user's training reads, epochs counted."""
    return training.epochs * sum(sizes.online[: training.examples])


def cell_seconds(spec: CellSpec, *, sizes: UserSizes, speeds: Speeds) -> float:
    """Seconds of one cell on an actor that holds its base."""
    kind = kind_of(spec)
    steps = steps_of(spec, sizes).items()
    return DISPATCH_SECONDS + sum(number * speeds.of(step, kind) for step, number in steps)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run is expected to take.

    ``stages`` has the seconds of trials of every stage, done or not; ``sweep_seconds`` and
    ``total_seconds`` are of wall time, for the cells that are not done.
    """

    stages: Mapping[str, float]
    sweep_seconds: float
    total_seconds: float
    cells: Mapping[str, int] = field(default_factory=dict)
    """Stage → how many cells its seconds are of."""
    search_seconds: float = 0.0
    """Of ``sweep_seconds``, the search's."""


def estimate(
    cells: Sequence[PlannedCell],
    *,
    finished: Collection[str],
    sizes: UserSizes,
    speeds: Speeds,
    actors: int,
) -> Estimate:
    """Seconds of a plan's cells that are not finished, on so many actors."""
    seconds = {c.cell_id: cell_seconds(c.spec, sizes=sizes, speeds=speeds) for c in cells}
    stages: dict[str, float] = {}
    for cell in cells:
        stages[cell.stage] = stages.get(cell.stage, 0.0) + seconds[cell.cell_id]
    # The study is planned when its search has ended.
    search, sweep = (
        schedule_seconds(part, finished=finished, seconds=seconds, actors=actors)
        for part in _search_apart(cells)
    )
    both = search + sweep
    return Estimate(
        stages,
        both,
        both + START_SECONDS + REPORT_SECONDS if both else 0.0,
        dict(Counter(cell.stage for cell in cells)),
        search,
    )


def _search_apart(cells: Sequence[PlannedCell]) -> Iterator[list[PlannedCell]]:
    """A search's cells and the others, each without what they need of one another."""
    for searched in (True, False):
        part = [cell for cell in cells if (cell.stage == STAGE) == searched]
        ids = {cell.cell_id for cell in part}
        yield [
            replace(cell, depends_on=tuple(name for name in cell.depends_on if name in ids))
            for cell in part
        ]


def schedule_seconds(
    cells: Sequence[PlannedCell],
    *,
    finished: Collection[str],
    seconds: Mapping[str, float],
    actors: int,
) -> float:
    """When the last cell ends if ``actors`` take them as a sweep does."""
    queue = CellQueue(cells, finished=finished)
    running: list[tuple[float, str]] = []
    now = 0.0
    while True:
        while len(running) < actors and (taken := queue.take()):
            heappush(running, (now + seconds[taken[0].cell_id], taken[0].cell_id))
        if not running:
            return now
        now, done = heappop(running)
        queue.finish(done)


MOST_PRICE = 1e9


@dataclass(frozen=True, slots=True)
class Prices:
    """What an hour costs, in the payer's currency; None where nothing was said.

    Raises:
        InputError: a price that is none.
    """

    per_gpu_hour: float | None = None
    per_hour: float | None = None
    """Of one node."""

    def __post_init__(self) -> None:
        for option, price in (
            ("--price-per-gpu-hour", self.per_gpu_hour),
            ("--price-per-hour", self.per_hour),
        ):
            # Written so that NaN, of which no comparison holds, is refused.
            if price is not None and not 0 <= price <= MOST_PRICE:
                raise InputError(f"{option} {price:g}: a number from 0 to {MOST_PRICE:g} is wanted")

    def cost(self, seconds: float, *, gpus: int, nodes: int) -> float | None:
        """Of so many seconds on all GPUs and nodes.

        None without any price, and where the only one is of GPUs and there are none: that would
        tell that the time costs nothing.
        """
        each = [(self.per_gpu_hour, gpus), (self.per_hour, nodes)]
        known = [price * count for price, count in each if price is not None and count]
        return sum(known) * seconds / 3600 if known else None

    def notes(self, *, gpus: int, where: str) -> list[str]:
        """What a person must know about these prices where there are so many GPUs."""
        if gpus or self.per_gpu_hour is None:
            return []
        told = f"no GPU {where}: 0 GPU hours, so a price per GPU hour adds nothing"
        return [told + ("; --price-per-hour prices the machine" if self.per_hour is None else "")]
