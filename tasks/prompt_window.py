"""How much of a conversation fits into a prompt: the newest messages, from a user message on.

Prompts grow with their messages, so the earliest start that fits is searched for, near where the
prompt of the reply before began. A template that is a chain of pieces has each piece encoded once,
and a prompt is a sum of pieces; of other templates, candidates near the wanted length are rendered.
Either way the work grows linearly with the conversation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate, chain

from data.schema import Message
from tasks.chat_format import ChatFormat
from tasks.config import TaskError

# Only where the search begins depends on these: of usual text and of what templates put around it.
_CHARACTERS_PER_TOKEN = 4
_CHARACTERS_AROUND_A_MESSAGE = 16

Tokens = list[int]


class Talk:
    """A conversation as the template gets it; messages are made ready when first needed.

    ``starts`` are the indices of the user messages, at which a prompt may start.
    """

    def __init__(self, chat: ChatFormat, messages: Sequence[Message]) -> None:
        self.chat = chat
        self.starts = [index for index, message in enumerate(messages) if message.role == "user"]
        self._messages = messages
        self._shown: dict[int, Message] = {}

    def window(self, start: int, stop: int) -> list[Message]:
        """Messages ``start`` to ``stop - 1``, control tokens taken apart."""
        for index in range(start, stop):
            if index not in self._shown:
                self._shown[index] = self.chat.as_text(self._messages[index])
        return [self._shown[index] for index in range(start, stop)]

    def prompt_text(self, start: int, turn: int) -> str:
        """The prompt of the reply at ``turn`` from message ``start`` on."""
        return self.chat.render(self.window(start, turn))

    def prompt_length(self, start: int, turn: int) -> int:
        """Tokens of that prompt."""
        return len(self.chat.encode([self.prompt_text(start, turn)])[0])

    def guess(self, turn: int, *, max_tokens: int) -> int:
        """Place in ``starts`` from which some ``max_tokens`` of usual text stand before a turn."""
        room = max_tokens * _CHARACTERS_PER_TOKEN
        place = bisect_left(self.starts, turn)
        stop = min(turn, len(self._messages))
        while place > 0 and room > 0:
            place -= 1
            start = self.starts[place]
            texts = (self._messages[index].text for index in range(start, stop))
            room -= sum(len(text) + _CHARACTERS_AROUND_A_MESSAGE for text in texts)
            stop = start
        return place


def is_too_long(talk: Talk, turn: int, *, max_tokens: int) -> bool:
    """Whether the whole conversation before a turn exceeds a prompt; renders no more than needed.

    Newest messages that are too long alone are enough.
    """
    place, step = talk.guess(turn, max_tokens=max_tokens), 1
    while talk.prompt_length(talk.starts[place], turn) <= max_tokens:
        if place == 0:
            return False
        place, step = max(0, place - step), 2 * step
    return True


def earliest(fits: Callable[[int], bool], *, low: int, stop: int, guess: int) -> int:
    """Smallest number of ``low`` to ``stop - 1`` that fits, ``stop`` if none does.

    Whatever is larger than one that fits must fit too. Tries few numbers where the guess is near,
    and none much smaller than the answer.
    """
    step = 1
    if fits(guess):
        fitting, other = guess, guess - 1
        while other >= low and fits(other):
            fitting, step = other, 2 * step
            other -= step
        open_range = range(max(other + 1, low), fitting)
    else:
        other = guess + 1
        while other < stop and not fits(other):
            guess, step = other, 2 * step
            other += step
        open_range = range(guess + 1, min(other, stop))
    return open_range.start + bisect_left(open_range, True, key=fits)


class Chain:
    """A conversation's exchanges in tokens, where the template is a chain; see ``ChainLayout``.

    Exchange k is (prompt part, reply). Put together, from the first on, they are the encoding of
    the whole text, as tokenizers split at the end-of-turn token.
    """

    def __init__(self, talk: Talk, exchanges: Sequence[tuple[Tokens, Tokens]]) -> None:
        self.talk = talk
        self.exchanges = exchanges
        lengths = (len(ask) + len(reply) for ask, reply in exchanges)
        self._before = list(accumulate(lengths, initial=0))
        self._first: dict[int, tuple[Tokens, Tokens] | None] = {0: exchanges[0]}

    def number(self, turn: int) -> int:
        """Number of the exchange whose reply is at ``turn``."""
        return (turn - self.talk.starts[0]) // 2

    def opening(self, number: int) -> tuple[Tokens, Tokens] | None:
        """An exchange as the first of a prompt; None where its borders are not safe."""
        if number not in self._first:
            start = self.talk.starts[number]
            pieces = self.talk.chat.pieces(self.talk.window(start, start + 2))
            encoded = _encode_exchanges(self.talk.chat, pieces)
            self._first[number] = encoded[0] if encoded else None
        return self._first[number]

    def prompt_length(self, start: int, number: int) -> int:
        """Tokens of the prompt of exchange ``number`` from exchange ``start`` on; no safe, 0."""
        opening = self.opening(start)
        if opening is None:
            return 0
        if start == number:
            return len(opening[0])
        between = self._before[number] - self._before[start + 1]
        return len(opening[0]) + len(opening[1]) + between + len(self.exchanges[number][0])

    def prompt_and_reply(self, start: int, number: int) -> tuple[Tokens, Tokens] | None:
        """Their tokens; None where the template does not render these messages as the pieces do."""
        opening = self.opening(start)
        first = self.talk.starts[start]
        window = self.talk.window(first, self.talk.starts[number] + 1)
        chat = self.talk.chat
        if opening is None or "".join(chat.pieces(window)) != chat.render(window):
            return None
        if start == number:
            return opening
        between = chain.from_iterable(
            part for exchange in self.exchanges[start + 1 : number] for part in exchange
        )
        ask, reply = self.exchanges[number]
        return [*opening[0], *opening[1], *between, *ask], reply


def encode_chain(talk: Talk, last_turn: int) -> Chain | None:
    """The conversation up to a reply as a chain; None if that is not sound."""
    chat = talk.chat
    if chat.layout is None:
        return None
    used = talk.window(talk.starts[0], last_turn + 1)
    if any((message.role == "user") != (index % 2 == 0) for index, message in enumerate(used)):
        return None
    pieces = chat.pieces(used)
    if "".join(pieces[:-1]) != chat.render(used[:-1]):
        return None
    exchanges = _encode_exchanges(chat, pieces)
    return None if exchanges is None else Chain(talk, exchanges)


def _encode_exchanges(
    chat: ChatFormat, pieces: Sequence[str]
) -> list[tuple[Tokens, Tokens]] | None:
    """Token ids of (prompt part, reply) per exchange, or None where a border is not safe.

    Every part is encoded after the end-of-turn token before it, at which tokenizers split, so
    that the parts put together are the encoding of the whole text.
    """
    end = chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn_id)
    texts: list[str] = []
    for ask, reply in zip(pieces[::2], pieces[1::2], strict=True):
        context = end if texts else ""
        texts += [context + ask, context + ask + reply]
    ids = chat.encode(texts)
    exchanges: list[tuple[Tokens, Tokens]] = []
    for ask_ids, both in zip(ids[::2], ids[1::2], strict=True):
        safe = both[: len(ask_ids)] == ask_ids and both[-1] == chat.end_of_turn_id
        skip = 1 if exchanges else 0
        if not safe or (skip and ask_ids[0] != chat.end_of_turn_id):
            return None
        exchanges.append((ask_ids[skip:], both[len(ask_ids) :]))
    return exchanges


def cut_message(chat: ChatFormat, messages: Sequence[Message], max_tokens: int) -> tuple[str, int]:
    """Prompt of one user message (and what follows it) whose left was cut; cut tokens.

    Raises:
        TaskError: there is no room for any of it.
    """
    ids = chat.encode([messages[0].text])[0]
    keep = len(ids)
    while keep > 0:
        kept = chat.tokenizer.decode(ids[len(ids) - keep :]).lstrip("\ufffd ")
        text = chat.render([Message("user", kept), *messages[1:]])
        over = len(chat.encode([text])[0]) - max_tokens
        if over <= 0:
            return text, len(ids) - keep
        keep -= over
    raise TaskError(
        f"the system text and the template alone take more than max_prompt_tokens={max_tokens} "
        "tokens; shorten prompt.system or raise decoding.max_total_tokens"
    )
