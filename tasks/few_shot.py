"""A user's own exchanges in the prompt, as earlier turns of the conversation: nothing is trained.

The exchanges stand between the system text and the session's true messages, in time order, so
that the newest is nearest to the question. The true messages have the first claim on the prompt:
they are never cut in favor of an exchange; of the exchanges, the newest that fit are shown.
Earlier turns, and not a list in the system text, because every chat template can show them, the
ones without a system role too, and because they are what the model was tuned to continue.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from data.schema import Message, Session, UserData, online_examples
from tasks.config import PromptConfig
from tasks.prompt import ChatFormat, RenderedSession, Turn, chat_format, render_session
from tasks.prompt_window import Talk, is_too_long

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.base_model import BaseModel

Exchange = tuple[Message, Message]
"""A user message and the reply to it."""


@dataclass(frozen=True, slots=True)
class FewShotRendering:
    """A rendering, and how many exchanges each of its turns' prompts shows."""

    rendered: RenderedSession
    shown: tuple[int, ...]


def own_exchanges(user: UserData, wanted: int) -> tuple[Exchange, ...]:
    """The exchanges that the user's own adapter would be trained on, oldest first.

    They are the first ``wanted`` online examples, each without the messages before it.
    """
    sessions = user.of_split("online")
    place = {session.session_id: index for index, session in enumerate(sessions)}
    chosen = sorted((place[item.session_id], item.turn) for item in online_examples(user, wanted))
    return tuple(
        (sessions[index].messages[turn - 1], sessions[index].messages[turn])
        for index, turn in chosen
    )


def render_with_exchanges(
    base: BaseModel | PreTrainedTokenizerBase,
    session: Session,
    turns: Sequence[int],
    *,
    exchanges: Sequence[Exchange],
    prompt: PromptConfig,
    max_prompt_tokens: int,
    max_total_tokens: int,
) -> list[FewShotRendering]:
    """``render_session`` with exchanges before the session's own messages.

    Turns for which the same number of exchanges fits share a rendering wherever ``render_session``
    lets them; turn indices and counts of dropped messages are those of the session.

    Args:
        base: whose chat template renders.
        session: holds the wanted replies.
        turns: indices of the wanted replies.
        exchanges: offered, oldest first.
        prompt: the system text and the pinned date.
        max_prompt_tokens: cap of a prompt, exchanges included.
        max_total_tokens: cap of prompt and reply.

    Raises:
        TaskError: as ``render_session``.
    """
    roles = [message.role for message in session.messages]
    first = roles.index("user") if "user" in roles else 0
    chat = chat_format(base, prompt=prompt)
    talk = Talk(chat, session.messages)
    groups: dict[int, list[int]] = {}
    fit = 0
    # Later replies have longer contexts, so earlier ones have room for at least as many.
    for turn in sorted(set(turns), reverse=True):
        if not _fills(talk, turn, max_tokens=max_prompt_tokens):
            own = session.messages[first:turn]
            fit = _fitting(chat, exchanges, own, at_least=fit, max_tokens=max_prompt_tokens)
        groups.setdefault(fit, []).append(turn)
    found: list[FewShotRendering] = []
    for count, members in reversed(groups.items()):
        earlier = tuple(chain.from_iterable(exchanges[len(exchanges) - count :]))
        shift = len(earlier) - first if count else 0
        longer = replace(session, messages=earlier + session.messages[first:]) if count else session
        found += [
            _of_session(rendered, offered=count, shift=shift)
            for rendered in render_session(
                base,
                longer,
                [turn + shift for turn in members],
                prompt=prompt,
                max_prompt_tokens=max_prompt_tokens,
                max_total_tokens=max_total_tokens,
            )
        ]
    return found


def _fills(talk: Talk, turn: int, *, max_tokens: int) -> bool:
    """Whether a long context of a reply's own leaves no room; short ones are not looked at."""
    long = talk.guess(turn, max_tokens=max_tokens) > 0
    return long and is_too_long(talk, turn, max_tokens=max_tokens)


def _fitting(
    chat: ChatFormat,
    exchanges: Sequence[Exchange],
    own: Sequence[Message],
    *,
    at_least: int,
    max_tokens: int,
) -> int:
    """How many of the newest exchanges fit before a reply's own context."""

    def over(count: int) -> bool:
        earlier = chain.from_iterable(exchanges[len(exchanges) - count :])
        messages = [chat.as_text(message) for message in (*earlier, *own)]
        return len(chat.encode([chat.render(messages)])[0]) > max_tokens

    if not own or at_least == len(exchanges) or over(at_least + 1):
        return at_least
    counts = range(at_least + 2, len(exchanges) + 1)
    return at_least + 1 + bisect_right(counts, False, key=over)


def _of_session(rendered: RenderedSession, *, offered: int, shift: int) -> FewShotRendering:
    """The rendering with the session's own turn indices and counts of dropped messages."""
    cut = [min(offered, -(-turn.dropped_messages // 2)) for turn in rendered.turns]
    turns = tuple(
        _moved(turn, shift=shift, dropped=max(0, turn.dropped_messages - 2 * offered))
        for turn in rendered.turns
    )
    shown = tuple(offered - dropped for dropped in cut)
    return FewShotRendering(replace(rendered, turns=turns), shown)


def _moved(turn: Turn, *, shift: int, dropped: int) -> Turn:
    return replace(turn, turn=turn.turn - shift, dropped_messages=dropped)
