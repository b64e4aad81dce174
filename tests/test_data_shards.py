"""Shards: what is written comes back, and is what Arrow makes of the same rows as objects."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from data.schema import SPLITS, Message, Session, Style, UserData
from data.shards import SCHEMA, read_users, shard_name, write_index, write_shard

# Parquet holds UTF-8, which cleaned text is; half surrogates are not.
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
SETTINGS = st.none() | st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=3).map(tuple)
SESSIONS = st.builds(
    Session,
    session_id=st.integers(-(2**62), 2**62),
    split=st.sampled_from(SPLITS),
    messages=st.lists(
        st.builds(Message, st.sampled_from(("user", "assistant")), TEXTS), max_size=4
    ).map(tuple),
    item_turns=st.lists(st.integers(0, 99), max_size=3).map(tuple),
    routine_driven=st.none() | st.booleans(),
    routine_settings=SETTINGS,
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
USERS = st.lists(
    st.builds(
        UserData,
        user_key=TEXTS,
        persona_id=TEXTS,
        sessions=st.lists(SESSIONS, max_size=4).map(tuple),
        style=st.builds(Style, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    ),
    max_size=10,
    unique_by=lambda user: user.user_key,
)


@settings(max_examples=60, deadline=None)
@given(USERS)
def test_rows_come_back_and_are_those_of_arrows_own_conversion(users: list[UserData]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shard(folder / shard_name(0), users)
        places = {user.user_key: (0, row) for row, user in enumerate(users)}
        write_index(folder, places, cluster_of={}, cold_start=frozenset())
        assert read_users(folder) == users
        written = pq.read_table(folder / shard_name(0))
    slow = pa.Table.from_pylist([_row(user) for user in users], schema=SCHEMA)
    assert written.cast(SCHEMA).equals(slow)


def _row(user: UserData) -> dict[str, object]:
    row = asdict(user)
    for session in row["sessions"]:
        found = session["routine_settings"]
        names = ("device", "setting", "value")
        session["routine_settings"] = (
            None if found is None else [dict(zip(names, entry, strict=True)) for entry in found]
        )
    return {name: row[name] for name in SCHEMA.names}
