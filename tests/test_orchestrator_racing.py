"""Rungs and promotion: pure functions of what the candidates have shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.racing import (
    LEAST_USERS,
    Standing,
    epoch_rungs,
    most_candidates,
    promoted,
    ranking,
    user_rungs,
)


def standing(number: int, *scores: float) -> Standing:
    return Standing(number, {f"user_{n}": score for n, score in enumerate(scores)})


@st.composite
def fields(draw: st.DrawFn) -> list[Standing]:
    users = [f"user_{n}" for n in range(draw(st.integers(1, 6)))]
    table = st.dictionaries(st.sampled_from(users), st.floats(0, 9))
    return [Standing(number, draw(table)) for number in range(draw(st.integers(1, 9)))]


def test_the_lowest_likelihood_loss_over_users_leads() -> None:
    field = [standing(0, 2.0, 2.0), standing(1, 1.0, 1.0), standing(2, 0.0, 3.0)]
    assert [one.macro for one in field] == [2.0, 1.0, 1.5]
    assert ranking(field) == [1, 2, 0]
    assert promoted(field) == (0, 1)


def test_ties_go_to_the_default_and_whoever_lacks_users_comes_last() -> None:
    assert ranking([standing(0, 1.0, 1.0), standing(1, 1.0, 1.0)]) == [0, 1]
    # Candidate 2 looks best, but only because the user it failed on is left out of its mean.
    field = [standing(0, 1.0, 9.0), standing(1, 1.0, 8.0), standing(2, 0.5), standing(3)]
    assert ranking(field) == [1, 0, 2, 3]
    assert ranking([standing(0), standing(1)]) == [0, 1]


@given(fields())
def test_promotion_is_a_function_of_the_scores_alone(field: list[Standing]) -> None:
    order = ranking(field)
    assert sorted(order) == [one.number for one in field]
    assert ranking(field[::-1]) == order
    shuffled = [Standing(one.number, dict(reversed(one.scores.items()))) for one in field]
    assert promoted(shuffled) == promoted(field)


@given(fields())
def test_the_best_third_and_the_default_go_on(field: list[Standing]) -> None:
    on = promoted(field)
    assert 0 in on
    assert set(ranking(field)[: max(1, (len(field) + 1) // 3)]) <= set(on)
    assert len(on) <= (len(field) + 1) // 3 + 1
    assert list(on) == sorted(set(on))


@given(st.integers(1, 400))
def test_user_rungs_are_nested_blocks_of_at_least_twenty(users: int) -> None:
    keys = [f"user_{n}" for n in range(users)]
    rungs = user_rungs(keys)
    assert sorted(user for rung in rungs for user in rung) == sorted(keys)
    assert all(len(rung) >= LEAST_USERS for rung in rungs) or len(rungs) == 1
    assert len(rungs) <= 3
    assert user_rungs(keys[::-1]) == rungs


def test_a_race_over_two_hundred_users_and_none_over_thirty() -> None:
    sizes = {
        users: [len(rung) for rung in user_rungs([f"u{n}" for n in range(users)])]
        for users in (22, 39, 40, 50, 200)
    }
    assert sizes == {22: [22], 39: [39], 40: [20, 20], 50: [20, 30], 200: [20, 40, 140]}
    # 8 → 3 → 1, the default beside them: less than three full runs, and each without a decoding.
    assert most_candidates(8, 3) == [8, 4, 2]
    assert promoted([standing(n, 8.0 - n) for n in range(8)]) == (0, 5, 6, 7)
    assert promoted([standing(n, 8.0 - n) for n in (0, 5, 6, 7)]) == (0, 7)


def test_epoch_rungs_end_with_the_whole_training() -> None:
    assert epoch_rungs(1) == [1]
    assert epoch_rungs(3) == [1, 3]
    assert epoch_rungs(5) == [1, 2, 5]
    assert epoch_rungs(30) == [3, 9, 30]
