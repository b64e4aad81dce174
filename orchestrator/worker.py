"""Runs cells in one process: reads users and parents, calls the task, leaves files in staging.

Knows no Ray, so a cell can be run, tested and profiled alone. Nothing of one cell reaches the
next but what is frozen: base model, encoder.
"""

from __future__ import annotations

import platform
import sys
import time
import traceback
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tasks.cell import CellSpec
from tasks.config import ModelConfig, PromptConfig

if TYPE_CHECKING:
    import pandas as pd

    from data.schema import UserData
    from tasks.base_model import BaseModel
    from tasks.encoder import Encoder

ADAPTERS_FILE = "adapters.safetensors"
NO_METRIC = -1.0
"""Stands for "no macro ROUGE-L": Tune wants every key in every result, and never a NaN."""


@dataclass(frozen=True, slots=True)
class Places:
    """Absolute folders that a worker reads and writes; on storage that all nodes share."""

    shards: Path
    ledger: Path
    staging: Path


@dataclass(frozen=True, slots=True)
class CellReport:
    """What the driver hears of a cell; the rest lies in the staging folder.

    ``macro`` is the mean over users of the mean ROUGE-L over their items under the own adapter,
    or the best validation value of a shared training; ``NO_METRIC`` where there is none.
    """

    cell_id: str
    ok: bool
    staging: str
    error: str
    macro: float
    seconds: float


class Worker(Protocol):
    """Anything that runs cells one after another."""

    def run(self, cell_id: str, spec: CellSpec, *, staging: Path) -> CellReport:
        """Run one cell and write its files into ``staging``."""
        ...

    def environment(self) -> dict[str, str]:
        """Versions and class of hardware; no host names, no paths."""
        ...


class CellWorker:
    """The real thing: holds the frozen base model and the encoder from cell to cell."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self._base: tuple[tuple[ModelConfig, PromptConfig], BaseModel] | None = None
        self._encoder: Encoder | None = None

    def run(self, cell_id: str, spec: CellSpec, *, staging: Path) -> CellReport:
        """Run one cell; an error of any kind becomes a report with its traceback."""
        began = time.perf_counter()
        try:
            macro = self._run(spec, staging)
        except Exception:
            error = traceback.format_exc()
            return CellReport(cell_id, False, "", error, NO_METRIC, time.perf_counter() - began)
        seconds = time.perf_counter() - began
        return CellReport(cell_id, True, str(staging), "", macro, seconds)

    def environment(self) -> dict[str, str]:
        """Versions and class of hardware; no host names, no paths."""
        return dict(self._environment)

    @cached_property
    def _environment(self) -> dict[str, str]:
        found = {"python": platform.python_version(), "machine": platform.machine()}
        found["device"] = "cpu"
        if "torch" in sys.modules and (torch := sys.modules["torch"]).cuda.is_available():
            found["device"] = torch.cuda.get_device_name()
        return found | {name: _version(name) for name in ("torch", "transformers", "ray")}

    def _run(self, spec: CellSpec, staging: Path) -> float:
        import torch

        from data.shards import read_users
        from tasks.adapters.peft_io import load_state
        from tasks.trial import run_cell, write_outcome

        torch.set_num_threads(spec.threads)
        users: list[UserData] = read_users(self.places.shards, spec.users)
        parent = None
        if spec.parent is not None:
            parent = load_state(self.places.ledger / spec.parent / ADAPTERS_FILE)
        outcome = run_cell(
            spec,
            users=users,
            base=self._base_for(spec),
            encoder=self._encoder_for(spec),
            parent=parent,
        )
        write_outcome(outcome, staging)
        best = max((row["val_rouge_l"] for row in outcome.curve), default=NO_METRIC)
        return best if outcome.items is None else macro_rouge_l(outcome.items)

    def _base_for(self, spec: CellSpec) -> BaseModel:
        from tasks.base_model import load_base

        key = (spec.model, spec.prompt)
        if self._base is None or self._base[0] != key:
            self._base = None  # Two bases at a time may not fit.
            self._base = (key, load_base(spec.model, prompt=spec.prompt))
        return self._base[1]

    def _encoder_for(self, spec: CellSpec) -> Encoder:
        from tasks.encoder import load_encoder

        if self._encoder is None or self._encoder.name != spec.evaluation.encoder:
            self._encoder = load_encoder(spec.evaluation.encoder)
        return self._encoder


def macro_rouge_l(items: pd.DataFrame) -> float:
    """Mean over users of the mean over their items, under the own adapter."""
    own = items[items["control"] == "own"]
    if own.empty:
        return NO_METRIC
    return float(own.groupby("user_id")["rouge_l"].mean().mean())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
