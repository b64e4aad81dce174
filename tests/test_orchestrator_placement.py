"""Where trials run: shares of GPUs, CPUs, memory; refusals with numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.exit_codes import InputError
from orchestrator.model_facts import model_shape
from orchestrator.placement import Machine, check_memory, is_global, place, this_machine
from orchestrator.placing import heaviest_work
from orchestrator.settings import Settings
from orchestrator.trial_memory import ModelShape, trial_memory
from tasks.cell import CellSpec
from tasks.config import LoraConfig, ModelConfig, PromptConfig
from tasks.memory import CONTEXT_BYTES, limit_gpu_memory
from tests.tiny_models import Family, tiny_model

GIB = 1 << 30
QWEN_05B = ModelShape(151_936, 896, 24, 14, 2, 64, 4864, tied=True, query_bias=True)
MISTRAL_7B = ModelShape(32_000, 4096, 32, 32, 8, 128, 14_336, tied=False)


def spec(purpose: str) -> CellSpec:
    return CellSpec(
        arm="lora_all",
        purpose=purpose,  # type: ignore[arg-type]
        grouping="all",
        users=("user_1",),
        data_sha256="d",
        items_sha256="i",
        template_sha256="t",
        model_sha256="m",
    )


def test_a_machine_without_gpus_runs_a_trial_for_every_so_many_threads() -> None:
    assert place([Machine(2, 0)], threads=1).actors == 2
    assert place([Machine(3, 0)], threads=2).actors == 1
    assert place([Machine(16, 0)], threads=4).resources() == {"CPU": 4.0}
    # A global trial is a trial like any other there.
    found = place([Machine(16, 0)], threads=4)
    assert found.resources_for([spec("train")]) == found.resources()


def test_memory_bounds_the_trials_of_a_machine_without_gpus() -> None:
    node = Machine(64, 0, memory_bytes=32 * GIB)
    assert place([node], threads=1, trial_bytes=7 * GIB).actors == 4
    # An estimate alone never forbids the only trial.
    assert place([node], threads=1, trial_bytes=100 * GIB).actors == 1


def test_a_share_of_a_gpu_as_asked_for() -> None:
    assert place([Machine(16, 2)], threads=1, gpu_fraction=0.25).actors == 8
    assert place([Machine(4, 2)], threads=1, gpu_fraction=0.25).actors == 4
    assert place([Machine(8, 1)], threads=1, gpu_fraction=1 / 3).actors == 3
    assert place([Machine(8, 1)], threads=1, gpu_fraction=0.3).actors == 3
    assert place([Machine(8, 4)], threads=1, gpu_fraction=2).actors == 2


def test_the_share_of_a_gpu_follows_from_memory() -> None:
    node = Machine(16, 2, gpu_bytes=80 * GIB)
    assert place([node], threads=1, trial_bytes=30 * GIB).gpus_per_trial == 0.5
    assert place([node], threads=1, trial_bytes=60 * GIB).gpus_per_trial == 1
    assert place([node], threads=1, trial_bytes=1 * GIB).gpus_per_trial == 0.25
    assert place([node], threads=1).gpus_per_trial == 1  # Nothing is known of the model.
    # The smallest GPU of a cluster decides.
    mixed = [node, Machine(16, 1, gpu_bytes=24 * GIB)]
    assert place(mixed, threads=1, trial_bytes=20 * GIB).gpus_per_trial == 1


@given(st.integers(1, 200), st.integers(1, 100))
def test_shares_found_by_memory_hold_a_trial_and_fill_a_gpu(gpu: int, trial: int) -> None:
    node = Machine(64, 1, gpu_bytes=gpu * GIB)
    found = place([node], threads=1, trial_bytes=trial * GIB)
    assert found.actors * found.gpus_per_trial == pytest.approx(1)
    if found.actors > 1:
        assert found.gpus_per_trial * gpu >= trial


def test_a_global_trial_takes_a_whole_gpu() -> None:
    found = place([Machine(8, 2)], threads=1, gpu_fraction=0.25)
    assert found.resources_for([spec("evaluate")]) == {"CPU": 1.0, "GPU": 0.25}
    assert found.resources_for([spec("train")]) == {"CPU": 1.0, "GPU": 1.0}
    assert not is_global(spec("adopt"))


def test_nodes_of_a_cluster_are_counted_one_by_one() -> None:
    # 3 CPUs on each of two nodes hold one trial of 2 threads each, not three together.
    assert place([Machine(3, 0), Machine(3, 0)], threads=2).actors == 2
    # Trials go where GPUs are.
    head, workers = Machine(16, 0), [Machine(8, 1), Machine(8, 1)]
    assert place([head, *workers], threads=1, gpu_fraction=0.5).actors == 4


def test_what_no_node_could_ever_hold_is_refused_with_the_numbers() -> None:
    with pytest.raises(InputError, match="threads is 4, but this machine has 2 CPUs and no GPUs"):
        place([Machine(2, 0)], threads=4)
    with pytest.raises(InputError, match="the largest of 2 nodes has 8 CPUs"):
        place([Machine(8, 0), Machine(2, 0)], threads=9)
    with pytest.raises(InputError, match="a trial asks for 2 GPUs, but this machine has 8 CPUs"):
        place([Machine(8, 1)], threads=1, gpu_fraction=2)
    with pytest.raises(InputError, match=r"take 0\.25 of a GPU, but this machine has .* no GPUs"):
        place([Machine(8, 0)], threads=1, gpu_fraction=0.25)
    for fraction in ("nan", "inf", "-inf", "-1", "0", "1.5"):
        for node in (Machine(8, 1), Machine(8, 0)):
            with pytest.raises(InputError, match=f"cannot take {fraction} GPUs"):
                place([node], threads=1, gpu_fraction=float(fraction))
    with pytest.raises(InputError, match="cannot take 0 GPUs"):
        place([Machine(8, 1)], threads=1, gpu_fraction=0)
    with pytest.raises(InputError, match=r"cannot take 1\.5 GPUs"):
        place([Machine(8, 2)], threads=1, gpu_fraction=1.5)
    with pytest.raises(InputError, match=r"weights take 13\.5 GiB.* 8\.0 GiB of memory"):
        check_memory([Machine(8, 0, memory_bytes=8 * GIB)], weights_bytes=int(13.5 * GIB))
    check_memory([Machine(8, 1, gpu_bytes=24 * GIB)], weights_bytes=int(13.5 * GIB))


def test_logical_gpus_are_no_device() -> None:
    assert Machine(2, 2, logical=True).device == "cpu"
    assert Machine(2, 2).device == "cuda"
    assert this_machine({"CUDA_VISIBLE_DEVICES": ""}).gpus == 0
    assert this_machine().memory_bytes > GIB


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_parameters_are_counted_from_the_config_alone(family: Family) -> None:
    model = tiny_model(family)
    shape = ModelShape.of_config(model.config.to_dict())
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_the_embedded_base_is_known_without_its_weights(tmp_path) -> None:  # type: ignore[no-untyped-def]
    shape = model_shape(ModelConfig(), PromptConfig(), workspace=tmp_path)
    assert shape is not None
    assert shape.parameters == 1_049_728
    assert list(tmp_path.iterdir()) == []


def test_the_memory_of_known_bases_is_plausible() -> None:
    work = heaviest_work(Settings(), device="cuda")
    small, large = trial_memory(QWEN_05B, work), trial_memory(MISTRAL_7B, work)
    assert small.weights == pytest.approx(0.988e9, rel=0.01)  # 494 M weights of 2 bytes.
    assert large.weights == pytest.approx(14.5e9, rel=0.01)
    assert small.total < large.total
    # One user's LoRA in bfloat16 is 1.08 MB; six float32 copies for 12 users are 156 MB.
    assert small.adapters == pytest.approx(1.08e6 * 2 * 6 * 12, rel=0.01)
    four_bit = trial_memory(MISTRAL_7B, replace(work, quantized=True))
    assert four_bit.weights < 0.35 * large.weights
    saved = trial_memory(MISTRAL_7B, replace(work, recompute_activations=True))
    assert saved.training < large.training / 4
    everything = replace(work, adapters=(LoraConfig(target_modules=("all-linear",)),))
    assert trial_memory(QWEN_05B, everything).adapters > small.adapters


def test_the_share_is_enforced_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[float] = []
    assert limit_gpu_memory(0.25) is None  # No GPU here.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: type("", (), {"total_memory": 80 * GIB})
    )
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", set_to.append)
    assert limit_gpu_memory(1.0) is None
    assert limit_gpu_memory(0.0) is None
    assert set_to == []
    assert limit_gpu_memory(0.25) == set_to[0]
    # Four such processes with their contexts fit the card.
    assert 4 * (set_to[0] * 80 * GIB + CONTEXT_BYTES) <= 80 * GIB
