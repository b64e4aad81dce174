"""A study's placement: from its settings and its base's config to resources of a trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from orchestrator.model_facts import model_shape, resolved_dtype
from orchestrator.placement import Machine, Placement, check_memory, place
from orchestrator.settings import Settings
from orchestrator.trial_memory import Work, trial_memory


def place_study(
    settings: Settings,
    *,
    workspace: Path,
    machine: Machine,
    nodes: Sequence[Machine] = (),
    gpu_fraction: float | None = None,
    gpus_per_global_trial: int = 1,
) -> Placement:
    """Where the trials of these settings run.

    Args:
        settings: of the study.
        workspace: where the base's facts may be remembered.
        machine: the one that decides the class of device.
        nodes: of a cluster; by default the machine alone.
        gpu_fraction: share of a GPU for each trial, against what its memory needs.
        gpus_per_global_trial: GPUs of a trial that trains an adapter for many users.

    Raises:
        InputError: no node could ever hold a trial.
    """
    nodes = nodes or (machine,)
    shape = model_shape(settings.model, settings.prompt, workspace=workspace)
    need = None
    if shape is not None:
        need = trial_memory(shape, heaviest_work(settings, device=machine.device))
        check_memory(nodes, weights_bytes=need.weights)
    return place(
        nodes,
        threads=settings.threads,
        gpu_fraction=gpu_fraction,
        trial_bytes=need.total if need else 0,
        gpus_per_global_trial=gpus_per_global_trial,
    )


def heaviest_work(settings: Settings, *, device: Literal["cpu", "cuda"]) -> Work:
    """What the largest cells of these settings put into memory at a time."""
    training = [
        getattr(stage, adapter)
        for stage in (settings.shared, settings.cluster, settings.personal)
        for adapter in ("lora", "prefix")
    ]
    return Work(
        dtype=resolved_dtype(settings.model, device=device),
        quantized=settings.model.quantization != "none",
        block_users=settings.block_users,
        adapters=(settings.lora, settings.prefix),
        tokens_per_pass=max(own.tokens_per_pass for own in training),
        recompute_activations=all(own.recompute_activations for own in training),
        rows_per_pass=settings.decoding.rows_per_pass,
        prefill_tokens_per_pass=settings.decoding.prefill_tokens_per_pass,
        max_total_tokens=settings.decoding.max_total_tokens,
    )
