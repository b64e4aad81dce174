"""The order of a user's sessions: from what it is taken, and what is only assumed and told."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.clean import clean_user
from data.dictionary import schema_text
from data.doubts import doubts, users_with_doubts
from data.order import id_keys, in_time_order
from data.reading import RawSession, RawUser
from data.settings import DataSettings

BIG = 2**63


def order(*sessions: tuple[int | str | None, str | None]) -> tuple[list[int], dict[str, int]]:
    """Places of the (id, time) sessions in the order taken, and the counts that are not zero."""
    counts: Counter[str] = Counter()
    rows = [
        (RawSession(line=n, session_id=sid, timestamp=time, messages=[]), (), ())
        for n, (sid, time) in enumerate(sessions)
    ]
    found = [row[0].line for row in in_time_order(rows, counts=counts)]
    return found, {name: n for name, n in counts.items() if n}


def by_ids(*ids: int | str | None) -> tuple[list[int], dict[str, int]]:
    return order(*((sid, None) for sid in ids))


NATURAL = {"users_in_natural_id_order": 1, "users_order_assumed": 1}
FILE = {"users_in_file_order": 1, "users_order_assumed": 1}


@pytest.mark.parametrize(
    ("ids", "found", "counts"),
    [
        ((3, 1, 2), [1, 2, 0], {}),
        ((10, "9", "-1", BIG + 5, BIG), [2, 1, 0, 4, 3], {}),
        (("9" * 30, "1" + "0" * 29), [1, 0], {}),
        (("conv_10", "conv_9", "conv_1"), [2, 1, 0], NATURAL),
        (("conv_02", "conv_10", "conv_1"), [2, 0, 1], NATURAL),
        (("s2_1", "s1_10", "s1_9"), [2, 1, 0], NATURAL),
        (("2024-05-02", "2024-05-01"), [1, 0], NATURAL),
        # Days before years, and forms that are not one: no natural order.
        (("01-06-2024", "02-05-2024"), [0, 1], FILE),
        (("01.06.2023", "02.05.2024"), [0, 1], FILE),
        (("b", "a"), [0, 1], FILE),
        (("conv_2", 1), [0, 1], FILE),
        (("conv_2", "chat_1"), [0, 1], FILE),
        (("5f0c9a2e", "03b1d7f4", "9e2a4410"), [0, 1, 2], FILE),
        (("x" + "9" * 5000, "x1"), [0, 1], FILE),
        (("b",), [0], {}),
    ],
)
def test_ids_give_the_order_where_they_have_one(ids, found, counts):
    assert by_ids(*ids) == (found, counts)


@given(st.permutations(range(1, 25)))
def test_natural_order_is_that_of_the_numbers(numbers):
    found, counts = by_ids(*(f"conv_{n}" for n in numbers))
    assert [numbers[place] for place in found] == sorted(numbers)
    assert counts == NATURAL


@given(st.lists(st.uuids().map(str), min_size=3, unique=True))
def test_uuids_have_no_order(ids):
    assert id_keys(ids) == (False, None)


def test_timestamps_come_first_and_whole_numbers_break_ties():
    found = order((2, "2024-05-02"), (9, "2024-05-01"), (1, "2024-05-02"))
    assert found == (
        [1, 2, 0],
        {"users_ordered_by_timestamp": 1, "users_whose_ids_contradict_timestamps": 1},
    )
    assert order((1, "2024-05-01"), (2, "2024-05-02")) == (
        [0, 1],
        {"users_ordered_by_timestamp": 1},
    )
    assert order((None, "2024-05-01")) == ([0], {"users_ordered_by_timestamp": 1})


@pytest.mark.parametrize(
    ("sessions", "found", "counts"),
    [
        # One time is missing: the ids decide, and the times that are there say otherwise.
        (
            [(1, "2024-05-03"), (2, None), (3, "2024-05-01")],
            [0, 1, 2],
            {
                "users_with_some_timestamps_missing": 1,
                "users_order_assumed": 1,
                "users_whose_timestamps_contradict_the_order": 1,
            },
        ),
        (
            [("b", None), (None, "2024-05-01")],
            [0, 1],
            {"users_with_some_timestamps_missing": 1} | FILE,
        ),
        ([(2, "2024-05-01"), (1, "2024-05-01")], [1, 0], {"users_with_all_timestamps_equal": 1}),
        (
            [("x", "2024-05-01"), ("a", "2024-05-01")],
            [0, 1],
            {"users_with_all_timestamps_equal": 1} | FILE,
        ),
        (
            [("x", "2024-05-02"), ("a", "2024-05-02"), ("c", "2024-05-01")],
            [2, 0, 1],
            {
                "users_ordered_by_timestamp": 1,
                "users_with_tied_timestamps": 1,
                "users_order_assumed": 1,
            },
        ),
        (
            [(1, "2024-05-01T10:00:00"), (2, "2024-05-01T11:00:00+02:00")],
            [1, 0],
            {
                "users_ordered_by_timestamp": 1,
                "users_mixing_times_with_and_without_zone": 1,
                "users_whose_ids_contradict_timestamps": 1,
            },
        ),
        (
            [(1, "1970-01-01T00:00:00+00:00"), (2, "2024-05-01T00:00:00+00:00")],
            [0, 1],
            {
                "users_ordered_by_timestamp": 1,
                "users_with_times_of_1970_beside_later_ones": 1,
            },
        ),
    ],
)
def test_doubtful_times_are_counted(sessions, found, counts):
    assert order(*sessions) == (found, counts)


def test_a_row_that_stands_there_twice_is_no_tie():
    _, counts = order(("a", "2024-05-01"), ("a", "2024-05-01"), ("b", "2024-05-02"))
    assert counts == {"users_ordered_by_timestamp": 1}


def test_every_doubt_is_a_warning_that_names_its_users():
    counts = Counter({"users_in_natural_id_order": 4, "users_with_some_timestamps_missing": 1})
    users = {name: [f"user_{n}" for n in range(counts[name])] for name in users_with_doubts(counts)}
    counts["rows_where_created_at_contradicts_timestamp"] = 3
    assert doubts(counts, users) == [
        "order of sessions: for 4 users (user_0, user_1, user_2 and 1 more) the sessions have no "
        "timestamps to go by, and are ordered by the numbers in their ids (conv_2 before conv_10)",
        "order of sessions: for 1 user (user_0) some sessions have no timestamp, so none of the "
        "timestamps was used for the order",
        "in 3 rows 'created_at' says something else than 'timestamp', which was taken",
    ]
    assert doubts(Counter({"users_ordered_by_timestamp": 9}), {}) == []


@pytest.mark.parametrize("first", [BIG, -BIG - 1, 10**40])
def test_ids_of_more_than_64_bits_are_numbered_anew_in_their_order(first):
    text = "please dim the lights"
    sessions = [
        RawSession(1, first + n, None, [("user", text), ("assistant", f"all dimmed now {n}")])
        for n in (1, 0)
    ]
    if first < 0:
        sessions[0] = RawSession(1, 5, None, sessions[0].messages)
    counts: Counter[str] = Counter()
    rows = clean_user(RawUser("u", sessions, []), settings=DataSettings(), counts=counts)
    assert [(row.session_id, row.messages[1].text[-1]) for row, _ in rows] == [(0, "0"), (1, "1")]
    assert counts["users_renumbered"] == 1


def test_the_data_dictionary_says_time_order_only_where_it_is():
    stats = {
        "raw": {},
        "kept": {"users": 3, "sessions": 1, "messages": 1, "items": 1},
        "counts": {},
        "lengths": {
            "longest_session_messages": 1,
            **{
                role: dict.fromkeys(
                    ("messages", "mean_words", "mean_characters", "longest_words"), 1
                )
                for role in ("user", "assistant")
            },
        },
        "messages_shared_by_users": 0,
    }
    sure = schema_text(stats, source="jsonl", source_sha256={})
    assert "Order of sessions, which is their order in time: whole-number session id (3" in sure
    told = schema_text(stats | {"counts": NATURAL}, source="jsonl", source_sha256={})
    assert "order in time" not in told
    assert "numbers inside text ids (1 users)" in told
    assert "For 1 users that is only assumed to be time order." in told
