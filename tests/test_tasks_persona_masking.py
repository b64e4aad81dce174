"""What is taken for a name, and what must stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.schema import Message, Session, Style, UserData
from data.synthetic import synthetic_user
from tasks.persona.masking import MASK, find_names, mask_names, names_in


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (
            "Good evening, it's Gloria. Dim the lights.",
            "Good evening, it's [NAME]. Dim the lights.",
        ),
        ("My name is Anna Maria Lopez and I am tired.", "My name is [NAME] and I am tired."),
        ("my name is anna and i like tea", "my name is [NAME] and i like tea"),
        ("I'm Will. Will you help?", "I'm [NAME]. Will you help?"),
        ("Anna Smith here, hello", "[NAME] here, hello"),
        ("Good day. Anna speaking, hello.", "Good day. [NAME] speaking, hello."),
        ("Emily speaking.", "[NAME] speaking."),
        ("Please call me Bo-Yan.", "Please call me [NAME]."),
        ("Tell Mr. Brown and Dr Ōe to wait.", "Tell Mr. [NAME] and Dr [NAME] to wait."),
        ("Turn it off. – Zoë", "Turn it off. – [NAME]"),
        ("I'm Ṣẹ\u0301gun. – Ọlá-Ṣẹ\u0301gun", "I'm [NAME]. – [NAME]"),
        ("write to a.b@c.de or @anna_1", "write to [NAME] or [NAME]"),
        # Neither names nor introductions.
        ("It's Monday. It's freezing out there.", "It's Monday. It's freezing out there."),
        ("I'm happy. This is TV weather. Call me later.",) * 2,
        ("We are here. I've always been here. The weather here is bad.",) * 2,
        ("Generally speaking, I'm fine. It's what They've said.",) * 2,
        ("I AM COLD. It's AC time, it's OK.",) * 2,
        ("", ""),
    ],
)
def test_a_message_that_introduces_somebody_is_masked_alone(text: str, masked: str) -> None:
    assert mask_names(text, frozenset()) == masked


def test_names_are_learned_where_people_are_called() -> None:
    texts = [
        "Of course, Gloria. Lights off.",
        "Done, Gloria!",
        "Certainly, I will. Furthermore, it rains.",
        "The film on Netflix, Gloria.",
        "Put Netflix on, then Netflix again, Netflix.",
        "Thanks, Hope! I hope it works. Thank you, Jarvis.",
    ]
    assert names_in(texts) == {"Gloria", "Jarvis"}
    masked = mask_names(
        "Gloria's lamp; Gloria and Jarvis say Certainly on Netflix", names_in(texts)
    )
    assert masked == "[NAME]'s lamp; [NAME] and [NAME] say Certainly on Netflix"


def test_contractions_are_no_names() -> None:
    texts = [
        "You're welcome. I've always been here.",
        "Thank you, I'll. We'll, I've!",
        "Hi You’ve,",
    ]
    assert names_in(texts) == frozenset()
    assert mask_names("Lately, I've been lost", names_in(texts)) == "Lately, I've been lost"


def test_a_name_written_small_is_found_in_both_forms() -> None:
    assert names_in(["my name is anna", "anna wants tea"]) == {"anna", "Anna"}


def user(key: str, *sessions: Session) -> UserData:
    return UserData(key, key, sessions, Style(0, 0, 0, 0.5))


def test_only_training_sessions_teach_names() -> None:
    def called(name: str) -> tuple[Message, Message]:
        return Message("user", "dim the lights"), Message("assistant", f"Sure, {name}.")

    made = user(
        "user_1",
        Session(0, "train", called("Ada"), (1,)),
        Session(1, "online", called("Bea"), (1,)),
        Session(2, "val", called("Cleo"), (1,)),
        Session(3, "test", called("Dora"), (1,)),
    )
    assert find_names([made]) == {"Ada", "Bea"}


def test_nobody_keeps_a_name_in_the_synthetic_households() -> None:
    made = [synthetic_user(number) for number in range(6)]
    sessions = [session["messages"] for one in made for session in one.sessions["sessions"]]
    training = [message["text"] for messages in sessions[: 6 * 40] for message in messages]
    own = {one.character["character"].split()[0] for one in made}
    spoken = [message["text"] for messages in sessions for message in messages]
    assert any(name in text for text in spoken for name in own)
    names = names_in(training)
    assert names <= own
    assert not [text for text in spoken if own & set(mask_names(text, names).split())]


@given(st.text(max_size=80), st.frozensets(st.text(min_size=1, max_size=5), max_size=3))
def test_masking_twice_is_masking_once(text: str, names: frozenset[str]) -> None:
    once = mask_names(text, names - {"NAME"})
    assert mask_names(once, names - {"NAME"}) == once


@given(st.lists(st.sampled_from(["Ada", "turn", "it", "on", ",", "Ada's", "."]), max_size=12))
def test_no_masked_name_survives(words: list[str]) -> None:
    masked = mask_names(" ".join(words), frozenset({"Ada"}))
    assert "Ada" not in masked
    assert (MASK in masked) == any(word.startswith("Ada") for word in words)
