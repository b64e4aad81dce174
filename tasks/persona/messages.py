"""One user message as the base model reads it: after the neutral system prompt, up to its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.schema import Message
from tasks.base_model import BaseModel
from tasks.config import PromptConfig, TaskError
from tasks.prompt import ChatFormat, chat_format


@dataclass(frozen=True, slots=True)
class ReadMessage:
    """Token ids up to the message's last token; the message is ``token_ids[begin:]``.

    What the template puts after the message is left out: a causal model reads it later.
    """

    token_ids: tuple[int, ...]
    begin: int

    @property
    def tokens(self) -> int:
        """Tokens of the message itself."""
        return len(self.token_ids) - self.begin


def read_messages(
    base: BaseModel, texts: Sequence[str], *, prompt: PromptConfig, max_tokens: int
) -> list[ReadMessage]:
    """Render and tokenize messages, each alone after the system prompt.

    Args:
        base: whose tokenizer and chat template are used.
        texts: the messages.
        prompt: the system prompt and the template's date.
        max_tokens: longer ones lose tokens at their end.

    Raises:
        TaskError: the template does not show a message as it is, or leaves no room for it.
    """
    chat = chat_format(base, prompt=prompt)
    return [_read(chat, text, max_tokens) for text in texts]


def _read(chat: ChatFormat, text: str, max_tokens: int) -> ReadMessage:
    shown = chat.as_text(Message("user", text))
    rendered = chat.render([shown])
    end = len(rendered) - len(chat.to_reply)
    start = end - len(shown.text)
    if rendered[start:end] != shown.text:
        raise TaskError(
            f"the chat template of {chat.tokenizer.name_or_path!r} changes the message "
            f"{shown.text[:40]!r}; persona prediction needs one that shows it as it is"
        )
    # Cut before tokenizing: a token may not join the message with what follows it.
    encoded = chat.tokenizer(rendered[:end], add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    begin = next((k for k, (_, stop) in enumerate(offsets) if stop > start), len(ids))
    # The first token has no prediction, so a message that begins the rendering starts behind it.
    begin = max(1, begin)
    if begin >= min(len(ids), max_tokens):
        raise TaskError(
            f"no token of the message {shown.text[:40]!r} is within the first {max_tokens} tokens: "
            "shorten prompt.system or raise decoding.max_total_tokens"
        )
    return ReadMessage(tuple(ids[:max_tokens]), begin)
