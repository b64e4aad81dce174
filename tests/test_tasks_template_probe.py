"""Templates are asked: which token ends a turn, which template is meant, what a refusal says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace
from transformers import PreTrainedTokenizerFast

from data.schema import Message, Session
from tasks.base_model import EMBEDDED_FOLDER, load_tokenizer
from tasks.config import ModelConfig, PromptConfig, TaskError
from tasks.prompt import chat_format, end_of_turn_id, render_session, template_sha256
from tests.tiny_models import CHATML, tiny_tokenizer

PROMPT = PromptConfig(system="Be kind.")
TALK = Session(
    0,
    "test",
    (
        Message("user", "Hello  you\n\nthere"),
        Message("assistant", "Good  day.\nBye"),
        Message("user", "Dim it"),
        Message("assistant", "Done."),
    ),
    (1, 3),
)


def tokenizer_with(*added: AddedToken | str, template: str = CHATML):  # type: ignore[no-untyped-def]
    tokenizer = tiny_tokenizer("chatml")
    tokens = [token if isinstance(token, AddedToken) else plain(token) for token in added]
    tokenizer.add_tokens(tokens)
    tokenizer.chat_template = template
    return tokenizer


def plain(text: str, **options: bool) -> AddedToken:
    return AddedToken(text, special=False, normalized=False, **options)


def special(text: str, **options: bool) -> AddedToken:
    return AddedToken(text, special=True, normalized=False, **options)


def ending(tail: str, *, last: str | None = None) -> str:
    """ChatML with another end of replies, and maybe another one of the last reply."""
    last = tail if last is None else last
    after = f"({last!r} if loop.last else {tail!r})"
    return (
        "{%- for message in messages -%}"
        "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] -}}"
        "{{- " + after + " if message['role'] == 'assistant' else '<|im_end|>\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
    )


def found(tokenizer) -> tuple[str, str]:  # type: ignore[no-untyped-def]
    """Tail and end of turn."""
    chat = chat_format(tokenizer, prompt=PROMPT)
    return chat.tail, tokenizer.convert_ids_to_tokens(chat.end_of_turn_id)


@pytest.mark.parametrize(
    "added",
    [
        ("  ", "    "),
        ("\n", "\n\n"),
        ("\t", " ", "\n"),
        (special("\n"), special("  ")),
        (plain(" \n", lstrip=True), plain("\n", rstrip=True)),
        (plain(" <|im_end|>"), plain("<|im_end|>\n")),
    ],
)
def test_added_white_space_changes_no_end_of_turn(added: tuple[AddedToken | str, ...]) -> None:
    tokenizer = tokenizer_with(*added)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end_of_turn_id(tokenizer, prompt=PROMPT) == end
    rendered = render_session(tokenizer, TALK, (1, 3), prompt=PROMPT)
    for part in rendered:
        for turn in part.turns:
            alone = tokenizer.apply_chat_template(
                [{"role": "system", "content": "Be kind."}]
                + [{"role": m.role, "content": m.text} for m in TALK.messages[: turn.turn]],
                add_generation_prompt=True,
                return_dict=False,
            )
            assert list(part.token_ids[: turn.prompt_tokens]) == alone
            reply = part.token_ids[turn.prompt_tokens : turn.end]
            assert tokenizer.decode(reply) == TALK.messages[turn.turn].text + "<|im_end|>"
            assert reply[-1] == end


@pytest.mark.parametrize("spaces", [("  ", "    "), ("\n", "\n\n")])
def test_the_embedded_base_with_added_white_space(spaces: tuple[str, str], tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED_FOLDER, tmp_path / "base", ignore=lambda *_: ["model.safetensors"])
    (tmp_path / "base" / "model.safetensors").touch()
    backend = Tokenizer.from_file(str(tmp_path / "base" / "tokenizer.json"))
    backend.add_tokens([plain(text) for text in spaces])
    backend.save(str(tmp_path / "base" / "tokenizer.json"))
    tokenizer = load_tokenizer(ModelConfig(name=str(tmp_path / "base")))
    assert tokenizer.convert_tokens_to_ids(spaces[0]) == len(tokenizer) - 2
    assert found(tokenizer) == ("<|end|>", "<|end|>")
    assert template_sha256(tokenizer) == template_sha256(load_tokenizer(ModelConfig()))


@pytest.mark.parametrize(
    ("template", "added", "expected"),
    [
        # White space before the token that ends the turn; the white space is a token too.
        (ending("\n<|im_end|>\n"), ("\n",), ("\n<|im_end|>", "<|im_end|>")),
        # Markers that are no control tokens stand inside the turn.
        (ending("</answer><|im_end|>\n"), ("</answer>",), ("</answer><|im_end|>", "<|im_end|>")),
        # The first of several special tokens ends it.
        (ending("<|eom|><|im_end|>"), (special("<|eom|>"),), ("<|eom|>", "<|eom|>")),
        # The longest of tokens that begin alike.
        (ending("<|e|><|x|>"), (special("<|e|>"), special("<|e|><|x|>")), ("<|e|><|x|>",) * 2),
        # An end of turn that nobody declared special; eos closes the whole conversation.
        (ending("<|e|>\n", last="<|e|>\n<|im_end|>"), ("<|e|>",), ("<|e|>", "<|e|>")),
        # The last reply alone has an end.
        (ending("\n", last="<|im_end|>"), (), ("<|im_end|>", "<|im_end|>")),
        # The last reply has another end than those before it (gpt-oss).
        (ending("<|e|>", last="<|r|>"), (special("<|e|>"), special("<|r|>")), ("<|r|>", "<|r|>")),
        # Only between turns is there a token: the next turn's header (GLM-4).
        (ending("", last=""), (), ("<|im_start|>", "<|im_start|>")),
        (ending("<|im_end|>", last=""), (), ("<|im_end|>", "<|im_end|>")),
        # No token directly behind a reply: eos_token.
        (ending("\n--\n", last="\n"), ("\n",), ("<|im_end|>", "<|im_end|>")),
        # Tokens that take up the white space around them (Phi-3).
        (ending("<|e|>\n"), (special("<|e|>", rstrip=True, lstrip=True),), ("<|e|>", "<|e|>")),
    ],
)
def test_which_token_ends_a_turn(
    template: str, added: tuple[AddedToken | str, ...], expected: tuple[str, str]
) -> None:
    tokenizer = tokenizer_with(*added, template=template)
    assert found(tokenizer) == expected
    for part in render_session(tokenizer, TALK, (1, 3), prompt=PROMPT):
        for turn in part.turns:
            reply = part.token_ids[turn.prompt_tokens : turn.end]
            assert reply.count(end_of_turn_id(tokenizer, prompt=PROMPT)) == 1
            assert reply[-1] == end_of_turn_id(tokenizer, prompt=PROMPT)


def test_eos_of_the_tokenizer_differs_from_the_template_s() -> None:
    tokenizer = tokenizer_with()
    tokenizer.eos_token = "<|endoftext|>"
    assert found(tokenizer) == ("<|im_end|>", "<|im_end|>")


def test_a_newline_ends_turns_where_it_is_the_eos_token() -> None:
    tokenizer = tokenizer_with("\n", template=ending("\n"))
    tokenizer.eos_token = "\n"
    assert found(tokenizer) == ("\n", "\n")


def test_messages_cannot_spell_the_end_of_turn_even_if_it_is_not_special() -> None:
    tokenizer = tokenizer_with("<|e|>", template=ending("<|e|>\n"))
    talk = Session(0, "test", (Message("user", "a"), Message("assistant", "No <|e|> end")), (1,))
    (part,) = render_session(tokenizer, talk, (1,), prompt=PROMPT)
    assert tokenizer.decode(part.token_ids).endswith("No < |e|> end<|e|>")


def test_white_space_is_no_control_token() -> None:
    tokenizer = tokenizer_with(special("  "))
    message = Message("user", "two  spaces")
    assert chat_format(tokenizer, prompt=PROMPT).as_text(message) == message


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2's: words begin with ▁, and so does the text."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:/[]'\n▁"
    merges = [("▁", letter) for letter in letters[:26]]
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *letters])}
    vocabulary |= {left + right: len(vocabulary) + k for k, (left, right) in enumerate(merges)}
    backend = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>"))
    backend.pre_tokenizer = Metaspace(prepend_scheme="first")
    backend.decoder = MetaspaceDecoder(prepend_scheme="first")
    backend.add_special_tokens([special(token) for token in ("<unk>", "<s>", "</s>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.add_tokens([plain("\n"), plain("   ")])
    tokenizer.chat_template = (
        "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}"
        "{{- ' ' + m['content'] + ' ' + eos_token -}}{%- else -%}"
        "{{- ('' if m['role'] == 'system' else bos_token + '[INST] ') + m['content'] -}}"
        "{{- '\n' if m['role'] == 'system' else ' [/INST]' -}}{%- endif -%}{%- endfor -%}"
    )
    return tokenizer


def test_sentencepiece_tokens_are_found_and_pieces_add_up() -> None:
    tokenizer = sentencepiece_tokenizer()
    chat = chat_format(tokenizer, prompt=PROMPT)
    assert found(tokenizer) == (" </s>", "</s>")
    assert chat.lead == " "
    (part,) = render_session(tokenizer, TALK, (1, 3), prompt=PROMPT)
    whole = chat.render(TALK.messages, generation=False)
    assert list(part.token_ids) == chat.encode([whole])[0]
    cut = render_session(
        tokenizer, TALK, (1, 3), prompt=PROMPT, max_prompt_tokens=50, max_total_tokens=99
    )
    assert [turn.dropped_messages for part in cut for turn in part.turns] == [0, 2]
    alone = chat.encode([chat.render(TALK.messages[2:3])])[0]
    assert list(cut[1].token_ids[: len(alone)]) == alone


def refusal(template: object) -> str:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = template
    with pytest.raises(TaskError) as caught:
        chat_format(tokenizer, prompt=PROMPT)
    message = str(caught.value)
    assert "\n" not in message
    assert "chat_template.jinja" in message
    return message


def test_named_templates_without_a_default_are_named() -> None:
    message = refusal({"tool_use": CHATML, "rag": CHATML})
    assert "called rag, tool_use and none called 'default'" in message
    assert "called chat and none" in refusal({"chat": CHATML})


def test_the_default_of_named_templates_is_used() -> None:
    named = tokenizer_with(template={"default": CHATML, "tool_use": "{{ nothing.at.all }}"})  # type: ignore[arg-type]
    assert template_sha256(named) == template_sha256(tokenizer_with())


@pytest.mark.parametrize("template", [None, "", "  \n", {}, {"default": ""}, {"default": None}])
def test_an_empty_template_is_none(template: object) -> None:
    assert "has no chat template; use an instruction-tuned model" in refusal(template)


RAISING = {
    "{{ raise_exception('only with\n documents') }}": "TemplateError: only with documents",
    "{{ messages | length + tools | length }}": "TypeError: object of type 'NoneType' has no len()",
    "{{ messages[0]['name'].upper() }}": "UndefinedError: 'dict object' has no attribute 'name'",
    "{{ messages[0]['content'][0]['text'].strip() }}": "UndefinedError: 'str object' has no",
    "{% for m in messages %}{{ m.content }}": "TemplateSyntaxError: Unexpected end of template",
    "{{ messages | frobnicate }}": "No filter named 'frobnicate'",
    "{{ 1 / (messages | length - messages | length) }}": "ZeroDivisionError: division by zero",
    "{{ '%d' % messages[0]['content'] }}": "TypeError: %d format",
    "{{ strptime_now() }}": "UndefinedError: 'strptime_now' is undefined",
    "{% include 'other.jinja' %}": "TypeError: no loader for this environment",
    "{{ messages.append(1) }}": "SecurityError: access to attribute 'append'",
}


@pytest.mark.parametrize("template", RAISING)
def test_whatever_a_template_raises_is_told_in_one_line(template: str) -> None:
    message = refusal(template)
    assert "refuses a plain conversation" in message
    assert RAISING[template] in message


def test_a_template_that_refuses_a_second_turn_or_hides_texts_is_refused() -> None:
    one = "{%- if messages | length > 3 -%}{{ raise_exception('one turn') }}{%- endif -%}"
    assert "of 6 messages: TemplateError: one turn" in refusal(one + CHATML)
    tokenizer = tokenizer_with(template=CHATML.replace("['content']", "['content'] | upper"))
    with pytest.raises(TaskError, match="does not show its messages' texts"):
        chat_format(tokenizer, prompt=PROMPT)


def test_a_template_that_refuses_one_conversation_says_so() -> None:
    tokenizer = tiny_tokenizer("mistral")
    twice = (Message("user", "a"), Message("user", "b"), Message("assistant", "c"))
    with pytest.raises(TaskError, match="roles must alternate"):
        render_session(tokenizer, Session(0, "test", twice, (2,)), (2,), prompt=PROMPT)
