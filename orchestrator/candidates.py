"""Candidates of a search: which settings are tried, given the scores of those tried before. Pure.

The first candidate is always the default config. What comes next is a function of the space, the
method and the scores so far, computed anew each time: a search that was killed asks the same
again, and nothing of a sampler's state is ever stored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any, Literal

from orchestrator.exit_codes import InputError
from orchestrator.identity import canonical_json
from orchestrator.settings import Settings
from search_spaces.ranges import Fixed, Range, known

Method = Literal["grid", "random", "optuna"]

BATCH = 4
"""Candidates that Optuna is asked for at a time: the same on every machine."""
MAX_DRAWS = 50
"""Draws per wanted candidate until a small space counts as exhausted."""


@dataclass(frozen=True, slots=True)
class Space:
    """What a search of one arm varies; ``default`` has a value for each name of ``ranges``."""

    arm: str
    ranges: Mapping[str, Fixed]
    default: Mapping[str, Any]


Config = Mapping[str, Any]
"""Dotted setting → value, for every name of a space."""


def space_of(arm: str, ranges: Mapping[str, Range], settings: Settings) -> Space:
    """The space of an arm under the settings that it has without a search.

    Raises:
        InputError: a range names something that is no setting.
    """
    default = {name: setting_value(settings, name, arm=arm) for name in ranges}
    fixed = {name: known(given, default=default[name]) for name, given in ranges.items()}
    return Space(arm, fixed, default)


def setting_value(settings: Settings, name: str, *, arm: str) -> Any:
    """The value of a dotted name."""
    try:
        return reduce(getattr, name.split("."), settings)
    except AttributeError:
        raise InputError(f"the search of arm {arm} names {name!r}, which is no setting") from None


def config_key(config: Config) -> str:
    """Text that equal configs share."""
    return canonical_json(dict(config))


def candidates(
    method: Method, space: Space, *, samples: int, seed: int, scores: Sequence[float | None] = ()
) -> list[Config]:
    """All configs that are known to be tried, given the scores of the first of them.

    More scores only ever append configs, never change one. When no config is left without a
    score, all have been tried.

    Args:
        method: ``grid`` (evenly many of its points where there are more than ``samples``),
            ``random``, or ``optuna`` (a tree-structured Parzen estimator, in batches).
        space: what is varied.
        samples: how many configs there are to be, the default included; fewer in a small space.
        seed: of all draws.
        scores: of the first configs, lower is better; None for one that could not be scored.
    """
    ways: dict[Method, Callable[[], list[Config]]] = {
        "grid": lambda: grid_configs(space, samples=samples),
        "random": lambda: random_configs(space, samples=samples, seed=seed),
        "optuna": lambda: _asked(space, samples=samples, seed=seed, scores=scores),
    }
    return ways[method]()


def _asked(
    space: Space, *, samples: int, seed: int, scores: Sequence[float | None]
) -> list[Config]:
    from orchestrator.optuna_asking import asked_configs  # Takes a second to import.

    return asked_configs(space, samples=samples, seed=seed, scores=scores, batch=BATCH)


def grid_configs(space: Space, *, samples: int) -> list[Config]:
    """The default, then the grid's other points, thinned evenly to ``samples`` in all."""
    names = list(space.ranges)
    points = product(*(space.ranges[name].grid() for name in names))
    every: Iterator[Config] = (dict(zip(names, point, strict=True)) for point in points)
    default = config_key(space.default)
    others = [config for config in every if config_key(config) != default]
    wanted = min(samples - 1, len(others))
    kept = [others[k * len(others) // wanted] for k in range(wanted)]
    return [space.default, *kept]


def random_configs(space: Space, *, samples: int, seed: int) -> list[Config]:
    """The default, then draws of which each has a stream of its own: more samples only append."""
    found = {config_key(space.default): space.default}
    for draw in range(samples * MAX_DRAWS):
        if len(found) == samples:
            break
        stream = random.Random(f"search {space.arm} {seed} {draw}")
        config = {name: given.at(stream.random()) for name, given in space.ranges.items()}
        found.setdefault(config_key(config), config)
    return list(found.values())
