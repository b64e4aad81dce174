"""Where replies begin: never inside an open block, always as the history shows them or refused."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken

from data.schema import Message, Session
from tasks.config import PromptConfig, TaskError
from tasks.prompt import chat_format, render_session
from tasks.reply_opening import closing_of, reply_opening
from tests.tiny_models import CHATML, tiny_tokenizer

PROMPT = PromptConfig(system="Be kind.")
TALK = Session(
    0,
    "test",
    (
        Message("user", "Hello"),
        Message("assistant", "Good day."),
        Message("user", "Dim the lamp"),
        Message("assistant", "Done."),
    ),
    (1, 3),
)
HEAD = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
ASSISTANT = "<|im_start|>assistant\n"
CLOSED = "<think>\n\n</think>\n\n"


def tokenizer_of(template: str, *added: str):  # type: ignore[no-untyped-def]
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.add_tokens([AddedToken(token, special=False) for token in added])
    tokenizer.chat_template = template
    return tokenizer


def asking(text: str) -> str:
    """ChatML whose generation prompt goes on with a text that its history does not show."""
    return CHATML.replace("'<|im_start|>assistant\n'", repr(ASSISTANT + text))


def showing(text: str, *, where: str = "true") -> str:
    """ChatML that shows a text before the content of replies."""
    shown = f"(message['role'] == 'assistant' and ({where}))"
    return CHATML.replace(
        "message['content']", f"({text!r} if {shown} else '') + message['content']"
    )


def rendered(tokenizer) -> list[str]:  # type: ignore[no-untyped-def]
    """Each turn's prompt and reply, decoded."""
    parts = render_session(tokenizer, TALK, (1, 3), prompt=PROMPT)
    return [
        tokenizer.decode(part.token_ids[: turn.prompt_tokens])
        + "‖"
        + tokenizer.decode(part.token_ids[turn.prompt_tokens : turn.end])
        for part in parts
        for turn in part.turns
    ]


SECOND = "Good day.<|im_end|>\n<|im_start|>user\nDim the lamp<|im_end|>\n"


@pytest.mark.parametrize("added", [(), ("<think>", "</think>")])
def test_an_open_think_block_is_closed_and_history_stays(added: tuple[str, ...]) -> None:
    # DeepSeek-R1's distills, QwQ: <think> in the generation prompt, none in the history.
    tokenizer = tokenizer_of(asking("<think>\n"), *added)
    assert rendered(tokenizer) == [
        HEAD + ASSISTANT + CLOSED + "‖Good day.<|im_end|>",
        HEAD + ASSISTANT + SECOND + ASSISTANT + CLOSED + "‖Done.<|im_end|>",
    ]


def test_what_the_history_shows_before_the_last_reply_goes_to_the_prompt() -> None:
    # Qwen3-Thinking: the generation prompt opens the block, the last reply's is shown closed.
    template = asking("<think>\n").replace(
        "message['content']",
        "((" + repr(CLOSED) + ") if message['role'] == 'assistant' and loop.last else '')"
        " + message['content']",
    )
    assert rendered(tokenizer_of(template)) == [
        HEAD + ASSISTANT + CLOSED + "‖Good day.<|im_end|>",
        HEAD + ASSISTANT + SECOND + ASSISTANT + CLOSED + "‖Done.<|im_end|>",
    ]


def test_an_empty_block_that_only_the_history_shows_goes_to_the_prompt() -> None:
    # The generation prompt knows nothing of the block: the model would have to write it.
    first, second = rendered(tokenizer_of(showing(CLOSED)))
    assert first == HEAD + ASSISTANT + CLOSED + "‖Good day.<|im_end|>"
    assert second == (HEAD + ASSISTANT + CLOSED + SECOND + ASSISTANT + CLOSED + "‖Done.<|im_end|>")


def test_a_block_that_the_template_closes_itself_stays_as_it_is() -> None:
    # Qwen3 with enable_thinking=False: asked with the closed block, history without.
    template = CHATML.replace(
        "'<|im_start|>assistant\n'",
        repr(ASSISTANT) + " + ('<think>\\n\\n</think>\\n\\n' if not enable_thinking else '')",
    )
    chat = chat_format(tokenizer_of(template), prompt=PROMPT)
    assert (chat.opening, chat.lead) == ("", "")
    assert rendered(tokenizer_of(template))[0] == HEAD + ASSISTANT + CLOSED + "‖Good day.<|im_end|>"


def test_a_header_that_only_the_history_has_goes_to_the_prompt() -> None:
    # A template that does not know add_generation_prompt, and one with channels (gpt-oss).
    ignoring = CHATML.replace("{%- if add_generation_prompt -%}", "{%- if false -%}")
    assert rendered(tokenizer_of(ignoring))[0] == HEAD + ASSISTANT + "‖Good day.<|im_end|>"
    channels = showing("<|channel|>final<|message|>")
    assert rendered(tokenizer_of(channels))[0] == (
        HEAD + ASSISTANT + "<|channel|>final<|message|>‖Good day.<|im_end|>"
    )


def test_replies_that_the_history_shows_in_an_open_block_are_refused() -> None:
    template = showing("<think>\n").replace(
        "'<|im_start|>assistant\n'", repr(ASSISTANT + "<think>\n")
    )
    with pytest.raises(TaskError, match=r"inside an open <think> block; put a chat_template"):
        chat_format(tokenizer_of(template), prompt=PROMPT)


@pytest.mark.parametrize(
    ("asked", "opening"),
    [
        ("<think>\n", "\n</think>\n\n"),
        ("<think>", "</think>"),
        ("<thought>\n", "\n</thought>\n\n"),
        ("<reasoning>\n\n", "\n</reasoning>\n\n"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<seed:think>", "</seed:think>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|begin_of_thought|>\n", "\n<|end_of_thought|>\n\n"),
        ("<think>\nOkay.", "\n</think>\n\n"),
        ("<think></think>", ""),
        ("<|START_THINKING|><|END_THINKING|>", ""),
        ("</think>", ""),
        ("\n", ""),
    ],
)
def test_blocks_of_all_spellings_are_closed_in_kind(asked: str, opening: str) -> None:
    found = reply_opening(asked=f"<|a|>\n{asked}", shown="<|a|>\n", tail="<|e|>")
    assert found == (opening, "")


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("<|a|>Sure, ", "<|a|>"),  # words put into the model's mouth
        ("<|model|>", "<|assistant|>"),  # another header
        ("<|a|><answer>\n", "<|a|>"),  # a block that holds the answer itself
        ("<|a|><think><plan>\n", "<|a|>"),
        ("<|a|><|channel|>analysis<|message|>", "<|a|>"),
        ("<|a|><think>\n", ""),
    ],
)
def test_other_differences_are_refused_with_both_texts(asked: str, shown: str) -> None:
    with pytest.raises(TaskError) as caught:
        reply_opening(asked=asked, shown=shown, tail="<|e|>")
    assert repr(asked) in str(caught.value)
    assert repr(shown) in str(caught.value)
    assert "chat_template.jinja" in str(caught.value)


def test_a_block_is_not_closed_by_a_token_that_the_model_does_not_have() -> None:
    known = {"asked": "<|a|><think>\n", "shown": "<|a|>", "tail": "<|e|>"}
    with pytest.raises(TaskError, match="asks for a reply behind"):
        reply_opening(**known, added_tokens=["<think>", "<|done_thinking|>"])
    assert reply_opening(**known, added_tokens=["<think>", "</think>"])[0] == "\n</think>\n\n"


@pytest.mark.parametrize(
    ("shown", "opening", "lead"),
    [("<|a|>", "", ""), ("<|a|> ", "", " "), ("<|a|>\n", "", "\n"), ("<|a|>x: ", "x:", " ")],
)
def test_white_space_before_a_reply_belongs_to_the_reply(
    shown: str, opening: str, lead: str
) -> None:
    assert reply_opening(asked="<|a|>", shown=shown, tail="<|e|>") == (opening, lead)


def test_a_tag_around_replies_that_the_tail_closes_is_no_open_block() -> None:
    both = "<|a|><reasoned_answer>\n"
    assert reply_opening(asked=both, shown=both, tail="\n</reasoned_answer><|e|>") == ("", "")
    assert closing_of("</think>") == closing_of("<|end_of_thought|>") == closing_of("<|a|>") == ""


def test_a_conversation_that_the_template_ends_otherwise_is_refused() -> None:
    # Thinking is asked for in the message: what the probe saw does not hold for it.
    template = asking("<think>\n").replace(
        "{%- if add_generation_prompt -%}",
        "{%- if add_generation_prompt and '/fast' in messages[-1].content -%}"
        "{{- '<|im_start|>assistant\n<fast>' -}}{%- elif add_generation_prompt -%}",
    )
    chat = chat_format(tokenizer_of(template), prompt=PROMPT)
    assert chat.render([Message("user", "slow")]).endswith(CLOSED)
    with pytest.raises(TaskError, match="ends this conversation with"):
        chat.render([Message("user", "/fast")])
