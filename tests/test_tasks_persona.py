"""Profiles, queries, representations and likelihoods, on hand-made users and tiny real models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.schema import Message, Session, Split, Style, UserData
from tasks.adapters.catalog import make_bank
from tasks.adapters.lora import LoraBank
from tasks.config import LoraConfig, PrefixConfig, PromptConfig, TaskError
from tasks.persona.likelihood import centered, likelihoods, reference_texts
from tasks.persona.messages import ReadMessage, read_messages
from tasks.persona.queries import PersonaTexts, Query, persona_texts
from tasks.persona.representations import (
    by_length,
    centered_vector_scores,
    cosine_scores,
    length_scores,
    pooled_states,
    tfidf_scores,
    user_means,
    vector_scores,
)
from tasks.runtime import Runtime
from tests.tiny_models import tiny_base

PROMPT = PromptConfig()
STYLE = Style(0, 0, 0, 0.5)


def session(number: int, split: Split, *texts: str) -> Session:
    """Texts of user and assistant in turn."""
    roles = ("user", "assistant")
    messages = tuple(Message(roles[k % 2], text) for k, text in enumerate(texts))
    return Session(number, split, messages, tuple(range(1, len(texts), 2)))


def user(key: str, *sessions: Session, cold: bool = False) -> UserData:
    return UserData(key, key, sessions, STYLE, cold_start=cold)


ADA = user(
    "user_ada",
    session(0, "train", "dim the lights", "Done, Ada.", "warmer please", "Sure, Ada."),
    session(1, "online", "It's Ada. Play some jazz", "Jazz is on, Ada."),
    session(2, "val", "never seen in val", "Ok."),
    session(3, "test", "Ada here, dim the lights", "Done.", "second message", "Ok."),
    session(4, "test", "more jazz for Ada", "Ok."),
)
BEN = user("user_ben", session(0, "train", "arm the alarm", "Armed."))
EVE = user("user_eve", session(0, "test", "who is this", "Eve."))


def test_profiles_are_own_training_messages_and_queries_first_test_messages() -> None:
    texts = persona_texts([ADA, BEN, EVE])
    assert texts.profiles == {
        "user_ada": ("dim the lights", "warmer please", "It's [NAME]. Play some jazz"),
        "user_ben": ("arm the alarm",),
    }
    assert texts.queries == (
        Query("user_ada/3", "user_ada", "[NAME] here, dim the lights"),
        Query("user_ada/4", "user_ada", "more jazz for [NAME]"),
    )
    assert list(texts.left_out) == ["user_eve"]
    assert "no message in the training sessions" in texts.left_out["user_eve"]
    without = texts.among({"user_ada": "no adapter"})
    assert list(without.profiles) == ["user_ben"]
    assert without.queries == ()
    assert without.left_out.keys() == {"user_ada", "user_eve"}


def test_replies_and_other_splits_change_no_profile() -> None:
    def changed(one: Session) -> Session:
        messages = tuple(
            replace(m, text="another reply altogether") if m.role == "assistant" else m
            for m in one.messages
        )
        return replace(one, messages=messages)

    before = persona_texts([BEN]).profiles
    other = replace(BEN, sessions=(*map(changed, BEN.sessions), session(1, "val", "x y z", "Ok.")))
    assert persona_texts([other]).profiles == before


def test_profiles_hold_at_most_eight_messages_the_same_every_time() -> None:
    many = user("user_1", *(session(k, "train", f"message {k}", "Ok.") for k in range(30)))
    (first,) = persona_texts([many]).profiles.values()
    assert len(first) == 8
    assert persona_texts([many]).profiles["user_1"] == first
    assert list(first) == sorted(first, key=lambda text: int(text.split()[1]))


def test_cold_start_users_are_refused() -> None:
    with pytest.raises(TaskError, match="1 cold-start users were given, the first is user_ben"):
        persona_texts([ADA, replace(BEN, cold_start=True)])


def texts_of(profiles: dict[str, tuple[str, ...]], *queries: tuple[str, str]) -> PersonaTexts:
    made = tuple(Query(f"{key}/{k}", key, text) for k, (key, text) in enumerate(queries))
    return PersonaTexts(profiles, made, {})


def test_vectors_are_compared_as_cosines_with_the_mean_of_unit_vectors() -> None:
    texts = texts_of({"a": ("1", "2"), "b": ("3",)}, ("a", "q"))
    messages = np.array([[2.0, 0.0], [0.0, 5.0], [3.0, 0.0]])
    # Lengths do not weigh: profile a is (1/2, 1/2), not (1, 5/2).
    scores = vector_scores(messages, np.array([[0.0, 7.0]]), texts)
    assert scores == pytest.approx(np.array([[np.sqrt(0.5), 0.0]]), abs=1e-9)
    assert cosine_scores(np.zeros((1, 2)), np.ones((1, 2))) == 0
    assert user_means(messages, texts.profiles).tolist() == [[1.0, 2.5], [3.0, 0.0]]


def test_centering_takes_a_shared_direction_away() -> None:
    texts = texts_of({"a": ("1",), "b": ("2",)}, ("a", "q"))
    shared = np.array([100.0, 0.0])
    messages = np.array([[0.0, 1.0], [0.0, -1.0]]) + shared
    query = np.array([[0.0, 0.5]]) + shared
    assert np.ptp(vector_scores(messages, query, texts)) < 0.03
    assert centered_vector_scores(messages, query, texts) == pytest.approx(np.array([[1.0, -1.0]]))


def test_the_length_control_knows_lengths_alone() -> None:
    texts = texts_of({"a": ("one two", "x y z w"), "b": ("q",)}, ("b", "two words"), ("a", "some"))
    mean_a = (np.log(3) + np.log(5)) / 2
    expected = [
        [-abs(np.log(3) - mean_a), -abs(np.log(3) - np.log(2))],
        [-abs(np.log(2) - mean_a), 0.0],
    ]
    assert length_scores(texts) == pytest.approx(np.array(expected), abs=1e-9)


def test_the_bag_of_words_is_fitted_on_profiles_alone() -> None:
    profiles = {"a": ("dim lights", "lights out"), "b": ("play jazz",)}
    scores = tfidf_scores(texts_of(profiles, ("a", "lights"), ("b", "jazz"), ("a", "unseen")))
    assert scores[0, 0] > 0 == scores[0, 1]
    assert scores[1].tolist() == [0.0, pytest.approx(np.sqrt(0.5))]
    assert scores[2].tolist() == [0.0, 0.0]
    more = tfidf_scores(texts_of(profiles, ("a", "lights"), *[("b", "lights")] * 50))
    assert more[0].tolist() == scores[0].tolist()
    assert tfidf_scores(texts_of({"a": ("1",)}, ("a", "2"))).tolist() == [[0.0]]


@pytest.fixture(
    scope="module", params=[("llama", "chatml"), ("mistral", "mistral"), ("qwen2", "nosystem")]
)
def base(request):  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    return tiny_base(*request.param, dtype=torch.float64)


def read(base, *texts: str, room: int = 200) -> list[ReadMessage]:  # type: ignore[no-untyped-def]
    return read_messages(base, texts, prompt=PROMPT, max_tokens=room)


def test_a_message_is_read_up_to_its_own_end(base) -> None:  # type: ignore[no-untyped-def]
    text = "Dim the lights, please."
    (message,) = read(base, text)
    decode = base.tokenizer.decode
    assert decode(message.token_ids[message.begin :]).strip() == text
    assert PROMPT.system in decode(message.token_ids[: message.begin])
    (cut,) = read(base, text, room=message.begin + 2)
    assert cut.token_ids == message.token_ids[: message.begin + 2]
    assert (cut.begin, cut.tokens) == (message.begin, 2)
    with pytest.raises(TaskError, match="no token of the message"):
        read(base, text, room=message.begin)


TEXTS = ("Dim the lights.", "Play", "It is cold tonight, please make it warmer in here.")


def test_pooled_states_are_the_mean_over_the_message(base) -> None:  # type: ignore[no-untyped-def]
    runtime = Runtime.of(base.model)
    messages = read(base, *TEXTS)
    found = pooled_states(runtime, None, messages, tokens_per_pass=1000, pad_token_id=0)
    alone = pooled_states(runtime, None, messages[:1], tokens_per_pass=1, pad_token_id=3)
    assert found[:1] == pytest.approx(alone, abs=1e-10)
    oracle = reference_states(base, messages[2])
    assert found[2] == pytest.approx(oracle[messages[2].begin :].mean(axis=0), abs=1e-10)


def reference_states(base, message: ReadMessage) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The model's own forward pass, with its own attention."""
    decoder, config = base.model.get_decoder(), base.model.config
    before = config._attn_implementation
    try:
        config._attn_implementation = "sdpa"
        with torch.no_grad():
            output = decoder(input_ids=torch.tensor([message.token_ids]))
    finally:
        config._attn_implementation = before
    return output.last_hidden_state[0].numpy()


def bank_of(base, config, slots: int):  # type: ignore[no-untyped-def]
    bank = make_bank(
        Runtime.of(base.model),
        config=config,
        slots=[f"user_{k}" for k in range(slots)],
        seeds=(0,),
        init_token_ids=(5, 6),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in bank.parameters.values():
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    return bank


@pytest.mark.parametrize("config", [LoraConfig(rank=2), PrefixConfig(tokens=3)])
def test_one_pass_over_the_bank_equals_one_adapter_at_a_time(base, config) -> None:  # type: ignore[no-untyped-def]
    runtime, messages = Runtime.of(base.model), read(base, *TEXTS)
    bank = bank_of(base, config, 5)
    whole = likelihoods(runtime, bank, messages, tokens_per_pass=10_000, pad_token_id=0)
    cut = likelihoods(runtime, bank, messages, tokens_per_pass=60, pad_token_id=0)
    assert whole == pytest.approx(cut, abs=1e-8)
    # The tiny Mistral's window is shorter than the system prompt: no message sees the prefix.
    window = getattr(base.model.config, "sliding_window", None)
    assert len({*whole[0].tolist()}) == (1 if window and config.kind == "prefix" else 5)
    state = bank.state(base=base.fingerprint)
    for place, slot in enumerate(bank.slots):
        lone = make_bank(runtime, config=config, slots=[slot], seeds=(0,), init_token_ids=(5,))
        lone.load(state.one(slot), base=base.fingerprint)
        alone = likelihoods(runtime, lone, messages, tokens_per_pass=10_000, pad_token_id=0)
        assert whole[:, place] == pytest.approx(alone[:, 0], abs=1e-8)


def test_likelihoods_of_untrained_lora_are_the_models_own(base) -> None:  # type: ignore[no-untyped-def]
    runtime, messages = Runtime.of(base.model), read(base, *TEXTS)
    bank = LoraBank(runtime, config=LoraConfig(rank=2), slots=["a", "b"], seeds=(0,))
    found = likelihoods(runtime, bank, messages, tokens_per_pass=300, pad_token_id=0)
    for row, message in zip(found, messages, strict=True):
        states = torch.from_numpy(reference_states(base, message))
        own = base.model.get_output_embeddings()(states[:-1]).log_softmax(-1)
        targets = torch.tensor(message.token_ids[1:])
        picked = own.gather(1, targets[:, None])[message.begin - 1 :]
        assert row.tolist() == pytest.approx([picked.mean().item()] * 2, abs=1e-8)


def test_centered_likelihoods_stop_a_sharp_adapter_from_winning_everything() -> None:
    reference = np.array([[-3.0, -1.0], [-3.2, -1.2]])
    scores = np.array([[-2.0, -0.9], [-3.1, -0.5]])
    assert scores.argmax(axis=1).tolist() == [1, 1]
    assert centered(scores, reference) == pytest.approx(np.array([[1.1, 0.2], [0.0, 0.6]]))


def test_reference_texts_weigh_all_users_alike() -> None:
    profiles = {"a": ("1", "2", "3"), "b": ("4", "5")}
    assert reference_texts(profiles) == ["1", "2", "4", "5"]
    many = {str(k): ("x", "y") for k in range(200)}
    assert reference_texts(many) == ["x"] * 200
    assert reference_texts({}) == []


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(1, 120))
def test_passes_hold_every_message_once_and_keep_to_their_size(lengths, limit) -> None:  # type: ignore[no-untyped-def]
    messages = [ReadMessage((1,) * length, 1) for length in lengths]
    passes = by_length(messages, tokens_per_pass=limit)
    assert sorted(place for part in passes for place in part) == list(range(len(lengths)))
    for part in passes:
        assert len(part) == 1 or len(part) * max(lengths[place] for place in part) <= limit
