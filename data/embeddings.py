"""Mean sentence embeddings of users: which texts, one vector a user, kept for the next time.

A user's vector is the mean embedding of at most eight of the user's own messages, drawn from the
training sessions (train and online) by a hash of the user's key and the data's seed. Cold-start
users have none: they are held out of every shared stage, clusters included. The encoder itself
comes from the caller, so this room needs no model.

``data/embeddings.parquet`` has one row per warm user: ``user_key`` and ``embedding`` (float32
``[dimensions]``; null for a user without training messages). Its metadata hold the *identity*, a
hash of data, encoder, seed and number of messages, so that vectors of other data or of another
encoder are never taken for these, and a hash of the rows.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.manifest import EMBEDDINGS, Prepared
from data.schema import DataError, Json
from data.shards import users_by_shard
from data.style import mean_embeddings, training_messages
from data.writing import AtomicFile

MESSAGES_PER_USER = 8
_ABOUT = b"embeddings"

Encode = Callable[[list[str]], NDArray[np.float32]]
Vectors = Mapping[str, NDArray[np.float32] | None]


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The warm users' mean vectors; None for a user without training messages.

    ``texts`` were encoded in ``seconds``, reading them included, loading the encoder not.
    """

    identity: str
    encoder: str
    vectors: Vectors
    texts: int
    seconds: float

    @property
    def texts_per_second(self) -> float:
        """Speed of the encoding."""
        return self.texts / self.seconds if self.seconds else 0.0

    def stats(self) -> Json:
        """The part of ``split_stats.json`` about embeddings."""
        return {
            "encoder": self.encoder,
            "identity": self.identity,
            "sha256": rows_sha256(self.identity, self.vectors),
            "messages_per_user": MESSAGES_PER_USER,
            "users": len(self.vectors),
            "users_without_messages": sum(found is None for found in self.vectors.values()),
            "texts": self.texts,
            "seconds": round(self.seconds, 3),
            "texts_per_second": round(self.texts_per_second, 1),
        }


def embeddings_identity(prepared: Prepared, *, encoder: str) -> str:
    """Hash of all that decides the vectors: data (settings included), encoder, how many texts."""
    about = [prepared.data_sha256, encoder, prepared.settings.seed, MESSAGES_PER_USER]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def embed_users(
    prepared: Prepared,
    encode: Encode,
    *,
    encoder: str,
    progress: Callable[[int], None] = lambda users: None,
) -> Embeddings:
    """Embed the warm users' drawn messages, one call of ``encode`` (texts → [n, d]) per shard.

    Calls follow the shards, so they are composed alike on every machine and no more than a
    shard's sessions are in memory. ``progress`` hears the number of users done. Raises DataError
    where the encoder gives values that are not finite.
    """
    began, texts = time.monotonic(), 0
    vectors: dict[str, NDArray[np.float32] | None] = {}
    draw = {"limit": MESSAGES_PER_USER, "seed": prepared.settings.seed}
    for users in users_by_shard(prepared.shards, prepared.users):
        found = mean_embeddings(users, encode, **draw)
        if not all(np.isfinite(vector).all() for vector in found.values()):
            raise DataError(f"encoder {encoder!r} gives values that are not finite numbers")
        vectors |= {user.user_key: found.get(user.user_key) for user in users}
        texts += sum(len(training_messages(user, **draw)) for user in users)
        progress(len(vectors))
    return Embeddings(
        identity=embeddings_identity(prepared, encoder=encoder),
        encoder=encoder,
        vectors={user: vectors[user] for user in prepared.users},
        texts=texts,
        seconds=time.monotonic() - began,
    )


def rows_sha256(identity: str, vectors: Vectors) -> str:
    """Hash of what the vectors are of and of every user's bytes, users in order."""
    digest = hashlib.sha256(identity.encode())
    for user, vector in vectors.items():
        values = b"" if vector is None else np.asarray(vector, dtype="<f4").tobytes()
        digest.update(f"\n{user}\t{len(values)}\t".encode() + values)
    return digest.hexdigest()


def save_embeddings(workspace: Path, found: Embeddings) -> None:
    """Write ``data/embeddings.parquet`` atomically."""
    size = next((len(vector) for vector in found.vectors.values() if vector is not None), 0)
    schema = pa.schema(
        [("user_key", pa.string()), ("embedding", pa.list_(pa.float32(), size))],
        metadata={_ABOUT: json.dumps(found.stats() | {"seconds": found.seconds})},
    )
    columns = [list(found.vectors), list(found.vectors.values())]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    with AtomicFile(workspace / EMBEDDINGS) as file:
        file.write(sink.getvalue().to_pybytes())


def load_embeddings(workspace: Path, *, identity: str) -> Embeddings | None:
    """The stored vectors; None where there are none, of this identity, whole."""
    try:
        table = pq.read_table(workspace / EMBEDDINGS)
        about = json.loads(table.schema.metadata[_ABOUT])
        keys, rows = (table[name].to_pylist() for name in ("user_key", "embedding"))
        vectors = {
            key: None if row is None else np.array(row, dtype=np.float32)
            for key, row in zip(keys, rows, strict=True)
        }
        found = Embeddings(
            identity=about["identity"],
            encoder=about["encoder"],
            vectors=vectors,
            texts=about["texts"],
            seconds=about["seconds"],
        )
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None
    whole = about.get("sha256") == rows_sha256(identity, vectors)
    return found if whole and found.identity == identity else None
