"""What a chat template makes of messages: the rendered text and its token ids.

Templates are rendered with ``enable_thinking=False`` and a clock that always says
``date_string``. A template without a system role gets the system text and a blank line before the
first user message. Control tokens that a message spells out stay text: a space takes them apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.schema import Message
from tasks.config import PromptConfig, TaskError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    """What probing found out about a tokenizer's template under one prompt config.

    ``to_reply`` is the text between the last user message and the reply. It ends with ``opening``,
    which the template's own generation prompt lacks (see ``tasks.reply_opening``).
    """

    tokenizer: PreTrainedTokenizerBase
    prompt: PromptConfig
    template: str
    control: re.Pattern[str] | None
    system_role: bool
    to_reply: str = ""
    opening: str = ""
    lead: str = ""
    tail: str = ""
    end_of_turn_id: int = -1
    layout: ChainLayout | None = None

    def render(self, messages: Sequence[Message], *, generation: bool = True) -> str:
        """Text of a conversation that starts at a user message, system text included.

        Raises:
            TaskError: the template refuses the conversation, in whatever way.
        """
        turns = [{"role": message.role, "content": message.text} for message in messages]
        system = self.prompt.system
        if system and self.system_role:
            turns.insert(0, {"role": "system", "content": system})
        elif system:
            turns[0] = {**turns[0], "content": f"{system}\n\n{turns[0]['content']}"}
        rendered = self._rendered(turns, generation=generation)
        if not (generation and self.opening):
            return rendered
        asked = self.to_reply.removesuffix(self.opening)
        if messages[-1].role == "user" and not rendered.endswith(asked):
            raise TaskError(
                f"the chat template of {self.tokenizer.name_or_path!r} ends this conversation with "
                f"{rendered[-40:]!r} and others with {asked!r}; a reply cannot be placed behind it"
            )
        return rendered + self.opening

    def _rendered(self, turns: list[dict[str, str]], *, generation: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    turns,
                    chat_template=self.template,
                    tokenize=False,
                    add_generation_prompt=generation,
                    enable_thinking=False,
                    date_string=self.prompt.date_string,
                    pinned_date=self.prompt.date_string,
                )
            )
        except Exception as error:  # A template raises whatever its author and its gaps make it.
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise TaskError(
                f"the chat template of {self.tokenizer.name_or_path!r} refuses a plain "
                f"conversation of {len(turns)} messages: {reason}; use a model whose template "
                "takes user and assistant texts alone, or put a chat_template.jinja that does "
                "into its folder"
            ) from error

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

    def pieces(self, messages: Sequence[Message]) -> list[str]:
        """Texts of prompt part, reply, prompt part, … of a chain; they alternate as messages do."""
        assert self.layout is not None
        pieces = []
        for index, message in enumerate(messages):
            if message.role == "assistant":
                pieces.append(self.reply_text(message.text))
            else:
                before = self.layout.to_user if index else self.layout.head
                pieces.append(before + message.text + self.to_reply)
        return pieces
