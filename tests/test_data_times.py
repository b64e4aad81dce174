"""Times: every form is read rightly or refused, and none becomes a plausible wrong date."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.schema import DataError
from data.times import contradict, moment, parse_timestamp

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "value",
    [
        "2024-05-01T12:00:00",
        " 2024-05-01 12:00:00 ",
        "2024-05-01T12",
        "2024-05-01T12:00:00Z",
        "2024-05-01T12:00:00z",
        "2024-05-01 12:00:00 UTC",
        "2024-05-01 12:00 GMT",
        "2024-05-01 17:30:00+05:30",
        "2024-05-01 17:30:00 +0530",
        "2024-05-01T08:00:00-04",
        "2024-05-01T12:00:00.000000000Z",
        "20240501T120000Z",
        "2024/05/01 12:00:00",
        "2024-W18-3T12:00",
        1714564800,
        1714564800.0,
        1714564800000,
        1714564800000000,
        1714564800000000000,
        1.7145648e12,
        "1714564800",
        "1714564800.000000",
        "1714564800000",
        "1714564800000000000",
        "1.7145648e9",
    ],
)
def test_one_noon_in_every_form(value):
    found = parse_timestamp(value, fail=DataError)
    assert found is not None
    assert moment(found) == NOON


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        (0, "1970-01-01T00:00:00+00:00"),
        ("2024-05-01", "2024-05-01"),
        ("20240501", "20240501"),
        ("1700000000.000100", "2023-11-14T22:13:20.000100+00:00"),
        ("1612123100512", "2021-01-31T19:58:20.512000+00:00"),
        (1612123100512, "2021-01-31T19:58:20.512000+00:00"),
        (4133980799, "2100-12-31T23:59:59+00:00"),
    ],
)
def test_what_is_kept(value, found):
    assert parse_timestamp(value, fail=DataError) == found


@pytest.mark.parametrize(
    "value",
    [
        *("soon", "NaT", "10:00", "2024-05", "2024", "2024-05-01x12:00", "2024-05-01-12:00"),
        *("01/05/2024", "05-01-2024", "May 1, 2024", "2024-05-01 12:00 EST", "2024-13-01"),
        *("0001-01-01T00:00:00Z", "1612-12-31", "1969-12-31", "2101-01-01", "9999-12-31"),
        *("1_700_000_000", "٢٠٢٤-٠٥-٠١", "20241301", "2024050112", "20240501120000"),
        *(
            2024,
            202405,
            2024.0,
            "20240501.0",
            "202405",
            20240501,
            20240501.0,
            2024050112,
            202405011200,
            20240501120000,
        ),
        *(-1, 4133980800, 5 * 10**9, 10**11, 10**25, 10**400, 1e99, float("inf"), float("nan")),
        *(True, False, [], {"$date": "2024-05-01"}, [2024, 5, 1]),
    ],
)
def test_what_is_refused_says_what_came(value):
    with pytest.raises(DataError, match="the timestamp") as caught:
        parse_timestamp(value, fail=DataError)
    assert repr(value)[:12].rstrip("0.") in str(caught.value)
    assert len(str(caught.value)) < 300


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2031, 1, 1)),
    st.sampled_from((1, 10**3, 10**6, 10**9)),
    st.booleans(),
)
def test_an_epoch_is_read_in_its_unit(time, unit, as_text):
    time = time.replace(microsecond=0, tzinfo=UTC)
    number = int(time.timestamp()) * unit
    found = parse_timestamp(str(number) if as_text else number, fail=DataError)
    assert found == time.isoformat()


@given(st.text(st.sampled_from("0123456789-:TWZ+. /"), max_size=20) | st.integers() | st.floats())
def test_anything_is_read_within_the_years_or_refused(value):
    try:
        found = parse_timestamp(value, fail=DataError)
    except DataError:
        return
    if found is not None:
        assert 1970 <= datetime.fromisoformat(found).year <= 2100
        moment(found)


def test_a_date_agrees_with_its_hours_and_other_moments_do_not():
    assert not contradict("2024-05-01", "2024-05-01T23:00:00Z")
    assert not contradict("2024-05-01T12:00:00Z", "2024-05-01T14:00:00+02:00")
    assert contradict("2024-05-01", "2024-05-02T00:00:00Z")
    assert contradict("2024-05-01T12:00:00Z", "2024-05-01T12:00:01Z")
