"""How many trials run at the same time, and with what: a pure function of the nodes.

Placement never reaches a cell's spec, so it cannot change a number. Threads are a setting for the
same reason: they move float32 results, so no machine decides them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, isfinite
from pathlib import Path
from typing import Literal

from orchestrator.exit_codes import InputError
from tasks.cell import CellSpec

MOST_PER_GPU = 4
"""Trials on one GPU unless asked otherwise: they hide each other's gaps between kernels, and more
of them only hold more copies of the base."""
PROCESS_BYTES = 1 << 30
"""A worker process with its libraries."""


@dataclass(frozen=True, slots=True)
class Machine:
    """CPUs (cores this process may use) and GPUs of one node; sizes of 0 bytes are unknown.

    ``logical``: the GPUs are numbers for Ray's scheduler, and torch sees none of them.
    """

    cpus: int
    gpus: int
    memory_bytes: int = 0
    gpu_bytes: int = 0
    logical: bool = False

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Class of the devices that trials run on."""
        return "cuda" if self.gpus and not self.logical else "cpu"


@dataclass(frozen=True, slots=True)
class Placement:
    """Resources of one trial, and how many trials fit side by side.

    ``gpus_per_global_trial``: what a trial that trains one adapter for many users takes; the same
    as any other where there are no GPUs. ``trial_bytes`` is the estimated need of one, 0 if none
    could be made. ``processes`` train a shared adapter together: as many as were asked for, however
    many GPUs a trial takes for other reasons.
    """

    cpus_per_trial: float
    gpus_per_trial: float
    actors: int
    gpus_per_global_trial: float = 0.0
    trial_bytes: int = 0
    processes: int = 1

    def resources(self) -> dict[str, float]:
        """Of a trial, as Ray counts them."""
        gpu = {"GPU": self.gpus_per_trial} if self.gpus_per_trial else {}
        return {"CPU": self.cpus_per_trial, **gpu}

    def resources_for(self, specs: Sequence[CellSpec]) -> dict[str, float]:
        """Of a trial with these cells: more GPU where one of them trains a shared adapter."""
        if self.gpus_per_global_trial and any(is_global(spec) for spec in specs):
            return {"CPU": self.cpus_per_trial, "GPU": self.gpus_per_global_trial}
        return self.resources()

    def processes_for(self, specs: Sequence[CellSpec]) -> int:
        """That run these cells together: more than one for the training of a shared adapter."""
        trained = any(is_global(spec) and spec.purpose == "train" for spec in specs)
        return self.processes if trained else 1


def is_global(spec: CellSpec) -> bool:
    """Whether a cell trains adapters that many users share."""
    return spec.purpose in ("train", "try") and spec.grouping in ("all", "cluster")


def this_machine(environment: Mapping[str, str] = os.environ) -> Machine:
    """What this process may use; GPUs by their device files, without importing torch."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    found = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if visible is not None:
        named = [name for name in visible.split(",") if name.strip() not in ("", "-1")]
        found = min(found, len(named))
    gpu_bytes = gpu_bytes_here() if found else 0
    return Machine(
        cpus=cpus or 1,
        gpus=found if gpu_bytes else 0,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpu_bytes=gpu_bytes,
    )


def gpu_bytes_here() -> int:
    """Memory of the smallest GPU that torch can use here, 0 without one; imports torch."""
    import torch

    if not torch.cuda.is_available():
        return 0
    known = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
    return int(min(device.total_memory for device in known))


def deciding_node(nodes: Sequence[Machine]) -> Machine:
    """The node that decides a cluster's class of device: one with GPUs, if there is any.

    Raises:
        InputError: there are no nodes.
    """
    if not nodes:
        raise InputError("the cluster has no node that is alive")
    return max(nodes, key=lambda node: (node.device == "cuda", node.gpus, node.cpus))


def place(
    nodes: Sequence[Machine],
    *,
    threads: int,
    gpu_fraction: float | None = None,
    trial_bytes: int = 0,
    gpus_per_global_trial: int = 1,
) -> Placement:
    """Where trials with ``threads`` CPU threads run.

    Args:
        nodes: of the cluster; one for a local run.
        threads: CPU threads of a trial, from the settings.
        gpu_fraction: share of a GPU for each trial; by default what its memory allows.
        trial_bytes: estimated memory of a trial, 0 if unknown: a trial then gets a whole GPU.
        gpus_per_global_trial: GPUs of a trial that trains a shared adapter.

    Raises:
        InputError: no node can hold a single trial; says what is asked for and what there is.
    """
    if gpu_fraction is not None:
        _check_fraction(gpu_fraction)
    fitting = [node for node in nodes if node.cpus >= threads]
    if not fitting:
        raise InputError(
            f"threads is {threads}, but {_largest(nodes)}: no trial could ever start; set threads "
            f"to at most {max(node.cpus for node in nodes)}"
        )
    with_gpus = [node for node in fitting if node.gpus]
    if not with_gpus and gpus_per_global_trial > 1:
        raise InputError(
            f"a global trial asks for {gpus_per_global_trial} GPUs, but {_largest(nodes)}"
        )
    if not with_gpus:
        if gpu_fraction is not None:
            raise InputError(
                f"each trial is to take {gpu_fraction:g} of a GPU, but {_largest(nodes)}"
            )
        actors = sum(_by_memory(node, threads, trial_bytes) for node in fitting)
        return Placement(float(threads), 0.0, actors, trial_bytes=trial_bytes)
    fraction = _fraction(with_gpus, asked=gpu_fraction, trial_bytes=trial_bytes)
    actors = sum(min(_by_gpus(node, fraction), node.cpus // threads) for node in with_gpus)
    most = max(node.gpus for node in with_gpus)
    for wanted, whose in ((fraction, "a trial"), (gpus_per_global_trial, "a global trial")):
        if wanted > most:
            raise InputError(f"{whose} asks for {wanted:g} GPUs, but {_largest(with_gpus)}")
    whole = max(float(gpus_per_global_trial), fraction)
    return Placement(float(threads), fraction, actors, whole, trial_bytes, gpus_per_global_trial)


def _check_fraction(asked: float) -> None:
    """Refuse what is no share of a GPU and no number of GPUs."""
    if not isfinite(asked) or asked <= 0 or (asked > 1 and asked != int(asked)):
        raise InputError(
            f"a trial cannot take {asked:g} GPUs: give a share above 0 and at most 1, or a whole "
            "number"
        )


def _fraction(nodes: Sequence[Machine], *, asked: float | None, trial_bytes: int) -> float:
    """GPUs for each trial: as asked for, or the share that its memory needs."""
    if asked is not None:
        return asked
    known = [node.gpu_bytes for node in nodes if node.gpu_bytes]
    if not known or not trial_bytes:
        return 1.0
    # Whole shares: floor(1 / share) trials fit, so nothing of a GPU is left idle.
    return 1 / min(MOST_PER_GPU, max(1, min(known) // trial_bytes))


def _by_gpus(node: Machine, fraction: float) -> int:
    # A hair above: 1 / (1 / 3) must be 3.
    per_gpu = floor(1 / fraction + 1e-9)
    return node.gpus * per_gpu if fraction <= 1 else int(node.gpus / fraction)


def _by_memory(node: Machine, threads: int, trial_bytes: int) -> int:
    """Trials on a node without GPUs: as many as its CPUs, and its memory, hold; at least one."""
    by_cpus = node.cpus // threads
    if not node.memory_bytes or not trial_bytes:
        return by_cpus
    return max(1, min(by_cpus, node.memory_bytes // (trial_bytes + PROCESS_BYTES)))


def check_memory(nodes: Sequence[Machine], *, weights_bytes: int) -> None:
    """Refuse a base whose weights alone fit no node.

    Raises:
        InputError: with both sizes.
    """
    gpus = [node.gpu_bytes for node in nodes if node.device == "cuda"]
    room = gpus or [node.memory_bytes for node in nodes]
    if all(room) and room and weights_bytes > max(room):
        where = "GPU memory" if gpus else "memory"
        raise InputError(
            f"the base model's weights take {weights_bytes / 2**30:.1f} GiB, and the largest node "
            f"has {max(room) / 2**30:.1f} GiB of {where}: take a smaller base, or "
            "--set model.quantization=4bit"
        )


def _largest(nodes: Sequence[Machine]) -> str:
    """What the largest node has, in words."""
    cpus, gpus = max(node.cpus for node in nodes), max(node.gpus for node in nodes)
    whose = "this machine" if len(nodes) == 1 else f"the largest of {len(nodes)} nodes"
    return f"{whose} has {cpus} CPUs and {gpus or 'no'} GPUs"
