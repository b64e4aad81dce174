"""Decoding in a pool of rows against transformers' own ``generate``, one item at a time."""

from __future__ import annotations

import pytest
import torch

from data.schema import Message, Session
from tasks.adapters.lora import LoraBank
from tasks.adapters.prefix import PrefixBank
from tasks.base_model import BaseModel
from tasks.config import DecodingConfig, LoraConfig, PrefixConfig
from tasks.decoding import DecodingJob, _nucleus, generate, reference_nlls
from tasks.layout import Layout
from tasks.prompt import end_of_turn_id, render_session
from tasks.runtime import Pass, Runtime
from tests.tiny_models import tiny_base

CONFIG = DecodingConfig(
    max_new_tokens=12, max_total_tokens=400, rows_per_pass=5, prefill_tokens_per_pass=300
)


def session(number: int, exchanges: int) -> Session:
    messages = []
    for k in range(exchanges):
        messages.append(
            Message("user", f"turn the light {number} to {k}" + " please" * (number % 3))
        )
        messages.append(Message("assistant", "the light is on " * (1 + k % 2) + str(number)))
    return Session(number, "test", tuple(messages), tuple(range(1, 2 * exchanges, 2)))


def jobs_of(base: BaseModel, slots: list[int]) -> list[DecodingJob]:
    jobs = []
    for number, slot in enumerate(slots):
        one = session(number, 1 + number % 3)
        for rendered in render_session(
            base, one, one.item_turns, max_prompt_tokens=388, max_total_tokens=400
        ):
            items = tuple(f"{slot}/{number}/{turn.turn}" for turn in rendered.turns)
            jobs.append(DecodingJob(slot, rendered, items))
    return jobs


def run(base: BaseModel, bank, jobs, config=CONFIG, seed=0):  # type: ignore[no-untyped-def]
    return generate(
        Runtime.of(base.model),
        bank,
        jobs,
        config=config,
        stop_token_ids=(end_of_turn_id(base),),
        pad_token_id=int(base.tokenizer.pad_token_id),
        seed=seed,
    )


def plain(family: str, template: str) -> BaseModel:
    return tiny_base(family, template, dtype=torch.float64)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("template", ["chatml", "mistral", "nosystem"])
def test_base_replies_equal_transformers_generate(family: str, template: str) -> None:
    base, reference = plain(family, template), plain(family, template)
    jobs = jobs_of(base, [0] * 7)
    replies = run(base, None, jobs)
    assert len(replies) == sum(len(job.items) for job in jobs)
    stop = end_of_turn_id(reference)
    for job in jobs:
        for name, turn in zip(job.items, job.session.turns, strict=True):
            prompt = torch.tensor([job.session.token_ids[: turn.prompt_tokens]])
            with torch.no_grad():
                out = reference.model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=12,
                    do_sample=False,
                    eos_token_id=stop,
                    pad_token_id=0,
                )
                whole = torch.tensor([job.session.token_ids[: turn.end]])
                scores = reference.model(whole).logits[0].log_softmax(-1)
            tokens = out[0, prompt.shape[1] :].tolist()
            ended = stop in tokens
            assert replies[name].token_ids == tuple(t for t in tokens if t != stop)
            assert replies[name].ended == ended
            positions = range(turn.prompt_tokens, turn.end)
            nll = -sum(float(scores[i - 1, whole[0, i]]) for i in positions)
            assert replies[name].reference_nll == pytest.approx(nll, abs=1e-9)
            assert replies[name].reference_tokens == len(positions)


def lora_bank(base: BaseModel, slots: int) -> LoraBank:
    runtime = Runtime.of(base.model)
    config = LoraConfig(rank=3, target_modules=("q_proj", "v_proj", "down_proj"))
    bank = LoraBank(runtime, config=config, slots=[f"s{i}" for i in range(slots)])
    scatter(bank.parameters)
    return bank


def prefix_bank(base: BaseModel, slots: int) -> PrefixBank:
    bank = PrefixBank(
        Runtime.of(base.model),
        config=PrefixConfig(tokens=5),
        slots=[f"s{i}" for i in range(slots)],
        init_token_ids=[5, 6, 7],
    )
    scatter(bank.parameters)
    return bank


def scatter(parameters: dict[str, torch.Tensor]) -> None:
    """Different adapters in every slot, far enough from zero to change replies."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in parameters.values():
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.add_(0.5 * noise)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("make", [lora_bank, prefix_bank])
def test_replies_of_a_bank_equal_step_by_step_recomputation(family: str, make) -> None:  # type: ignore[no-untyped-def]
    """The reference runs every item alone, without any cache, one full pass per token."""
    base = plain(family, "chatml")
    bank = make(base, 4)
    jobs = jobs_of(base, [2, 0, 3, 3, 0, 2, 2])
    replies = run(base, bank, jobs)
    stop = end_of_turn_id(base)
    for job in jobs:
        for name, turn in zip(job.items, job.session.turns, strict=True):
            expected = alone(
                base, bank, job.slot, job.session.token_ids[: turn.prompt_tokens], stop
            )
            assert replies[name].token_ids == expected
    everything = [reply.token_ids for reply in replies.values()]
    assert len(set(everything)) > 4


def alone(base, bank, slot, prompt, stop):  # type: ignore[no-untyped-def]
    runtime = Runtime.of(base.model)
    tokens = list(prompt)
    with torch.no_grad(), bank.attached():
        while len(tokens) < len(prompt) + 12:
            layout = Layout.of([slot])
            state = Pass(layout, bank.for_pass(layout))
            with runtime.running(state):
                hidden = runtime.hidden_states(torch.tensor([tokens]), state)
            token = int(runtime.logits(hidden[0, -1]).argmax())
            if token == stop:
                break
            tokens.append(token)
    return tuple(tokens[len(prompt) :])


def test_rows_per_pass_do_not_change_replies() -> None:
    base = plain("llama", "chatml")
    bank = lora_bank(base, 3)
    jobs = jobs_of(base, [0, 1, 2, 2, 1])
    wide = CONFIG.model_copy(update={"rows_per_pass": 64, "prefill_tokens_per_pass": 8192})
    few, many = run(base, bank, jobs), run(base, bank, jobs, wide)
    assert {k: r.token_ids for k, r in few.items()} == {k: r.token_ids for k, r in many.items()}


@pytest.mark.parametrize("make", [None, lora_bank, prefix_bank])
def test_likelihoods_alone_equal_those_found_beside_the_replies(make) -> None:  # type: ignore[no-untyped-def]
    base = plain("llama", "chatml")
    bank = make(base, 3) if make else None
    jobs = jobs_of(base, [0, 2, 1, 1, 0, 2])
    beside = run(base, bank, jobs)
    config = CONFIG.model_copy(update={"prefill_tokens_per_pass": 90})
    alone = reference_nlls(Runtime.of(base.model), bank, jobs, config=config, pad_token_id=0)
    assert alone.keys() == beside.keys()
    for name, reply in beside.items():
        expected = reply.reference_nll / reply.reference_tokens
        assert alone[name] == pytest.approx(expected, abs=1e-9)
    assert reference_nlls(Runtime.of(base.model), bank, [], config=config, pad_token_id=0) == {}


def test_the_nucleus_is_the_fewest_likeliest_tokens_that_reach_top_p() -> None:
    # At temperature .5 shares of .5, .3, .2 become .25, .09, .04 of .38: .658, .237, .105.
    logits = torch.tensor([[0.3, 0.5, 0.2]], dtype=torch.float64).log()
    for top_p, uniform, token in (
        (0.6, 0.999, 1),  # .658 is enough: the likeliest alone.
        (0.7, 0.734, 1),  # Two of them: .658 / .895 = .735 is where the second begins.
        (0.7, 0.736, 0),
        (0.7, 0.999, 0),
        (1.0, 0.894, 0),  # All three: the third begins at .895.
        (1.0, 0.896, 2),
    ):
        config = DecodingConfig(do_sample=True, temperature=0.5, top_p=top_p)
        drawn = _nucleus(logits, torch.tensor([uniform], dtype=torch.float64), config)
        assert drawn.tolist() == [token], (top_p, uniform)


def test_sampling_depends_on_item_and_seed_alone() -> None:
    base = plain("llama", "chatml")
    jobs = jobs_of(base, [0] * 6)
    sampling = CONFIG.model_copy(update={"do_sample": True, "temperature": 1.5, "top_p": 0.95})
    whole = run(base, None, jobs, sampling, seed=3)
    part = run(base, None, jobs[2:3], sampling, seed=3)
    assert all(whole[name].token_ids == reply.token_ids for name, reply in part.items())
    other = run(base, None, jobs, sampling, seed=4)
    assert any(whole[name].token_ids != other[name].token_ids for name in whole)
