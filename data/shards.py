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
    table = pa.Table.from_pylist([_row(user) for user in users], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, row_group_size=USERS_PER_ROW_GROUP, compression="zstd", use_dictionary=False
    )
    with AtomicFile(path) as file:
        file.write(sink.getvalue().to_pybytes())


def _row(user: UserData) -> dict[str, Any]:
    return {
        "user_key": user.user_key,
        "persona_id": user.persona_id,
        "sessions": [_session_row(session) for session in user.sessions],
        "style": {name: getattr(user.style, name) for name in Style.__dataclass_fields__},
    }


def _session_row(session: Session) -> dict[str, Any]:
    settings = session.routine_settings
    return {
        "session_id": session.session_id,
        "split": session.split,
        "messages": [{"role": m.role, "text": m.text} for m in session.messages],
        "item_turns": session.item_turns,
        "routine_driven": session.routine_driven,
        "routine_settings": None
        if settings is None
        else [{"device": d, "setting": s, "value": v} for d, s, v in settings],
    }


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
