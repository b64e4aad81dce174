"""The plan: blocks, chained ids, order, and the queue that hands cells out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cell_queue import CellQueue
from orchestrator.exit_codes import InputError
from orchestrator.plan import Facts, Plan, PlannedCell, blocks_of, make_plan
from orchestrator.settings import Settings
from search_spaces.catalog import STUDIES
from search_spaces.space import BASELINE, LORA_ALL, LORA_CLUSTER, LORA_PER_USER, Study
from tasks.cell import CellSpec

FACTS = Facts(
    data_sha256="d",
    items_sha256={"val": "v", "test": "t"},
    users=tuple(f"user_{n}" for n in range(25)),
    model_sha256="m",
    template_sha256="p",
    dtype="float32",
    cold_start_users=("cold_1", "cold_2"),
)
PER_PERSONA = STUDIES["per_persona"]


def settings(**changes: object) -> Settings:
    return Settings.model_validate(Settings().model_dump() | changes)


def plan(study: Study = PER_PERSONA, facts: Facts = FACTS, **changes: object) -> Plan:
    return make_plan(settings(**changes), study=study, facts=facts)


def test_the_baseline_answers_validation_before_test_on_the_frozen_items() -> None:
    cells = [cell for cell in plan().cells if cell.arm == "baseline"]
    # Blocks of 12: 25 users are two, the last user joins the second.
    assert [cell.spec.split for cell in cells] == ["val", "val", "test", "test", "val"]
    assert [cell.spec.items_sha256 for cell in cells] == ["v", "v", "t", "t", "v"]
    again = cells.pop()
    assert again.spec.purpose == "repeat"
    assert again.spec.model_copy(update={"purpose": "evaluate"}) == cells[0].spec
    assert again.depends_on == (cells[0].cell_id,)


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
        ("baseline", "repeat", "val"): 1,
        ("few_shot", "evaluate", "test"): 2,
        ("prefix_all", "train", "val"): 1,
        ("prefix_all", "evaluate", "test"): 2,
        ("lora_all", "train", "val"): 1,
        ("lora_all", "evaluate", "test"): 2,
        ("prefix_per_user", "personalize", "test"): 2,
        ("lora_per_user", "personalize", "test"): 2,
        ("prefix_per_user", "trace", "choice"): 2,
        ("lora_per_user", "trace", "choice"): 2,
        ("prefix_cold_start", "adapt_from_few", "test"): 1,
        ("prefix_warm_start", "adapt_from_few", "test"): 1,
        ("lora_cold_start", "adapt_from_few", "test"): 1,
        ("lora_warm_start", "adapt_from_few", "test"): 1,
    }
    assert plan().stages == ("baseline", "few_shot", "global", "per_user", "cold_start")
    assert len({cell.cell_id for cell in cells}) == len(cells)


def test_children_name_their_parents_and_come_after_them() -> None:
    place_of = {cell.cell_id: n for n, cell in enumerate(plan().cells)}
    train = next(c for c in plan().cells if c.arm == "lora_all" and c.spec.purpose == "train")
    for n, cell in enumerate(plan().cells):
        assert all(place_of[parent] < n for parent in cell.depends_on)
        if cell.arm == "lora_per_user":
            assert cell.depends_on == (train.cell_id,)
            assert cell.spec.parent == train.cell_id
            assert cell.spec.swapped_control == (cell.spec.purpose == "personalize")


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
    assert different == {"lora_all", "lora_per_user", "lora_cold_start", "lora_warm_start"}


def test_seeds_multiply_trained_arms_and_a_greedy_baseline_needs_one() -> None:
    cells = plan(seeds=(0, 1, 2)).cells
    assert {c.spec.seed for c in cells if c.arm == "baseline"} == {0}
    per_user = [c for c in cells if c.arm == "lora_per_user"]
    assert len(per_user) == 2 * 3 + 2  # Validation gains are those of the first seed.
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
    with pytest.raises(InputError, match="lora_cluster starts from lora_all"):
        plan(Study("s", "", (LORA_CLUSTER,)))
    from_base = plan(Study("s", "", (replace(LORA_PER_USER, start=None),)))
    assert all(cell.depends_on == () for cell in from_base.cells)


def test_cluster_arms_and_the_gate_s_own_questions() -> None:
    cells = plan(STUDIES["cluster"]).cells
    by_id = {cell.cell_id: cell for cell in cells}
    asked = {cell.arm for cell in cells if cell.spec.split == "gate"}
    kinds = ("lora", "prefix")
    ends = ("all", "cluster", "per_user", "cluster_user")
    assert asked == {f"{kind}_{end}" for kind in kinds for end in ends}
    for cell in cells:
        parents = [by_id[name] for name in cell.depends_on]
        if cell.arm == "lora_cluster" and cell.spec.purpose == "train":
            assert [(p.arm, p.spec.purpose) for p in parents] == [("lora_all", "train")]
        if cell.arm == "lora_cluster_user" and cell.spec.purpose == "personalize":
            assert [(p.arm, p.spec.purpose) for p in parents] == [("lora_cluster", "train")]
        if cell.arm == "lora_cluster_user" and cell.spec.split == "gate":
            assert [(p.arm, p.spec.purpose) for p in parents] == [(cell.arm, "personalize")]
            assert parents[0].spec.users == cell.spec.users
        knows_clusters = "cluster" in cell.arm
        assert (cell.spec.clusters_sha256 is not None) == knows_clusters
    # Cells that both studies need are the same ones.
    common = {cell.cell_id for cell in cells} & {cell.cell_id for cell in plan().cells}
    assert {by_id[name].arm for name in common} >= {"baseline", "lora_all", "lora_per_user"}
    other = replace(FACTS, clusters_sha256="other")
    moved = {cell.cell_id for cell in plan(STUDIES["cluster"], other).cells}
    assert {by_id[name].arm for name in set(by_id) - moved} == {
        f"{kind}_{end}" for kind in kinds for end in ("cluster", "cluster_user")
    }


def test_validation_gains_are_asked_of_plain_per_user_arms_on_the_choosing_half() -> None:
    cells = plan(seeds=(3, 4)).cells
    traced = [cell for cell in cells if cell.spec.purpose == "trace"]
    own = {
        (cell.arm, cell.spec.users): cell
        for cell in cells
        if cell.spec.purpose == "personalize" and cell.spec.seed == 3
    }
    assert {(cell.arm, cell.spec.users) for cell in traced} == set(own)
    for cell in traced:
        twin = own[cell.arm, cell.spec.users]
        changes = {"purpose": "personalize", "split": "test", "generate": True}
        changes |= {"swapped_control": True, "items_sha256": twin.spec.items_sha256}
        assert cell.spec.model_copy(update=changes) == twin.spec
        assert (cell.spec.split, cell.spec.generate) == ("choice", False)
        assert cell.spec.items_sha256 not in ("v", "t")
        assert cell.depends_on == twin.depends_on
        assert cell.work < twin.work / 2

    def arms(name: str) -> set[str]:
        made = plan(STUDIES[name], replace(FACTS, clusters_sha256="c")).cells
        return {cell.arm for cell in made if cell.spec.purpose == "trace"}

    plain = {"lora_per_user", "prefix_per_user"}
    assert arms("per_persona") == plain
    both = plain | {"lora_cluster_user", "prefix_cluster_user"}
    assert arms("cluster") == arms("full") == both
    assert arms("ablation") == arms("persona_prediction") == arms("global") == set()


def test_the_few_shot_arm_is_the_baseline_with_exchanges_and_one_seed() -> None:
    cells = plan(seeds=(0, 1), few_shot={"examples": 7}).cells
    mine = [cell.spec for cell in cells if cell.arm == "few_shot"]
    assert {(spec.seed, spec.split, spec.few_shot_examples) for spec in mine} == {(0, "test", 7)}
    same = {"arm": "baseline", "few_shot_examples": 0}
    twins = [spec.model_copy(update=same) for spec in mine]
    assert twins == [c.spec for c in cells if c.arm == "baseline" and c.spec.split == "test"]


def test_an_arm_s_own_settings_change_its_cells_alone() -> None:
    wide = replace(LORA_ALL, name="lora_all_wide", settings={"lora.rank": 16, "lora.alpha": 32})
    cells = plan(Study("both", "", arms=(BASELINE, LORA_ALL, wide))).cells
    ranks = {(cell.arm, getattr(cell.spec.adapter, "rank", None)) for cell in cells}
    assert ranks == {("baseline", None), ("lora_all", 8), ("lora_all_wide", 16)}
    only_default = plan(Study("one", "", arms=(BASELINE, LORA_ALL))).cells
    assert {cell.cell_id for cell in only_default} < {cell.cell_id for cell in cells}
    odd = Study("odd", "", arms=(BASELINE, replace(wide, settings={"lora.rnak": 16})))
    with pytest.raises(InputError, match=r"arm lora_all_wide.*'lora.rnak'.*did you mean"):
        plan(odd)


def test_few_exchanges_of_cold_users_and_of_the_first_warm_ones() -> None:
    cells = plan(cold_warm={"exchanges": (3, 1), "warm_users": 5}, block_users=4).cells
    mine = {}
    for cell in (cell for cell in cells if cell.spec.purpose == "adapt_from_few"):
        mine.setdefault(cell.arm, []).append(cell.spec)
        assert cell.spec.exchange_counts == (1, 3)
        assert cell.spec.training is not None
        assert cell.spec.training.token_budget is None
        parent = next(other for other in cells if other.cell_id == cell.spec.parent)
        assert parent.arm == cell.arm.replace("cold_start", "all").replace("warm_start", "all")
    users = {arm: [spec.users for spec in specs] for arm, specs in mine.items()}
    assert users["lora_cold_start"] == users["prefix_cold_start"] == [("cold_1", "cold_2")]
    # Five in blocks of four: the last one is not left alone.
    assert users["lora_warm_start"] == [FACTS.users[:5]]
    (cold,), (warm,) = mine["lora_cold_start"], mine["lora_warm_start"]
    assert warm.items_sha256 == FACTS.items_sha256["test"] != cold.items_sha256
    other = plan(facts=replace(FACTS, data_sha256="e")).cells
    assert cold.items_sha256 not in {cell.spec.items_sha256 for cell in other}


@pytest.mark.parametrize("users", [(), ("cold_1",)])
def test_none_or_one_cold_user_is_no_hindrance(users: tuple[str, ...]) -> None:
    cells = plan(facts=replace(FACTS, cold_start_users=users)).cells
    cold = [cell for cell in cells if cell.arm == "lora_cold_start"]
    assert [cell.spec.users for cell in cold] == ([users] if users else [])
    assert any(cell.arm == "lora_warm_start" for cell in cells)
    none = plan(cold_warm={"warm_users": 0}).cells
    assert not any(cell.arm == "lora_warm_start" for cell in none)


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
    assert queue.take(1)[0].stage == "cold_start"  # Many numbers of exchanges: the most work.
    assert not finished & {cell.cell_id for cell in queue.waiting}


def test_specs_survive_the_way_to_a_worker() -> None:
    for cell in plan().cells:
        assert CellSpec.model_validate_json(cell.spec.model_dump_json()) == cell.spec


def test_a_queue_that_is_open_takes_in_more_cells_and_blocks_what_needs_a_failed_one() -> None:
    by_name = {(c.arm, c.spec.purpose, c.spec.users): c for c in plan(STUDIES["global"]).cells}
    train = next(c for c in by_name.values() if (c.arm, c.spec.purpose) == ("lora_all", "train"))
    children = [c for c in by_name.values() if c.depends_on == (train.cell_id,)]
    queue = CellQueue([train], open_=True)
    assert queue.take(3) == [train]
    assert not queue.exhausted
    assert not queue.idle
    assert queue.take() == []
    queue.finish(train.cell_id)
    assert queue.idle
    assert queue.add([train, children[0]]) == []
    assert queue.take(3) == [children[0]]
    queue.open = False
    assert queue.exhausted
    failing = CellQueue([train], open_=True)
    failing.take()
    assert failing.fail(train.cell_id) == []
    assert failing.add(children) == children
    grandchild = replace(children[0], cell_id="new", depends_on=(children[0].cell_id,))
    # It needs one that was put away long ago, and must not wait for ever.
    assert failing.add([children[0], grandchild]) == [grandchild]
    assert failing.idle
