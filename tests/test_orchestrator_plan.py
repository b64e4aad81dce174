"""The plan: blocks, chained ids, order, and the queue that hands cells out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cell_queue import CellQueue
from orchestrator.exit_codes import InputError
from orchestrator.placement import Machine, place, this_machine
from orchestrator.plan import Facts, Plan, PlannedCell, blocks_of, make_plan
from orchestrator.settings import Settings
from search_spaces.catalog import STUDIES
from search_spaces.space import BASELINE, LORA_ALL, LORA_PER_USER, Arm, Study
from tasks.cell import CellSpec

FACTS = Facts(
    data_sha256="d",
    items_sha256={"val": "v", "test": "t"},
    users=tuple(f"user_{n}" for n in range(25)),
    model_sha256="m",
    template_sha256="p",
    dtype="float32",
)
PER_PERSONA = STUDIES["per_persona"]


def settings(**changes: object) -> Settings:
    return Settings.model_validate(Settings().model_dump() | changes)


def plan(study: Study = PER_PERSONA, facts: Facts = FACTS, **changes: object) -> Plan:
    return make_plan(settings(**changes), study=study, facts=facts)


@given(st.integers(0, 60), st.integers(2, 15))
def test_blocks_keep_everybody_in_order_and_nobody_alone(users: int, size: int) -> None:
    keys = [f"user_{n}" for n in range(users)]
    blocks = blocks_of(keys, size)
    assert [key for block in blocks for key in block] == keys
    assert all(len(block) >= 2 for block in blocks) or users == 1
    assert all(len(block) <= size + 1 for block in blocks)


def test_the_main_study_has_these_cells() -> None:
    cells = plan().cells
    counts: dict[tuple[str, str, str], int] = {}
    for cell in cells:
        key = (cell.arm, cell.spec.purpose, cell.spec.split)
        counts[key] = counts.get(key, 0) + 1
    # 25 users in blocks of 12: the last one joins its neighbours, so there are two blocks.
    assert counts == {
        ("baseline", "evaluate", "val"): 2,
        ("baseline", "evaluate", "test"): 2,
        ("prefix_all", "train", "val"): 1,
        ("prefix_all", "evaluate", "test"): 2,
        ("lora_all", "train", "val"): 1,
        ("lora_all", "evaluate", "test"): 2,
        ("prefix_per_user", "personalize", "test"): 2,
        ("lora_per_user", "personalize", "test"): 2,
    }
    assert plan().stages == ("baseline", "global", "per_user")
    assert len({cell.cell_id for cell in cells}) == len(cells)


def test_children_name_their_parents_and_come_after_them() -> None:
    place_of = {cell.cell_id: n for n, cell in enumerate(plan().cells)}
    train = next(c for c in plan().cells if c.arm == "lora_all" and c.spec.purpose == "train")
    for n, cell in enumerate(plan().cells):
        assert all(place_of[parent] < n for parent in cell.depends_on)
        if cell.arm == "lora_per_user":
            assert cell.depends_on == (train.cell_id,)
            assert cell.spec.parent == train.cell_id
            assert cell.spec.swapped_control


def test_a_parents_change_reaches_its_children_and_nothing_else() -> None:
    changed = settings().model_dump()
    changed["shared"]["lora"]["epochs"] = 2
    before = {(c.arm, c.spec.purpose, c.spec.split, c.spec.users): c.cell_id for c in plan().cells}
    after = plan(shared=changed["shared"])
    different = {
        c.arm
        for c in after.cells
        if before[c.arm, c.spec.purpose, c.spec.split, c.spec.users] != c.cell_id
    }
    assert different == {"lora_all", "lora_per_user"}


def test_seeds_multiply_trained_arms_and_a_greedy_baseline_needs_one() -> None:
    cells = plan(seeds=(0, 1, 2)).cells
    assert {c.spec.seed for c in cells if c.arm == "baseline"} == {0}
    per_user = [c for c in cells if c.arm == "lora_per_user"]
    assert len(per_user) == 6
    for cell in per_user:
        parent = next(c for c in cells if c.cell_id == cell.spec.parent)
        assert parent.spec.seed == cell.spec.seed
    sampled = plan(seeds=(0, 1, 2), decoding={"do_sample": True}).cells
    assert {c.spec.seed for c in sampled if c.arm == "baseline"} == {0, 1, 2}


def test_statistics_change_no_id_and_precision_does() -> None:
    ids = [cell.cell_id for cell in plan().cells]
    assert ids == [cell.cell_id for cell in plan(statistics={"margin": 0.5}).cells]
    on_gpu = plan(facts=replace(FACTS, dtype="bfloat16"))
    assert not set(ids) & {cell.cell_id for cell in on_gpu.cells}


def test_studies_that_cannot_be_planned() -> None:
    with pytest.raises(InputError, match="lora_per_user starts from lora_all"):
        plan(Study("s", "", (BASELINE, LORA_PER_USER, LORA_ALL)))
    with pytest.raises(InputError, match="no users"):
        plan(facts=replace(FACTS, users=()))
    with pytest.raises(InputError, match="grouping 'cluster'"):
        plan(Study("s", "", (Arm("c", "cluster", "lora"),)))
    from_base = plan(Study("s", "", (replace(LORA_PER_USER, start=None),)))
    assert all(cell.depends_on == () for cell in from_base.cells)


@given(st.data())
def test_the_queue_hands_out_every_cell_once_and_parents_first(data: st.DataObject) -> None:
    cells = plan().cells
    queue = CellQueue(cells)
    running: list[PlannedCell] = []
    done: set[str] = set()
    failed: set[str] = set()
    seen: list[str] = []
    while not queue.exhausted or running:
        for cell in queue.take(data.draw(st.integers(1, 3))):
            assert done.issuperset(cell.depends_on)
            seen.append(cell.cell_id)
            running.append(cell)
        cell = running.pop(data.draw(st.integers(0, len(running) - 1)))
        if data.draw(st.booleans()):
            queue.finish(cell.cell_id)
            done.add(cell.cell_id)
        else:
            queue.fail(cell.cell_id)
            failed.add(cell.cell_id)
    assert len(seen) == len(set(seen))
    assert set(seen) | set(queue.blocked) == {cell.cell_id for cell in cells}
    assert not set(seen) & set(queue.blocked)
    by_id = {cell.cell_id: cell for cell in cells}
    dead = failed | set(queue.blocked)
    assert all(dead.intersection(by_id[name].depends_on) for name in queue.blocked)


def test_the_longest_way_comes_first_and_finished_cells_never() -> None:
    cells = plan().cells
    first = CellQueue(cells).take(2)
    assert {cell.spec.purpose for cell in first} == {"train"}
    finished = {cell.cell_id for cell in cells if cell.spec.purpose == "train"}
    queue = CellQueue(cells, finished=finished)
    assert queue.take(1)[0].arm in ("prefix_per_user", "lora_per_user")
    assert not finished & {cell.cell_id for cell in queue.waiting}


def test_specs_survive_the_way_to_a_worker() -> None:
    for cell in plan().cells:
        assert CellSpec.model_validate_json(cell.spec.model_dump_json()) == cell.spec


def test_placement_fits_the_machine() -> None:
    assert place(Machine(2, 0), threads=1).actors == 2
    assert place(Machine(3, 0), threads=2).actors == 1
    assert place(Machine(16, 2), threads=1, gpu_fraction=0.25).actors == 8
    assert place(Machine(4, 2), threads=1, gpu_fraction=0.25).actors == 4
    assert place(Machine(8, 1), threads=1).resources() == {"CPU": 1.0, "GPU": 1.0}
    with pytest.raises(InputError, match="threads is 4, but this machine has 2 CPUs"):
        place(Machine(2, 0), threads=4)
    with pytest.raises(InputError, match="a trial asks for 2 GPUs"):
        place(Machine(8, 1), threads=1, gpu_fraction=2)
    assert this_machine({"CUDA_VISIBLE_DEVICES": ""}).gpus == 0
