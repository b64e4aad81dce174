"""Messages: roles that are mapped or skipped, content in parts, and values under several names."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from data import edgewise, jsonl
from data.aliases import alias_of, first_value, present
from data.clean import clean_messages
from data.messages import parse_messages, roles_with
from data.reading import BadRowError, RawUser
from data.schema import DataError
from data.settings import DataSettings
from orchestrator.facts import run_words
from orchestrator.layers import SettingsError, resolve_settings
from orchestrator.settings import Settings
from search_spaces.catalog import STUDIES

STUDY = next(iter(STUDIES.values()))


def parsed(*messages: object, **roles: str) -> tuple[list[tuple[str, str]], dict[str, int]]:
    counts: Counter[str] = Counter()
    found = parse_messages(
        list(messages),
        fail=lambda reason: BadRowError("f", 1, reason),
        counts=counts,
        roles=roles_with(roles),
        role_names=jsonl.ROLE_NAMES,
        text_names=jsonl.TEXT_NAMES,
    )
    return found, {name: n for name, n in counts.items() if n}


# ---------------------------------------------------------------- roles


def test_roles_are_mapped_and_skipped():
    messages = [
        {"role": "user", "text": "Is it warm?"},
        {"role": "Tool ", "output": {"degrees": 21}},
        {"from": "chatgpt", "value": "It is."},
    ]
    found, counts = parsed(*messages, tool="skip", chatgpt="assistant")
    assert found == [("user", "Is it warm?"), ("skip", ""), ("assistant", "It is.")]
    assert counts == {}
    cleaned: Counter[str] = Counter()
    kept = clean_messages(found, settings=DataSettings(), counts=cleaned)
    assert [message.text for message in kept] == ["Is it warm?", "It is."]
    assert cleaned["messages_skipped"] == 1
    # A known role can mean something else too.
    assert parsed({"role": "system", "text": "x"}, system="user")[0] == [("user", "x")]


@pytest.mark.parametrize("role", ["tool", "chatgpt", "function_call", "Observation"])
def test_an_unknown_role_names_the_setting(role):
    with pytest.raises(DataError, match=f"unknown role '{role}'") as caught:
        parsed({"role": role, "text": "x"})
    assert f"--set data.roles.{role.lower()}=user or" in str(caught.value)
    assert f"data.roles.{role.lower()}=skip" in str(caught.value)


def test_a_misspelt_role_is_told_and_odd_ones_are_quoted():
    with pytest.raises(DataError, match="did you mean 'assistant'"):
        parsed({"role": "asistant", "text": "x"})
    with pytest.raises(DataError, match=r"'data\.roles\.my bot=user'"):
        parsed({"role": "My Bot", "text": "x"})
    for role in (None, 3, " ", ["user"]):
        with pytest.raises(DataError, match="unknown role") as caught:
            parsed({"role": role, "text": "x"})
        assert "--set" not in str(caught.value)


def test_roles_are_set_by_name_and_change_an_identity_only_then():
    options = ["data.roles.Tool=skip", "data.roles.gpt-4.1=assistant"]
    settings = resolve_settings(STUDY, options=options)
    assert settings.data.roles == {"gpt-4.1": "assistant", "tool": "skip"}
    other = resolve_settings(STUDY, options=options[::-1])
    assert other.data.prepare_settings().sha256() == settings.data.prepare_settings().sha256()
    assert settings.data.prepare_settings().sha256() != DataSettings().sha256()
    # What is not set leaves no trace, so identities are those of before there was the setting.
    assert "roles" not in json.loads(DataSettings().model_dump_json())
    assert "roles" not in Settings().model_dump(mode="json")["data"]
    assert hashlib.sha256(DataSettings().model_dump_json().encode()).hexdigest() == (
        "8eb93ece9f9a2eb3466b076b89353bb7e2cce6c63cae081bb29b2380fb7797bd"
    )
    words = run_words(STUDY.name, settings)
    given = [word for word in words if word.startswith("data.roles.")]
    assert resolve_settings(STUDY, options=given).data.roles == settings.data.roles


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("data.roles.tool=drop", "data.roles.tool input should be 'user', 'assistant'"),
        ("data.roles=skip", "data.roles"),
        ("data.role.tool=skip", "unknown setting 'data.role.tool'"),
    ],
)
def test_a_wrong_mapping_of_roles_is_refused(option, told):
    with pytest.raises(SettingsError, match=told):
        resolve_settings(STUDY, options=[option])


def test_edgewise_roles_are_mapped_too(tmp_path):
    session = {"session_id": 3.0, "messages": [{"role": "sensor", "text": "21 degrees"}]}
    (tmp_path / "characters.jsonl").write_text("{}\n")
    (tmp_path / "routines.jsonl").write_text('{"routines": []}\n')
    (tmp_path / "sessions.jsonl").write_text(json.dumps({"sessions": [session]}) + "\n")
    scan = edgewise.scan(tmp_path)
    assert "unknown role 'sensor'" in str(edgewise.read_user(scan.users[0], scan.files).bad_rows[0])
    user = edgewise.read_user(scan.users[0], scan.files, roles=roles_with({"sensor": "skip"}))
    assert [(s.session_id, s.messages) for s in user.sessions] == [(3, [("skip", "21 degrees")])]


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("content", "text", "counts"),
    [
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one two", {}),
        (["one", {"text": "two"}, {"type": "output_text", "text": "three"}], "one two three", {}),
        ([{"type": "text", "text": {"value": "one", "annotations": []}}], "one", {}),
        ({"type": "text", "text": "one"}, "one", {}),
        (
            [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "one"}],
            "one",
            {"content_parts_dropped": 1},
        ),
        ([{"type": "thinking", "text": "hm"}], "", {"content_parts_dropped": 1}),
        ([{"inline_data": "x"}], "", {"content_parts_dropped": 1}),
        ([{"type": "text", "text": None}], "", {}),
        ([], "", {}),
    ],
)
def test_text_parts_are_joined_and_others_counted(content, text, counts):
    assert parsed({"role": "user", "content": content}) == ([("user", text)], counts)


@pytest.mark.parametrize("content", [5, True, {"parts": ["x"]}, [5], [{"type": "text", "text": 5}]])
def test_what_is_no_text_is_refused(content):
    with pytest.raises(DataError, match=r"message 1: .* must be"):
        parsed({"role": "user", "content": content})


def test_a_call_of_a_tool_needs_no_text():
    call = {"role": "assistant", "tool_calls": [{"id": "c1"}]}
    assert parsed(call)[0] == [("assistant", "")]
    assert parsed(call | {"content": None})[0] == [("assistant", "")]
    with pytest.raises(DataError, match="lacks 'text'"):
        parsed({"role": "assistant", "tool_calls": []})


# ---------------------------------------------------------------- the value, not the name


@pytest.mark.parametrize("empty", [None, "", " ", [], {}])
def test_a_name_without_a_value_gives_way_to_the_next(empty):
    assert first_value([("a", empty), ("b", 0), ("c", 1)]) == 0
    assert first_value([("a", empty)]) == empty
    entry = {"role": empty, "from": "gpt", "text": empty, "content": "Hello"}
    assert parsed(entry) == ([("assistant", "Hello")], {})


@pytest.mark.parametrize(
    "key", ["Timestamp", " timestamp", "TIME-STAMP", "time_stamp", "createdAt"]
)
def test_names_are_known_in_another_spelling(key):
    names = jsonl.ALIASES["timestamp"]
    assert names[alias_of(key, names)] in ("timestamp", "created_at")
    assert present({"times": 1, key: 2}, names)[0][1] == 2
    assert alias_of("timestamps", names) is None


def test_the_usual_spelling_comes_first():
    assert present({"Time": 1, "time": 2, "timestamp": 3}, ("timestamp", "time")) == [
        ("timestamp", 3),
        ("time", 2),
        ("time", 1),
    ]


def test_two_values_that_contradict_each_other_are_counted():
    _, counts = parsed(
        {"role": "user", "from": "gpt", "text": "a", "id": 1},
        {"role": "user", "from": "Human", "text": "a", "content": [{"text": "a"}]},
        {"role": "user", "text": "a", "content": "b"},
        {"role": "user", "author": "Anna", "text": "a", "value": 0.5},
    )
    assert counts == {"messages_with_two_roles": 1, "messages_with_two_texts": 1}


def read(tmp_path: Path, *rows: object) -> list[RawUser]:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    scan = jsonl.scan(path)
    assert scan.bad_rows == ()
    return [jsonl.read_user(user, scan.files) for user in scan.users]


SAID = [{"role": "user", "text": "Dim the lights"}, {"role": "assistant", "text": "Dimmed."}]


def test_every_field_of_a_row_counts_by_its_value(tmp_path):
    row = {
        "persona_id": None,
        "user_id": "",
        "User": "Ann",
        "session_id": float("nan"),
        "chat_id": 4.0,
        "timestamp": None,
        "time": "",
        "created_at": "2024-05-01",
        "messages": None,
        "conversations": SAID,
        "context": {},
        "meta": "from the old system",
        "metadata": {"weather": "rainy"},
    }
    (user,) = read(tmp_path, row)
    (session,) = user.sessions
    assert (user.persona_id, session.session_id, session.timestamp) == ("Ann", 4, "2024-05-01")
    assert [text for _, text in session.messages] == ["Dim the lights", "Dimmed."]
    assert session.context == {"weather": "rainy"}
    assert {name: n for name, n in user.counts.items() if n} == {"metadata_ignored": 1}


def test_fields_that_contradict_each_other_are_counted(tmp_path):
    row = {"persona_id": "a", "session_id": 1, "messages": SAID}
    same = {"persona_id": 7, "user_id": "7", "session_id": "3", "chat_id": 3.0, "messages": SAID}
    (seven, user) = read(
        tmp_path,
        same | {"timestamp": "2024-05-01T10:00:00Z", "date": "2024-05-01", "created_at": "Monday"},
        row | {"timestamp": 1714564800, "created_at": "2024-05-01T12:00:00Z"},
        row | {"timestamp": 1714564800, "created_at": "2024-05-01T13:00:00Z"},
        row | {"user": "Ann", "dialogue_id": 2, "turns": SAID[:1], "dialog": 5},
    )
    assert not any(seven.counts.values())
    assert {name: n for name, n in user.counts.items() if n} == {
        "rows_where_created_at_contradicts_timestamp": 1,
        "rows_where_user_contradicts_persona_id": 1,
        "rows_where_dialogue_id_contradicts_session_id": 1,
        "rows_where_turns_contradicts_messages": 1,
    }
