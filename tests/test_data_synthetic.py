"""The synthetic households: schema, counts, what the dial scales, what is shared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import phrases, synthetic
from data.households import CHOICES, draw_persona
from data.schema import DataError
from data.speech import formal
from data.synthetic import (
    SyntheticUser,
    neutral_dialogues,
    population_dialect,
    synthetic_user,
    write_synthetic,
)

FILES = ("characters.jsonl", "routines.jsonl", "sessions.jsonl")


@pytest.fixture(scope="module")
def users() -> list[SyntheticUser]:
    return [synthetic_user(i) for i in range(40)]


def sessions_of(users: list[SyntheticUser]) -> list[dict[str, Any]]:
    return [session for user in users for session in user.sessions["sessions"]]


def exchanges(session: dict[str, Any]) -> list[tuple[str, str]]:
    texts = [message["text"] for message in session["messages"]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_writes_three_files_with_one_line_a_user(tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path / "new" / "raw", users=3, sessions=4, seed=5)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    rows = [[json.loads(row) for row in (folder / name).open()] for name in FILES]
    for index, (character, routines, sessions) in enumerate(zip(*rows, strict=True)):
        user = synthetic_user(index, sessions=4, seed=5)
        assert (user.character, user.routines, user.sessions) == (character, routines, sessions)
        assert [entry["session_id"] for entry in sessions["sessions"]] == [0, 1, 2, 3]


def test_same_arguments_same_bytes_and_more_users_keep_the_first(tmp_path: Path) -> None:
    for name, number in (("a", 2), ("b", 2), ("c", 3)):
        write_synthetic(tmp_path / name, users=number, sessions=3, seed=1, signal=0.5)
    for name in FILES:
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "c" / name).read_bytes().startswith(first)


def test_seeds_and_users_differ() -> None:
    made = [synthetic_user(u, sessions=3, seed=s).sessions for u, s in ((0, 0), (1, 0), (0, 1))]
    assert made[0] != made[1] != made[2] != made[0]


@settings(max_examples=25, deadline=None)
@given(index=st.integers(0, 10**6), seed=st.integers(0, 10**6), signal=st.floats(0, 1))
def test_every_user_keeps_to_the_schema(index: int, seed: int, signal: float) -> None:
    user = synthetic_user(index, sessions=3, seed=seed, signal=signal)
    routines = user.routines["routines"]
    for routine in routines:
        assert tuple(routine["triggers"]) == phrases.TRIGGERS
        for device, actions in routine["actions"].items():
            for name, value in actions.items():
                assert value in CHOICES[device][name]
    for session in user.sessions["sessions"]:
        assert tuple(session["meta"]) == phrases.TRIGGERS
        roles = [message["role"] for message in session["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(0 <= index < len(routines) for index in session["applied_routines"])
        for message in session["messages"]:
            text = message["text"]
            assert text == " ".join(text.split())
            assert not re.search(r"[{}]|\.\.|\?\.|None|True|False", text), text
            assert text[-1] in ".?!", text


def test_counts_follow_the_real_dataset(users: list[SyntheticUser]) -> None:
    routines = [routine for user in users for routine in user.routines["routines"]]
    sessions = sessions_of(users)
    asks, replies = zip(*(pair for session in sessions for pair in exchanges(session)), strict=True)
    assert mean(len(session["messages"]) for session in sessions) == pytest.approx(9.88, abs=0.1)
    assert mean(bool(s["applied_routines"]) for s in sessions) == pytest.approx(0.75, abs=0.03)
    assert len(routines) / len(users) == pytest.approx(3.98, abs=0.3)
    assert mean(len(r["actions"]) for r in routines) == pytest.approx(3.11, abs=0.25)
    assert mean(sum(map(len, r["actions"].values())) for r in routines) == pytest.approx(
        8.24, abs=0.6
    )
    assert mean(len(text.split()) for text in asks) == pytest.approx(17.5, abs=1)
    assert mean(len(text.split()) for text in replies) == pytest.approx(17, abs=1.5)


def test_exchanges_of_a_user_seldom_repeat(users: list[SyntheticUser]) -> None:
    for user in users:
        sessions = user.sessions["sessions"]
        earlier = {pair for session in sessions[:40] for pair in exchanges(session)}
        later = [pair for session in sessions[40:] for pair in exchanges(session)]
        assert not any(pair in earlier for pair in later)


def test_driven_sessions_state_the_routine_they_name(users: list[SyntheticUser]) -> None:
    for user in users:
        for session in user.sessions["sessions"]:
            for index in session["applied_routines"]:
                routine = user.routines["routines"][index]
                known = {k: v for k, v in routine["triggers"].items() if v is not None}
                assert known.items() <= session["meta"].items()
                assert _agrees(session["messages"][1]["text"], routine["actions"])


def _agrees(reply: str, actions: dict[str, dict[str, Any]]) -> bool:
    """Whether the reply holds all values of the one device of the routine that it names."""
    names = {device: words[0] for device, words in phrases.DEVICES.items()}
    device = next(d for d, name in names.items() if re.search(rf"\b{name}\b", reply, re.I))
    values = actions[device]
    said = [
        ("armed" if v else "disarmed") if isinstance(v, bool) else str(v) for v in values.values()
    ]
    return all(re.search(rf"(?<!\w){re.escape(value)}", reply, re.I) for value in said)


def test_full_signal_keeps_a_user_to_one_style(users: list[SyntheticUser]) -> None:
    for index, user in enumerate(users[:10]):
        style = draw_persona(Random(f"persona/0/{index}")).style
        firsts = [session["messages"][1]["text"] for session in user.sessions["sessions"]]
        opener = formal(style.opener) if style.formal else style.opener
        assert all(text.startswith(opener) for text in firsts)


def test_no_signal_means_sessions_know_nothing_of_the_persona(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = synthetic_user(0, sessions=30, signal=0.0).sessions["sessions"]
    other = draw_persona(Random("somebody else"))
    monkeypatch.setattr(synthetic, "draw_persona", lambda rng: other)
    changed = synthetic_user(0, sessions=30, signal=0.0).sessions["sessions"]
    for one, two in zip(plain, changed, strict=True):
        assert (one["meta"], one["messages"]) == (two["meta"], two["messages"])
    full = synthetic_user(0, sessions=30, signal=1.0).sessions["sessions"]
    assert f"{other.style.opener}" in full[0]["messages"][1]["text"]


def test_the_dial_raises_the_share_of_replies_with_the_own_opener() -> None:
    shares = []
    for signal in (0.0, 0.5, 1.0):
        own = []
        for index in range(12):
            opener = draw_persona(Random(f"persona/0/{index}")).style.opener
            sessions = synthetic_user(index, signal=signal).sessions["sessions"]
            own += [session["messages"][1]["text"].startswith(opener[:6]) for session in sessions]
        shares.append(mean(own))
    assert shares[0] < 0.15
    assert 0.4 < shares[1] < 0.65
    assert shares[2] > 0.85


def test_households_share_a_dialect_and_neutral_ones_do_not() -> None:
    reminder = population_dialect(0).remind
    frame = phrases.REMIND_FRAMES[reminder].partition("{chore}")[0].strip()

    def share(dialogues: list[list[dict[str, str]]]) -> float:
        pairs = [
            (ask["text"], reply["text"])
            for dialogue in dialogues
            for ask, reply in zip(dialogue[::2], dialogue[1::2], strict=True)
        ]
        shapes = [f.partition("{chore}")[0].strip().lower() for f in phrases.REMIND_FRAMES]
        long = [formal(shape) for shape in phrases.REMIND_FRAMES]
        shapes += [shape.partition("{chore}")[0].strip().lower() for shape in long]
        ours = {frame.lower(), formal(frame).lower()}
        found = [shape for _, text in pairs for shape in shapes if shape in text.lower()]
        return mean(shape in ours for shape in found)

    study = [s["messages"] for s in sessions_of([synthetic_user(i, signal=0) for i in range(8)])]
    neutral = list(neutral_dialogues(users=8, sessions=50, seed=0))
    assert share(study) > 0.8
    assert share(neutral) < 0.5


def test_neutral_dialogues_are_counted_and_reproducible() -> None:
    made = list(neutral_dialogues(users=2, sessions=3, seed=9))
    assert len(made) == 6
    assert made == list(neutral_dialogues(users=2, sessions=3, seed=9))
    study = {s["messages"][0]["text"] for s in sessions_of([synthetic_user(0, seed=9)])}
    assert not study & {dialogue[0]["text"] for dialogue in made}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"signal": 1.5}, "signal is 1.5"), ({"sessions": 0}, "sessions is 0")],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        synthetic_user(0, **arguments)


def test_no_users_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="users is 0"):
        write_synthetic(tmp_path / "raw", users=0)
    assert not (tmp_path / "raw").exists()
