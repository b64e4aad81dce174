"""Cutting prompts: token for token what trying every start gives, and work linear in messages."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.schema import Message, Session
from tasks.chat_format import ChatFormat
from tasks.config import PromptConfig, TaskError
from tasks.few_shot import render_with_exchanges
from tasks.prompt import RenderedSession, chat_format, render_session
from tasks.prompt_window import earliest
from tests.tiny_models import CHATML, tiny_tokenizer

PROMPT = PromptConfig(system="Be kind.")
ASSISTANT = "'<|im_start|>assistant\n'"
# As Qwen3's: only the reply that is asked for has the closed block.
CLOSED = CHATML.replace(ASSISTANT, repr("<|im_start|>assistant\n<think>\n\n</think>\n\n"))
OPEN = CHATML.replace(ASSISTANT, repr("<|im_start|>assistant\n<think>\n"))
TRIMMING = CHATML.replace("message['content']", "message['content'] | trim")
# A token of the text may join the last character before a reply.
STRADDLING = CHATML.replace("+ '\n' + message['content']", "+ ': t' + message['content']").replace(
    ASSISTANT, repr("<|im_start|>assistant: t")
)


def tokenizer_of(name: str):  # type: ignore[no-untyped-def]
    if name in ("chatml", "mistral", "nosystem"):
        return tiny_tokenizer(name)  # type: ignore[arg-type]
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = {
        "closed": CLOSED,
        "open": OPEN,
        "trimming": TRIMMING,
        "straddling": STRADDLING,
    }[name]
    return tokenizer


NAMES = ("chatml", "nosystem", "trimming", "mistral", "closed", "open", "straddling")
TOKENIZERS = {name: tokenizer_of(name) for name in NAMES}


@dataclass(frozen=True)
class Expected:
    prompt: list[int]
    reply: list[int]
    dropped: int
    cut: int


def tried_one_by_one(
    chat: ChatFormat, session: Session, turn: int, *, max_prompt: int, max_total: int
) -> Expected:
    """The plain way: render and encode the whole conversation, then every shorter one."""
    messages = [chat.as_text(message) for message in session.messages]
    first = next(index for index, message in enumerate(messages) if message.role == "user")
    given = messages[first:turn]
    starts = [index for index, message in enumerate(given) if message.role == "user"]

    def fits(start: int) -> bool:
        return len(chat.encode([chat.render(given[start:])])[0]) <= max_prompt

    chosen = bisect_left(starts, True, key=fits)
    cut = 0
    if chosen < len(starts):
        dropped = starts[chosen]
        text = chat.render(given[dropped:])
    else:
        dropped = starts[-1]
        text, cut = cut_on_its_left(chat, given[dropped:], max_prompt)
    reply_text = chat.reply_text(messages[turn].text)
    prompt, both = chat.encode([text, text + reply_text])
    straddles = both[: len(prompt)] != prompt
    reply = chat.encode([reply_text])[0] if straddles else both[len(prompt) :]
    return Expected(prompt, reply[: max_total - len(prompt)], dropped, cut)


def cut_on_its_left(chat: ChatFormat, given: Sequence[Message], room: int) -> tuple[str, int]:
    ids = chat.encode([given[0].text])[0]
    keep = len(ids)
    while keep > 0:
        kept = chat.tokenizer.decode(ids[len(ids) - keep :]).lstrip("\ufffd ")
        text = chat.render([Message("user", kept), *given[1:]])
        over = len(chat.encode([text])[0]) - room
        if over <= 0:
            return text, len(ids) - keep
        keep -= over
    raise TaskError("no room")


def per_turn(found: Sequence[RenderedSession]) -> dict[int, Expected]:
    return {
        turn.turn: Expected(
            list(part.token_ids[: turn.prompt_tokens]),
            list(part.token_ids[turn.prompt_tokens : turn.end]),
            turn.dropped_messages,
            turn.cut_tokens,
        )
        for part in found
        for turn in part.turns
    }


WORDS = ("the", "light", "he", "in", " ", "\n", "You", "é", "…", "中", "<|im_end|>", "2", "tthe")
TEXTS = st.one_of(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=25),
    st.integers(30, 120).map(lambda n: "light " * (n // 6) + "end"),
)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(NAMES), limit=st.integers(55, 190))
def test_every_prompt_equals_the_one_found_by_trying_all_starts(
    data: st.DataObject, name: str, limit: int
) -> None:
    texts = data.draw(st.lists(TEXTS, min_size=2, max_size=13))
    roles = ["user", "assistant"] * 7
    if name != "mistral":  # Its template refuses roles that do not alternate.
        for place in data.draw(st.sets(st.integers(1, 12), max_size=1)):
            roles[place] = "user"
    if data.draw(st.booleans()):
        roles = roles[1:]
    messages = tuple(Message(role, text) for role, text in zip(roles, texts, strict=False))
    turns = [
        index
        for index, message in enumerate(messages)
        if message.role == "assistant" and any(m.role == "user" for m in messages[:index])
    ]
    wanted = data.draw(st.lists(st.sampled_from(turns), unique=True)) if turns else []
    talk = Session(0, "test", messages, tuple(turns))
    chat = chat_format(TOKENIZERS[name], prompt=PROMPT)
    room = data.draw(st.sampled_from([1, 4, 60]))
    sizes = {"max_prompt_tokens": limit, "max_total_tokens": limit + room}
    try:
        expected = {
            turn: tried_one_by_one(chat, talk, turn, max_prompt=limit, max_total=limit + room)
            for turn in wanted
        }
    except TaskError:
        with pytest.raises(TaskError):
            render_session(TOKENIZERS[name], talk, wanted, prompt=PROMPT, **sizes)
        return
    found = render_session(TOKENIZERS[name], talk, wanted, prompt=PROMPT, **sizes)
    assert per_turn(found) == expected
    assert [part.shared for part in found[1:]] == [False] * len(found[1:])


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    room=st.integers(0, 60),
    data=st.data(),
)
def test_the_earliest_that_fits_is_found_from_any_guess(
    sizes: list[int], room: int, data: st.DataObject
) -> None:
    stop = len(sizes)
    low = data.draw(st.integers(0, stop - 1))
    guess = data.draw(st.integers(low, stop - 1))
    asked: list[int] = []

    def fits(start: int) -> bool:
        assert low <= start < stop
        asked.append(start)
        return sum(sizes[start:]) <= room

    wanted = next((start for start in range(low, stop) if sum(sizes[start:]) <= room), stop)
    assert earliest(fits, low=low, stop=stop, guess=guess) == wanted
    assert len(asked) <= 3 + 2 * abs(wanted - guess).bit_length()


class Work:
    """Characters that templates rendered and tokenizers read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.characters = 0
        render, encode = ChatFormat._rendered, ChatFormat.encode

        def counted_render(chat, turns, *, generation):  # type: ignore[no-untyped-def]
            text = render(chat, turns, generation=generation)
            self.characters += len(text)
            return text

        def counted_encode(chat, texts):  # type: ignore[no-untyped-def]
            self.characters += sum(map(len, texts))
            return encode(chat, texts)

        monkeypatch.setattr(ChatFormat, "_rendered", counted_render)
        monkeypatch.setattr(ChatFormat, "encode", counted_encode)


def long_talk(messages: int) -> Session:
    texts = [f"Note {k} about the light in the hall, level {k}." for k in range(messages)]
    both = ("user", "assistant")
    found = tuple(Message(both[k % 2], text) for k, text in enumerate(texts))
    return Session(0, "test", found, tuple(range(1, messages, 2)))


CAPS = {"prompt": PROMPT, "max_prompt_tokens": 300, "max_total_tokens": 400}


@pytest.mark.parametrize("name", NAMES)
def test_work_grows_linearly_with_the_messages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chat_format(TOKENIZERS[name], prompt=PROMPT)
    spent = []
    for messages in (100, 400):
        talk = long_talk(messages)
        work = Work(monkeypatch)
        render_session(TOKENIZERS[name], talk, talk.item_turns, **CAPS)
        spent.append(work.characters)
    assert spent[1] < 4.6 * spent[0]
    # Chains: not much more than each piece once, and each prompt once by the template.
    shown = sum(len(message.text) + 40 for message in talk.messages)
    assert spent[1] < (12 if chat_format(TOKENIZERS[name], prompt=PROMPT).layout else 60) * shown


@pytest.mark.parametrize("name", ["chatml", "mistral"])
def test_one_late_reply_costs_no_more_in_a_longer_session(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_format(TOKENIZERS[name], prompt=PROMPT)
    spent = []
    for messages in (50, 2000):
        work = Work(monkeypatch)
        render_session(TOKENIZERS[name], long_talk(messages), (messages - 1,), **CAPS)
        spent.append(work.characters)
    assert spent[1] < 1.2 * spent[0]


@pytest.mark.parametrize("name", ["chatml", "mistral"])
def test_own_exchanges_before_a_long_session_cost_linear_work(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_format(TOKENIZERS[name], prompt=PROMPT)
    exchanges = [(Message("user", f"Wish {k}"), Message("assistant", "ok")) for k in range(4)]
    spent = []
    for messages in (100, 400):
        talk = long_talk(messages)
        work = Work(monkeypatch)
        render_with_exchanges(TOKENIZERS[name], talk, talk.item_turns, exchanges=exchanges, **CAPS)
        spent.append(work.characters)
    assert spent[1] < 4.6 * spent[0]
