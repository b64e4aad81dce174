"""Preparation through a real local Ray: files, hashes, resuming, refusals, shards."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data import catalog, hub
from data import prepare as preparing
from data.items import items_sha256
from data.manifest import load_prepared
from data.prepare import prepare
from data.schema import DataError
from data.settings import DataSettings
from data.shards import read_styles, read_users

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


def rows_of(user: str, sessions: int = SESSIONS, exchanges: int = 4) -> list[dict[str, object]]:
    return [
        {
            "persona_id": user,
            "session_id": n,
            "messages": [
                {"role": role, "text": f"{words} {user} {n} {k}" + " very" * (len(user) + k)}
                for k in range(exchanges)
                for role, words in (("user", "please do it"), ("assistant", "this is done"))
            ],
        }
        for n in range(sessions)
    ]


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def many_rows() -> list[dict[str, object]]:
    return [row for n in range(USERS) for row in rows_of(str(n))]


def texts(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted((folder / "data").rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """70 users in two shards, prepared once; tests that change it take a copy."""
    workspace = tmp_path_factory.mktemp("many")
    source = write_rows(workspace / "chat.jsonl", many_rows())
    return prepare(str(source), workspace=workspace / "w"), source


@pytest.fixture
def copied(many, tmp_path):
    prepared, source = many
    shutil.copytree(prepared.workspace, tmp_path / "w")
    return tmp_path / "w", source


def test_statistics_by_hand(tmp_path):
    rows = rows_of("Ann") + rows_of("Bob", sessions=2, exchanges=1) + rows_of("Eve", sessions=1)
    rows[1]["messages"] = []
    rows[2]["messages"] = [
        {"role": "user", "text": " a  long\tquestion "},
        {"role": "bot", "text": "a long answer"},
        {"role": "bot", "text": "in two parts"},
        {"role": "user", "text": "thx"},
        {"role": "bot", "text": "welcome"},
    ]
    rows.append(dict(rows[0]))
    rows[-2]["messages"] = [{"role": "assistant", "text": "nobody asked me"}]
    prepared = prepare(str(write_rows(tmp_path / "x.jsonl", rows)), workspace=tmp_path / "w")
    stats = read_json(tmp_path / "w/data/cleaned/cleaning_stats.json")
    # Ann 5 + 1 repeated, Bob 2, Eve 1 sessions; Ann 4·8 (+8) with 0 and 5 changed, Bob 4, Eve 1.
    assert stats["raw"] == {"users": 3, "sessions": 9, "messages": 8 * 3 + 8 + 0 + 5 + 4 + 1}
    # Ann: session 1 is empty; session 2 has 4 messages (two joined), one item.
    assert stats["kept"] == {"users": 2, "sessions": 6, "messages": 24 + 4 + 4, "items": 13 + 2}
    assert stats["counts"] == {
        "exchanges_degenerate": 1,
        "items_repeating_earlier_splits": 0,
        "messages_before_first_user": 1,
        "messages_joined": 1,
        "sessions_duplicate": 1,
        "sessions_empty": 1,
        "sessions_without_items": 1,
        "texts_normalized": 1,
    }
    assert stats["dropped_users"] == {"user_Eve": "none of 1 sessions has an item"}
    assert prepared.dropped_users == stats["dropped_users"]
    # Ann has 4 sessions left, Bob 2: no adapter of their own, and that is said.
    assert prepared.no_per_user_arm == {
        "user_Ann": "too few sessions: 2 train, 1 val, 1 test; at least 3, 1 and 1 are needed",
        "user_Bob": "too few sessions: 1 train, 0 val, 1 test; at least 3, 1 and 1 are needed",
    }
    assert prepared.users == ("user_Ann", "user_Bob")
    assert prepared.cold_start_users == ()
    splits = read_json(tmp_path / "w/data/splits/edgesplits.json")
    assert splits == {
        "user_Ann": {"train": [0], "online": [1], "val": [2], "test": [3]},
        "user_Bob": {"train": [4], "online": [], "val": [], "test": [5]},
    }
    dictionary = (tmp_path / "w/data/cleaned/schema.md").read_text(encoding="utf-8")
    assert "| sessions | 9 | 6 |" in dictionary


def test_all_files_agree(many):
    prepared, _ = many
    data = prepared.workspace / "data"
    lines = (data / "cleaned/dialogs_clean.jsonl").read_text(encoding="utf-8").splitlines()
    dialogues = [json.loads(line) for line in lines]
    assert len(dialogues) == USERS * SESSIONS
    assert [int(row["persona_id"]) for row in dialogues[::SESSIONS]] == list(range(USERS))
    splits = read_json(data / "splits/edgesplits.json")
    users = read_users(prepared.shards)
    assert [user.user_key for user in users] == list(splits)
    for user in users:
        for split in ("train", "online", "val", "test"):
            wanted = [dialogues[index] for index in splits[user.user_key][split]]
            found = user.of_split(split)
            assert [row["session_id"] for row in wanted] == [s.session_id for s in found]
            assert all(row["persona_id"] == user.persona_id for row in wanted)
            assert [row["messages"] for row in wanted] == [
                [{"role": m.role, "text": m.text} for m in s.messages] for s in found
            ]
    assert sorted(path.name for path in prepared.shards.glob("*.parquet")) == [
        "users-00000.parquet",
        "users-00001.parquet",
    ]
    rows = [pq.ParquetFile(p).metadata.num_rows for p in sorted(prepared.shards.glob("*.parquet"))]
    assert rows == [64, 6]
    assert read_styles(prepared.shards) == {user.user_key: user.style for user in users}
    stats = read_json(data / "splits/split_stats.json")
    assert stats["totals"]["sessions"] == {"train": 140, "online": 70, "val": 70, "test": 70}
    assert stats["totals"]["items"]["test"] == 280


def test_cold_start_users_are_held_out_and_named(many):
    prepared, _ = many
    data = prepared.workspace / "data"
    cold = prepared.cold_start_users
    assert len(cold) == 7
    assert not set(cold) & set(prepared.users)
    assert len(prepared.users) == 63
    clusters = read_json(data / "splits/cluster_map.json")
    assert set(clusters) == set(prepared.users)
    users = read_users(prepared.shards)
    assert {user.user_key for user in users if user.cold_start} == set(cold)
    assert {u.user_key: u.cluster for u in users if u.cluster is not None} == clusters
    lines = (data / "splits/cold_start_test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["user_id"] for row in rows] == list(cold)
    places = [(e["session_id"], e["turn"]) for e in rows[0]["exchanges"]]
    assert places == [(0, 1), (0, 3), (0, 5), (0, 7), (1, 1)]
    stats = read_json(data / "splits/split_stats.json")
    assert stats["cold_start_users"] == list(cold)
    assert sum(stats["clusters"]["sizes"]) == 63


def test_item_hashes_are_those_of_the_warm_users(many):
    prepared, _ = many
    warm = read_users(prepared.shards, prepared.users)
    for split in ("val", "test"):
        assert prepared.items_sha256[split] == items_sha256(warm, split)


def test_manifest_comes_back(many):
    prepared, _ = many
    assert load_prepared(prepared.workspace) == prepared
    assert prepared.counts == {"users": 70, "sessions": 350, "messages": 2800, "items": 1400}
    assert prepared.per_user_arm_users == prepared.users


def test_same_again_does_nothing(many, monkeypatch):
    prepared, source = many
    monkeypatch.setattr(preparing, "_through_ray", lambda *a, **k: pytest.fail("prepared again"))
    assert prepare(str(source), workspace=prepared.workspace) == prepared


def test_rows_in_another_order_make_the_same_files(many, tmp_path):
    prepared, source = many
    rows = many_rows()
    np.random.default_rng(0).shuffle(rows)  # type: ignore[arg-type]
    other = prepare(str(write_rows(tmp_path / source.name, rows)), workspace=tmp_path / "w")
    assert other.data_sha256 == prepared.data_sha256
    assert other.items_sha256 == prepared.items_sha256
    mine, theirs = texts(other.workspace), texts(prepared.workspace)
    for name in mine.keys() - {"data/cleaned/schema.md"}:
        assert mine[name] == theirs[name], name
    assert mine.keys() == theirs.keys()


def test_other_settings_or_data_are_refused_or_replaced(copied, tmp_path):
    workspace, source = copied
    before = texts(workspace)
    few = DataSettings(users=12, seed=3)
    with pytest.raises(DataError, match=r"seed 0, now 3; users None, now 12.*--fresh"):
        prepare(str(source), workspace=workspace, settings=few)
    changed = write_rows(tmp_path / source.name, rows_of("1"))
    with pytest.raises(DataError, match=f"content of {source.name}"):
        prepare(str(changed), workspace=workspace)
    assert texts(workspace) == before
    replaced = prepare(str(source), workspace=workspace, settings=few, fresh=True)
    assert [user.persona_id for user in read_users(replaced.shards)] == list(map(str, range(12)))
    assert [path.name for path in replaced.shards.glob("*.parquet")] == ["users-00000.parquet"]


def test_damaged_or_interrupted_preparation_is_done_again(copied):
    workspace, source = copied
    before = texts(workspace)
    (workspace / "data/shards/users-00001.parquet").write_bytes(b"PAR1")
    (workspace / "data/shards.tmp-staged").mkdir()
    (workspace / "data/cleaned/dialogs_clean.jsonl.tmp-1").write_bytes(b"half")
    assert load_prepared(workspace) is None
    prepare(str(source), workspace=workspace)
    assert texts(workspace) == before
    (workspace / "data/manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        load_prepared(workspace)


def test_users_come_in_the_order_asked_from_the_row_groups_needed(many, monkeypatch):
    prepared, _ = many
    groups: list[list[int]] = []
    real = pq.ParquetFile.read_row_groups

    def recorded(self, row_groups, **options):
        groups.append(list(row_groups))
        return real(self, row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", recorded)
    asked = ["user_69", "user_9", "user_15", "user_40"]
    assert [user.user_key for user in read_users(prepared.shards, asked)] == asked
    assert groups == [[1, 5], [0]]
    with pytest.raises(DataError, match="did you mean 'user_6"):
        read_users(prepared.shards, ["user_6o"])


def test_bad_rows_stop_by_default_and_are_counted_where_allowed(tmp_path):
    rows = many_rows()[:25]
    rows[7]["messages"] = [{"role": "cat", "text": "meow"}]
    source = write_rows(tmp_path / "x.jsonl", rows)
    with source.open("a", encoding="utf-8") as file:
        file.write('{"persona_id": \n')
    for allowed in (0, 1):
        settings = DataSettings(skip_bad_rows=allowed)
        with pytest.raises(DataError, match=r"line 26: not valid JSON") as caught:
            prepare(str(source), workspace=tmp_path / "w", settings=settings)
        assert f"{allowed} allowed" in str(caught.value)
    assert "line 8: message 1 has the unknown role 'cat'" in str(caught.value)
    assert load_prepared(tmp_path / "w") is None
    assert not list((tmp_path / "w").rglob("*.tmp-*"))
    settings = DataSettings(skip_bad_rows=2)
    prepared = prepare(str(source), workspace=tmp_path / "w", settings=settings)
    assert prepared.counts["sessions"] == 24
    stats = read_json(tmp_path / "w/data/cleaned/cleaning_stats.json")
    assert [row.split(", ")[1][:8] for row in stats["bad_rows"]] == ["line 26:", "line 8: "]
    assert stats["counts"]["rows_skipped_as_bad"] == 2


def test_a_line_that_one_of_three_files_lacks_is_a_bad_row(tmp_path):
    from data.synthetic import write_synthetic

    folder = write_synthetic(tmp_path / "raw", users=3, sessions=6)
    routines = folder / "routines.jsonl"
    routines.write_text("".join(routines.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(DataError, match=r"routines\.jsonl, line 3: missing.*sessions\.jsonl 3"):
        prepare(str(folder), workspace=tmp_path / "w")
    settings = DataSettings(skip_bad_rows=1)
    prepared = prepare(str(folder), workspace=tmp_path / "w", settings=settings)
    assert prepared.users == ("user_0", "user_1")
    stats = read_json(tmp_path / "w/data/cleaned/cleaning_stats.json")
    assert stats["counts"]["rows_skipped_as_bad"] == 1


def test_leaks_above_the_share_stop_unless_allowed(tmp_path):
    rows = rows_of("a") + rows_of("b")
    rows[4]["messages"] = rows[0]["messages"]
    source = write_rows(tmp_path / "x.jsonl", rows)
    with pytest.raises(DataError, match=r"more than 5% of the items of 1 user .*user_a 4 of 20"):
        prepare(str(source), workspace=tmp_path / "w")
    assert not list((tmp_path / "w").rglob("*.tmp-*"))
    settings = DataSettings(allow_leaks=True)
    prepared = prepare(str(source), workspace=tmp_path / "w", settings=settings)
    stats = read_json(tmp_path / "w/data/splits/split_stats.json")
    assert stats["users"]["user_a"]["repeated_items_taken_out"] == 4
    assert stats["users"]["user_a"]["items"]["test"] == 0
    assert stats["totals"]["repeated_items_taken_out"] == 4
    assert prepared.counts["items"] == 36


def test_habits_are_taken_out_and_told_without_a_stop(tmp_path):
    rows = rows_of("a", exchanges=2)
    for row in rows:
        row["messages"] += [
            {"role": "user", "text": "谢谢你帮忙"},
            {"role": "assistant", "text": "不客气，随时找我。"},
        ]
    source = write_rows(tmp_path / "x.jsonl", rows)
    prepared = prepare(str(source), workspace=tmp_path / "w")
    assert prepared.warnings[0].startswith("2 items (of 1 of 1 users) are exchanges that")
    stats = read_json(tmp_path / "w/data/splits/split_stats.json")["users"]["user_a"]
    assert stats["repeated_items_taken_out"] == stats["of_them_recurring_formulas"] == 2
    # What is there is held to the same rule.
    assert prepare(str(source), workspace=tmp_path / "w").data_sha256 == prepared.data_sha256


def test_a_dominant_user_is_a_warning_and_an_error_when_strict(tmp_path):
    rows = [row for n in range(20) for row in rows_of(str(n), exchanges=1)]
    rows += rows_of("talker", exchanges=4)
    source = write_rows(tmp_path / "x.jsonl", rows)
    # 20 · 5 items and 5 · 4 of one user: 20 / 120 = 16.7 %.
    prepared = prepare(str(source), workspace=tmp_path / "w")
    assert prepared.warnings[0] == "user_talker has 16.7% of all items, more than 10%"
    with pytest.raises(DataError, match=r"user_talker has 16\.7%"):
        prepare(str(source), workspace=tmp_path / "s", settings=DataSettings(strict=True))
    assert load_prepared(tmp_path / "s") is None


def test_tolerances_alone_change_no_identity(many):
    prepared, source = many
    lax = DataSettings(strict=True, skip_bad_rows=7, allow_leaks=True, max_leak_share=0.5)
    assert lax.sha256() == DataSettings().sha256()
    assert DataSettings(max_user_share=0.2).sha256() != DataSettings().sha256()
    # Nothing here needs a tolerance, so these are the data, and nothing is done again.
    again = prepare(str(source), workspace=prepared.workspace, settings=lax)
    assert again.data_sha256 == prepared.data_sha256


def test_rows_that_are_left_out_are_seen_in_the_datas_hash(tmp_path):
    rows = rows_of("a") + rows_of("b")
    whole = prepare(str(write_rows(tmp_path / "x.jsonl", rows)), workspace=tmp_path / "w")
    rows[3]["messages"] = "none"
    source = str(write_rows(tmp_path / "y.jsonl", rows))
    found = [
        prepare(source, workspace=tmp_path / f"y{n}", settings=DataSettings(skip_bad_rows=n))
        for n in (1, 2)
    ]
    assert found[0].data_sha256 == found[1].data_sha256 != whole.data_sha256


def test_data_that_are_there_are_held_against_the_tolerances_of_now(tmp_path):
    rows = [row for n in range(20) for row in rows_of(str(n), exchanges=1)]
    rows += rows_of("talker", exchanges=4)
    # The talker's last session (test) repeats the first (train): 4 of 20 items, and no other.
    rows[-1]["messages"] = rows[-5]["messages"]
    source = write_rows(tmp_path / "x.jsonl", rows)
    with source.open("a", encoding="utf-8") as file:
        file.write("[]\n")
    root = tmp_path / "w"
    lax = DataSettings(skip_bad_rows=1, allow_leaks=True)
    done = prepare(str(source), workspace=root, settings=lax)
    before = texts(root)
    for changes, words in (
        ({"skip_bad_rows": 0}, "line 106: a JSON object was expected"),
        ({"allow_leaks": False}, r"user_talker 4 of 20.*--set data\.allow_leaks=true"),
        # 16 of 116 items are left of the talker's 20.
        ({"strict": True}, r"user_talker has 13\.8% of all items.*not allowed with --strict"),
    ):
        with pytest.raises(DataError, match=words):
            prepare(str(source), workspace=root, settings=lax.model_copy(update=changes))
        assert texts(root) == before
    assert load_prepared(root) == done
    assert prepare(str(source), workspace=root, settings=lax) == done


def test_chat_with_times_an_empty_day_and_stray_spaces(tmp_path):
    """The shapes of a real chat log: dates, one session a day, a day without a word."""
    days = range(10)
    rows = [
        {
            "persona_id": name,
            "session_id": day,
            "timestamp": f"2023-05-{day + 1:02d}T00:00:00",
            "messages": [
                {"role": role, "text": f" {words} {name}  {day} "}
                for role, words in (("user", "I went out today,"), ("assistant", "How nice,"))
            ],
        }
        for name in ("Ann", "Ben Li")
        for day in days
    ]
    rows[18]["messages"] = []
    source = write_rows(tmp_path / "chat.jsonl", rows[::-1])
    prepared = prepare(str(source), workspace=tmp_path / "w")
    stats = read_json(tmp_path / "w/data/cleaned/cleaning_stats.json")
    assert stats["raw"] == {"users": 2, "sessions": 20, "messages": 38}
    assert stats["kept"] == {"users": 2, "sessions": 19, "messages": 38, "items": 19}
    assert stats["counts"] == {
        "items_repeating_earlier_splits": 0,
        "sessions_empty": 1,
        "texts_normalized": 38,
        "users_ordered_by_timestamp": 2,
    }
    # Ann: 10 sessions are 6 train, 3 of them online, 2 val, 2 test; Ben: 9 are 5, 2, 2, 2.
    splits = read_json(tmp_path / "w/data/splits/edgesplits.json")
    assert splits == {
        "user_Ann": {"train": [0, 1, 2], "online": [3, 4, 5], "val": [6, 7], "test": [8, 9]},
        "user_Ben Li": {
            "train": [10, 11, 12],
            "online": [13, 14],
            "val": [15, 16],
            "test": [17, 18],
        },
    }
    assert prepared.no_per_user_arm == {
        "user_Ann": "online slice too small: 3 exchanges, at least 4 are needed",
        "user_Ben Li": "online slice too small: 2 exchanges, at least 4 are needed",
    }
    lines = (tmp_path / "w/data/cleaned/dialogs_clean.jsonl").read_text().splitlines()
    assert json.loads(lines[18])["timestamp"] == "2023-05-10T00:00:00"


def test_messages_that_users_share_are_counted(tmp_path):
    rows = rows_of("a") + rows_of("b")
    for row in (rows[0], rows[1], rows[5]):
        row["messages"] = [
            {"role": "user", "text": "Good morning!"},
            {"role": "assistant", "text": f"Hello to you, {row['persona_id']} {row['session_id']}"},
        ]
    source = write_rows(tmp_path / "x.jsonl", rows)
    prepare(str(source), workspace=tmp_path / "w")
    stats = read_json(tmp_path / "w/data/cleaned/cleaning_stats.json")
    assert stats["messages_shared_by_users"] == 3


def test_what_is_assumed_or_left_out_is_told(tmp_path):
    rows = rows_of("a") + rows_of("b") + rows_of("c", exchanges=5)
    for n, row in enumerate(rows):
        row["session_id"] = f"s{n + 1}" if row["persona_id"] == "a" else 2**63 + n
        row["messages"].insert(1, {"role": "tool", "content": [{"type": "image"}]})
    rows[5]["timestamp"] = "2024-05-01"
    source = str(write_rows(tmp_path / "x.jsonl", rows[::-1]))
    with pytest.raises(DataError, match=r"--set data\.roles\.tool=user or data\.roles\.tool=assis"):
        prepare(source, workspace=tmp_path / "w")
    assert load_prepared(tmp_path / "w") is None
    settings = DataSettings(roles={"tool": "skip"})
    prepared = prepare(source, workspace=tmp_path / "w", settings=settings)
    assert [warning.partition(")")[0] for warning in prepared.warnings[:2]] == [
        "order of sessions: for 1 user (user_a",
        "order of sessions: for 1 user (user_b",
    ]
    counts = read_json(tmp_path / "w/data/cleaned/cleaning_stats.json")["counts"]
    assert counts == {
        "items_repeating_earlier_splits": 0,
        "messages_skipped": 15,
        "users_in_natural_id_order": 1,
        "users_order_assumed": 2,
        "users_renumbered": 3,
        "users_with_some_timestamps_missing": 1,
    }
    a, b, _ = read_users(prepared.shards)
    assert [session.messages[0].text.split()[4] for session in a.sessions] == list("01234")
    assert [session.session_id for session in b.sessions] == [0, 1, 2, 3, 4]
    told = (tmp_path / "w/data/cleaned/schema.md").read_text(encoding="utf-8")
    assert "For 2 users that is only assumed to be time order." in told
    # The same again is the same, and another meaning is other data.
    assert prepare(source, workspace=tmp_path / "w", settings=settings) == prepared
    with pytest.raises(DataError, match=r"roles \{'tool': 'skip'\}, now \{\}"):
        prepare(source, workspace=tmp_path / "w")


def test_nobody_left_is_an_error(tmp_path):
    rows = rows_of("a", exchanges=1)
    source = write_rows(tmp_path / "x.jsonl", rows)
    with pytest.raises(DataError, match="no user is left after cleaning"):
        prepare(str(source), workspace=tmp_path / "w", settings=DataSettings(min_characters=1000))


def test_strange_ids_stay_as_they_are_in_the_tables(tmp_path):
    names = ["../x", "a/b", "CON", "🏠", "A", "a", "=cmd()", "<script>", "x" * 300]
    source = write_rows(tmp_path / "x.jsonl", [row for n in names for row in rows_of(n)])
    prepared = prepare(str(source), workspace=tmp_path / "w")
    assert {u.persona_id for u in read_users(prepared.shards)} == set(names)
    assert set(prepared.users) == {f"user_{n}" for n in names}


def test_the_full_set_is_asserted(tmp_path, monkeypatch):
    from data.synthetic import write_synthetic

    folder = write_synthetic(tmp_path / "raw", users=3, sessions=5)
    monkeypatch.setattr(hub, "fetch_hub", lambda location, workspace: folder)
    for size, words in (((200, 50), "has 200 users, but 3 came"), ((3, 50), "user_0 has 5")):
        monkeypatch.setitem(hub.FULL_SETS, "TCLResearchEurope/EdgeWisePersona", size)
        with pytest.raises(DataError, match=words):
            prepare("hub:TCLResearchEurope/EdgeWisePersona", workspace=tmp_path / "w")
    monkeypatch.setitem(hub.FULL_SETS, "TCLResearchEurope/EdgeWisePersona", (3, 5))
    prepared = prepare("hub:TCLResearchEurope/EdgeWisePersona", workspace=tmp_path / "w")
    assert prepared.source == "hub"


def test_synthetic_runs_through(tmp_path):
    settings = DataSettings(users=6, sessions=8)
    prepared = prepare("synthetic", workspace=tmp_path, settings=settings)
    assert prepared.counts["sessions"] == 48
    assert prepared.location == ""
    user = read_users(prepared.shards, prepared.users[:1])[0]
    assert any(session.routine_driven for session in user.sessions)
    assert catalog.SOURCES["synthetic"].fetch("", tmp_path, settings).is_dir()


def test_users_with_no_one_and_two_sessions(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    exchange = [
        {"role": "user", "text": "Dim the lights"},
        {"role": "assistant", "text": "All dim now"},
    ]
    lines = [
        {"sessions": [{"session_id": n, "messages": exchange, "applied_routines": []}][:1] * k}
        for n, k in enumerate((0, 1, 0))
    ]
    lines[2] = {"sessions": [{"session_id": n, "messages": exchange} for n in (4, 2)]}
    for name, rows in (
        ("characters", [{}] * 3),
        ("routines", [{"routines": []}] * 3),
        ("sessions", lines),
    ):
        write_rows(folder / f"{name}.jsonl", rows)
    settings = DataSettings(allow_leaks=True)
    prepared = prepare(str(folder), workspace=tmp_path / "w", settings=settings)
    assert prepared.dropped_users == {"user_0": "no sessions"}
    assert read_json(tmp_path / "w/data/splits/edgesplits.json") == {
        "user_1": {"train": [], "online": [], "val": [], "test": [0]},
        "user_2": {"train": [1], "online": [], "val": [], "test": [2]},
    }
    one, two = read_users(prepared.shards)
    assert one.sessions[0].routine_driven is False
    assert [(s.session_id, s.item_turns) for s in two.sessions] == [(2, (1,)), (4, ())]
    assert list(prepared.no_per_user_arm) == ["user_1", "user_2"]
