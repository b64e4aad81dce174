"""Sources: what --data takes, aliases, bad rows with file and line, names of folders, the hub."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import edgewise, hub, jsonl
from data.catalog import SOURCES, resolve_source
from data.naming import safe_folder_name, user_key, user_order
from data.reading import BadRowError, scan_lines
from data.schema import DataError
from data.settings import DataSettings

MESSAGES = [{"role": "user", "text": "Dim the lights"}, {"role": "assistant", "text": "Dimmed."}]


def write_lines(path: Path, *rows: object, end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(texts) + end, encoding="utf-8")
    return path


def edgewise_folder(folder: Path, sessions: list[object], routines: list[object] | None = None):
    default = {
        "routines": [{"triggers": {}, "actions": {"tv": {"volume": 20, "brightness": None}}}]
    }
    write_lines(folder / "characters.jsonl", *({"character": "x"} for _ in sessions))
    write_lines(folder / "routines.jsonl", *(routines or [default] * len(sessions)))
    write_lines(folder / "sessions.jsonl", *sessions)
    return folder


def edgewise_line(**changes: object) -> dict[str, object]:
    entry = {"session_id": 0, "meta": {"weather": "rainy"}, "messages": MESSAGES} | changes
    return {"sessions": [entry]}


def read_all(scan, source):
    return [source.read_user(user, scan.files) for user in scan.users]


# ---------------------------------------------------------------- what --data takes


def test_names_and_paths_are_resolved(tmp_path):
    file = write_lines(tmp_path / "chat.jsonl", {})
    assert resolve_source("synthetic") == (SOURCES["synthetic"], "")
    assert resolve_source(str(file)) == (SOURCES["jsonl"], str(file))
    assert resolve_source(f"jsonl:{file}") == (SOURCES["jsonl"], str(file))
    assert resolve_source(str(tmp_path)) == (SOURCES["edgewise"], str(tmp_path))
    assert resolve_source(f"edgewise:{tmp_path}") == (SOURCES["edgewise"], str(tmp_path))
    assert resolve_source("hub:a/b@main") == (SOURCES["hub"], "a/b@main")


def test_unknown_source_says_what_is_allowed_and_what_was_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="Did you mean 'synthetic'") as caught:
        resolve_source("syntetic")
    for name in SOURCES:
        assert name in str(caught.value)
    write_lines(tmp_path / "dialogs.jsonl", {})
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "dialogs.jsonl"))):
        resolve_source(str(tmp_path / "dialog.jsonl"))


@pytest.mark.parametrize("text", ["edgewise", "jsonl", "hub", "edgewise:", "synthetic:here"])
def test_incomplete_source_is_refused(text):
    with pytest.raises(DataError, match="is expected"):
        resolve_source(text)


def test_folder_without_the_three_files_is_named(tmp_path):
    write_lines(tmp_path / "sessions.jsonl", {})
    with pytest.raises(DataError, match=r"lacks characters\.jsonl, routines\.jsonl"):
        edgewise.check_folder(tmp_path)


# ---------------------------------------------------------------- edgewise


def test_edgewise_reads_context_routines_and_settings(tmp_path):
    routines = {
        "routines": [
            {"actions": {"tv": {"volume": 20, "brightness": None}, "security": {"armed": True}}},
            {"actions": None},
            {"actions": {"lights": {"color": "warm"}, "ac": None}},
        ]
    }
    line = edgewise_line(
        meta={"weather": "rainy", "outdoor_temp": None}, applied_routines=[0, 2, 9]
    )
    folder = edgewise_folder(tmp_path, [line], [routines])
    (user,) = read_all(edgewise.scan(folder), edgewise)
    (session,) = user.sessions
    assert user.persona_id == "0"
    assert session.context == {"weather": "rainy"}
    assert session.applied_routines == (0, 2)
    assert session.routine_settings == (
        ("tv", "volume", "20"),
        ("security", "armed", "true"),
        ("lights", "color", "warm"),
    )
    assert user.counts == {"applied_routines_unknown": 1}
    assert session.messages[0] == ("user", "Dim the lights")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"sessions": [', "not valid JSON"),
        ("[1]", "a JSON object was expected, not a list"),
        ("", "not valid JSON"),
        ({"session": []}, "lacks 'sessions'"),
        (edgewise_line(session_id="0"), "session_id must be a whole number"),
        (edgewise_line(messages=None), "messages must be a list, not null"),
        (edgewise_line(messages=[{"text": "x"}]), "message 1 lacks 'role'"),
        (edgewise_line(messages=[{"role": "user"}]), "message 1 lacks 'text'"),
        (edgewise_line(messages=[{"role": "cat", "text": "x"}]), "unknown role 'cat'"),
        (edgewise_line(messages=[{"role": ["user"], "text": "x"}]), "unknown role ['user']"),
        (edgewise_line(messages=[{"role": "user", "text": 5}]), "must be a text, not a number"),
        (edgewise_line(applied_routines="0"), "applied_routines must be a list"),
        (edgewise_line(meta=[]), "meta must be an object, not a list"),
    ],
)
def test_edgewise_bad_line_is_named_with_file_and_line(tmp_path, line, reason):
    folder = edgewise_folder(tmp_path, [edgewise_line(), line, edgewise_line()])
    users = read_all(edgewise.scan(folder), edgewise)
    assert [len(user.bad_rows) for user in users] == [0, 1, 0]
    bad = users[1].bad_rows[0]
    assert (bad.file, bad.line) == (str(folder / "sessions.jsonl"), 2)
    assert reason in str(bad)
    assert users[1].sessions == []


def test_files_of_different_length_name_the_missing_line(tmp_path):
    folder = edgewise_folder(tmp_path, [edgewise_line()] * 3)
    write_lines(folder / "routines.jsonl", {"routines": []})
    scan = edgewise.scan(folder)
    assert [user.persona_id for user in scan.users] == ["0"]
    assert [(Path(bad.file).name, bad.line) for bad in scan.bad_rows] == [
        ("routines.jsonl", 2),
        ("routines.jsonl", 3),
    ]
    assert "characters.jsonl 3, routines.jsonl 1, sessions.jsonl 3" in str(scan.bad_rows[0])


# ---------------------------------------------------------------- jsonl


def test_jsonl_users_are_sorted_and_their_lines_found(tmp_path):
    row = {"session_id": 0, "messages": MESSAGES}
    names = ["10", "9", "b", "A", 9, " b "]
    path = write_lines(tmp_path / "x.jsonl", *({"persona_id": n} | row for n in names), "", end="")
    scan = jsonl.scan(path)
    assert [u.persona_id for u in scan.users] == ["9", "10", "A", "b"]
    assert [[s.line for s in u.spans] for u in scan.users] == [[2, 5], [1], [4], [3, 6]]
    assert scan.counts == {"user_id_spellings_merged": 1}  # "b" and " b "
    assert jsonl.scan(write_lines(path, "", {"persona_id": "a"} | row)).counts == {"blank_lines": 1}


def test_jsonl_aliases(tmp_path):
    row = {
        "user_id": 7,
        "conversation_id": "12",
        "created_at": 0,
        "conversations": [
            {"from": "Human", "value": "Dim the lights"},
            {"speaker": " BOT ", "content": "Dimmed.", "id": 3},
            {"role": "gpt", "utterance": None},
        ],
        "metadata": {"weather": "rainy", "degrees": 3.5, "none": None},
    }
    scan = jsonl.scan(write_lines(tmp_path / "x.jsonl", row))
    (user,) = read_all(scan, jsonl)
    (session,) = user.sessions
    assert user.persona_id == "7"
    assert session.session_id == "12"
    assert session.timestamp == "1970-01-01T00:00:00+00:00"
    assert session.messages == [
        ("user", "Dim the lights"),
        ("assistant", "Dimmed."),
        ("assistant", ""),
    ]
    assert session.context == {"weather": "rainy", "degrees": "3.5"}
    assert session.routine_settings is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"session_id": 0, "messages": []}, "lacks 'persona_id' (fields there: session_id"),
        ({"persona_id": "a", "messages": []}, "lacks 'session_id'"),
        ({"persona_id": "a", "session_id": 0}, "lacks 'messages'"),
        ({"persona_id": True, "session_id": 0, "messages": []}, "not true or false"),
        ({"persona_id": " ", "session_id": 0, "messages": []}, "is empty"),
        ({"persona_id": "a", "session_id": 0.5, "messages": []}, "session_id must be"),
        ({"persona_id": 12.5, "session_id": 0, "messages": []}, "whole number, not 12.5"),
        ({"persona_id": [1], "session_id": 0, "messages": []}, "whole number, not a list"),
        ({"persona_id": 2.0**53, "session_id": 0, "messages": []}, "has lost its last digits"),
        ({"persona_id": float("inf"), "session_id": 0}, "whole number, not inf"),
        ({"persona_id": float("nan"), "session_id": 0}, "lacks 'persona_id'"),
        ({"persona_id": "a", "session_id": True, "messages": []}, "not true or false"),
        ({"persona_id": "a", "session_id": {"$oid": "1"}, "messages": []}, "not an object"),
        ({"persona_id": "a", "session_id": "", "messages": []}, "lacks 'session_id'"),
        ({"persona_id": "a", "session_id": 0, "messages": [], "context": "x"}, "context must be"),
        (
            {"persona_id": "a", "session_id": 0, "messages": [], "applied_routines": [2**63]},
            "more than 64 bits",
        ),
        (
            '{"persona_id": "a", "session_id": %s, "messages": []}' % ("1" * 5000),
            "not readable JSON: Exceeds the limit",
        ),
        (
            '{"persona_id": "a", "session_id": 0, "messages": [], "session_id": 1}',
            "'session_id' stands twice in one object",
        ),
        (
            '{"persona_id": "a", "session_id": 0, "messages": [{"role": "user", "role": "bot"}]}',
            "'role' stands twice in one object",
        ),
        ({"persona_id": "a", "timestamp": "soon", "messages": []}, "neither ISO 8601"),
        ({"persona_id": "a", "timestamp": 1e99, "messages": []}, "neither ISO 8601"),
        ({"persona_id": "a", "session_id": 0, "messages": ["hi"]}, "must be an object"),
        ("{]", "not valid JSON"),
        ("[" * 100_000, "not readable JSON"),
    ],
)
def test_jsonl_bad_row_is_named_with_file_and_line(tmp_path, row, reason):
    good = {"persona_id": "a", "session_id": 1, "messages": MESSAGES}
    path = write_lines(tmp_path / "x.jsonl", good, row)
    scan = jsonl.scan(path)
    bad = [*scan.bad_rows, *(bad for u in read_all(scan, jsonl) for bad in u.bad_rows)]
    assert [(b.file, b.line) for b in bad] == [(str(path), 2)]
    assert reason in str(bad[0])


def test_a_byte_order_mark_is_read_over_and_latin_1_is_named(tmp_path):
    good = json.dumps({"persona_id": "a", "session_id": 1, "messages": MESSAGES}).encode()
    path = tmp_path / "x.jsonl"
    latin = '{"persona_id": "José"}'.encode("latin-1")
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\n" + good + b"\n" + latin)
    scan = jsonl.scan(path)
    assert [b.line for b in scan.bad_rows] == [3]
    assert "not UTF-8 (latin-1?)" in str(scan.bad_rows[0])
    assert [len(user.sessions) for user in read_all(scan, jsonl)] == [2]


def test_a_broken_line_is_told_in_words_that_end_well(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"persona_id": "a", "mess\r\n{"persona_id" 1}\n')
    assert [str(bad) for bad in jsonl.scan(path).bad_rows] == [
        f"{path}, line 1: not valid JSON: Unterminated string starting at character 21",
        f"{path}, line 2: not valid JSON: Expecting ':' delimiter at character 15",
    ]


@pytest.mark.parametrize("spelled", ["Jose\u0301", " José ", "José\u00a0"])
def test_spellings_of_an_id_are_one_user_and_counted(tmp_path, spelled):
    rows = [{"persona_id": name, "session_id": 0, "messages": []} for name in ("José", spelled)]
    scan = jsonl.scan(write_lines(tmp_path / "x.jsonl", *rows))
    assert [user.persona_id for user in scan.users] == ["José"]
    assert scan.counts == {"user_id_spellings_merged": 1}


def test_whole_numbers_are_ids_however_they_are_written(tmp_path):
    row = {"messages": MESSAGES}
    ids = [(12, 1), (12.0, 2.0), ("12", "3"), (-1.0, 2**63)]
    rows = [{"persona_id": user, "session_id": session} | row for user, session in ids]
    scan = jsonl.scan(write_lines(tmp_path / "x.jsonl", *rows))
    twelve, other = sorted(read_all(scan, jsonl), key=lambda user: -len(user.sessions))
    assert (twelve.persona_id, other.persona_id) == ("12", "-1")
    assert [session.session_id for session in twelve.sessions] == [1, 2, "3"]
    assert other.sessions[0].session_id == 2**63


def test_half_surrogates_and_odd_names_harm_no_file(tmp_path):
    row = {"persona_id": "a", "session_id": 0, "messages": MESSAGES}
    path = write_lines(tmp_path / "x.jsonl", row | {"context": {"\ud800": "x\udc00", "n": [1e999]}})
    (user,) = read_all(jsonl.scan(path), jsonl)
    assert user.sessions[0].context == {"\ufffd": "x\ufffd", "n": "[Infinity]"}
    bad = BadRowError("f", 1, "fields there: \ud800, \x1b[31m, é")
    assert str(bad) == r"f, line 1: fields there: \ud800, \x1b[31m, é"
    routines = {"routines": [{"actions": {"tv\ud800": {"mode": "\udc00"}}}]}
    folder = edgewise_folder(tmp_path / "e", [edgewise_line(applied_routines=[0])], [routines])
    (user,) = read_all(edgewise.scan(folder), edgewise)
    assert user.sessions[0].routine_settings == (("tv\ufffd", "mode", "\ufffd"),)


def test_empty_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no rows"):
        jsonl.scan(write_lines(tmp_path / "x.jsonl"))


@given(st.binary(max_size=200))
def test_lines_are_those_that_python_finds(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("lines") / "x"
    path.write_bytes(content)
    lines = scan_lines(path)
    with path.open("rb") as file:
        expected = list(file)
    spans = [lines.span(0, i) for i in range(len(lines))]
    assert [content[s.offset : s.offset + s.length] for s in spans] == expected


# ---------------------------------------------------------------- names

STRANGE = [
    "../x", "a/b", "CON", "con", "🏠", "👩‍👧", "x" * 300, "x" * 301, "A", "a", "=cmd()",
    "<script>", "0", "00", "", ".", "..", "a.", "a ", "É", "E\u0301", "a\\b", "nul", "a:b",
]  # fmt: skip


def test_strange_ids_get_distinct_safe_folders():
    names = [safe_folder_name(user_key(i)) for i in STRANGE] + list(map(safe_folder_name, STRANGE))
    assert len({name.casefold() for name in names}) == 2 * len(STRANGE)
    for name in names:
        assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name)
    assert safe_folder_name("user_17") == "user_17"


@given(st.lists(st.text(max_size=70), unique=True, max_size=20))
def test_any_ids_get_distinct_safe_folders(ids):
    names = [safe_folder_name(name) for name in ids]
    names += [safe_folder_name(name) for name in set(names) - set(ids)]
    assert len(set(names)) >= len(set(ids))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) for name in names)


def test_a_name_that_looks_hashed_is_not_the_hashed_one():
    hashed = safe_folder_name("user_A")
    assert safe_folder_name(hashed) != hashed


def test_users_are_in_order_of_their_numbers():
    assert sorted(["10", "b", "2", "a", "²", "01"], key=user_order) == [
        "01",
        "2",
        "10",
        "a",
        "b",
        "²",
    ]


# ---------------------------------------------------------------- hub


@pytest.fixture
def snapshot(tmp_path):
    return edgewise_folder(tmp_path / "cache" / "data", [edgewise_line()]).parent


def test_hub_pins_the_revision_once_and_is_offline_afterwards(tmp_path, snapshot, monkeypatch):
    asked: list[tuple[str, bool]] = []

    def fake(name, revision, *, local_files_only=False, **options):
        asked.append((revision, local_files_only))
        if local_files_only and len(asked) == 1:
            raise FileNotFoundError
        return snapshot

    monkeypatch.setattr(hub, "_snapshot", fake)
    monkeypatch.setattr(hub, "_newest_revision", lambda name: "c0ffee")
    folder = hub.fetch_hub("owner/name", tmp_path)
    assert folder == snapshot / "data"
    assert asked == [("c0ffee", True), ("c0ffee", False)]

    def unreachable(name):
        raise AssertionError("the network was asked again")

    monkeypatch.setattr(hub, "_newest_revision", unreachable)
    assert hub.fetch_hub("owner/name", tmp_path) == folder
    assert asked[2:] == [("c0ffee", True)]
    hub.fetch_hub("owner/name@abc", tmp_path)
    assert asked[3:] == [("abc", True)]


def test_hub_reads_the_libraries_own_cache_without_network(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    real = hub._snapshot
    monkeypatch.setattr(hub, "_snapshot", functools.partial(real, cache_dir=tmp_path / "hub"))
    monkeypatch.setattr(hub, "_download", lambda name, revision: pytest.fail("network asked"))
    assert hub._cached("owner/name", commit) is None
    cache = tmp_path / "hub" / "datasets--owner--name" / "snapshots" / commit
    edgewise_folder(cache, [edgewise_line()])
    assert hub.fetch_hub(f"owner/name@{commit}", tmp_path) == cache


def test_back_off_waits_longer_and_gives_up():
    waits: list[float] = []

    def down():
        raise ConnectionError("rate limited")

    with pytest.raises(DataError, match="could not be downloaded") as caught:
        hub.with_back_off(down, what="owner/name", sleep=waits.append)
    assert waits == [2, 4, 8, 16]
    assert "give the folder" in str(caught.value)


def test_back_off_goes_on_after_a_passing_failure():
    answers = iter([ConnectionError(), "here"])

    def flaky():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert hub.with_back_off(flaky, what="owner/name", sleep=lambda seconds: None) == "here"


def test_misspelt_data_set_is_not_tried_again():
    from huggingface_hub.errors import RepositoryNotFoundError

    class MissingError(RepositoryNotFoundError):
        def __init__(self) -> None:
            Exception.__init__(self, "404")

    calls = []

    def missing():
        calls.append(1)
        raise MissingError

    with pytest.raises(DataError, match="check the spelling"):
        hub.with_back_off(missing, what="owner/nmae", sleep=lambda seconds: None)
    assert calls == [1]


@pytest.mark.parametrize("text", ["name", "a/b/c", "/b", "a/", "", "ow ner/name"])
def test_hub_name_must_have_owner_and_name(text, tmp_path):
    with pytest.raises(DataError, match="OWNER/NAME"):
        hub.fetch_hub(text, tmp_path)


def test_synthetic_is_written_once(tmp_path, monkeypatch):
    calls = []

    def fake(folder, **options):
        calls.append(options)
        edgewise_folder(folder, [edgewise_line()])

    import data.synthetic

    monkeypatch.setattr(data.synthetic, "write_synthetic", fake)
    source = SOURCES["synthetic"]
    settings = DataSettings(users=3, sessions=4, signal=0.5, seed=2)
    folder = source.fetch("", tmp_path, settings)
    assert folder == source.fetch("", tmp_path, settings)
    assert calls == [{"users": 3, "sessions": 4, "seed": 2, "signal": 0.5}]
    source.fetch("", tmp_path, DataSettings(users=5))
    assert len(calls) == 2


def test_bad_row_is_a_data_error():
    assert issubclass(BadRowError, DataError)
    assert str(BadRowError("f", 3, "why")) == "f, line 3: why"
