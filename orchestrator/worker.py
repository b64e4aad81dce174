"""Runs cells in one process: reads users and parents, calls the task, leaves files in staging.

Knows no Ray, so a cell can be run, tested and profiled alone. Nothing of one cell reaches the
next but what is frozen: base model, encoder.
"""

from __future__ import annotations

import json
import math
import platform
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orchestrator.identity import cell_id
from orchestrator.ranks import run_in_ranks
from results.ledger import SAVE_NOW, Ledger
from tasks.cell import CellSpec, with_smaller_passes
from tasks.config import ModelConfig, PromptConfig

if TYPE_CHECKING:
    import pandas as pd

    from data.schema import UserData
    from tasks.adapters.bank import AdapterState
    from tasks.base_model import BaseModel
    from tasks.checkpoint import TrainingCheckpoint
    from tasks.encoder import Encoder

ADAPTERS_FILE = "adapters.safetensors"
CHECKPOINT_SECONDS = 600.0
"""A training of shared adapters saves its state so often."""
NO_METRIC = -1.0
"""Stands for "no macro ROUGE-L": Tune wants every key in every result, and never a NaN."""


@dataclass(frozen=True, slots=True)
class Places:
    """Absolute folders that a worker reads and writes.

    On storage that all nodes share; or, where ``storage`` names a bucket, each node's own copy.
    ``base`` is where the base model lies now, if that is not where the cells' specs say.
    """

    shards: Path
    ledger: Path
    staging: Path
    storage: str | None = None
    base: ModelConfig | None = None

    @classmethod
    def at(
        cls, root: Path, *, storage: str | None = None, base: ModelConfig | None = None
    ) -> Places:
        """Those of a workspace whose folder is ``root``."""
        ledger = Ledger(root)
        return cls(root / "data" / "shards", ledger.root, ledger.staging, storage, base)

    def model(self, named: ModelConfig) -> ModelConfig:
        """The base model that a spec names, by where it is found."""
        if self.base is None:
            return named
        found = {"name": self.base.name, "revision": self.base.revision}
        return named.model_copy(update=found)

    def told(self) -> dict[str, str | None]:
        """As plain JSON values, for another process."""
        return {
            "shards": str(self.shards),
            "ledger": str(self.ledger),
            "staging": str(self.staging),
            "storage": self.storage,
            "base": None if self.base is None else self.base.model_dump_json(),
        }

    @classmethod
    def from_told(cls, told: Mapping[str, str | None]) -> Places:
        """What ``told`` said."""
        shards, ledger, staging = (Path(str(told[n])) for n in ("shards", "ledger", "staging"))
        base = told.get("base")
        found = None if base is None else ModelConfig.model_validate_json(base)
        return cls(shards, ledger, staging, told["storage"], found)

    @property
    def training(self) -> Path:
        """States of trainings that are under way, by cell; the ledger removes them."""
        return self.ledger / ".training"

    @property
    def adopted(self) -> Path:
        """Adapters that were trained elsewhere, by the hash of their PEFT folders."""
        return self.ledger.parent / "adopted"

    def adapters(self, spec: CellSpec) -> Path | None:
        """The adapters that a cell starts from."""
        if spec.adopted_sha256 is not None:
            return self.adopted / f"{spec.adopted_sha256}.safetensors"
        return None if spec.parent is None else self.ledger / spec.parent / ADAPTERS_FILE


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
    out_of_memory: bool = False


def ask_to_save(training: Path) -> None:
    """Have all trainings that are under way save their state at their next step.

    ``training``: the folder of their states. On a node that shares no folder with the driver
    nobody hears of it; that node is not the one that goes.
    """
    mark = training / SAVE_NOW
    training.mkdir(parents=True, exist_ok=True)
    mark.write_text(secrets.token_hex(8), encoding="ascii")


class Worker(Protocol):
    """Anything that runs cells one after another."""

    def run(
        self, cell_id: str, spec: CellSpec, *, staging: Path, smaller_passes: bool = False
    ) -> CellReport:
        """Run one cell and write its files into ``staging``."""
        ...

    def environment(self) -> dict[str, str]:
        """Versions and class of hardware; no host names, no paths."""
        ...


class CellWorker:
    """The real thing: holds the frozen base model and the encoder from cell to cell."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.checkpoint_seconds = CHECKPOINT_SECONDS
        self.processes = 1
        """Of a training of shared adapters: one for each GPU of the trial."""
        self._base: tuple[tuple[ModelConfig, PromptConfig], BaseModel] | None = None
        self._encoder: Encoder | None = None

    def run(
        self, cell_id: str, spec: CellSpec, *, staging: Path, smaller_passes: bool = False
    ) -> CellReport:
        """Run one cell; an error of any kind becomes a report with its traceback.

        ``smaller_passes``: with half the tokens per pass, because the cell did not fit before.
        """
        began = time.perf_counter()
        try:
            macro = self._run(spec, staging, smaller_passes=smaller_passes)
        except Exception as error:
            text, seconds = traceback.format_exc(), time.perf_counter() - began
            full = is_out_of_memory(error)
            return CellReport(cell_id, False, "", text, NO_METRIC, seconds, out_of_memory=full)
        seconds = time.perf_counter() - began
        return CellReport(cell_id, True, str(staging), "", macro, seconds)

    def environment(self) -> dict[str, str]:
        """Versions and class of hardware; no host names, no paths."""
        together = {"processes": str(self.processes)} if self.processes > 1 else {}
        return self._environment | together

    @cached_property
    def _environment(self) -> dict[str, str]:
        found = {"python": platform.python_version(), "machine": platform.machine()}
        found["device"] = "cpu"
        if "torch" in sys.modules and (torch := sys.modules["torch"]).cuda.is_available():
            found["device"] = torch.cuda.get_device_name()
        return found | {name: _version(name) for name in ("torch", "transformers", "ray")}

    def _run(self, spec: CellSpec, staging: Path, *, smaller_passes: bool) -> float:
        if self.processes == 1 or spec.purpose != "train":
            return self.run_here(spec, staging=staging, smaller_passes=smaller_passes)
        return run_in_ranks(
            spec,
            places=self.places,
            staging=staging,
            processes=self.processes,
            smaller_passes=smaller_passes,
            checkpoint_seconds=self.checkpoint_seconds,
        )

    def run_here(
        self, spec: CellSpec, *, staging: Path, smaller_passes: bool, write: bool = True
    ) -> float:
        """Run one cell in this process; returns ``CellReport.macro``, raises what goes wrong.

        ``write``: whether to leave files; of several processes that train together, one does.
        """
        import torch

        from data.shards import read_users
        from orchestrator.repeating import keep_what_was_finished
        from tasks.adapters.peft_io import load_state
        from tasks.trial import run_cell, write_outcome

        torch.set_num_threads(spec.threads)
        users: list[UserData] = read_users(self.places.shards, spec.users)
        start = self.places.adapters(spec)
        parent = self._per_user_adapters(spec) if start is None else load_state(start)
        outcome = run_cell(
            with_smaller_passes(spec) if smaller_passes else spec,
            users=users,
            base=self._base_for(spec),
            encoder=self._encoder_for(spec),
            parent=parent,
            checkpoint=self._checkpoint(spec, writes=write),
        )
        if smaller_passes:
            # The cell is what was asked for; how it had to be run stands beside it.
            outcome = replace(outcome, spec=spec, counts=outcome.counts | {"smaller_passes": 1})
        if write:
            outcome = keep_what_was_finished(outcome, self.places)
            write_outcome(outcome, staging)
        best = max((row["val_rouge_l"] for row in outcome.curve), default=NO_METRIC)
        return best if outcome.items is None else macro_rouge_l(outcome.items)

    def _checkpoint(self, spec: CellSpec, *, writes: bool) -> TrainingCheckpoint | None:
        """Where a training of shared adapters, which may take hours, keeps its state."""
        from tasks.checkpoint import TrainingCheckpoint

        if spec.purpose != "train":
            return None
        owner, every = cell_id(spec), self.checkpoint_seconds
        path = self.places.training / f"{owner}.safetensors"
        return TrainingCheckpoint(
            path,
            owner=owner,
            every_seconds=every,
            writes=writes,
            saved=self._send_state(),
            asked=self.places.training / SAVE_NOW,
        )

    def _send_state(self) -> Callable[[Path], None] | None:
        """What takes a saved state to a bucket, where the workspace is in one."""
        if self.places.storage is None:
            return None
        from results.object_store import ObjectStore
        from results.stored_ledger import StoredLedger

        ledger = Ledger(self.places.ledger.parent.parent)
        return StoredLedger(ObjectStore(self.places.storage), ledger).send_state

    def _per_user_adapters(self, spec: CellSpec) -> AdapterState | None:
        """The well-trained adapters of all parent cells, blocks in order; None without any."""
        from tasks.adapters.peft_io import load_state
        from tasks.identify import joined

        states = []
        for name in spec.parents:
            folder = self.places.ledger / name
            record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
            good = [slot["slot"] for slot in record["slots"] if slot["status"] == "ok"]
            if good:
                states.append(load_state(folder / ADAPTERS_FILE, slots=good))
        return joined(states)

    def _base_for(self, spec: CellSpec) -> BaseModel:
        from tasks.base_model import load_base

        key = (spec.model, spec.prompt)
        if self._base is None or self._base[0] != key:
            self._base = None  # Two bases at a time may not fit.
            found = self.places.model(spec.model)
            self._base = (key, load_base(found, prompt=spec.prompt))
        return self._base[1]

    def _encoder_for(self, spec: CellSpec) -> Encoder:
        from tasks.encoder import load_encoder

        if self._encoder is None or self._encoder.name != spec.evaluation.encoder:
            self._encoder = load_encoder(spec.evaluation.encoder)
        return self._encoder


OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the device's memory was full; torch has a class for GPUs and only words for CPUs."""
    if error is None:
        return False
    words = str(error).lower()
    known = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in words for text in OUT_OF_MEMORY_WORDS)
    )
    return known or is_out_of_memory(error.__cause__)


def macro_rouge_l(items: pd.DataFrame) -> float:
    """Mean over users of the mean over their items, under the own adapter.

    ``NO_METRIC`` also where every user is scored after several numbers of exchanges, where nothing
    was generated, and where no true reply has a word.
    """
    own = items[items["control"] == "own"]
    if own.empty or "exchanges" in own or "rouge_l" not in own:
        return NO_METRIC
    mean = float(own.groupby("user_id")["rouge_l"].mean().mean())
    return mean if math.isfinite(mean) else NO_METRIC


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
