"""Shards: Parquet files with one row per user, and the index that finds a user's row.

``index.json`` maps each user key to (file, row) and holds what is known only once all users are
read: cluster and cold start. Files and rows follow the order of user ids and a fixed number of
users per file, so the same data make the same shards on every machine.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.schema import DataError, Message, Session, Style, UserData
from data.writing import AtomicFile, write_json

USERS_PER_SHARD = 64
USERS_PER_ROW_GROUP = 8
INDEX = "index.json"

_MESSAGE = pa.struct([("role", pa.string()), ("text", pa.string())])
_SETTING = pa.struct([("device", pa.string()), ("setting", pa.string()), ("value", pa.string())])
_SESSION = pa.struct(
    [
        ("session_id", pa.int64()),
        ("split", pa.string()),
        ("messages", pa.list_(_MESSAGE)),
        ("item_turns", pa.list_(pa.int32())),
        ("routine_driven", pa.bool_()),
        ("routine_settings", pa.list_(_SETTING)),
    ]
)
SCHEMA = pa.schema(
    [
        ("user_key", pa.string()),
        ("persona_id", pa.string()),
        ("sessions", pa.list_(_SESSION)),
        ("style", pa.struct([(name, pa.float64()) for name in Style.__dataclass_fields__])),
    ]
)


def shard_name(number: int) -> str:
    """File name of shard ``number``."""
    return f"users-{number:05d}.parquet"


def write_shard(path: Path, users: Sequence[UserData]) -> None:
    """Write users as rows, atomically; ``cluster`` and ``cold_start`` live in the index."""
    table = _table(users)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, row_group_size=USERS_PER_ROW_GROUP, compression="zstd", use_dictionary=False
    )
    with AtomicFile(path) as file:
        file.write(sink.getvalue().to_pybytes())


def _table(users: Sequence[UserData]) -> pa.Table:
    """Column by column: rows as nested dicts would take three times as long."""
    sessions = [session for user in users for session in user.sessions]
    names = Style.__dataclass_fields__
    styles = [{name: getattr(user.style, name) for name in names} for user in users]
    columns = [
        pa.array([user.user_key for user in users], pa.string()),
        pa.array([user.persona_id for user in users], pa.string()),
        _lists([len(user.sessions) for user in users], _sessions(sessions)),
        pa.array(styles, SCHEMA.field("style").type),
    ]
    return pa.table(columns, schema=SCHEMA)


def _sessions(sessions: Sequence[Session]) -> pa.StructArray:
    messages = [message for session in sessions for message in session.messages]
    turns = [turn for session in sessions for turn in session.item_turns]
    columns = [
        pa.array([session.session_id for session in sessions], pa.int64()),
        pa.array([session.split for session in sessions], pa.string()),
        _lists(
            [len(session.messages) for session in sessions],
            pa.StructArray.from_arrays(
                [
                    pa.array([message.role for message in messages], pa.string()),
                    pa.array([message.text for message in messages], pa.string()),
                ],
                fields=list(_MESSAGE),
            ),
        ),
        _lists([len(session.item_turns) for session in sessions], pa.array(turns, pa.int32())),
        pa.array([session.routine_driven for session in sessions], pa.bool_()),
        _routine_settings([session.routine_settings for session in sessions]),
    ]
    return pa.StructArray.from_arrays(columns, fields=list(_SESSION))


def _routine_settings(
    settings: Sequence[tuple[tuple[str, str, str], ...] | None],
) -> pa.ListArray:
    rows = [row for found in settings for row in found or ()]
    parts = [pa.array([row[place] for row in rows], pa.string()) for place in range(3)]
    values = pa.StructArray.from_arrays(parts, fields=list(_SETTING))
    return _lists([None if found is None else len(found) for found in settings], values)


def _lists(lengths: Sequence[int | None], values: pa.Array) -> pa.ListArray:
    """Lists of these lengths, cut from ``values`` in order; None is a null, not an empty list."""
    ends = list(accumulate((length or 0 for length in lengths), initial=0))
    starts = [
        None if length is None else begin for begin, length in zip(ends, lengths, strict=False)
    ]
    return pa.ListArray.from_arrays(pa.array([*starts, ends[-1]], pa.int32()), values)


def write_index(
    folder: Path,
    places: Mapping[str, tuple[int, int]],
    *,
    cluster_of: Mapping[str, int],
    cold_start: frozenset[str],
) -> str:
    """Write ``index.json``: user key → [shard, row, cluster or null, cold start]; its SHA-256."""
    users = {
        key: [shard, row, cluster_of.get(key), key in cold_start]
        for key, (shard, row) in places.items()
    }
    return write_json(folder / INDEX, {"users": users})


def read_index(folder: Path) -> dict[str, tuple[int, int, int | None, bool]]:
    """User key → (shard, row, cluster, cold start), in order of user ids."""
    path = folder / INDEX
    if not path.is_file():
        raise DataError(f"{folder} holds no {INDEX}: prepare the data first")
    users = json.loads(path.read_text(encoding="utf-8"))["users"]
    return {key: (shard, row, cluster, cold) for key, (shard, row, cluster, cold) in users.items()}


def read_users(folder: Path, user_keys: Sequence[str] | None = None) -> list[UserData]:
    """The users of the given keys in the order asked; all, in order of their ids, for None.

    Only the row groups that hold them are read. Raises DataError for an unknown key.
    """
    keys = list(read_index(folder)) if user_keys is None else list(user_keys)
    found = {user.user_key: user for part in users_by_shard(folder, keys) for user in part}
    return [found[key] for key in keys]


def users_by_shard(folder: Path, user_keys: Sequence[str]) -> Iterator[list[UserData]]:
    """The users of the given keys, one list per shard that holds any, in the order of the shard.

    Only the row groups that hold them are read. Raises DataError for an unknown key.
    """
    index = read_index(folder)
    _check_known(user_keys, index)
    wanted: dict[int, set[int]] = defaultdict(set)
    for key in user_keys:
        wanted[index[key][0]].add(index[key][1])
    for shard, rows in sorted(wanted.items()):
        users = []
        for row in _read_rows(folder / shard_name(shard), sorted(rows)):
            _, _, cluster, cold = index[row["user_key"]]
            users.append(_user(row, cluster=cluster, cold_start=cold))
        yield users


def read_styles(folder: Path) -> dict[str, Style]:
    """Every user's style, without reading any session."""
    found: dict[str, Style] = {}
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            rows = file.read(columns=["user_key", "style"]).to_pylist()
        found.update((row["user_key"], Style(**row["style"])) for row in rows)
    return found


def _check_known(keys: Sequence[str], index: Mapping[str, Any]) -> None:
    unknown = [key for key in keys if key not in index]
    if unknown:
        near = get_close_matches(unknown[0], list(index)[:5000], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(
            f"{len(unknown)} users are not in the shards, the first is {unknown[0]!r}{hint} "
            f"({len(index)} users are prepared)"
        )


def _read_rows(path: Path, rows: Sequence[int]) -> list[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        groups = sorted({row // USERS_PER_ROW_GROUP for row in rows})
        table = file.read_row_groups(groups)
    place = {group: i * USERS_PER_ROW_GROUP for i, group in enumerate(groups)}
    chosen = [place[row // USERS_PER_ROW_GROUP] + row % USERS_PER_ROW_GROUP for row in rows]
    found: list[dict[str, Any]] = table.take(chosen).to_pylist()
    return found


def _user(row: Mapping[str, Any], *, cluster: int | None, cold_start: bool) -> UserData:
    return UserData(
        user_key=row["user_key"],
        persona_id=row["persona_id"],
        sessions=tuple(_session(entry) for entry in row["sessions"]),
        style=Style(**row["style"]),
        cold_start=cold_start,
        cluster=cluster,
    )


def _session(row: Mapping[str, Any]) -> Session:
    settings = row["routine_settings"]
    return Session(
        session_id=row["session_id"],
        split=row["split"],
        messages=tuple(Message(entry["role"], entry["text"]) for entry in row["messages"]),
        item_turns=tuple(row["item_turns"]),
        routine_driven=row["routine_driven"],
        routine_settings=None
        if settings is None
        else tuple((entry["device"], entry["setting"], entry["value"]) for entry in settings),
    )
