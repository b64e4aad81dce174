"""From messages to token ids: prefix sharing and cutting at message borders.

What a prompt is: the system text and the session's true messages before the reply, rendered by
the tokenizer's own chat template up to where a reply begins (``tasks.reply_opening``). What a reply
is: white space that the template puts before its text (often nothing), the text, and the
end-of-turn token (``tasks.template_probe``).

The work is linear in the session's messages: a chain's pieces are encoded once and put together,
and of other templates no more is rendered than prompts of twice the wanted length.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.schema import Session
from tasks.chat_format import ChatFormat
from tasks.config import PromptConfig, TaskError
from tasks.prompt_window import Chain, Talk, cut_message, earliest, encode_chain
from tasks.template_probe import DEFAULT_PROMPT, chat_format, end_of_turn_id, template_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.base_model import BaseModel

__all__ = [
    "DEFAULT_PROMPT",
    "ChatFormat",
    "RenderedSession",
    "Turn",
    "chat_format",
    "end_of_turn_id",
    "render_session",
    "template_sha256",
]


@dataclass(frozen=True, slots=True)
class Turn:
    """One reply inside ``RenderedSession.token_ids``.

    ``turn`` is the reply's index in the session's messages; its prompt is
    ``token_ids[:prompt_tokens]``, the reply with its end-of-turn token
    ``token_ids[prompt_tokens:end]``. ``dropped_messages`` counts messages cut from the prompt,
    ``cut_tokens`` tokens cut from the left of an over-long last user message,
    ``cut_reply_tokens`` tokens cut from the reply's end (then without its end-of-turn token).
    """

    turn: int
    prompt_tokens: int
    end: int
    dropped_messages: int = 0
    cut_tokens: int = 0
    cut_reply_tokens: int = 0

    @property
    def truncated(self) -> bool:
        """Whether anything of the prompt was cut."""
        return self.dropped_messages > 0 or self.cut_tokens > 0


@dataclass(frozen=True, slots=True)
class RenderedSession:
    """Token ids up to the end of the last turn; every turn's prompt is a prefix of them."""

    token_ids: tuple[int, ...]
    turns: tuple[Turn, ...]

    @property
    def shared(self) -> bool:
        """Whether several replies share this pass."""
        return len(self.turns) > 1


@dataclass(frozen=True, slots=True)
class _Limits:
    prompt_tokens: int
    total_tokens: int


def render_session(
    base: BaseModel | PreTrainedTokenizerBase,
    session: Session,
    turns: Sequence[int],
    *,
    prompt: PromptConfig = DEFAULT_PROMPT,
    max_prompt_tokens: int = 768,
    max_total_tokens: int = 1024,
) -> list[RenderedSession]:
    """Token ids of the wanted replies and their prompts.

    Turns whose prompts are token prefixes of one rendering and need no cut share the first
    element; every other turn is an element of its own. Prompts over ``max_prompt_tokens`` lose
    their oldest messages (the system text stays, the rest starts at a user message); a last user
    message that alone is too long loses tokens on its left. Replies are cut on the right so that
    prompt and reply keep to ``max_total_tokens``. Messages before the first user message are
    never part of a prompt.

    Raises TaskError for a turn that is no assistant message after a user message, and where the
    system text alone fills the prompt.
    """
    if not 0 < max_prompt_tokens < max_total_tokens:
        raise TaskError(
            f"max_prompt_tokens is {max_prompt_tokens} and max_total_tokens {max_total_tokens}; "
            "the prompt must leave room for at least one reply token"
        )
    limits = _Limits(max_prompt_tokens, max_total_tokens)
    talk = Talk(chat_format(base, prompt=prompt), session.messages)
    wanted = sorted(set(turns))
    for turn in wanted:
        _check_turn(session, turn, talk.starts)
    encoded = encode_chain(talk, wanted[-1]) if len(wanted) > 1 else None
    shared = _render_shared(encoded, wanted, limits) if encoded else None
    done = {turn.turn for turn in shared.turns} if shared else set()
    rest = [turn for turn in wanted if turn not in done]
    return ([shared] if shared else []) + _render_singles(talk, encoded, rest, limits)


def _check_turn(session: Session, turn: int, starts: Sequence[int]) -> None:
    inside = 0 <= turn < len(session.messages)
    if inside and session.messages[turn].role == "assistant" and starts and turn > starts[0]:
        return
    replies = [i for i, message in enumerate(session.messages) if message.role == "assistant"]
    raise TaskError(
        f"session {session.session_id}: turn {turn} is no assistant reply after a user message; "
        f"its replies are at {replies}"
    )


def _render_shared(
    encoded: Chain, wanted: Sequence[int], limits: _Limits
) -> RenderedSession | None:
    """One pass for as many of the first wanted turns as fit uncut; None if fewer than two do."""
    numbers = {encoded.number(turn): turn for turn in wanted}
    ids: list[int] = []
    turns: list[Turn] = []
    kept = 0
    for number, (ask, reply) in enumerate(encoded.exchanges):
        start = len(ids) + len(ask)
        ids += ask + reply
        if start > limits.prompt_tokens or len(ids) > limits.total_tokens:
            break
        if number in numbers:
            turns.append(Turn(numbers[number], start, len(ids)))
            kept = len(ids)
    return RenderedSession(tuple(ids[:kept]), tuple(turns)) if len(turns) > 1 else None


def _render_singles(
    talk: Talk, encoded: Chain | None, turns: Sequence[int], limits: _Limits
) -> list[RenderedSession]:
    """Each turn in a pass of its own; a later prompt never starts before an earlier one."""
    rendered = []
    low = 0
    for turn in turns:
        found = None if encoded is None else _from_chain(encoded, turn, low, limits)
        place, item = found or _from_template(talk, turn, low, limits)
        low = place
        rendered.append(item)
    return rendered


def _from_chain(
    encoded: Chain, turn: int, low: int, limits: _Limits
) -> tuple[int, RenderedSession] | None:
    """Place of the prompt's start, and the turn; None if the pieces alone cannot give it."""
    number = encoded.number(turn)
    place = earliest(
        lambda start: encoded.prompt_length(start, number) <= limits.prompt_tokens,
        low=low,
        stop=number + 1,
        guess=low,
    )
    parts = encoded.prompt_and_reply(place, number) if place <= number else None
    return None if parts is None else (place, _single(*parts, turn, limits, dropped=2 * place))


def _from_template(talk: Talk, turn: int, low: int, limits: _Limits) -> tuple[int, RenderedSession]:
    """Place of the prompt's start among the user messages, and the turn."""
    stop = bisect_left(talk.starts, turn)
    place = earliest(
        lambda place: talk.prompt_length(talk.starts[place], turn) <= limits.prompt_tokens,
        low=low,
        stop=stop,
        guess=low or talk.guess(turn, max_tokens=limits.prompt_tokens),
    )
    start = talk.starts[min(place, stop - 1)]
    cut = 0
    if place < stop:
        text = talk.prompt_text(start, turn)
    else:
        text, cut = cut_message(talk.chat, talk.window(start, turn), limits.prompt_tokens)
    parts = _prompt_and_reply(talk, text, turn)
    item = _single(*parts, turn, limits, dropped=start - talk.starts[0], cut=cut)
    return min(place, stop - 1), item


def _prompt_and_reply(talk: Talk, text: str, turn: int) -> tuple[list[int], list[int]]:
    chat = talk.chat
    (message,) = talk.window(turn, turn + 1)
    reply_text = chat.reply_text(message.text)
    prompt_ids, both = chat.encode([text, text + reply_text])
    if both[: len(prompt_ids)] == prompt_ids:
        return prompt_ids, both[len(prompt_ids) :]
    # A token would straddle the border; generation starts after the prompt's own tokens.
    return prompt_ids, chat.encode([reply_text])[0]


def _single(
    prompt_ids: list[int],
    reply: list[int],
    turn: int,
    limits: _Limits,
    *,
    dropped: int,
    cut: int = 0,
) -> RenderedSession:
    room = limits.total_tokens - len(prompt_ids)
    ids = (*prompt_ids, *reply[:room])
    over = max(0, len(reply) - room)
    return RenderedSession(ids, (Turn(turn, len(prompt_ids), len(ids), dropped, cut, over),))
