"""Where a reply begins: behind what the template's history shows before a reply.

A generation prompt may differ from that: some templates open a ``<think>`` block for the model to
think in, and show past replies without one. A reply that is trained or scored in there would be a
thought. What decides is the text that the template itself renders behind the last user message:

* *asked*: when a reply is asked for (it ends with the generation prompt);
* *shown*: when the reply is there, as the conversation's last message.

The rules, in this order:

1. *shown* begins with *asked*: what it has more (an empty think block, a channel, a role's header)
   goes to the prompt, so that no arm has to write it. White space alone belongs to the reply, as
   tokenizers join it with the first word.
2. *asked* is *shown* and blocks that are closed again (``<think>\\n\\n</think>``): as it is.
3. *asked* is *shown* and one think block that stays open: the prompt closes it as templates do
   when thinking is switched off (``<think>\\n`` + ``\\n</think>\\n\\n``).
4. All else is refused, and so is a history that shows replies inside an open think block.

Past replies in a prompt stay as the template shows them.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from tasks.config import TaskError

# <think>, [THINK], ◁think▷ and their closings; <|START_THINKING|>, <|end_of_thought|> …
_MARKER = re.compile(r"[<\[◁]/?[A-Za-z][\w:.-]*[>\]▷]|<\|[^<>|]*\|>")
_BEGIN_AND_END = re.compile(r"(?<![A-Za-z])(begin|start|BEGIN|START)(?![A-Za-z])")
_CLOSING = re.compile(r"^.\|?/|(?<![A-Za-z])(end|END)(?![A-Za-z])")
_THINKING = re.compile(
    r"think|thought|reason|reflect|scratchpad|analysis|monologue|(?<![a-z])cot(?![a-z])",
    re.IGNORECASE,
)
_ADVICE = (
    "put a chat_template.jinja into the model's folder whose generation prompt is what its history "
    "shows before a reply, or use another model"
)


def reply_opening(
    *, asked: str, shown: str, tail: str, added_tokens: Collection[str] = ()
) -> tuple[str, str]:
    """What the generation prompt lacks, and the white space that a reply begins with.

    Args:
        asked: text behind the last user message, with the generation prompt.
        shown: text between the last user message and its reply.
        tail: text from the reply to its end-of-turn token.
        added_tokens: of the tokenizer; a block that one of them opens must be closed by one.

    Raises:
        TaskError: the generation prompt differs from the history in a way that has no rule.
    """
    if shown.startswith(asked):
        rest = shown[len(asked) :]
        opening = rest.rstrip(" ") if rest.strip() else ""
        lead = rest[len(opening) :]
    else:
        opening, lead = _what_closes(asked, shown, added_tokens), ""
    thoughts = [tag for tag in _blocks(asked + opening)[0] if _THINKING.search(tag)]
    if thoughts and closing_of(thoughts[-1]) not in tail:
        raise TaskError(
            f"the chat template shows replies inside an open {thoughts[-1]} block; {_ADVICE}"
        )
    return opening, lead


def _what_closes(asked: str, shown: str, added_tokens: Collection[str]) -> str:
    """Text that closes the block which ``asked`` opens and ``shown`` lacks; empty if none is."""
    before = shown.rstrip()
    more = asked.removeprefix(before)
    left_open, outside = _blocks(more)
    end = closing_of(left_open[-1]) if left_open else ""
    known = (
        asked.startswith(before)
        and not outside
        and len(left_open) <= 1
        and all(_THINKING.search(tag) for tag in left_open)
        and (end in added_tokens or not set(left_open) & set(added_tokens))
    )
    if not known:
        raise TaskError(
            f"the chat template asks for a reply behind {asked[-60:]!r}, its history shows replies "
            f"behind {shown[-60:]!r}; {_ADVICE}"
        )
    if not left_open:
        return ""
    newline = "\n" if "\n" in more.rpartition(left_open[-1])[2] else ""
    return newline + end + newline * 2


def _blocks(text: str) -> tuple[list[str], str]:
    """Opening markers of the blocks that stay open, and what stands outside of all blocks.

    A closing marker alone is a closed block: some templates write no more to switch thinking off.
    """
    stack: list[str] = []
    outside: list[str] = []
    at = 0
    for match in _MARKER.finditer(text):
        if not stack:
            outside.append(text[at : match.start()])
        at = match.end()
        ends = [closing_of(marker) for marker in stack]
        if match[0] in ends:
            del stack[ends.index(match[0]) :]
        elif closing_of(match[0]):
            stack.append(match[0])
        elif not stack and not _CLOSING.search(match[0]):
            outside.append(match[0])
    if not stack:
        outside.append(text[at:])
    return stack, "".join(outside).strip()


def closing_of(marker: str) -> str:
    """The marker that closes a block (``</think>``); empty for one that opens none."""
    if _CLOSING.search(marker):
        return ""
    if "|" not in marker:
        return f"{marker[0]}/{marker[1:]}"
    begins = _BEGIN_AND_END.search(marker)
    if begins is None:
        return ""
    end = "END" if begins[0].isupper() else "end"
    return marker[: begins.start()] + end + marker[begins.end() :]
