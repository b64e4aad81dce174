"""From examples to replies: a bank of several users against PEFT, user by user."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.peers import PeftUser, generate_alone, train_alone
from benchmarks.peft_reference import peft_model
from data.schema import Message, Session
from tasks.adapters.catalog import make_bank
from tasks.config import DecodingConfig, LoraConfig, PrefixConfig, TrainingConfig
from tasks.decoding import DecodingJob, generate
from tasks.examples import Example, SlotPlan
from tasks.prompt import render_session
from tasks.runtime import Runtime
from tasks.training import train_bank
from tests.tiny_models import tiny_base

torch.set_num_threads(1)

CONFIGS = {
    "lora": LoraConfig(rank=4, alpha=16.0, dropout=0.0),
    "prefix": PrefixConfig(tokens=5),
}
# Large enough that greedy replies change, so that equal ones say something.
RATES = {"lora": 5e-2, "prefix": 0.5}
TRAINING = TrainingConfig(
    epochs=3, examples=10, warmup_ratio=0.1, clip_norm=0.5, tokens_per_pass=512
)
NEW_TOKENS = 10
WORDS = ("lamp", "heater", "speaker", "door", "screen")


def session_of(user: int, number: int) -> Session:
    """A session whose replies repeat a word of the user's own."""
    word = WORDS[user % len(WORDS)]
    messages = []
    for k in range(1 + (user + number) % 3):
        messages.append(Message("user", f"please see to the {word} {number} {k}"))
        messages.append(Message("assistant", f"{word} {word} is done " * (1 + number % 2)))
    return Session(number, "train", tuple(messages), tuple(range(1, len(messages), 2)))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_trained_and_asked_in_a_bank_users_get_what_they_get_alone(family: str, kind: str) -> None:
    base = tiny_base(family, "chatml", dtype=torch.float64)  # type: ignore[arg-type]
    alone = tiny_base(family, "chatml", dtype=torch.float64)  # type: ignore[arg-type]
    if kind == "prefix" and family == "mistral":
        # The tiny model's window of 16 tokens would hide a prefix from every reply.
        base.model.config.sliding_window = alone.model.config.sliding_window = None
    training = TRAINING.model_copy(update={"learning_rate": RATES[kind]})
    limits = {"max_prompt_tokens": 300, "max_total_tokens": 320}
    examples, jobs = [], []
    for user in range(4):
        own = [session_of(user, number) for number in range(2 + user)]
        parts = [p for one in own for p in render_session(base, one, one.item_turns, **limits)]
        examples.append(
            tuple(
                Example(p.token_ids, tuple((turn.prompt_tokens, turn.end) for turn in p.turns))
                for p in parts
            )
        )
        later = session_of(user, 9)
        for part in render_session(base, later, later.item_turns, **limits):
            names = tuple(f"{user}/{turn.turn}" for turn in part.turns)
            jobs.append(DecodingJob(user, part, names))
    assert len({len(own) for own in examples}) == 4

    runtime, slots = Runtime.of(base.model), [f"user_{k}" for k in range(4)]
    bank = make_bank(
        runtime, config=CONFIGS[kind], slots=slots, seeds=[3], init_token_ids=[5, 6, 7]
    )
    start = {name: tensor.detach()[0].clone() for name, tensor in bank.parameters.items()}
    plans = [SlotPlan(s, training, k, examples[k]) for k, s in enumerate(slots)]
    train_bank(runtime, bank, plans, pad_token_id=0)
    decoding = DecodingConfig(max_new_tokens=NEW_TOKENS, max_total_tokens=320, rows_per_pass=5)
    replies = generate(runtime, bank, jobs, config=decoding, stop_token_ids=(2,), pad_token_id=0)

    changed = 0
    for user in range(4):
        peft = PeftUser(peft_model(alone.model, CONFIGS[kind], start), CONFIGS[kind])
        train_alone(peft, examples[user], training)
        for name, tensor in peft.tensors(start).items():
            assert float((tensor - bank.parameters[name][user].detach()).abs().max()) < 1e-9
        prompts = {
            name: job.session.token_ids[: turn.prompt_tokens]
            for job in jobs
            if job.slot == user
            for name, turn in zip(job.items, job.session.turns, strict=True)
        }
        said = generate_alone(peft, prompts, max_new_tokens=NEW_TOKENS, stop_token_ids=(2,))
        assert {name: list(replies[name].token_ids) for name in prompts} == said
        peft.detach()
        untrained = untrained_replies(
            runtime, kind, [job for job in jobs if job.slot == user], decoding
        )
        changed += untrained != said
    assert changed >= 3


def untrained_replies(
    runtime: Runtime, kind: str, jobs: list[DecodingJob], decoding: DecodingConfig
) -> dict[str, list[int]]:
    """Replies under an adapter that was not trained."""
    bank = make_bank(
        runtime, config=CONFIGS[kind], slots=["new"], seeds=[3], init_token_ids=[5, 6, 7]
    )
    replies = generate(
        runtime,
        bank,
        [replace(job, slot=0) for job in jobs],
        config=decoding,
        stop_token_ids=(2,),
        pad_token_id=0,
    )
    return {name: list(reply.token_ids) for name, reply in replies.items()}
