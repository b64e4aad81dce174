"""From messages to token ids: chat templates, prefix sharing, cutting at message borders.

What a prompt is: the system text and the session's true messages before the reply, rendered by
the tokenizer's own chat template with the generation prompt at the end. What a reply is: whatever
the template puts between generation prompt and text (often nothing), the text, and the
end-of-turn token. Templates are asked, by rendering a probe conversation, and never guessed.

Rules: a template without a system role gets the system text and a blank line before the first
user message. Templates are rendered with ``enable_thinking=False`` and a clock that always says
``date_string``. Control tokens that a message spells out stay text: a space takes them apart.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jinja2

from data.schema import Message, Session
from tasks.config import PromptConfig, TaskError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.base_model import BaseModel

DEFAULT_PROMPT = PromptConfig()
_USERS = ("probe question one", "probe question two", "probe question three")
_REPLIES = ("Probe answer one.", "Probe answer two.")
PROBE = (
    Message("user", _USERS[0]),
    Message("assistant", _REPLIES[0]),
    Message("user", _USERS[1]),
    Message("assistant", _REPLIES[1]),
    Message("user", _USERS[2]),
)
# transformers hands the real date to templates that call strftime_now, which would change the
# prompt overnight; a macro of that name shadows it.
_PINNED_CLOCK = "{%- macro strftime_now(format) -%}{{ pinned_date }}{%- endmacro -%}"


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
class ChainLayout:
    """A template that is a plain chain of messages.

    Prompt = ``head`` + user + ``to_reply`` [+ ``lead`` + reply + ``tail`` + ``to_user`` + user
    + ``to_reply`` …], so that longer prompts begin with shorter ones.
    """

    head: str
    to_user: str


@dataclass(frozen=True)
class ChatFormat:
    """What probing found out about a tokenizer's template under one prompt config."""

    tokenizer: PreTrainedTokenizerBase
    prompt: PromptConfig
    template: str
    control: re.Pattern[str] | None
    system_role: bool
    to_reply: str = ""
    lead: str = ""
    tail: str = ""
    end_of_turn_id: int = -1
    layout: ChainLayout | None = None

    def render(self, messages: Sequence[Message], *, generation: bool = True) -> str:
        """Text of a conversation that starts at a user message, system text included."""
        turns = [{"role": message.role, "content": message.text} for message in messages]
        system = self.prompt.system
        if system and self.system_role:
            turns.insert(0, {"role": "system", "content": system})
        elif system:
            turns[0] = {**turns[0], "content": f"{system}\n\n{turns[0]['content']}"}
        rendered = self.tokenizer.apply_chat_template(
            turns,
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=generation,
            enable_thinking=False,
            date_string=self.prompt.date_string,
            pinned_date=self.prompt.date_string,
        )
        return str(rendered)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered texts; the template has written all special tokens itself."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None and backend.padding is None and backend.truncation is None:
            # Half the cost of the tokenizer's own call, which builds masks nobody needs here.
            encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids

    def as_text(self, message: Message) -> Message:
        """The message with control tokens in its text taken apart (``<s>`` → ``< s>``)."""
        if self.control is None or not self.control.search(message.text):
            return message
        text = self.control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", message.text)
        return Message(message.role, text)

    def reply_text(self, text: str) -> str:
        """A reply as it follows the generation prompt, end-of-turn token included."""
        return self.lead + text + self.tail


def chat_format(
    base: BaseModel | PreTrainedTokenizerBase, *, prompt: PromptConfig = DEFAULT_PROMPT
) -> ChatFormat:
    """Probe a tokenizer's chat template (cached).

    Raises TaskError where there is no template or it does not show the messages given to it.
    """
    tokenizer: PreTrainedTokenizerBase = getattr(base, "tokenizer", base)
    if not tokenizer.chat_template:
        raise TaskError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
            "use an instruction-tuned model or add a chat_template.jinja to its folder"
        )
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = _PINNED_CLOCK + template
    return _probe(tokenizer, prompt, template)


def end_of_turn_id(
    base: BaseModel | PreTrainedTokenizerBase, *, prompt: PromptConfig = DEFAULT_PROMPT
) -> int:
    """Id of the token that ends a reply; decoding stops at it."""
    return chat_format(base, prompt=prompt).end_of_turn_id


def template_sha256(
    base: BaseModel | PreTrainedTokenizerBase, *, prompt: PromptConfig = DEFAULT_PROMPT
) -> str:
    """Hash of the template as rendered on a probe, with and without the generation prompt."""
    chat = chat_format(base, prompt=prompt)
    shown = [
        chat.render(PROBE),
        chat.render(PROBE[:4], generation=False),
        chat.reply_text(_REPLIES[0]),
    ]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


@lru_cache(maxsize=16)
def _probe(tokenizer: Any, prompt: PromptConfig, template: str) -> ChatFormat:
    chat = ChatFormat(tokenizer, prompt, template, _control_pattern(tokenizer), system_role=True)
    if not _shows_system(chat):
        chat = replace(chat, system_role=False)
    try:
        first = chat.render(PROBE[:1])
        whole = chat.render(PROBE[:2], generation=False)
    except jinja2.exceptions.TemplateError as error:
        raise TaskError(
            f"the chat template of {tokenizer.name_or_path!r} refuses a plain conversation: {error}"
        ) from error
    if _USERS[0] not in first or _REPLIES[0] not in whole:
        raise TaskError(
            f"the chat template of {tokenizer.name_or_path!r} does not show its messages' texts"
        )
    to_reply = first.split(_USERS[0], 1)[1]
    between, after = whole.split(_USERS[0], 1)[1].split(_REPLIES[0], 1)
    tail, end_id = _end_of_turn(tokenizer, after)
    lead = between.removeprefix(to_reply) if between.startswith(to_reply) else ""
    chat = replace(chat, to_reply=to_reply, lead=lead, tail=tail, end_of_turn_id=end_id)
    return replace(chat, layout=_chain_layout(chat))


def _control_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    spelled = sorted((text for text in special if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spelled))) if spelled else None


def _shows_system(chat: ChatFormat) -> bool:
    """Whether the template has a system role: some raise on it, some leave it out silently."""
    try:
        return chat.prompt.system.strip() in chat.render(PROBE[:1])
    except jinja2.exceptions.TemplateError:
        return False


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, after: str) -> tuple[str, int]:
    """Text from the reply's end to its first added token, and that token's id.

    A template that puts no such token after a reply gets the tokenizer's ``eos_token``.
    """
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    found = [(after.index(text), -len(text), text) for text in added if text.strip() in after]
    if found:
        start, _, text = min(found)
        return after[: start + len(text)], added[text]
    if tokenizer.eos_token is None:
        raise TaskError(
            f"the chat template of {tokenizer.name_or_path!r} ends replies with no special token "
            "and the tokenizer has no eos_token; set one"
        )
    return str(tokenizer.eos_token), int(tokenizer.eos_token_id)


def _chain_layout(chat: ChatFormat) -> ChainLayout | None:
    """The template's pieces if it is a chain on the probe at every length, else None."""
    whole = chat.render(PROBE)
    position = whole.find(_USERS[0])
    after_reply = whole.partition(_REPLIES[0])[2].partition(_USERS[1])[0]
    if position < 0 or not after_reply.startswith(chat.tail):
        return None
    layout = ChainLayout(whole[:position], after_reply.removeprefix(chat.tail))
    candidate = replace(chat, layout=layout)
    lengths = (1, 3, 5)
    same = all("".join(_pieces(candidate, PROBE[:n])) == chat.render(PROBE[:n]) for n in lengths)
    return layout if same else None


def _pieces(chat: ChatFormat, messages: Sequence[Message]) -> list[str]:
    """Texts of prompt part, reply, prompt part, … of a chain; they alternate as messages do."""
    assert chat.layout is not None
    pieces = []
    for index, message in enumerate(messages):
        if message.role == "assistant":
            pieces.append(chat.reply_text(message.text))
        else:
            before = chat.layout.to_user if index else chat.layout.head
            pieces.append(before + message.text + chat.to_reply)
    return pieces


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
    chat = chat_format(base, prompt=prompt)
    messages = [chat.as_text(message) for message in session.messages]
    first = next((i for i, message in enumerate(messages) if message.role == "user"), None)
    wanted = sorted(set(turns))
    for turn in wanted:
        _check_turn(session, turn, first)
    shared = _render_shared(chat, messages, wanted, first or 0, max_prompt_tokens, max_total_tokens)
    done = {turn.turn for turn in shared.turns} if shared else set()
    single = [
        _render_single(chat, messages, turn, first or 0, max_prompt_tokens, max_total_tokens)
        for turn in wanted
        if turn not in done
    ]
    return ([shared] if shared else []) + single


def _check_turn(session: Session, turn: int, first: int | None) -> None:
    inside = 0 <= turn < len(session.messages)
    if inside and session.messages[turn].role == "assistant" and first is not None and turn > first:
        return
    replies = [i for i, message in enumerate(session.messages) if message.role == "assistant"]
    raise TaskError(
        f"session {session.session_id}: turn {turn} is no assistant reply after a user message; "
        f"its replies are at {replies}"
    )


def _render_shared(
    chat: ChatFormat,
    messages: Sequence[Message],
    wanted: Sequence[int],
    first: int,
    max_prompt_tokens: int,
    max_total_tokens: int,
) -> RenderedSession | None:
    """One pass for as many of the first wanted turns as fit uncut; None if that is not sound."""
    if chat.layout is None or len(wanted) < 2:
        return None
    used = messages[first : wanted[-1] + 1]
    if any((message.role == "user") != (index % 2 == 0) for index, message in enumerate(used)):
        return None
    pieces = _pieces(chat, used)
    if "".join(pieces[:-1]) != chat.render(used[:-1]):
        return None
    encoded = _encode_exchanges(chat, pieces)
    if encoded is None:
        return None
    ids: list[int] = []
    turns: list[Turn] = []
    kept = 0
    for index, (ask, reply) in enumerate(encoded):
        start = len(ids) + len(ask)
        ids += ask + reply
        if start > max_prompt_tokens or len(ids) > max_total_tokens:
            break
        turn = first + 2 * index + 1
        if turn in wanted:
            turns.append(Turn(turn, start, len(ids)))
            kept = len(ids)
    return RenderedSession(tuple(ids[:kept]), tuple(turns)) if len(turns) > 1 else None


def _encode_exchanges(
    chat: ChatFormat, pieces: Sequence[str]
) -> list[tuple[list[int], list[int]]] | None:
    """Token ids of (prompt part, reply) per exchange, or None where a border is not safe.

    Every part is encoded after the end-of-turn token before it, at which tokenizers split, so
    that the parts put together are the encoding of the whole text; linear in the session.
    """
    end = chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn_id)
    texts: list[str] = []
    for ask, reply in zip(pieces[::2], pieces[1::2], strict=True):
        context = end if texts else ""
        texts += [context + ask, context + ask + reply]
    ids = chat.encode(texts)
    exchanges: list[tuple[list[int], list[int]]] = []
    for ask_ids, both in zip(ids[::2], ids[1::2], strict=True):
        safe = both[: len(ask_ids)] == ask_ids and both[-1] == chat.end_of_turn_id
        skip = 1 if exchanges else 0
        if not safe or (skip and ask_ids[0] != chat.end_of_turn_id):
            return None
        exchanges.append((ask_ids[skip:], both[len(ask_ids) :]))
    return exchanges


def _render_single(
    chat: ChatFormat,
    messages: Sequence[Message],
    turn: int,
    first: int,
    max_prompt_tokens: int,
    max_total_tokens: int,
) -> RenderedSession:
    text, dropped, cut = _fit_prompt(chat, messages[first:turn], max_prompt_tokens)
    reply_text = chat.reply_text(messages[turn].text)
    prompt_ids, both = chat.encode([text, text + reply_text])
    if both[: len(prompt_ids)] == prompt_ids:
        reply = both[len(prompt_ids) :]
    else:  # A token would straddle the border; generation starts after the prompt's own tokens.
        reply = chat.encode([reply_text])[0]
    room = max_total_tokens - len(prompt_ids)
    ids = tuple(prompt_ids + reply[:room])
    over = max(0, len(reply) - room)
    item = Turn(turn, len(prompt_ids), len(ids), dropped, cut, over)
    return RenderedSession(ids, (item,))


def _fit_prompt(
    chat: ChatFormat, messages: Sequence[Message], max_tokens: int
) -> tuple[str, int, int]:
    """Prompt text within ``max_tokens``, number of dropped messages, number of cut tokens."""
    text = chat.render(messages)
    if len(chat.encode([text])[0]) <= max_tokens:
        return text, 0, 0
    starts = [index for index, message in enumerate(messages) if message.role == "user"]

    def fits(start: int) -> bool:
        return len(chat.encode([chat.render(messages[start:])])[0]) <= max_tokens

    chosen = bisect_left(starts, True, lo=1, key=fits)
    if chosen < len(starts):
        return chat.render(messages[starts[chosen] :]), starts[chosen], 0
    text, cut = _cut_message(chat, messages[starts[-1] :], max_tokens)
    return text, starts[-1], cut


def _cut_message(chat: ChatFormat, messages: Sequence[Message], max_tokens: int) -> tuple[str, int]:
    """Prompt of one user message (and what follows it) whose left was cut; cut tokens."""
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
