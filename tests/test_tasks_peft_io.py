"""Adapters on disk: stacked files, PEFT folders out (checked with PEFT itself) and in."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import save_file

from benchmarks.peft_reference import quiet_peft
from tasks.adapters.bank import AdapterBank
from tasks.adapters.catalog import make_bank
from tasks.adapters.peft_io import load_state, read_peft, save_state, write_peft
from tasks.config import LoraConfig, PrefixConfig, TaskError
from tasks.layout import Layout
from tasks.runtime import Pass, Runtime
from tests.tiny_models import VOCAB_SIZE, tiny_model

torch.set_num_threads(1)

BASE = "fingerprint-of-the-base"
FAMILIES = ("llama", "mistral", "qwen2")
ADAPTERS = {
    "lora": LoraConfig(rank=3, alpha=5.5, dropout=0.1),
    "lora-all": LoraConfig(rank=2, alpha=4.0, target_modules=("all-linear",)),
    "prefix": PrefixConfig(tokens=6),
}
ROW = torch.randint(0, VOCAB_SIZE, (1, 25), generator=torch.Generator().manual_seed(0))


def random_bank(model, config, slots=("ann", "bob")) -> AdapterBank:
    bank = make_bank(
        Runtime.of(model), config=config, slots=slots, seeds=[0], init_token_ids=[1, 2, 3]
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in bank.parameters.values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
    return bank


def bank_logits(bank: AdapterBank, slot: str) -> torch.Tensor:
    runtime, layout = bank.runtime, Layout.of([bank.slots.index(slot)])
    state = Pass(layout, bank.for_pass(layout))
    with torch.no_grad(), bank.attached(), runtime.running(state):
        return runtime.logits(runtime.hidden_states(ROW, state))


def peft_logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ROW).logits


def assert_equal_states(left, right):
    assert (left.config, left.slots, left.base) == (right.config, right.slots, right.base)
    assert left.tensors.keys() == right.tensors.keys()
    for name, tensor in left.tensors.items():
        assert torch.equal(tensor, right.tensors[name])


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_loads_a_written_folder_with_the_same_outputs(family, kind, tmp_path):
    bank = random_bank(tiny_model(family, dtype=torch.float64), ADAPTERS[kind])
    write_peft(tmp_path, bank.state(base=BASE), slot="bob", base_name="some/base")
    with quiet_peft():
        loaded = PeftModel.from_pretrained(tiny_model(family, dtype=torch.float64), str(tmp_path))
    # PEFT makes new adapters in float32 and then fills them.
    wanted, got = bank_logits(bank, "bob"), peft_logits(loaded.eval())
    other = bank_logits(bank, "ann")
    assert (got - wanted).abs().max() < (1e-11 if kind != "prefix" else 1e-4)
    assert (other - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_written_folder_is_read_back_bit_for_bit(kind, tmp_path):
    state = random_bank(tiny_model("qwen2"), ADAPTERS[kind]).state(base=BASE)
    write_peft(tmp_path, state, slot="ann", base_name="some/base")
    back = read_peft(tmp_path, base=BASE, like=ADAPTERS[kind], slot="ann")
    assert back.slots == ("ann",)
    for name, tensor in state.one("ann").tensors.items():
        assert torch.equal(back.tensors[name], tensor)


def peft_folder(model, config, folder, *, seed=5):
    """A folder written by PEFT itself, with random weights."""
    with quiet_peft():
        peft = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    peft.save_pretrained(str(folder))
    return peft.eval()


PEFT_SOURCES = {
    "lora": PeftLoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"]),
    "rslora": PeftLoraConfig(r=4, lora_alpha=6, target_modules=["v_proj"], use_rslora=True),
    "prefix": PrefixTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
    "projected-prefix": PrefixTuningConfig(
        num_virtual_tokens=5,
        task_type="CAUSAL_LM",
        prefix_projection=True,
        encoder_hidden_size=12,
    ),
}


@pytest.mark.parametrize("source", PEFT_SOURCES)
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_an_adapter_from_peft_starts_every_slot(family, source, tmp_path):
    peft = peft_folder(tiny_model(family), PEFT_SOURCES[source], tmp_path)
    state = read_peft(tmp_path, base=BASE)
    bank = random_bank(tiny_model(family), state.config)
    bank.load(state, base=BASE)
    expected = peft_logits(peft)
    for slot in bank.slots:
        assert (bank_logits(bank, slot) - expected).abs().max() < 1e-4


def test_equal_adapters_are_equal_bytes(tmp_path):
    state = random_bank(tiny_model("llama"), ADAPTERS["lora"], slots=("ann", "böb \x7f\n")).state(
        base=BASE
    )
    paths = [tmp_path / f"{k}.safetensors" for k in range(12)]
    for path in paths:
        save_state(state, path)
    # The library alone orders the four entries of the metadata by chance.
    assert len({path.read_bytes() for path in paths}) == 1
    assert_equal_states(load_state(paths[0]), state)


def test_stacked_file_round_trip_and_partial_read(tmp_path):
    for kind, config in ADAPTERS.items():
        state = random_bank(tiny_model("llama"), config, slots=("ann", "bob", "cid")).state(
            base=BASE
        )
        path = tmp_path / f"{kind}.safetensors"
        save_state(state, path)
        assert_equal_states(load_state(path), state)
        assert_equal_states(load_state(path, slots=["bob"]), state.one("bob"))
    swapped = load_state(path, slots=["cid", "ann"])
    assert torch.equal(swapped.tensors["prefix"], state.tensors["prefix"][[2, 0]])
    with pytest.raises(TaskError, match="no adapter for zoe; it has ann, bob, cid"):
        load_state(path, slots=["zoe"])


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(TaskError, match="cannot be read as safetensors"):
        load_state(path)
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00not json")
    with pytest.raises(TaskError, match="cannot be read as safetensors"):
        load_state(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(TaskError, match="read_peft"):
        load_state(path)


def test_a_pickle_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(TaskError, match="is a pickle"):
        read_peft(tmp_path, base=BASE)


def changed_settings(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"bias": "all"}, "bias='all'"),
        ({"peft_type": "IA3"}, "'IA3' is not supported; LORA and PREFIX_TUNING are"),
        ({"r": 0}, "do not fit"),
    ],
)
def test_peft_settings_that_a_bank_lacks_are_refused(changes, message, tmp_path):
    state = random_bank(tiny_model("llama"), ADAPTERS["lora"]).state(base=BASE)
    write_peft(tmp_path, state, slot="ann", base_name="some/base")
    changed_settings(tmp_path, **changes)
    with pytest.raises(TaskError, match=message):
        read_peft(tmp_path, base=BASE)


def test_a_prefix_whose_shape_is_not_its_configs_is_refused(tmp_path):
    state = random_bank(tiny_model("llama"), ADAPTERS["prefix"]).state(base=BASE)
    write_peft(tmp_path, state, slot="ann", base_name="some/base")
    changed_settings(tmp_path, num_virtual_tokens=7)
    with pytest.raises(TaskError, match=r"shape \(6, 64\).*asks for \(7, 64\)"):
        read_peft(tmp_path, base=BASE)


def test_another_base_is_refused_with_both_named(tmp_path):
    state = random_bank(tiny_model("llama"), ADAPTERS["lora"]).state(base=BASE)
    write_peft(tmp_path, state, slot="ann", base_name="some/base")
    with pytest.raises(TaskError, match=r"made for base fingerprint-.*here is another-base"):
        read_peft(tmp_path, base="another-base")


def loadable(config: LoraConfig, **changes):
    state = random_bank(tiny_model("llama"), config.model_copy(update=changes)).state(base=BASE)
    return state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 4}, r"has shape \(3, 32\) here .*shape \(4, 32\)"),
        ({"alpha": 11.0}, "alpha 11, this bank 5.5"),
        ({"target_modules": ("q_proj",)}, "no such tensor"),
        ({"target_modules": ("q_proj", "v_proj", "o_proj")}, "also has layers.0.self_attn.o_proj"),
    ],
)
def test_a_bank_refuses_adapters_of_another_make(changes, message):
    bank = random_bank(tiny_model("llama"), ADAPTERS["lora"])
    with pytest.raises(TaskError, match=message):
        bank.load(loadable(ADAPTERS["lora"], **changes), base=BASE)


def test_a_bank_refuses_another_base_and_missing_slots():
    bank = random_bank(tiny_model("llama"), ADAPTERS["lora"])
    state = loadable(ADAPTERS["lora"])
    with pytest.raises(TaskError, match="made for base fingerprint-"):
        bank.load(state, base="another-base")
    other = random_bank(tiny_model("llama"), ADAPTERS["lora"], slots=("ann", "cid"))
    with pytest.raises(TaskError, match="lack slots cid"):
        other.load(state, base=BASE)
    with pytest.raises(TaskError, match="lack slots dora"):
        other.load(state, base=BASE, source_of={"ann": "ann", "cid": "dora"})


@pytest.mark.parametrize("kind", ADAPTERS)
def test_slots_can_start_from_adapters_of_other_names(kind):
    """Users from their cluster's adapter, or several configs of a user from one."""
    model = tiny_model("llama")
    given = random_bank(model, ADAPTERS[kind], slots=("cluster_0", "cluster_1")).state(base=BASE)
    bank = random_bank(model, ADAPTERS[kind], slots=("ann", "bob", "cid"))
    sources = {"ann": "cluster_1", "bob": "cluster_0", "cid": "cluster_1"}
    bank.load(given, base=BASE, source_of=sources)
    for name, tensor in bank.parameters.items():
        for place, slot in enumerate(bank.slots):
            source = given.slots.index(sources[slot])
            assert torch.equal(tensor[place], given.tensors[name][source])
