"""Persona prediction in plan, worker and ledger: many parents, users without an adapter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.work import synthetic_users
from data.schema import UserData
from data.shards import shard_name, write_index, write_shard
from orchestrator.cell_queue import CellQueue
from orchestrator.exit_codes import InputError
from orchestrator.keeper import LedgerKeeper
from orchestrator.plan import Facts, Plan, PlannedCell, make_plan
from orchestrator.settings import Settings
from orchestrator.worker import CellWorker, Places
from results.files import file_sha256
from results.ledger import Ledger
from results.record import Record
from search_spaces.catalog import STUDIES
from search_spaces.space import IDENTIFY, LORA_PER_USER, Arm, Study
from tasks.config import DecodingConfig, LoraConfig, TrainingConfig

STUDY = STUDIES["persona_prediction"]
FACTS = Facts(
    data_sha256="d",
    items_sha256={"val": "v", "test": "t"},
    users=tuple(f"user_{n}" for n in range(7)),
    model_sha256="m",
    template_sha256="p",
    dtype="float32",
    cold_start_users=("user_cold",),
)


def plan(study: Study = STUDY, **changes: object) -> Plan:
    settings = Settings.model_validate(Settings().model_dump() | {"block_users": 3} | changes)
    return make_plan(settings, study=study, facts=FACTS)


def test_every_representation_ranks_all_warm_users_in_one_cell() -> None:
    cells = {cell.arm: cell for cell in plan().cells if cell.spec.purpose == "identify"}
    assert list(cells) == [arm.name for arm in IDENTIFY]
    for cell in cells.values():
        assert cell.spec.users == FACTS.users
        assert cell.stage == "persona_prediction"
        assert cell.spec.training is None
    assert cells["identify_encoder"].depends_on == ()
    assert cells["identify_base"].spec.representation == "hidden"
    assert cells["identify_base"].cell_id != cells["identify_encoder"].cell_id


def test_parents_are_the_shared_adapter_or_all_blocks_in_order() -> None:
    made = plan(seeds=(0, 1))
    cells = [cell for cell in made.cells if cell.spec.purpose == "identify"]
    assert len(cells) == 2 + 4 * 2  # What is not trained knows no seed.
    for cell in cells:
        start = cell.arm.removeprefix("identify_")
        same_seed = [c for c in made.cells if c.arm == start and c.spec.seed == cell.spec.seed]
        if cell.spec.representation == "likelihood":
            assert cell.spec.parents == tuple(c.cell_id for c in same_seed)
            blocks = [user for c in same_seed for user in c.spec.users]
            assert blocks == list(FACTS.users)
            assert cell.depends_on == cell.spec.parents
        elif start.endswith("_all"):
            (train,) = [c for c in same_seed if c.spec.purpose == "train"]
            assert (cell.spec.parent, cell.depends_on) == (train.cell_id, (train.cell_id,))
            assert cell.spec.parents == ()


def test_a_cell_waits_for_all_of_its_parents() -> None:
    made = plan()
    cell = next(cell for cell in made.cells if cell.arm == "identify_lora_per_user")
    done = {c.cell_id for c in made.cells if c.cell_id not in (cell.cell_id, cell.depends_on[-1])}
    queue = CellQueue(made.cells, finished=done)
    (last,) = queue.take(5)
    assert last.cell_id == cell.depends_on[-1]
    queue.finish(last.cell_id)
    assert [one.cell_id for one in queue.take(5)] == [cell.cell_id]


def test_an_arm_whose_start_is_not_listed_before_it_is_refused() -> None:
    for arm in (IDENTIFY[3], IDENTIFY[5]):
        with pytest.raises(InputError, match="which the study does not list before it"):
            plan(Study("s", "s", (arm,)))


def test_the_study_shares_its_prerequisites_with_per_persona() -> None:
    known = {cell.cell_id for cell in plan(STUDIES["per_persona"]).cells}
    own = [cell for cell in plan().cells if cell.spec.purpose != "identify"]
    assert {cell.cell_id for cell in own} <= known


def quiet(user: UserData) -> UserData:
    """The user with an online slice too small for an adapter."""
    sessions = tuple(
        replace(session, item_turns=()) if session.split == "online" else session
        for session in user.sessions
    )
    return replace(user, sessions=sessions)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PlannedCell]]:
    """Shards of five users in two blocks; nobody of the second block can get an adapter."""
    root = tmp_path_factory.mktemp("study")
    users = synthetic_users(root / "raw", users=5, sessions=12)
    users = users[:3] + [quiet(user) for user in users[3:]]
    shards = root / "data" / "shards"
    shards.mkdir(parents=True)
    write_shard(shards / shard_name(0), users)
    places = {user.user_key: (0, row) for row, user in enumerate(users)}
    write_index(shards, places, cluster_of={}, cold_start=frozenset())
    training = TrainingConfig(learning_rate=5e-3, epochs=1, examples=4, token_budget=200)
    settings = Settings(
        block_users=3,
        lora=LoraConfig(rank=2),
        decoding=DecodingConfig(max_new_tokens=4, max_total_tokens=512),
    )
    settings = settings.model_copy(
        update={"personal": settings.personal.model_copy(update={"lora": training})}
    )
    alone: Arm = replace(LORA_PER_USER, start=None, swapped_control=False)
    facts = replace(FACTS, users=tuple(places))
    made = make_plan(settings, study=Study("s", "s", (alone, IDENTIFY[5])), facts=facts)
    return root, list(made.cells)


def kept(root: Path, worker: CellWorker, cell: PlannedCell, staging: str) -> Record | None:
    ledger = Ledger(root)
    report = worker.run(cell.cell_id, cell.spec, staging=ledger.staging / staging)
    assert report.ok, report.error
    assert LedgerKeeper(ledger).keep(cell, report, {}, 1) is None
    return ledger.load(cell.cell_id)


def test_adapters_of_all_blocks_are_used_and_pinned(workspace) -> None:  # type: ignore[no-untyped-def]
    root, (first, second, asked) = workspace
    ledger = Ledger(root)
    worker = CellWorker(Places(root / "data" / "shards", ledger.root, ledger.staging))
    made = kept(root, worker, first, "one")
    none = kept(root, worker, second, "two")
    assert made is not None
    assert none is not None
    assert "adapters.safetensors" not in none.files
    found = kept(root, worker, asked, "three")
    assert found is not None
    assert [parent.cell_id for parent in found.parents] == [first.cell_id]
    assert found.parents[0].adapters_sha256 == made.files["adapters.safetensors"].sha256
    reasons = {slot.slot: slot.status for slot in found.slots}
    assert list(reasons.values()) == ["ok"] * 3 + ["skipped"] * 2
    scores = pd.read_parquet(ledger.path(asked.cell_id, "scores.parquet"))
    assert np.isnan(np.stack(scores["scores"].to_list())[:, 3:]).all()
    assert ledger.problems() == []
    forge(ledger, first.cell_id, failed="user_1")
    assert f"its parent {first.cell_id} is not the one it used" in "\n".join(ledger.problems())
    again = kept(root, worker, replace(asked, cell_id="0123456789abcdef"), "four")
    assert again is not None
    assert [slot.slot for slot in again.slots if slot.status == "ok"] == ["user_0", "user_2"]


def forge(ledger: Ledger, cell_id: str, *, failed: str) -> None:
    """Another attempt of the parent: other adapters, one of which failed; its record in order."""
    path = ledger.path(cell_id, "record.json")
    record = json.loads(path.read_text())
    weights = ledger.path(cell_id, "adapters.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    record["files"]["adapters.safetensors"]["sha256"] = file_sha256(weights)
    record["slots"] = [
        {**slot, "status": "failed", "reason": "planted"} if slot["slot"] == failed else slot
        for slot in record["slots"]
    ]
    path.write_text(json.dumps(record))
