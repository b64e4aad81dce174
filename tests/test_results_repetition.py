"""A second run of a baseline cell beside the first, item by item."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from results.repetition import TOLERANCE_NATS, Repetition, compare_items

FIRST = pd.DataFrame(
    {
        "item_id": ["a/0/1", "a/0/3", "b/0/1"],
        "user_id": ["a", "a", "b"],
        "output": ["yes", "no", "done"],
        "ended": [True, True, False],
        "nll": [0.5, 1.0, 2.0],
    }
)


def test_the_same_items_in_another_order_are_the_same() -> None:
    found = compare_items(FIRST, FIRST.iloc[::-1])
    assert found == Repetition(items=3, users=2, changed=0, largest_nats=0.0)
    assert found.same


@pytest.mark.parametrize(
    ("column", "value", "changed"), [("output", "maybe", 1), ("ended", False, 1), ("nll", 0.75, 0)]
)
def test_another_reply_or_likelihood_is_found(column: str, value: object, changed: int) -> None:
    other = FIRST.copy()
    other.loc[0, column] = value
    found = compare_items(FIRST, other)
    assert (found.changed, found.same) == (changed, False)
    assert found.largest_nats == (0.25 if column == "nll" else 0.0)


def test_likelihoods_equal_in_all_tables_are_the_same() -> None:
    assert compare_items(FIRST, FIRST.assign(nll=FIRST["nll"] + TOLERANCE_NATS / 2)).same
    assert not compare_items(FIRST, FIRST.assign(nll=FIRST["nll"] + TOLERANCE_NATS * 2)).same
    assert not compare_items(FIRST, FIRST.assign(nll=math.nan)).same


def test_an_item_of_one_run_alone_counts_as_changed_and_no_item_is_no_pass() -> None:
    found = compare_items(FIRST, FIRST.iloc[:2])
    assert (found.items, found.users, found.changed) == (3, 2, 1)
    nothing = compare_items(FIRST.iloc[:0], FIRST.iloc[:0])
    assert nothing.items == 0
    assert not nothing.same
