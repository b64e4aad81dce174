"""What a search tries: ranges, grid, random draws, Optuna asked in batches; all pure."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.candidates import (
    BATCH,
    Config,
    Method,
    Space,
    candidates,
    config_key,
    grid_configs,
    random_configs,
    space_of,
)
from orchestrator.exit_codes import InputError
from orchestrator.layers import resolve_settings, with_differences
from orchestrator.settings import Settings
from search_spaces.catalog import STUDIES
from search_spaces.ranges import Choice, IntRange, LogUniform, Times, Uniform, known

RATE, RANK, EPOCHS = "personal.lora.learning_rate", "lora.rank", "personal.lora.epochs"
SPACE = Space(
    "arm",
    {RATE: LogUniform(1e-4, 1e-2), RANK: Choice((4, 8)), EPOCHS: IntRange(1, 3)},
    {RATE: 1e-3, RANK: 8, EPOCHS: 3},
)
METHODS: tuple[Method, ...] = ("grid", "random", "optuna")


def loss(config: Config) -> float:
    """A stand-in for validation: best at a learning rate of 3e-3, rank 4, 2 epochs."""
    return abs(float(config[RATE]) - 3e-3) * 100 + int(config[RANK]) + abs(config[EPOCHS] - 2)


def searched(method: Method, samples: int, seed: int = 0) -> list[Config]:
    """The whole search, scored batch by batch."""
    scores: list[float] = []
    while len(found := tried(method, samples, scores, seed)) > len(scores):
        scores = [loss(config) for config in found]
    return found


def tried(method: Method, samples: int, scores: list[float], seed: int = 0) -> list[Config]:
    return candidates(method, SPACE, samples=samples, seed=seed, scores=scores)


def test_ranges_know_their_grids_and_points() -> None:
    assert Choice(("a", "b")).grid() == ("a", "b")
    assert [Choice(("a", "b")).at(share) for share in (0.0, 0.49, 0.5, 0.999)] == [*"aabb"]
    assert IntRange(8, 12, step=2).grid() == (8, 10, 12)
    assert [IntRange(1, 3).at(share) for share in (0.0, 0.34, 0.99)] == [1, 2, 3]
    assert LogUniform(1e-4, 1e-2).grid() == (1e-4, 1e-3, 1e-2)
    assert Uniform(0.0, 0.1).grid() == (0.0, 0.05, 0.1)
    assert LogUniform(1e-4, 1e-2).at(0.123) == 0.000176


def test_multiples_of_a_default_are_the_recipes_own_range() -> None:
    assert known(Times(1 / 3, 5 / 3), default=3e-4) == LogUniform(1e-4, 5e-4)
    assert known(Times(1 / 3, 5 / 3), default=3e-3) == LogUniform(1e-3, 5e-3)
    assert known(IntRange(1, 3), default=9) == IntRange(1, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Choice(()),
        lambda: Choice((1, 1)),
        lambda: IntRange(3, 1),
        lambda: IntRange(1, 4, step=2),
        lambda: Uniform(1.0, 1.0),
        lambda: LogUniform(0.0, 1.0),
        lambda: LogUniform(1e-4, 1e-2, points=1),
    ],
)
def test_ranges_that_cannot_be_are_refused(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"got|low"):
        wrong()


def test_the_space_of_an_arm_has_the_defaults_of_its_base_model() -> None:
    study = STUDIES["per_persona"]
    space = space_of("lora_all", study.search["lora_all"], resolve_settings(study))
    assert space.ranges["shared.lora.learning_rate"] == LogUniform(1e-3, 5e-3)
    assert space.default["lora.rank"] == 8
    with pytest.raises(InputError, match=r"arm lora_all names 'lora.rnak', which is no setting"):
        space_of("lora_all", {"lora.rnak": Choice((1,))}, Settings())


@pytest.mark.parametrize("name", ["per_persona", "global", "cluster"])
def test_every_study_searches_its_own_arms_with_values_that_settings_take(name: str) -> None:
    study, base = STUDIES[name], resolve_settings(STUDIES[name])
    arms = {arm.name for arm in study.arms}
    assert study.search
    assert set(study.search) <= arms
    for arm, ranges in study.search.items():
        space = space_of(arm, ranges, base)
        for config in grid_configs(space, samples=40):
            with_differences(base, config, where=arm)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("samples", [1, 2, 8])
def test_a_search_tries_the_default_first_and_nothing_twice(method: Method, samples: int) -> None:
    found = searched(method, samples)
    assert found[0] == SPACE.default
    assert len({config_key(config) for config in found}) == len(found) == samples
    for config in found:
        assert list(config) == list(SPACE.ranges)
        assert 1e-4 <= config[RATE] <= 1e-2
        assert config[RANK] in (4, 8)
        assert config[EPOCHS] in (1, 2, 3)


@pytest.mark.parametrize("method", METHODS)
def test_a_small_space_ends_a_search_early(method: Method) -> None:
    small = Space("arm", {RANK: Choice((4, 8)), EPOCHS: IntRange(1, 2)}, {RANK: 8, EPOCHS: 2})
    scores: list[float] = []
    while len(found := candidates(method, small, samples=9, seed=0, scores=scores)) > len(scores):
        scores = [float(config[RANK]) for config in found]
    assert len(found) == 4


def test_a_thinned_grid_spreads_over_the_whole() -> None:
    whole = grid_configs(SPACE, samples=1000)
    assert len(whole) == 3 * 2 * 3
    few = grid_configs(SPACE, samples=7)
    assert {config[RATE] for config in few} == {1e-4, 1e-3, 1e-2}
    assert all(config in whole for config in few)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_more_random_samples_only_append(fewer: int, more: int, seed: int) -> None:
    few, many = sorted((fewer, more))
    long = random_configs(SPACE, samples=many, seed=seed)
    assert random_configs(SPACE, samples=few, seed=seed) == long[:few]


@settings(max_examples=15, deadline=None)
@given(
    scores=st.lists(st.none() | st.floats(0.0, 9.0), min_size=10, max_size=10),
    seed=st.integers(0, 3),
)
def test_optuna_asked_anew_repeats_itself_and_more_scores_only_append(
    scores: list[float | None], seed: int
) -> None:
    before: list[Config] = []
    for known_scores in (0, 3, 4, 7, 8, 10):
        now = candidates("optuna", SPACE, samples=10, seed=seed, scores=scores[:known_scores])
        assert now[: len(before)] == before
        assert len(now) == min(10, (known_scores // BATCH + 1) * BATCH)
        before = now


def test_optuna_learns_from_what_it_is_told() -> None:
    many = searched("optuna", 40)
    early = [loss(config) for config in many[:8]]
    late = [loss(config) for config in many[-8:]]
    assert sum(late) < sum(early)
    assert {config_key(c) for c in searched("optuna", 8, seed=1)} != {
        config_key(c) for c in searched("optuna", 8, seed=2)
    }


def test_a_default_outside_of_the_ranges_is_tried_all_the_same() -> None:
    odd = Space("arm", SPACE.ranges, {RATE: 1.0, RANK: 3, EPOCHS: 9})
    found = candidates("optuna", odd, samples=6, seed=0, scores=[1.0, 2.0, None, 3.0])
    assert found[0] == odd.default
    assert len(found) == 6
