"""The search before a study: candidates on rungs, scored on validation, until one is chosen.

A search is a coroutine over cells: it says which cells it needs, is resumed when they have ended,
and reads what came out from the ledger. Run anew over the same ledger it comes to the same place
without running anything, so a killed search goes on where it was. It keeps nothing of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass

from orchestrator.arm_search import Cells, Read, Shown, Trail, arm_search
from orchestrator.candidates import Config, space_of
from orchestrator.choices import Choices, levels
from orchestrator.exit_codes import InputError
from orchestrator.layers import with_differences
from orchestrator.plan import Facts, PlannedCell
from orchestrator.search_ranges import ranges_of
from orchestrator.settings import Settings
from results.files import crash_point
from search_spaces.space import Study


@dataclass(frozen=True, slots=True)
class Searched:
    """How a whole search ended: the choice for each arm, and everything that led to it."""

    choices: Choices
    history: tuple[Shown, ...]


def search_study(
    settings: Settings, *, study: Study, facts: Facts, read: Read, trail: Trail | None = None
) -> Cells:
    """Yields the cells that are needed next; returns a ``Searched``.

    Arms are searched in the study's order; those that do not build upon one another side by side,
    the others with what was chosen for the arms below them.
    """
    choices: dict[str, Config] = {}
    history: list[Shown] = []
    ranges = ranges_of(settings.search, study=study, adopted=facts.adopted_sha256)
    for level in levels(study, ranges):
        searches = {
            name: arm_search(
                name,
                settings,
                study,
                facts,
                ranges=ranges[name],
                choices=choices,
                read=read,
                trail=trail,
            )
            for name in level
        }
        found = yield from _side_by_side({n: one.run() for n, one in searches.items()})
        choices |= found
        history += [shown for name in level for shown in searches[name].history]
    return Searched(choices, tuple(history))


def check_searchable(settings: Settings, *, study: Study, adopted: Collection[str]) -> None:
    """Refuse a search that cannot be.

    Raises:
        InputError: the study has no arm that is trained here, or ``search`` asks for what is not.
    """
    if settings.search.method == "none":
        return
    found = ranges_of(settings.search, study=study, adopted=adopted)
    for arm, ranges in found.items():
        for name, given in space_of(arm, ranges, settings).ranges.items():
            for value in given.grid():
                with_differences(settings, {name: value}, where=f"search of arm {arm}")
    if not found:
        raise InputError(
            f"study {study.name} has nothing to search: none of its arms has search ranges; "
            "leave --search out, or take a study whose arms are trained"
        )


def _side_by_side(
    searches: Mapping[str, Generator[list[PlannedCell], None, Config]],
) -> Generator[list[PlannedCell], None, dict[str, Config]]:
    """Several searches, a step of each at a time; returns what they return."""
    results: dict[str, Config] = {}
    wanted: dict[str, list[PlannedCell]] = {}
    going = dict(searches)
    while True:
        for name, search in list(going.items()):
            try:
                wanted[name] = next(search)
            except StopIteration as end:
                results[name] = end.value
                del going[name]
        if not going:
            return {name: results[name] for name in searches}
        yield [cell for name in going for cell in wanted[name]]


def most_cells(settings: Settings, *, study: Study, facts: Facts) -> dict[str, list[PlannedCell]]:
    """Arm → stand-ins for the cells that its search needs at most."""
    found = {}
    ranges = ranges_of(settings.search, study=study, adopted=facts.adopted_sha256)
    for name, own in ranges.items():
        one = arm_search(name, settings, study, facts, ranges=own, choices={}, read=lambda _: None)
        found[name] = one.most_cells()
    return found


class Search:
    """A study's search over its ledger, in steps that a sweep can take.

    Args:
        steps: from ``search_study``.
        finished: those of the given cells that are in the ledger.
        trail: filled by the steps.
    """

    def __init__(
        self,
        steps: Cells,
        *,
        finished: Callable[[Collection[str]], Collection[str]],
        trail: Trail | None = None,
    ) -> None:
        self._steps = steps
        self._finished = finished
        self.trail = trail or Trail()
        self.tried: dict[str, str] = {}
        """Cells that were asked for, with their arms."""
        self.missing: set[str] = set()
        """Those of them that were not in the ledger."""
        self._step = 0
        self._done: dict[str, str] = {}
        self.result: Searched | None = None

    def done(self, arm: str) -> int:
        """Cells of an arm that were found in the ledger."""
        return sum(own == arm for own in self._done.values())

    def next_cells(self) -> tuple[list[PlannedCell], Collection[str]]:
        """The next step that has something to run: its cells, and ids of those that are done.

        No cells: the search is over, and ``result`` is there.
        """
        while self.result is None:
            try:
                cells = {cell.cell_id: cell for cell in next(self._steps)}
            except StopIteration as end:
                self.result = end.value
                break
            crash_point(f"search-step:{self._step}")
            self._step += 1
            finished = self._finished(cells)
            self._done |= {name: cells[name].arm for name in finished}
            new = cells.keys() - self.tried.keys()
            self.tried |= {name: cell.arm for name, cell in cells.items()}
            self.missing |= new - set(finished)
            if new - set(finished):
                return list(cells.values()), finished
        return [], ()
