"""The Tune trial: an actor that holds the frozen base and runs cell after cell."""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import PlacementGroupFactory, Trainable

from orchestrator.worker import NO_METRIC, CellReport, CellWorker, Places, Worker
from tasks.cell import CellSpec
from tasks.memory import limit_gpu_memory

if TYPE_CHECKING:
    from orchestrator.stored_workspace import NodeCopy


class OutOfMemoryError(RuntimeError):
    """A cell did not fit; Tune starts its trial again on another actor, with smaller passes."""


NOTHING = CellReport(cell_id="", ok=True, staging="", error="", macro=NO_METRIC, seconds=0.0)


def trial_config(
    cells: list[tuple[str, CellSpec]],
    *,
    places: Places,
    attempt: str,
    worker: str,
    resources: dict[str, float],
    checkpoint_seconds: float,
    processes: int = 1,
) -> dict[str, Any]:
    """What a trial is told, in plain JSON values.

    ``processes`` is said and not taken from ``resources``: data parallelism moves float32 results,
    and a share of the GPUs that is given for memory alone must not.

    Specs travel as one text: Tune walks through nested configs and gives words like
    ``grid_search`` a meaning.
    """
    return {
        "cells": json.dumps([[name, spec.model_dump(mode="json")] for name, spec in cells]),
        "places": places.told(),
        "attempt": attempt,
        "worker": worker,
        "resources": resources,
        "checkpoint_seconds": checkpoint_seconds,
        "processes": processes,
    }


class PersonalizationTrial(Trainable):
    """One cell per step; after the last one, a step that only says ``done``.

    That last, empty step lets the driver absorb a result and hand out what became ready before
    this trial ends, so that Tune keeps the actor (and the base in it) for the next trial.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first trial; models are loaded when a cell first needs them."""
        self._worker: Worker | None = None
        self._copy: NodeCopy | None = None
        self._staging: Path | None = None
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; nothing of the last one stays but the worker's frozen models."""
        self._take(new_config)
        return True

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """Resources come with the config: a global trial may need more than a per-user one."""
        return PlacementGroupFactory([dict(config["resources"])])

    def step(self) -> dict[str, Any]:
        """Run the next cell, or end."""
        if self._next == len(self._cells):
            return _result(NOTHING, environment={}, done=True)
        cell_id, spec = self._cells[self._next]
        self._next += 1
        staging = self._new_staging(cell_id)
        retry = self._places.staging / f"{cell_id}-{self._attempt}.smaller"
        smaller = retry.exists()
        if self._copy is not None:
            self._copy.fetch(cell_id, spec)
        report = self._worker_for(self.config).run(
            cell_id, spec, staging=staging, smaller_passes=smaller
        )
        if self._copy is not None and report.ok:
            self._copy.send(cell_id, staging)
        if report.out_of_memory and not smaller:
            # Allocators keep what they took, so this process is not the one to try again.
            retry.parent.mkdir(parents=True, exist_ok=True)
            retry.touch()
            raise OutOfMemoryError(report.error)
        retry.unlink(missing_ok=True)
        return _result(report, environment=self._worker_for(self.config).environment(), done=False)

    def _new_staging(self, cell_id: str) -> Path:
        """A folder of this try alone.

        A worker on a node that was cut off may outlive the retry of its trial: what it writes
        then goes where nobody looks. What a dead one left is removed.
        """
        if self._copy is not None and self._staging is not None:
            # The driver has taken it, or has it from the bucket.
            shutil.rmtree(self._staging, ignore_errors=True)
        prefix = f"{cell_id}-{self._attempt}-{self.trial_id}-"
        for left in self._places.staging.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        self._staging = self._places.staging / f"{prefix}{secrets.token_hex(4)}"
        return self._staging

    def _copy_for(self, places: Places) -> NodeCopy | None:
        """What brings cells to and from a bucket; kept from trial to trial."""
        if places.storage is None:
            return None
        from orchestrator.stored_workspace import NodeCopy

        same = self._copy is not None and self._copy.places == places
        return self._copy if same else NodeCopy(places)

    def _take(self, config: dict[str, Any]) -> None:
        places = _here(Places.from_told(config["places"]))
        if self._worker is not None and getattr(self._worker, "places", places) != places:
            self._worker = None
        self._places = places
        self._copy = self._copy_for(places)
        self._attempt = str(config["attempt"])
        self._cells = [
            (name, CellSpec.model_validate_json(json.dumps(spec)))
            for name, spec in json.loads(config["cells"])
        ]
        self._next = 0

    def _worker_for(self, config: dict[str, Any]) -> Worker:
        if self._worker is None:
            module, _, name = str(config["worker"]).partition(":")
            # Ray counts shares of a GPU and enforces none.
            limit_gpu_memory(float(config["resources"].get("GPU", 0)))
            self._worker = getattr(import_module(module), name)(self._places)
        if isinstance(self._worker, CellWorker):
            # An actor is kept for trials of the same resources, which may differ in these.
            self._worker.checkpoint_seconds = float(config["checkpoint_seconds"])
            self._worker.processes = int(config["processes"])
        return self._worker


def _here(places: Places) -> Places:
    """The driver's places on this node: a bucket's working copy may lie elsewhere."""
    if places.storage is None:
        return places
    from orchestrator.stored_workspace import working_copy

    root = working_copy(places.storage)
    return Places.at(root, storage=places.storage, base=places.base)


def trial_class(study: str) -> type[PersonalizationTrial]:
    """The trial under a name that Ray's dashboard shows: ``PerPersonaTrial`` of ``per_persona``.

    An actor serves all arms of a study in turn, so its class cannot name one; `status` does.
    """
    name = "".join(word.capitalize() for word in study.split("_") if word.isidentifier())
    return type(f"{name}Trial", (PersonalizationTrial,), {}) if name else PersonalizationTrial


def _result(report: CellReport, *, environment: dict[str, str], done: bool) -> dict[str, Any]:
    """Every result has the same keys: Tune ends an experiment over a missing one."""
    return {**asdict(report), "environment": json.dumps(environment), "done": done}
