"""What a chat template does: asked by rendering a probe conversation, never guessed.

The end of a turn is the token that the template puts behind a reply, and decoding stops at it.
Which one, in this order: a special token (or the tokenizer's ``eos_token``) that follows a reply
both in the midst of a conversation and at its end; another added token that does; the same behind
the last reply alone; a special token that directly follows a reply in the midst (the header of the
next turn ends the reply); ``eos_token``. White space never ends a turn, as replies hold it
themselves, unless it is the ``eos_token``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from data.schema import Message
from tasks.chat_format import ChainLayout, ChatFormat
from tasks.config import PromptConfig, TaskError
from tasks.reply_opening import reply_opening

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


def chat_format(
    base: BaseModel | PreTrainedTokenizerBase, *, prompt: PromptConfig = DEFAULT_PROMPT
) -> ChatFormat:
    """Probe a tokenizer's chat template (cached).

    Raises:
        TaskError: there is no template, it raises, or it does not show the messages given to it
            as ``tasks.reply_opening`` needs them.
    """
    tokenizer: PreTrainedTokenizerBase = getattr(base, "tokenizer", base)
    template = _template_of(tokenizer)
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


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The one template, or of several named ones the default."""
    given: Any = getattr(tokenizer, "chat_template", None)
    if isinstance(given, dict) and given:
        if "default" not in given:
            raise TaskError(
                f"the tokenizer of {tokenizer.name_or_path!r} has chat templates called "
                f"{', '.join(sorted(map(str, given)))} and none called 'default'; put the one to "
                "use into the model's folder as chat_template.jinja"
            )
        given = given["default"]
    if not isinstance(given, str) or not given.strip():
        raise TaskError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
            "use an instruction-tuned model or add a chat_template.jinja to its folder"
        )
    return given


@lru_cache(maxsize=16)
def _probe(tokenizer: Any, prompt: PromptConfig, template: str) -> ChatFormat:
    chat = ChatFormat(tokenizer, prompt, template, control=None, system_role=True)
    if not _shows_system(chat):
        chat = replace(chat, system_role=False)
    asked = _between(chat.render(PROBE[:1]), _USERS[0], "")
    whole = chat.render(PROBE[:2], generation=False)
    shown, last = _between(whole, _USERS[0], _REPLIES[0]), _between(whole, _REPLIES[0], "")
    if asked is None or shown is None or last is None:
        raise TaskError(
            f"the chat template of {tokenizer.name_or_path!r} does not show its messages' texts"
        )
    midst = _between(chat.render(PROBE), _REPLIES[0], _USERS[1]) or ""
    tail, end_id = _end_of_turn(chat, last=last, midst=midst)
    chat = replace(chat, tail=tail, end_of_turn_id=end_id, control=_control(tokenizer, end_id))
    try:
        opening, lead = reply_opening(
            asked=asked, shown=shown, tail=tail, added_tokens=tokenizer.get_added_vocab()
        )
    except TaskError as error:
        raise TaskError(f"model {tokenizer.name_or_path!r}: {error}") from error
    chat = replace(chat, to_reply=asked + opening, opening=opening, lead=lead)
    return replace(chat, layout=_chain_layout(chat))


def _between(text: str, start: str, end: str) -> str | None:
    """What stands between the last ``start`` before ``end`` and ``end``; None if they do not."""
    before, found, _ = text.rpartition(end) if end else (text, "", "")
    if end and not found:
        return None
    _, found, between = before.rpartition(start)
    return between if found else None


def _shows_system(chat: ChatFormat) -> bool:
    """Whether the template has a system role: some raise on it, some leave it out silently."""
    try:
        return chat.prompt.system.strip() in chat.render(PROBE[:1])
    except TaskError:
        return False


def _control(tokenizer: PreTrainedTokenizerBase, end_id: int) -> re.Pattern[str] | None:
    """Tokens that no message may spell: the special ones, and whichever ends a turn."""
    added = tokenizer.added_tokens_decoder
    control = {token.content.strip() for token in added.values() if token.special}
    if end_id in added:
        control.add(added[end_id].content.strip())
    spelled = sorted((text for text in control if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spelled))) if spelled else None


def _end_of_turn(chat: ChatFormat, *, last: str, midst: str) -> tuple[str, int]:
    """Text from a reply's end to the end of its turn, and the id of the token that ends it.

    Args:
        chat: its tokenizer.
        last: what the template puts behind a conversation's last reply.
        midst: what it puts between a reply and the next user message.
    """
    tokenizer = chat.tokenizer
    for tail, token_id in _candidates(tokenizer, last, midst):
        if chat.encode([_REPLIES[0] + tail])[0][-1:] == [token_id]:
            return tail, token_id
    if tokenizer.eos_token is None:
        raise TaskError(
            f"the chat template of {tokenizer.name_or_path!r} ends replies with no special token "
            "and the tokenizer has no eos_token; set one"
        )
    return str(tokenizer.eos_token), int(tokenizer.eos_token_id)


def _candidates(
    tokenizer: PreTrainedTokenizerBase, last: str, midst: str
) -> Iterator[tuple[str, int]]:
    """Possible ends of a turn, best first; see the module's rule."""
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    named = {token for token in tokenizer.all_special_tokens if token.strip()}
    marks = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special = {text for text in marks | named if text.strip()}
    if tokenizer.eos_token:
        special.add(str(tokenizer.eos_token))
    other = {text for text in added if text.strip()} - special
    ids = added | {text: int(tokenizer.convert_tokens_to_ids(text)) for text in special}
    same = takewhile(lambda pair: pair[0] == pair[1], zip(last, midst, strict=False))
    everywhere = "".join(character for character, _ in same)
    for after in (everywhere, last):
        for tokens in (special, other):
            yield from ((tail, ids[text]) for tail, text in _tails(after, tokens))
    openers = {str(tokenizer.bos_token), str(tokenizer.pad_token), str(tokenizer.unk_token)}
    for tail, text in _tails(midst, special - (openers - {str(tokenizer.eos_token)})):
        if tail.strip() == text:
            yield tail, ids[text]


def _tails(after: str, tokens: Iterable[str]) -> list[tuple[str, str]]:
    """(Text up to and with the token, the token) for each token there, first and longest first."""
    found = sorted((after.index(text), -len(text), text) for text in tokens if text in after)
    return [(after[: start + len(text)], text) for start, _, text in found]


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
    same = all("".join(candidate.pieces(PROBE[:n])) == chat.render(PROBE[:n]) for n in lengths)
    return layout if same else None
