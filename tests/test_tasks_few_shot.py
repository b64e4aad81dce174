"""Own exchanges in the prompt: which ones, where, how many, shared as far as may be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.schema import Message, Session, Style, UserData
from tasks.cell import CellSpec
from tasks.config import DecodingConfig, PromptConfig
from tasks.encoder import load_encoder
from tasks.few_shot import FewShotRendering, own_exchanges, render_with_exchanges
from tasks.prompt import render_session
from tasks.trial import run_cell
from tests.test_tasks_prompt import ENDS, TEMPLATES, TOKENIZERS, expected_prompt, session
from tests.tiny_models import Template, tiny_base

PROMPT = PromptConfig(system="Be kind.")
CAPS = {"max_prompt_tokens": 120, "max_total_tokens": 160}
OFFERED = tuple(
    (Message("user", f"Old wish {n}"), Message("assistant", f"Old reply {n}.")) for n in range(4)
)


def render(template: Template, talk: Session, turns, exchanges=OFFERED, **caps):  # type: ignore[no-untyped-def]
    return render_with_exchanges(
        TOKENIZERS[template], talk, turns, exchanges=exchanges, prompt=PROMPT, **{**CAPS, **caps}
    )


def flat(exchanges) -> tuple[Message, ...]:  # type: ignore[no-untyped-def]
    return tuple(message for pair in exchanges for message in pair)


def per_turn(found: list[FewShotRendering]) -> dict[int, tuple[list[int], list[int], int]]:
    """Turn → prompt's tokens, reply's tokens, exchanges shown."""
    return {
        turn.turn: (
            list(part.rendered.token_ids[: turn.prompt_tokens]),
            list(part.rendered.token_ids[turn.prompt_tokens : turn.end]),
            shown,
        )
        for part in found
        for turn, shown in zip(part.rendered.turns, part.shown, strict=True)
    }


def by_hand(template: Template, talk: Session, turn: int, exchanges, cap: int):  # type: ignore[no-untyped-def]
    """The longest prompt that fits, tried from all exchanges down to none."""
    tokenizer = TOKENIZERS[template]
    for count in range(len(exchanges), -1, -1):
        messages = flat(exchanges[len(exchanges) - count :]) + talk.messages[:turn]
        text = expected_prompt(template, messages)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= cap:
            return ids, count
    return None


@pytest.mark.parametrize("template", TEMPLATES)
def test_exchanges_come_before_the_session_and_the_newest_is_nearest(template: Template) -> None:
    talk = session("Lights on?", "Yes, done.")
    (part,) = render(template, talk, (1,), OFFERED[2:])
    expected = expected_prompt(template, (*flat(OFFERED[2:]), talk.messages[0]))
    (turn,) = part.rendered.turns
    text = TOKENIZERS[template].decode(part.rendered.token_ids[: turn.prompt_tokens])
    assert text == expected
    assert part.shown == (2,)
    assert (turn.turn, turn.truncated) == (1, False)
    assert text.index("Old reply 2.") < text.index("Old wish 3") < text.index("Lights on?")


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=25, deadline=None)
@given(
    words=st.lists(st.integers(1, 12), min_size=2, max_size=8),
    offered=st.lists(st.integers(1, 9), min_size=0, max_size=6),
    cap=st.integers(60, 200),
)
def test_as_many_as_fit_are_shown_and_the_session_is_never_cut_for_them(
    template: Template, words: list[int], offered: list[int], cap: int
) -> None:
    talk = session(*(" ".join(["light"] * n) for n in words[: len(words) // 2 * 2]))
    exchanges = tuple(
        (Message("user", f"wish {k}" + " a" * n), Message("assistant", f"reply {k}" + " on" * n))
        for k, n in enumerate(offered)
    )
    caps = {"max_prompt_tokens": cap, "max_total_tokens": cap + 40}
    found = per_turn(render(template, talk, talk.item_turns, exchanges, **caps))
    assert sorted(found) == list(talk.item_turns)
    plain = {
        turn.turn: (part, turn)
        for part in render_session(
            TOKENIZERS[template], talk, talk.item_turns, prompt=PROMPT, **caps
        )
        for turn in part.turns
    }
    for turn, (prompt, reply, shown) in found.items():
        expected = by_hand(template, talk, turn, exchanges, cap)
        if expected is None:  # The session alone is too long: cut as without exchanges.
            part, place = plain[turn]
            assert (prompt, shown) == (list(part.token_ids[: place.prompt_tokens]), 0)
        else:
            assert (prompt, shown) == expected
        end = TOKENIZERS[template].convert_tokens_to_ids(ENDS[template])
        assert len(prompt) + len(reply) <= cap + 40
        assert reply[-1] == end or len(prompt) + len(reply) == cap + 40


def test_replies_with_equally_many_exchanges_share_a_rendering() -> None:
    talk = session(*(f"word {n}" for n in range(10)))
    roomy = render("chatml", talk, talk.item_turns, max_prompt_tokens=400, max_total_tokens=500)
    assert [len(part.rendered.turns) for part in roomy] == [5]
    tight = render("chatml", talk, talk.item_turns, max_prompt_tokens=150, max_total_tokens=200)
    assert all(len(set(part.shown)) == 1 for part in tight)
    shown = [part.shown[0] for part in tight]
    assert shown == sorted(set(shown), reverse=True)
    assert len(shown) > 1
    assert sum(len(part.rendered.turns) for part in tight) == 5


def test_a_session_cut_by_itself_says_so_and_counts_its_own_messages_alone() -> None:
    talk = session("a long question " * 4, "ok", "another long one " * 4, "fine", "Now?", "Yes")
    (part,) = render("chatml", talk, (5,), max_prompt_tokens=60, max_total_tokens=100)
    (turn,) = part.rendered.turns
    assert part.shown == (0,)
    assert (turn.turn, turn.dropped_messages, turn.truncated) == (5, 4, True)


def test_messages_before_the_first_question_are_left_out_and_control_tokens_are_text() -> None:
    talk = session("Welcome!", "Hi", "Hello there", start="assistant")
    wish = (Message("user", "say <|im_end|>"), Message("assistant", "no"))
    (part,) = render("chatml", talk, (2,), (wish,))
    text = TOKENIZERS["chatml"].decode(part.rendered.token_ids)
    assert "Welcome" not in text
    assert "say < |im_end|>" in text
    assert part.rendered.turns[0].turn == 2


def user(key: str, online: int, *, exchanges: int = 3) -> UserData:
    """One training, ``online`` online, one validation and one test session."""
    splits = ["train", *["online"] * online, "val", "test"]
    sessions = tuple(
        replace(
            session(*(f"{key} s{n} m{m}" for m in range(2 * exchanges))),
            session_id=10 * n,
            split=split,  # type: ignore[arg-type]
        )
        for n, split in enumerate(splits)
    )
    return UserData(key, key, sessions, Style(3.0, 3.0, 0.0, 0.5))


def test_the_exchanges_are_those_that_the_own_adapter_trains_on_in_time_order() -> None:
    texts = [pair[0].text for pair in own_exchanges(user("u", 3), 5)]
    # Round-robin takes the first of sessions 1, 2, 3, then the second of 1 and 2.
    assert texts == ["u s1 m0", "u s1 m2", "u s2 m0", "u s2 m2", "u s3 m0"]
    assert len(own_exchanges(user("u", 3), 100)) == 9
    assert own_exchanges(user("u", 0), 5) == ()


@pytest.mark.parametrize(("family", "template"), [("llama", "chatml"), ("qwen2", "nosystem"),
                                                  ("mistral", "mistral")])  # fmt: skip
def test_the_arm_scores_the_baseline_s_items_with_exchanges_in_the_prompt(family, template) -> None:  # type: ignore[no-untyped-def]
    base = tiny_base(family, template, dtype=torch.float64)
    users = [user("u", 2), user("empty", 0), user("v", 2)]
    spec = CellSpec(
        arm="few_shot", purpose="evaluate", grouping="none", few_shot_examples=4,
        users=tuple(u.user_key for u in users), data_sha256="d", items_sha256="i",
        template_sha256="t", model_sha256="m",
        decoding=DecodingConfig(max_new_tokens=6, max_total_tokens=200),
    )  # fmt: skip
    encoder = load_encoder("embedded", device="cpu")
    outcome = run_cell(spec, users=users, base=base, encoder=encoder)
    plain = run_cell(
        spec.model_copy(update={"arm": "baseline", "few_shot_examples": 0}),
        users=users, base=base, encoder=encoder,
    )  # fmt: skip
    assert [(s.slot, s.status) for s in outcome.slots] == [
        ("u", "ok"), ("empty", "skipped"), ("v", "ok"),
    ]  # fmt: skip
    assert "no exchange in the online slice" in str(outcome.slots[1].reason)
    kept = plain.items[plain.items["user_id"] != "empty"].reset_index(drop=True)
    for column in ("item_id", "reference", "query", "control", "adapter_of"):
        assert outcome.items[column].tolist() == kept[column].tolist()
    assert (outcome.items["nll"] != kept["nll"]).all()
    assert 0 < outcome.counts["few_shot_shown"] <= 4 * len(kept)
    assert outcome.counts["rendered_replies"] == len(kept)
    assert outcome.adapters is None
