"""How many trials run at the same time, and with what: a pure function of the machine.

Placement never reaches a cell's spec, so it cannot change a number.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.exit_codes import InputError


@dataclass(frozen=True, slots=True)
class Machine:
    """CPUs (cores this process may use) and GPUs of one node."""

    cpus: int
    gpus: int

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Class of the devices that trials run on."""
        return "cuda" if self.gpus else "cpu"


@dataclass(frozen=True, slots=True)
class Placement:
    """Resources of one trial, and how many trials fit side by side."""

    cpus_per_trial: float
    gpus_per_trial: float
    actors: int

    def resources(self) -> dict[str, float]:
        """As Ray counts them."""
        gpu = {"GPU": self.gpus_per_trial} if self.gpus_per_trial else {}
        return {"CPU": self.cpus_per_trial, **gpu}


def this_machine(environment: Mapping[str, str] = os.environ) -> Machine:
    """What this process may use; GPUs by their device files, without importing torch."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    found = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if visible is not None:
        named = [name for name in visible.split(",") if name.strip() not in ("", "-1")]
        found = min(found, len(named))
    return Machine(cpus=cpus or 1, gpus=found if found and _torch_has_cuda() else 0)


def _torch_has_cuda() -> bool:
    """Whether the installed torch can use a GPU; asked only where there is one."""
    import torch

    return torch.cuda.is_available()


def place(machine: Machine, *, threads: int, gpu_fraction: float | None = None) -> Placement:
    """Where a trial with ``threads`` CPU threads runs.

    Args:
        machine: what there is.
        threads: CPU threads of a trial, from the settings.
        gpu_fraction: share of a GPU for each trial; by default a whole one.

    Raises:
        InputError: the machine cannot hold a single trial.
    """
    if threads > machine.cpus:
        raise InputError(
            f"threads is {threads}, but this machine has {machine.cpus} CPUs: no trial could ever "
            f"start; set threads to at most {machine.cpus}"
        )
    if machine.gpus == 0:
        return Placement(float(threads), 0.0, machine.cpus // threads)
    fraction = 1.0 if gpu_fraction is None else gpu_fraction
    by_gpu = machine.gpus * int(1 / fraction) if fraction <= 1 else int(machine.gpus / fraction)
    if by_gpu < 1:
        raise InputError(f"a trial asks for {fraction:g} GPUs, this machine has {machine.gpus}")
    return Placement(float(threads), fraction, min(by_gpu, machine.cpus // threads))
