"""Banks in one pass: outputs as under PEFT, rows and slots independent, layouts invertible."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.peft_reference import peft_model
from tasks.adapters.bank import AdapterBank, DropoutKey
from tasks.adapters.catalog import make_bank
from tasks.adapters.lora import dropout_streams, kept, kept_share
from tasks.config import LoraConfig, PrefixConfig, TaskError
from tasks.layout import Layout
from tasks.runtime import Pass, Runtime
from tests.tiny_models import SLIDING_WINDOW, VOCAB_SIZE, tiny_model

torch.set_num_threads(1)

FAMILIES = ("llama", "mistral", "qwen2")
CONFIGS = {
    "lora": LoraConfig(rank=3, alpha=5.0, dropout=0.0),
    "lora-all": LoraConfig(rank=2, alpha=4.0, dropout=0.0, target_modules=("all-linear",)),
    "prefix": PrefixConfig(tokens=5),
    "prefix-over-window": PrefixConfig(tokens=SLIDING_WINDOW + 3),
}


def filled_bank(runtime: Runtime, config, slots, *, seed: int = 3) -> AdapterBank:
    """A bank whose slots all differ and are far from a fresh start."""
    bank = make_bank(runtime, config=config, slots=slots, seeds=[seed], init_token_ids=[5, 6, 7])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in bank.parameters.values():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.add_(0.3 * noise.to(tensor))
    return bank


def random_rows(lengths, *, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, VOCAB_SIZE, (n,), generator=generator).tolist() for n in lengths]


def padded(rows: list[list[int]]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def pass_logits(runtime: Runtime, bank: AdapterBank | None, rows, row_slots) -> torch.Tensor:
    layout = Layout.of(row_slots)
    state = Pass(layout, bank.for_pass(layout) if bank is not None else None)
    with torch.no_grad(), runtime.running(state):
        if bank is None:
            return runtime.logits(runtime.hidden_states(padded(rows), state))
        with bank.attached():
            return runtime.logits(runtime.hidden_states(padded(rows), state))


def one_slot(bank: AdapterBank, place: int) -> dict[str, torch.Tensor]:
    return {name: tensor.detach()[place] for name, tensor in bank.parameters.items()}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_has_the_logits_of_its_own_adapter_under_peft(family, kind):
    config = CONFIGS[kind]
    runtime = Runtime.of(tiny_model(family, dtype=torch.float64))
    bank = filled_bank(runtime, config, ("a", "b", "c", "d"))
    lengths, row_slots = (3 * SLIDING_WINDOW, 7, 21, 30, 1, 12), (2, 0, 2, 3, 0, 2)
    rows = random_rows(lengths)
    logits = pass_logits(runtime, bank, rows, row_slots)
    for place in (0, 2, 3):
        reference = peft_model(
            tiny_model(family, dtype=torch.float64), config, one_slot(bank, place)
        )
        for row, slot, own in zip(rows, row_slots, logits, strict=True):
            if slot == place:
                with torch.no_grad():
                    expected = reference(input_ids=torch.tensor([row])).logits[0]
                assert (own[: len(row)] - expected).abs().max() < 1e-11


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_bank_logits_are_the_base_models(family):
    rows = random_rows((40, 9, 17))
    logits = pass_logits(Runtime.of(tiny_model(family, dtype=torch.float64)), None, rows, (0, 0, 0))
    base = tiny_model(family, dtype=torch.float64)
    for row, own in zip(rows, logits, strict=True):
        with torch.no_grad():
            expected = base(input_ids=torch.tensor([row])).logits[0]
        assert (own[: len(row)] - expected).abs().max() < 1e-11


@given(
    row_slots=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    tokens=st.integers(1, 3),
    ordered=st.booleans(),
)
@settings(deadline=None)
def test_a_layout_groups_rows_by_slot_and_takes_them_back(row_slots, tokens, ordered):
    row_slots = sorted(row_slots) if ordered else row_slots
    layout = Layout.of(row_slots)
    rows = torch.arange(len(row_slots) * tokens * 2.0).reshape(len(row_slots), tokens, 2) + 1
    grid = layout.to_grid(rows)
    assert grid.shape == (len(set(row_slots)), layout.per_slot * tokens, 2)
    assert torch.equal(layout.from_grid(grid, tokens=tokens), rows)
    for place, slot in enumerate(layout.active):
        own = torch.cat([row for row, of in zip(rows, row_slots, strict=True) if of == slot])
        assert torch.equal(grid[place][: len(own)], own)
        assert not grid[place][len(own) :].any()
    assert [layout.active[k] for k in layout.row_active.tolist()] == row_slots


@given(active=st.sets(st.integers(0, 6), min_size=1))
@settings(deadline=None)
def test_selecting_slots_takes_their_entries(active):
    stacked = torch.arange(14.0).reshape(7, 2)
    chosen = Layout.of(sorted(active)).select(stacked)
    assert torch.equal(chosen, stacked[sorted(active)])


def test_layouts_in_slot_order_with_equal_counts_copy_nothing():
    rows = torch.randn(6, 2, 3)
    assert Layout.of((0, 0, 1, 1, 4, 4)).to_grid(rows).data_ptr() == rows.data_ptr()
    assert Layout.of((0, 1, 1)).places is not None


def keys(*numbers: tuple[int, int, int]) -> list[DropoutKey]:
    return [DropoutKey(*number) for number in numbers]


def masks_of(named, *, tokens: int, width: int = 24, rate: float = 0.3, module: int = 0):
    like = torch.empty(len(named), tokens, width, dtype=torch.float64)
    streams = dropout_streams(named, device=like.device)
    return kept(streams, module=module, rate=rate, like=like)


def test_a_rows_dropout_hangs_on_its_key_and_module_alone():
    first, second = (1, 0, 0), (1, 0, 1)
    both = masks_of(keys(first, second), tokens=9)
    assert torch.equal(both[1], masks_of(keys(second), tokens=9)[0])
    assert torch.equal(both[:, :5], masks_of(keys(first, second), tokens=5))
    for other in ((2, 0, 0), (1, 1, 0), (1, 0, 1)):
        assert not torch.equal(both[0], masks_of(keys(other), tokens=9)[0])
    assert not torch.equal(both, masks_of(keys(first, second), tokens=9, module=1))


@pytest.mark.parametrize("rate", [0.05, 0.5])
@pytest.mark.parametrize("width", [64, 6, 7])
def test_dropout_keeps_the_mean_and_drops_at_the_rate(rate, width):
    named = keys(*[(seed, 3, 0) for seed in range(40)])
    masks = masks_of(named, tokens=80, width=width, rate=rate)
    count = masks.numel()
    dropped = float((masks == 0).double().mean())
    assert abs(dropped - rate) < 4 * (rate * (1 - rate) / count) ** 0.5
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert kept_share(rate) == pytest.approx(1 - rate, abs=2**-16)
    # Neither neighbors within a token nor tokens nor rows are correlated.
    centered = (masks == 0).double() - rate
    for shifted in (
        centered[:, :, 1:] * centered[:, :, :-1],
        centered[:, 1:] * centered[:, :-1],
        centered[1:] * centered[:-1],
    ):
        bound = 4.5 * rate * (1 - rate) / shifted.numel() ** 0.5
        assert abs(float(shifted.mean())) < bound


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(target_modules=("q_prj",)), "'q_prj'.*this model has down_proj, .*v_proj"),
        (PrefixConfig(tokens=5000), "5000 tokens does not fit: the model's context is 1280"),
    ],
)
def test_adapters_that_the_model_cannot_carry_are_refused(config, message):
    runtime = Runtime.of(tiny_model("llama"))
    with pytest.raises(TaskError, match=message):
        make_bank(runtime, config=config, slots=("a",), seeds=[0], init_token_ids=[1])


def test_rank_0_is_refused():
    with pytest.raises(ValueError, match="rank"):
        LoraConfig(rank=0)


def test_a_bank_needs_distinct_slots():
    runtime = Runtime.of(tiny_model("llama"))
    for slots in ((), ("a", "a")):
        with pytest.raises(TaskError, match="distinct slots"):
            make_bank(runtime, config=LoraConfig(), slots=slots, seeds=[0], init_token_ids=[1])


def test_a_fresh_lora_changes_nothing_and_a_fresh_prefix_is_the_texts_own_keys():
    runtime = Runtime.of(tiny_model("llama", dtype=torch.float64))
    rows = random_rows((12,))
    plain = pass_logits(runtime, None, rows, (0,))
    lora = make_bank(runtime, config=LoraConfig(), slots=("a",), seeds=[0], init_token_ids=[])
    assert torch.equal(pass_logits(runtime, lora, rows, (0,)), plain)
    config = PrefixConfig(tokens=3)
    prefix = make_bank(runtime, config=config, slots=("a",), seeds=[0], init_token_ids=[4, 5, 6, 9])
    behind = pass_logits(runtime, None, [[4, 5, 6, *rows[0]]], (0,))
    assert (pass_logits(runtime, prefix, rows, (0,)) - behind[:, 3:]).abs().max() < 1e-12
