"""Mean embeddings: which texts, how they are kept and found again, and clusters made of them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data import reclustering
from data.embeddings import (
    Embeddings,
    embed_users,
    embeddings_identity,
    load_embeddings,
    rows_sha256,
    save_embeddings,
)
from data.manifest import EMBEDDINGS, Prepared, load_prepared
from data.prepare import prepare
from data.reclustering import recluster
from data.schema import DataError
from data.settings import DataSettings
from data.shards import read_users
from data.style import training_messages

pytestmark = pytest.mark.ray

USERS, SESSIONS = 70, 5


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    import ray

    folder = tempfile.mkdtemp(prefix="ray-")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def write_chat(path: Path, *, users: int, sessions: int = SESSIONS, last: str = "") -> Path:
    """Users of equal style whose texts differ; ``last`` is added to the last session's texts."""
    rows = [
        {
            "persona_id": f"{user:03}",
            "session_id": n,
            "messages": [
                {"role": role, "text": f"{words} {user:03} {n} {k}" + last * (n == sessions - 1)}
                for k in range(4)
                for role, words in (("user", "please do it"), ("assistant", "this is done"))
            ],
        }
        for user in range(users)
        for n in range(sessions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def encode(texts: list[str]) -> np.ndarray:
    """Seven kinds of users, by their number: far apart, with some difference by text."""
    numbers = [[int(word) for word in text.split() if word.isdigit()] for text in texts]
    rows = np.array([np.eye(8)[user % 7] + 0.001 * n for user, n, _ in numbers])
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """70 users in two shards, prepared once; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("many")
    source = write_chat(folder / "chat.jsonl", users=USERS)
    return prepare(str(source), workspace=folder / "w")


@pytest.fixture
def copied(many: Prepared, tmp_path: Path) -> Prepared:
    shutil.copytree(many.workspace, tmp_path / "w")
    found = load_prepared(tmp_path / "w")
    assert found is not None
    return found


def made_of(prepared: Prepared, vector: np.ndarray | None) -> Embeddings:
    """The same vector for everybody."""
    return Embeddings("some", "fake", dict.fromkeys(prepared.users, vector), 0, 0.0)


def files(workspace: Path) -> dict[str, bytes]:
    return {
        path.relative_to(workspace).as_posix(): path.read_bytes()
        for path in sorted((workspace / "data").rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def split_stats(prepared: Prepared):
    path = prepared.workspace / "data/splits/split_stats.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_users_vector_is_the_mean_over_the_drawn_training_messages(many: Prepared) -> None:
    calls, heard = [], []

    def recorded(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        return encode(texts)

    found = embed_users(many, recorded, encoder="fake", progress=heard.append)
    # 10 % of 70 users are held out; two shards, so two calls, and eight texts for each user.
    assert list(found.vectors) == list(many.users)
    assert len(calls) == 2
    assert heard[-1] == len(many.users) == 63
    assert found.texts == sum(map(len, calls)) == 63 * 8
    user = read_users(many.shards, many.users[5:6])[0]
    drawn = list(training_messages(user, limit=8, seed=many.settings.seed))
    assert set(drawn) <= set(calls[0])
    vector = found.vectors[user.user_key]
    assert vector is not None
    assert vector.tolist() == pytest.approx(encode(drawn).mean(axis=0).tolist())
    cold = "|".join(f" {name.removeprefix('user_')} " for name in many.cold_start_users).split("|")
    assert not any(name in text for texts in calls for text in texts for name in cold)


def test_vectors_are_found_again_for_the_same_data_and_encoder_alone(copied: Prepared) -> None:
    found = embed_users(copied, encode, encoder="fake")
    one = copied.users[3]
    found = replace(found, vectors={**found.vectors, one: None})
    save_embeddings(copied.workspace, found)
    identity = embeddings_identity(copied, encoder="fake")
    again = load_embeddings(copied.workspace, identity=identity)
    assert again is not None
    assert again.stats() == found.stats()
    assert again.vectors[one] is None
    assert rows_sha256(identity, again.vectors) == found.stats()["sha256"]
    others = (
        embeddings_identity(copied, encoder="other"),
        embeddings_identity(replace(copied, data_sha256="x"), encoder="fake"),
        embeddings_identity(replace(copied, settings=DataSettings(seed=1)), encoder="fake"),
    )
    assert len({identity, *others}) == 4
    for other in others:
        assert load_embeddings(copied.workspace, identity=other) is None


def test_damaged_vectors_count_as_absent(copied: Prepared) -> None:
    identity = embeddings_identity(copied, encoder="fake")
    assert load_embeddings(copied.workspace, identity=identity) is None
    save_embeddings(copied.workspace, embed_users(copied, encode, encoder="fake"))
    path = copied.workspace / EMBEDDINGS
    whole = path.read_bytes()
    for broken in (whole[:-9], b"", b"PAR1"):
        path.write_bytes(broken)
        assert load_embeddings(copied.workspace, identity=identity) is None
    path.write_bytes(whole)
    table = pq.read_table(path)
    pq.write_table(table.take([*range(1, 63), 0]), path)
    assert load_embeddings(copied.workspace, identity=identity) is None
    pq.write_table(table.replace_schema_metadata(None), path)
    assert load_embeddings(copied.workspace, identity=identity) is None


def test_an_encoder_without_finite_values_is_named(many: Prepared) -> None:
    def broken(texts: list[str]) -> np.ndarray:
        return np.full((len(texts), 4), np.nan, dtype=np.float32)

    with pytest.raises(DataError, match="encoder 'broken' gives values that are not finite"):
        embed_users(many, broken, encoder="broken")


def test_clusters_are_made_anew_and_nothing_else_is(copied: Prepared) -> None:
    before, hash_before = files(copied.workspace), copied.clusters_sha256
    # Equal styles make a single lexical cluster; the seven kinds of texts are seven clusters.
    assert set(json.loads(before["data/splits/cluster_map.json"]).values()) == {0}
    assert "single cluster" in copied.warnings[0]
    found = embed_users(copied, encode, encoder="fake")
    after, clustering = recluster(copied, found)
    kinds = {user: int(user.removeprefix("user_")) % 7 for user in copied.users}
    pairs = {(kinds[user], cluster) for user, cluster in clustering.cluster_of.items()}
    assert len(pairs) == len(clustering.sizes) == 7
    assert after.data_sha256 == copied.data_sha256
    assert after.items_sha256 == copied.items_sha256
    assert after.clusters_sha256 != hash_before
    assert after.clusters_from == found.identity
    assert after.warnings == ()
    assert load_prepared(copied.workspace) == after
    changed = {name for name, content in files(copied.workspace).items() if content != before[name]}
    splits = "data/splits"
    assert changed == {
        *(f"{splits}/cluster_map.json", f"{splits}/split_stats.json"), "data/shards/index.json"
    }  # fmt: skip
    rows = read_users(after.shards)
    assert {row.user_key: row.cluster for row in rows if not row.cold_start} == (
        clustering.cluster_of
    )
    assert all(row.cluster is None for row in rows if row.cold_start)
    stats = split_stats(after)
    assert stats["clusters"]["sizes"] == list(clustering.sizes)
    assert stats["warnings"] == []
    assert stats["users"][after.users[0]]["cluster"] == clustering.cluster_of[after.users[0]]
    assert stats["users"][after.cold_start_users[0]]["cluster"] is None
    told = stats["embeddings"]
    assert (told["encoder"], told["users"], told["texts"]) == ("fake", 63, 504)
    assert told["texts_per_second"] > 0
    # And back: lexical clusters have the bytes that preparation wrote.
    back, _ = recluster(after, None)
    assert back == copied
    assert files(copied.workspace) == before


@pytest.mark.parametrize("vector", [np.full(16, 0.25, dtype=np.float32), None])
def test_equal_or_absent_embeddings_make_a_warning_and_no_nan(
    copied: Prepared, vector: np.ndarray | None
) -> None:
    after, clustering = recluster(copied, made_of(copied, vector))
    assert clustering.sizes == (63,)
    assert [text for text in after.warnings if "single cluster" in text] == list(after.warnings)
    assert split_stats(after)["clusters"]["silhouette"] is None
    assert split_stats(after)["embeddings"]["users_without_messages"] == 63 * (vector is None)


@pytest.mark.parametrize("users", [1, 2, 4])
def test_fewer_users_than_clusters(users: int, tmp_path: Path) -> None:
    source = write_chat(tmp_path / "chat.jsonl", users=users)
    prepared = prepare(str(source), workspace=tmp_path / "w")
    after, clustering = recluster(prepared, embed_users(prepared, encode, encoder="fake"))
    assert sum(clustering.sizes) == users
    assert all(clustering.sizes)
    assert len(clustering.sizes) <= max(1, users - 1)
    assert len(after.warnings) == 1
    assert load_prepared(tmp_path / "w") == after


def test_a_user_without_training_messages_has_no_vector(tmp_path: Path) -> None:
    source = write_chat(tmp_path / "chat.jsonl", users=3)
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    # The last user keeps one session: it is test.
    source.write_text("".join(lines[: 2 * SESSIONS + 1]), encoding="utf-8")
    prepared = prepare(str(source), workspace=tmp_path / "w")
    found = embed_users(prepared, encode, encoder="fake")
    assert [user for user, vector in found.vectors.items() if vector is None] == ["user_002"]
    assert found.texts == 16
    save_embeddings(tmp_path / "w", found)
    again = load_embeddings(tmp_path / "w", identity=found.identity)
    assert again is not None
    after, clustering = recluster(prepared, again)
    assert set(clustering.cluster_of) == set(prepared.users)
    assert split_stats(after)["embeddings"]["users_without_messages"] == 1


def test_test_sessions_change_no_cluster_and_no_vector(many: Prepared, tmp_path: Path) -> None:
    source = write_chat(tmp_path / "chat.jsonl", users=USERS, last=" terrible gonna, sir")
    prepared = prepare(str(source), workspace=tmp_path / "w")
    assert prepared.items_sha256["test"] != many.items_sha256["test"]
    maps = [(p.workspace / "data/splits/cluster_map.json").read_bytes() for p in (prepared, many)]
    assert maps[0] == maps[1]
    styles = [[user.style for user in read_users(p.shards)] for p in (prepared, many)]
    assert styles[0] == styles[1]
    one, other = (embed_users(p, encode, encoder="fake") for p in (prepared, many))
    assert one.identity != other.identity
    assert rows_sha256("", one.vectors) == rows_sha256("", other.vectors)


def test_clusters_that_break_off_are_prepared_again(
    copied: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, workspace = files(copied.workspace), copied.workspace
    found = embed_users(copied, encode, encoder="fake")
    save_embeddings(workspace, found)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(reclustering, "write_index", fail)
        with pytest.raises(OSError, match="no space left"):
            recluster(copied, found)
    assert load_prepared(workspace) is None
    source = workspace.parent / "chat.jsonl"
    write_chat(source, users=USERS)
    again = prepare(str(source), workspace=workspace)
    assert again.data_sha256 == copied.data_sha256
    kept = {name: content for name, content in files(workspace).items() if name in before}
    assert kept == before
    assert load_embeddings(workspace, identity=found.identity) is not None
