"""A short measurement where the trials will run: what a step of each kind takes with the real base.

Miniatures of the study's own cells run in this process, or in a task on the cluster's node, over
one block of real users whose sessions are cut to one or two of each split, so that batches are as
wide as in the study and everything a cell does is in its time. Writes nothing into the workspace.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from data.catalog import SOURCES, resolve_source
from data.manifest import Prepared
from data.schema import UserData, online_examples
from data.settings import DataSettings
from data.shards import read_users
from orchestrator.estimate import Kind, Speeds, Step, characters_of, kind_of
from orchestrator.plan import PlannedCell
from orchestrator.settings import DataChoice
from orchestrator.trial_memory import ModelShape
from tasks.cell import CellOutcome, CellSpec
from tasks.config import TrainingConfig

if TYPE_CHECKING:
    from tasks.base_model import BaseModel
    from tasks.encoder import Encoder

MOST_USERS = 12
SESSIONS = 1
"""Of each split; one session per user fills a pass as many do."""
EXAMPLES = 3
BUDGET_SECONDS = 10.0
"""Of this process's own time; no further miniature is begun after that."""
MOST_PARAMETERS = {"cpu": 30_000_000, "cuda": 2_000_000_000}
"""A larger base cannot be loaded and measured within the budget."""
CLUSTER_SECONDS = 180.0
"""In which a node must have room for the probe, fetch the program, load it and measure."""


def can_probe(shape: ModelShape | None, *, device: str) -> bool:
    """Whether a base is small enough to be measured while somebody waits."""
    return shape is not None and shape.parameters <= MOST_PARAMETERS[device]


def sample_users(data: DataChoice, *, prepared: Prepared | None, most: int) -> list[UserData]:
    """Some of the study's users: prepared ones, or the first of the source, cleaned and split.

    Users of a source that must be downloaded first are synthetic ones instead.
    """
    if prepared is not None:
        return read_users(prepared.shards, prepared.users[:most])
    from data.user import prepare_user

    source, location = resolve_source(data.source)
    if source.name == "hub":
        source, location = SOURCES["synthetic"], ""
    settings = DataSettings(**data.prepare_settings().model_dump() | {"users": most})
    with TemporaryDirectory() as folder:
        scan = source.scan(source.fetch(location, Path(folder), settings))
        made = [
            prepare_user(source.read_user(lines, tuple(scan.files)), settings=settings).user
            for lines in scan.users[:most]
        ]
    return [user for user in made if user is not None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a probe found.

    ``cpu_share`` is how much of a processor this process got: 1 on an idle machine. The speeds
    are those of an idle one.
    """

    speeds: Speeds
    cpu_share: float


def measure(specs: Sequence[CellSpec], *, users: Sequence[UserData]) -> Measured:
    """Seconds of the steps of some miniatures, of which there must be one, over their users."""
    from tasks.base_model import load_base
    from tasks.encoder import load_encoder
    from tasks.trial import run_cell

    began = time.process_time()
    base: BaseModel = load_base(specs[0].model, prompt=specs[0].prompt)
    encoder: Encoder = load_encoder(specs[0].evaluation.encoder)
    found: dict[tuple[Step, Kind], float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    for number, spec in enumerate(specs):
        if number == 0:  # The first pass of a process pays for what later ones find ready.
            two = users[:2]
            warm = spec.model_copy(update={"users": tuple(user.user_key for user in two)})
            run_cell(warm, users=two, base=base, encoder=encoder)
        outcome = run_cell(spec, users=users, base=base, encoder=encoder)
        found |= speeds_of(outcome, users=users)
        if time.process_time() - began > BUDGET_SECONDS:
            break
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    if base.device.type != "cpu" or specs[0].threads > 1:
        share = 1.0  # What one thread of several, or of a GPU's launcher, gets says nothing.
    share = min(1.0, share)
    return Measured(Speeds({step: seconds * share for step, seconds in found.items()}), share)


def measure_within(
    gpu_share: float, specs: Sequence[CellSpec], users: Sequence[UserData]
) -> Measured:
    """The same in a process of a cluster that may use a share of a GPU."""
    from tasks.memory import limit_gpu_memory

    limit_gpu_memory(gpu_share)
    return measure(specs, users=users)


def shortened(user: UserData) -> UserData:
    """The user with the first sessions of each split, and all of the online slice."""
    kept = [session for session in user.sessions if session.split == "online"]
    for split in ("train", "val", "test"):
        kept += [s for s in user.sessions if s.split == split and s.item_turns][:SESSIONS]
    return replace(user, sessions=tuple(sorted(kept, key=user.sessions.index)), cold_start=False)


def miniatures(cells: Sequence[PlannedCell], *, users: Sequence[str]) -> Iterator[CellSpec]:
    """One small cell for each kind of adapter that is decoded with or trained in the study."""
    seen: set[tuple[Kind, bool]] = set()
    for cell in cells:
        spec, shared = cell.spec, cell.spec.purpose == "train"
        key = (kind_of(spec), shared)
        if key in seen or spec.purpose in ("identify", "adopt", "try", "trace"):
            continue
        if spec.adapter is not None and spec.training is None:
            continue  # Its speed is measured where the adapter is trained.
        seen.add(key)
        yield _small(spec, users=tuple(users), shared=shared)


def _small(spec: CellSpec, *, users: tuple[str, ...], shared: bool) -> CellSpec:
    changes: dict[str, object] = {"users": users, "parent": None, "generate": True}
    changes |= {"swapped_control": False, "exchange_counts": (), "split": "test"}
    if spec.training is not None:
        changes["training"] = _short(spec.training, shared=shared)
        changes["purpose"] = "train" if shared else "personalize"
    return spec.model_copy(update=changes)


def _short(training: TrainingConfig, *, shared: bool) -> TrainingConfig:
    examples = None if shared else EXAMPLES
    return training.model_copy(update={"epochs": 1, "examples": examples})


def speeds_of(outcome: CellOutcome, *, users: Sequence[UserData]) -> dict[tuple[Step, Kind], float]:
    """Seconds of a miniature's steps, each divided by how many there were."""
    spec, seconds = outcome.spec, outcome.seconds
    kind = kind_of(spec)
    found: dict[tuple[Step, Kind], float] = {}
    if spec.purpose == "train":
        sessions = sum(len(user.of_split("train")) for user in users)
        found["session", kind] = (seconds["train"] - seconds["validation"]) / sessions
        return found
    if spec.training is not None:
        read = sum(sum(characters_of(user, online_examples(user, EXAMPLES))) for user in users)
        found["character", kind] = seconds["train"] / read
    if outcome.items is not None:
        replies = len(outcome.items)
        found["reply", kind] = seconds["decode"] / replies
        found["score", kind] = seconds["score"] / replies
    return found
