"""4-bit bases through bitsandbytes, on the CPU."""

from __future__ import annotations

import pytest
import torch

from tasks.adapters.catalog import make_bank
from tasks.base_model import BaseModel, check_quantization, load_base
from tasks.config import (
    DecodingConfig,
    LoraConfig,
    ModelConfig,
    PrefixConfig,
    TaskError,
    TrainingConfig,
)
from tasks.decoding import DecodingJob, generate
from tasks.examples import Example, SlotPlan
from tasks.prompt import RenderedSession, Turn
from tasks.runtime import Runtime
from tasks.training import train_bank

torch.set_num_threads(1)

CONFIG = ModelConfig(quantization="4bit")
TRAINING = TrainingConfig(learning_rate=5e-2, examples=3, epochs=2, schedule="constant")
ADAPTERS = {"lora": LoraConfig(rank=4, dropout=0.0), "prefix": PrefixConfig(tokens=6)}


@pytest.fixture(scope="module")
def quantized() -> BaseModel:
    return load_base(CONFIG, device="cpu")


def examples(user: int) -> tuple[Example, ...]:
    """Three of one length: the quantized product's rounding follows the shape of a pass."""
    generator = torch.Generator().manual_seed(user)
    rows = torch.randint(20, 2000, (3, 24), generator=generator).tolist()
    return tuple(Example(tuple(row), ((12, 24),)) for row in rows)


def trained(base: BaseModel, kind: str, users: list[int]):  # type: ignore[no-untyped-def]
    slots = [f"user_{user}" for user in users]
    bank = make_bank(
        Runtime.of(base.model),
        config=ADAPTERS[kind],
        slots=slots,
        seeds=[0],
        init_token_ids=[5, 6, 7],
    )
    start = bank.snapshot()
    plans = [SlotPlan(s, TRAINING, u, examples(u)) for s, u in zip(slots, users, strict=True)]
    reports = train_bank(Runtime.of(base.model), bank, plans, pad_token_id=0)
    return bank, start, reports


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_on_a_4_bit_base_learn_together_as_alone(quantized: BaseModel, kind: str) -> None:
    layer = quantized.model.get_decoder().layers[0]
    assert type(layer.self_attn.q_proj).__name__ == "Linear4bit"
    assert layer.mlp.up_proj.weight.dtype == torch.uint8
    bank, start, reports = trained(quantized, kind, [1, 2, 3])
    # Three examples an epoch: each is compared with itself.
    assert all(sum(report.losses[3:]) < sum(report.losses[:3]) for report in reports)
    assert float(bank.shift_norms(start).min()) > 1e-3
    alone, _, _ = trained(quantized, kind, [2])
    for name, tensor in alone.parameters.items():
        assert float((tensor[0] - bank.parameters[name][1]).detach().abs().max()) < 1e-4


def test_a_4_bit_base_answers_nearly_as_the_whole_one(quantized: BaseModel) -> None:
    ids = tuple(quantized.tokenizer("Please dim the lights in the living room.")["input_ids"])
    job = DecodingJob(0, RenderedSession(ids, (Turn(1, len(ids) - 3, len(ids)),)), ("one",))
    found = {}
    for name, base in (("4bit", quantized), ("whole", load_base(ModelConfig(), device="cpu"))):
        runtime = Runtime.of(base.model)
        config = DecodingConfig(max_new_tokens=8)
        replies = generate(runtime, None, [job], config=config, stop_token_ids=(2,), pad_token_id=0)
        found[name] = replies["one"]
    assert found["4bit"].reference_nll != found["whole"].reference_nll
    assert found["4bit"].reference_nll == pytest.approx(found["whole"].reference_nll, rel=0.3)


def test_without_bitsandbytes_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_quantization(ModelConfig())
    with pytest.raises(TaskError, match=r"persona-sweep\[quant\]"):
        check_quantization(CONFIG)
