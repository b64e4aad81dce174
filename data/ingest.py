"""Ray Data over the users of a source: the only file of this room that knows Ray.

Every block of users becomes one task that reads its users' lines from the source's files, prepares
them and writes one shard; the driver receives cleaned lines and small facts, block by block and
in order. Blocks are made here, with a fixed number of users, so no scheduler moves a user to
another shard. Ray must be initialized; source files and workspace must be on storage that all
nodes share.
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from data.catalog import SOURCES
from data.messages import roles_with
from data.reading import Span, UserLines
from data.schema import Json
from data.settings import DataSettings
from data.shards import USERS_PER_SHARD, shard_name, write_shard
from data.user import UserResult, prepare_user

_PLACE = pa.struct(
    [("file", pa.int32()), ("line", pa.int64()), ("offset", pa.int64()), ("length", pa.int64())]
)
_TASKS = pa.schema(
    [("shard", pa.int64()), ("persona_id", pa.string()), ("places", pa.list_(_PLACE))]
)
_RESULTS = pa.schema(
    [
        ("shard", pa.int64()),
        ("row", pa.int64()),
        ("persona_id", pa.string()),
        ("cleaned", pa.large_binary()),
        ("message_hashes", pa.large_binary()),
        ("message_times", pa.large_binary()),
        ("facts", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs beside the users: source, files, settings, where shards go."""

    source: str
    files: tuple[Path, ...]
    settings: DataSettings
    shards: Path


@dataclass(frozen=True, slots=True)
class Arrived:
    """One user as the driver receives it; ``row`` is None where nothing of the user is left."""

    persona_id: str
    shard: int
    row: int | None
    cleaned: bytes
    message_hashes: np.ndarray
    message_times: np.ndarray
    facts: Json


def prepare_users(users: Sequence[UserLines], job: Job) -> Generator[Arrived, None, None]:
    """All users through Ray Data, in the given order; shards are written on the way."""
    context = ray.data.DataContext.get_current()
    before = (context.execution_options.preserve_order, context.enable_progress_bars)
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        blocks = ray.data.from_arrow(_blocks(users))
        results = blocks.map_batches(
            _prepare_block, fn_args=(job,), batch_size=None, batch_format="pyarrow"
        )
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from map(_arrived, batch.to_pylist())
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before


def _blocks(users: Sequence[UserLines]) -> list[pa.Table]:
    return [
        pa.Table.from_pylist(
            [_task(start // USERS_PER_SHARD, u) for u in users[start : start + USERS_PER_SHARD]],
            schema=_TASKS,
        )
        for start in range(0, len(users), USERS_PER_SHARD)
    ]


def _task(shard: int, user: UserLines) -> dict[str, Any]:
    places = [
        {"file": s.file, "line": s.line, "offset": s.offset, "length": s.length} for s in user.spans
    ]
    return {"shard": shard, "persona_id": user.persona_id, "places": places}


def _prepare_block(block: pa.Table, job: Job) -> pa.Table:
    """One block of users: read, prepare, write their shard; runs in a worker."""
    source = SOURCES[job.source]
    rows = block.to_pylist()
    roles = roles_with(job.settings.roles)
    with _no_collector():
        raws = (source.read_user(_lines(row), job.files, roles=roles) for row in rows)
        results = [prepare_user(raw, settings=job.settings) for raw in raws]
        shards = {row["shard"] for row in rows}
        assert len(shards) <= 1, "a block of users was split or merged"
        kept = [result.user for result in results if result.user is not None]
        for shard in shards:
            write_shard(job.shards / shard_name(shard), kept)
        return pa.Table.from_pylist(_result_rows(results, rows), schema=_RESULTS)


@contextmanager
def _no_collector() -> Iterator[None]:
    """A block makes a million small objects without cycles; walking them is a sixth of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _lines(row: dict[str, Any]) -> UserLines:
    return UserLines(row["persona_id"], tuple(Span(**place) for place in row["places"]))


def _result_rows(
    results: Sequence[UserResult], rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    made, place = [], 0
    for result, row in zip(results, rows, strict=True):
        made.append(
            {
                "shard": row["shard"],
                "row": place if result.user else None,
                "persona_id": result.persona_id,
                "cleaned": result.cleaned,
                "message_hashes": result.message_hashes.tobytes(),
                "message_times": result.message_times.tobytes(),
                "facts": json.dumps(result.facts),
            }
        )
        place += result.user is not None
    return made


def _arrived(row: dict[str, Any]) -> Arrived:
    return Arrived(
        persona_id=row["persona_id"],
        shard=row["shard"],
        row=row["row"],
        cleaned=row["cleaned"],
        message_hashes=np.frombuffer(row["message_hashes"], dtype="<u8"),
        message_times=np.frombuffer(row["message_times"], dtype="<u4"),
        facts=json.loads(row["facts"]),
    )
