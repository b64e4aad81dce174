"""Splits: sizes by hand, leaks, cold start, and the invariants for arbitrary users."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.clean import clean_user
from data.formulas import recurring_formulas
from data.items import items_sha256
from data.reading import RawSession, RawUser
from data.schema import (
    SPLITS,
    DataError,
    Dialogue,
    Message,
    UserData,
    arm_obstacle,
    items_of,
    online_examples,
)
from data.settings import DataSettings
from data.split import (
    choose_cold_start,
    exchanges_of,
    split_sizes,
    split_user,
    validate_splits,
)
from data.style import style_of
from data.tally import Tally
from data.user import prepare_user

DEFAULT = DataSettings()


def dialogue(number: int, *pairs: tuple[str, str]) -> tuple[Dialogue, tuple[int, ...]]:
    messages = [
        Message(role, text)
        for pair in pairs or ((f"question {number}", f"answer {number}"),)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    turns = tuple(range(1, len(messages), 2))
    return Dialogue("u", number, None, tuple(messages)), turns


# (sessions) -> train, online, val, test, worked out by hand from the module's text
@pytest.mark.parametrize(
    ("sessions", "sizes"),
    [
        (0, (0, 0, 0, 0)),
        (1, (0, 0, 0, 1)),
        (2, (1, 0, 0, 1)),
        (3, (1, 0, 1, 1)),
        (4, (1, 1, 1, 1)),
        (5, (2, 1, 1, 1)),
        (8, (2, 2, 2, 2)),
        (9, (3, 2, 2, 2)),
        (10, (3, 3, 2, 2)),
        (50, (20, 10, 10, 10)),
        (500, (290, 10, 100, 100)),
    ],
)
def test_sizes(sessions, sizes):
    assert split_sizes(sessions, settings=DEFAULT) == sizes


def test_val_and_test_give_way_until_train_has_three():
    lean = DataSettings(train_share=0.1, val_share=0.45, test_share=0.45)
    assert split_sizes(6, settings=lean) == (2, 1, 1, 2)


def test_repeated_exchanges_are_taken_out_and_stay_as_context():
    # Five sessions: train 0 1, online 2, val 3, test 4.
    items = [
        dialogue(0),
        dialogue(1),
        dialogue(2, ("only online", "seen online")),
        dialogue(3, ("QUESTION 0", "Answer 0"), ("fresh", "fresh")),
        dialogue(4, ("fresh", "fresh"), ("only online", "another reply"), ("new", "new")),
    ]
    sessions, repeated = split_user(items, settings=DEFAULT)
    assert [s.split for s in sessions] == ["train", "train", "online", "val", "test"]
    assert sessions[3].item_turns == (3,)
    assert sessions[4].item_turns == (3, 5)
    assert len(sessions[4].messages) == 6
    assert repeated == 2


def test_repeats_inside_one_split_stay():
    items = [dialogue(n, ("same words", "same reply")) for n in range(3)] + [
        dialogue(3, ("val", "val"), ("val", "val")),
        dialogue(4),
    ]
    sessions, repeated = split_user(items, settings=DEFAULT)
    assert repeated == 0
    assert [len(s.item_turns) for s in sessions] == [1, 1, 1, 2, 1]


THANKS = ("谢谢你帮忙", "不客气，随时找我。")


def own(number: int, *pairs: tuple[str, str]) -> tuple[Dialogue, tuple[int, ...]]:
    return dialogue(number, (f"new {number}", f"answer {number}"), *pairs)


@pytest.mark.parametrize(
    ("sessions", "habits"),
    [
        # Train 0 1, online 2, val 3, test 4: thanks everywhere, and beside something new.
        ([own(n, THANKS) for n in range(5)], 2),
        # In two earlier sessions only: a habit for the test alone.
        ([own(0), *(own(n, THANKS) for n in range(1, 5))], 1),
        # Sessions that hold nothing else are taken for copies.
        ([dialogue(n, THANKS) for n in range(5)], 0),
        # More than half of the session repeats.
        ([own(n, THANKS, ("bye", "see you")) for n in range(5)], 0),
        ([own(n) for n in range(4)] + [dialogue(4, ("new 0", "answer 0"), ("x", "y"))], 0),
    ],
)
def test_exchanges_that_come_again_and_again_are_no_copies(sessions, habits):
    assert recurring_formulas(sessions, settings=DEFAULT) == habits
    _, repeated = split_user(sessions, settings=DEFAULT)
    assert repeated >= habits


def test_obstacles_name_the_reason():
    def sessions(n, *, exchanges=4):
        pairs = lambda k: [(f"q{k}{i}", f"a{k}{i}") for i in range(exchanges)]  # noqa: E731
        return split_user([dialogue(k, *pairs(k)) for k in range(n)], settings=DEFAULT)[0]

    assert arm_obstacle(sessions(5)) is None
    assert "3 exchanges, at least 4" in (arm_obstacle(sessions(5, exchanges=3)) or "")
    assert "2 train, 1 val, 1 test" in (arm_obstacle(sessions(4)) or "")
    assert "0 train, 0 val, 0 test" in (arm_obstacle(()) or "")


def test_cold_start_is_fixed_by_the_seed_and_needs_three_items():
    users = {f"u{n}": 10 for n in range(40)}
    chosen = choose_cold_start(users, share=0.1, seed=0)
    assert len(chosen) == 4
    assert chosen == choose_cold_start(dict(reversed(users.items())), share=0.1, seed=0)
    assert chosen != choose_cold_start(users, share=0.1, seed=1)
    poor = {**users, **dict.fromkeys(chosen, 2)}
    assert not chosen & choose_cold_start(poor, share=0.1, seed=0)
    nine = dict(list(users.items())[:9])
    assert choose_cold_start(nine, share=0.1, seed=0) == frozenset()
    assert len(choose_cold_start(nine, share=0.5, seed=0)) == 4


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"a": {"train": [0, 1], "online": [1], "val": [2], "test": [3]}}, "not disjoint"),
        ({"a": {"train": [0, 4], "online": [], "val": [2], "test": [5]}}, "time order"),
        ({"a": {"train": [0], "val": [2], "test": [5]}}, "train, online, val, test"),
        (
            {
                "a": {"train": [0], "online": [], "val": [1], "test": [2]},
                "b": {"train": [2], "online": [], "val": [3], "test": [4]},
            },
            "both hold dialogue 2",
        ),
    ],
)
def test_broken_splits_are_refused(splits, words):
    with pytest.raises(DataError, match=words):
        validate_splits(splits)


def test_good_splits_pass():
    validate_splits({"a": {"train": [0], "online": [1], "val": [2], "test": [3]}})


PHRASES = [f"phrase number {n} of a small world" for n in range(6)]


@st.composite
def raw_users(draw):
    """1 to 500 sessions, rows in any order, timestamps that repeat or are absent."""
    n = draw(st.one_of(st.integers(1, 12), st.integers(13, 500)))
    timed = draw(st.booleans())
    rng = random.Random(draw(st.integers(0, 2**32)))
    rows = [
        RawSession(
            line=k + 1,
            session_id=k,
            timestamp=f"2026-01-{1 + k // 40:02d}" if timed else None,
            messages=[
                (role, rng.choice([*PHRASES, f"unique {k} {t} {role}", "short", ""]))
                for t in range(rng.randint(0, 4))
                for role in ("user", "assistant")
            ],
        )
        for k in range(n)
    ]
    rng.shuffle(rows)
    return rows


@settings(max_examples=60, deadline=None)
@given(raw_users())
def test_invariants_for_arbitrary_users(rows):
    result = prepare_user(RawUser("x", rows, []), settings=DEFAULT)
    again = prepare_user(RawUser("x", rows[::-1], []), settings=DEFAULT)
    assert result.cleaned == again.cleaned
    assert result.facts == again.facts
    if result.user is None:
        assert result.cleaned == b""
        return
    user = result.user
    splits = [s.split for s in user.sessions]
    order = {"train": 0, "online": 1, "val": 2, "test": 3}
    assert [order[s] for s in splits] == sorted(order[s] for s in splits)
    ids = [s.session_id for s in user.sessions]
    assert ids == sorted(set(ids))
    part = splits.count("train") + splits.count("online")
    assert splits.count("online") == min(10, part // 2)
    if len(ids) >= 5:
        assert part >= 3
        assert "val" in splits
    assert "test" in splits
    validate_splits({"user_x": result.facts["splits"]})
    _check_leaks(user)
    _check_budgets(user)


@settings(max_examples=60, deadline=None)
@given(st.lists(raw_users(), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_every_dialogue_is_in_one_split_of_one_user_whatever_the_order_of_rows(people, random_):
    tally, cleaned = tallied(people)
    indices = [n for parts in tally.splits.values() for split in SPLITS for n in parts[split]]
    assert indices == list(range(len(cleaned)))
    for key, parts in tally.splits.items():
        owner = {json.loads(cleaned[n])["persona_id"] for split in SPLITS for n in parts[split]}
        assert owner == {tally.persona_ids[key]}
        ends = [n for split in SPLITS for n in (parts[split][:1] + parts[split][-1:])]
        assert ends == sorted(ends)
        numbers = tuple(len(parts[split]) for split in SPLITS)
        assert numbers == split_sizes(sum(numbers), settings=DEFAULT)
        facts = tally.facts[key]
        assert sum(facts["items"].values()) == tally.items[key]
    validate_splits(tally.splits)
    for rows in people:
        random_.shuffle(rows)
    again, same = tallied(people)
    assert (again.splits, again.facts, same) == (tally.splits, tally.facts, cleaned)


def tallied(people: list[list[RawSession]]) -> tuple[Tally, list[bytes]]:
    """Users as the driver adds them up, and the lines of ``dialogs_clean.jsonl``."""
    tally, cleaned = Tally(settings=DEFAULT), b""
    for number, rows in enumerate(people):
        result = prepare_user(RawUser(str(number), rows, []), settings=DEFAULT)
        tally.add(
            result.persona_id,
            dict(result.facts),
            place=(0, number) if result.user else None,
            message_hashes=result.message_hashes,
            message_times=result.message_times,
        )
        cleaned += result.cleaned
    return tally, cleaned.splitlines()


def _check_leaks(user: UserData) -> None:
    seen: set[tuple[str, str]] = set()
    for stage in (("train", "online"), ("val",), ("test",)):
        here = set()
        for session in user.of_split(*stage):
            row = Dialogue("x", 0, None, session.messages)
            pairs = exchanges_of(row)
            if stage != ("train", "online"):
                assert not seen & {pairs[turn // 2] for turn in session.item_turns}
            here.update(pairs)
        seen |= here


def _check_budgets(user: UserData) -> None:
    whole = online_examples(user, 10_000)
    assert sorted(whole) == sorted(items_of(user, "online"))
    for budget in (1, 4, 8, 12):
        assert online_examples(user, budget) == whole[:budget]


def test_item_hash_knows_ids_and_references_but_not_the_order_of_users():
    def user(key, reply="reply one two"):
        items = [dialogue(n, (f"q {n}", f"{reply} {n}")) for n in range(5)]
        sessions, _ = split_user(items, settings=DEFAULT)
        return UserData(key, key[5:], sessions, style_of(sessions))

    a, b = user("user_a"), user("user_b")
    base = items_sha256([a, b], "test")
    assert base == items_sha256([b, a], "test")
    assert base != items_sha256([a], "test")
    assert base != items_sha256([a, user("user_b", reply="other")], "test")
    assert base != items_sha256([a, b], "val")


def test_rows_in_any_order_with_equal_times_and_ids_are_told_apart_by_id():
    rows = [
        RawSession(
            1, n, "2026-01-01", [("user", f"a question {n}"), ("assistant", f"an answer {n}")]
        )
        for n in (3, 1, 2, 0)
    ]
    found = clean_user(RawUser("x", rows, []), settings=DEFAULT, counts=Counter())
    assert [row.session_id for row, _ in found] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_share": 0.7},
        {"clusters": (1, 4)},
        {"clusters": (6, 5)},
        {"online_sessions": 13},
        {"cold_start_exchanges": 2},
        {"min_characters": "10"},
        {"unknown": 1},
    ],
)
def test_settings_refuse_what_makes_no_sense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DataSettings(**wrong)
