"""The search: which cells it asks for, what it chooses, and that a kill changes neither."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.arm_search import CellResult
from orchestrator.candidates import Method
from orchestrator.choices import levels, with_choices
from orchestrator.exit_codes import InputError
from orchestrator.layers import resolve_settings
from orchestrator.plan import Facts, PlannedCell, make_plan
from orchestrator.search import (
    Search,
    Searched,
    check_searchable,
    most_cells,
    search_study,
)
from orchestrator.settings import Settings
from search_spaces.catalog import STUDIES
from tasks.cell import CellSpec
from tasks.config import LoraConfig, TrainingConfig

PER_PERSONA, GLOBAL = STUDIES["per_persona"], STUDIES["global"]


def facts(users: int) -> Facts:
    return Facts(
        data_sha256="d",
        items_sha256={"val": "v", "test": "t"},
        users=tuple(f"user_{n}" for n in range(users)),
        model_sha256="m",
        template_sha256="p",
        dtype="float32",
        cold_start_users=("cold_1", "cold_2"),
    )


def wanted(method: Method = "random", samples: int = 8, **search: object) -> Settings:
    options = [f"search.{name}={value}" for name, value in search.items()]
    flags = {"search.method": method, "search.samples": samples}
    return resolve_settings(PER_PERSONA, flags=flags, options=options)


def nll_of(training: TrainingConfig, user: str) -> float:
    """A user's loss under a training: least at a learning rate of 2e-3, users differ a little."""
    own = sum(user.encode()) % 7 / 100
    return abs(math.log(training.learning_rate / 2e-3)) + 0.1 * training.epochs + own


@dataclass
class World:
    """A ledger that runs cells in no time."""

    done: dict[str, CellResult] = field(default_factory=dict)
    specs: dict[str, CellSpec] = field(default_factory=dict)
    fails: Collection[str] = ()
    """Ids of cells that fail."""

    def run(self, cells: Iterable[PlannedCell]) -> None:
        for cell in cells:
            assert cell.cell_id not in self.done, "a cell was run twice"
            self.specs[cell.cell_id] = cell.spec
            if cell.cell_id not in self.fails and set(cell.depends_on) <= self.done.keys():
                self.done[cell.cell_id] = self.result(cell.spec)

    def result(self, spec: CellSpec) -> CellResult:
        if spec.purpose == "train":
            return CellResult({}, 1.0, best_rouge_l=0.5)
        scores = self.scores(spec)
        rouge = {k: dict.fromkeys(own, 0.25) for k, own in scores.items()}
        return CellResult(scores, 1.0, rouge_l=rouge if spec.generate else {})

    def scores(self, spec: CellSpec) -> Mapping[int, Mapping[str, float]]:
        parent = self.specs[spec.parent or ""].training
        trainings = spec.variants or (parent,)
        return {k: {u: nll_of(t, u) for u in spec.users} for k, t in enumerate(trainings)}

    def search(self, own: Settings, study=PER_PERSONA, users: int = 200) -> Search:  # type: ignore[no-untyped-def]
        steps = search_study(own, study=study, facts=facts(users), read=self.done.get)
        return Search(steps, finished=lambda names: self.done.keys() & set(names))

    def finish(self, search: Search, most: int | None = None) -> Searched | None:
        """Run the search to its end, or until so many cells have been run."""
        while True:
            cells, finished = search.next_cells()
            missing = [cell for cell in cells if cell.cell_id not in finished]
            missing = [cell for cell in missing if cell.cell_id not in self.specs]
            if not cells:
                return search.result
            left = None if most is None else most - len(self.specs)
            self.run(missing[:left])
            if left is not None and left <= len(missing):
                return None


def searched(own: Settings, **where: object) -> tuple[Searched, World]:
    world = World()
    found = world.finish(world.search(own, **where))  # type: ignore[arg-type]
    assert found is not None
    return found, world


@pytest.mark.parametrize("method", ["grid", "random", "optuna"])
def test_the_best_candidate_on_validation_is_chosen_and_never_one_behind_the_default(
    method: Method,
) -> None:
    found, world = searched(wanted(method))
    assert list(found.choices) == ["prefix_all", "lora_all", "prefix_per_user", "lora_per_user"]
    for arm in found.choices:
        shown = [one for one in found.history if one.arm == arm]
        end = max(one.rung for one in shown)
        means = {
            one.candidate: sum(one.scores.values()) / len(one.scores)
            for one in shown
            if one.rung == end
        }
        (best,) = [one for one in shown if one.chosen]
        assert means[best.candidate] == min(means.values()) <= means[0]
        assert found.choices[arm] == best.config
    # Nothing that a search runs looks at a test item, or at the gate's half of validation.
    for spec in world.specs.values():
        assert spec.split in ("val" if spec.purpose == "train" else "choice",)
        assert spec.items_sha256 != "t"


def test_a_race_adds_users_for_survivors_and_keeps_their_records() -> None:
    found, world = searched(wanted())
    shown = [one for one in found.history if one.arm == "lora_per_user"]
    by_rung = {rung: [one for one in shown if one.rung == rung] for rung in (0, 1, 2)}
    assert [len(by_rung[rung]) for rung in (0, 1, 2)] in ([8, 3, 1], [8, 4, 2], [8, 3, 2])
    assert [len(by_rung[rung][0].scores) for rung in (0, 1, 2)] == [20, 60, 200]
    for rung in (0, 1):
        promoted = {one.candidate for one in by_rung[rung] if one.promoted}
        assert promoted == {one.candidate for one in by_rung[rung + 1]}
    tried = [spec for spec in world.specs.values() if spec.purpose == "try"]
    users = [spec.users for spec in tried if spec.arm == "lora_per_user"]
    flat = [user for block in users for user in block]
    assert sorted(flat) == sorted(facts(200).users), "no user was tried on twice"


def test_few_users_are_no_race() -> None:
    found, _ = searched(wanted(), users=22)
    assert {one.rung for one in found.history if one.arm == "lora_per_user"} == {0}


def test_candidates_that_fit_one_bank_share_a_cell() -> None:
    _, world = searched(wanted(), users=22)
    tried = [s for s in world.specs.values() if s.purpose == "try" and s.arm == "lora_per_user"]
    # 22 users in blocks of 12: two cells, where 16 would be needed one by one.
    assert [(len(spec.users), len(spec.variants)) for spec in tried] == [(12, 8), (10, 8)]
    found, alone = searched(wanted(variants_per_cell=1), users=22)
    assert sum(s.purpose == "try" and s.arm == "lora_per_user" for s in alone.specs.values()) == 16
    assert found.choices == searched(wanted(), users=22)[0].choices


def test_the_chosen_shared_training_is_the_studys_own_cell() -> None:
    own = wanted()
    found, world = searched(own)
    plan = make_plan(own, study=with_choices(PER_PERSONA, found.choices), facts=facts(200))
    trained = {c.arm: c for c in plan.cells if c.spec.purpose == "train"}
    for arm in ("lora_all", "prefix_all"):
        assert trained[arm].cell_id in world.done
        epochs = {s.training.epochs for s in world.specs.values() if s.arm == arm and s.training}
        assert epochs == {1, 3}
    # Per-user candidates start from the chosen shared adapter, not from the default one.
    for spec in world.specs.values():
        if spec.purpose == "try":
            assert spec.parent == trained[spec.arm.replace("per_user", "all")].cell_id


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from(("grid", "random", "optuna")))
def test_killed_at_any_cell_a_search_ends_with_the_same_choice(
    first: int, second: int, method: Method
) -> None:
    own = wanted(method, samples=6)
    undisturbed, whole = searched(own, study=GLOBAL, users=50)
    world = World()
    for most in (first, first + second, None):
        # A new process each time: nothing is left but the ledger.
        found = world.finish(world.search(own, study=GLOBAL, users=50), most=most)
    assert found is not None
    assert found.choices == undisturbed.choices
    assert world.specs == whole.specs
    assert [(o.candidate, o.scores, o.promoted) for o in found.history] == [
        (o.candidate, o.scores, o.promoted) for o in undisturbed.history
    ]


def test_a_candidate_that_fails_is_out_and_the_search_goes_on() -> None:
    own = wanted()
    found, _ = searched(own, study=GLOBAL, users=22)
    assert next(one.candidate for one in found.history if one.arm == "lora_all" and one.chosen) > 0
    # The best one's short training comes through, its long one does not.
    poor = World(fails={_trained(found, own, "lora_all")})
    again = poor.finish(poor.search(own, study=GLOBAL, users=22))
    assert again is not None
    assert again.choices["lora_all"] != found.choices["lora_all"]
    assert again.choices["prefix_all"] == found.choices["prefix_all"]
    lost = [one for one in again.history if one.arm == "lora_all" and not one.scores]
    assert [one.config for one in lost] == [found.choices["lora_all"]]


def _trained(found: Searched, own: Settings, arm: str) -> str:
    plan = make_plan(own, study=with_choices(GLOBAL, found.choices), facts=facts(22))
    return next(c.cell_id for c in plan.cells if c.arm == arm and c.spec.purpose == "train")


def test_if_nothing_can_be_scored_the_default_stays() -> None:
    class Broken(World):
        def run(self, cells: Iterable[PlannedCell]) -> None:
            self.specs |= {cell.cell_id: cell.spec for cell in cells}

    world = Broken()
    found = world.finish(world.search(wanted(samples=3), study=GLOBAL, users=22))
    assert found is not None
    assert all(one.candidate == 0 for one in found.history if one.chosen)


def test_choices_reach_the_arms_that_build_upon_them() -> None:
    choices = {
        "lora_all": {"lora.rank": 16, "lora.alpha": 32.0, "shared.lora.learning_rate": 1e-3},
        "lora_per_user": {"personal.lora.learning_rate": 7e-3},
    }
    cells = make_plan(wanted(), study=with_choices(PER_PERSONA, choices), facts=facts(25)).cells
    for cell in cells:
        adapter, training = cell.spec.adapter, cell.spec.training
        if isinstance(adapter, LoraConfig):
            assert (adapter.rank, adapter.alpha) == (16, 32.0)
        if training is not None and "lora" in cell.arm:
            rate = 1e-3 if cell.arm == "lora_all" else 7e-3
            assert training.learning_rate == rate, cell.arm
    untouched = {c.cell_id for c in make_plan(wanted(), study=PER_PERSONA, facts=facts(25)).cells}
    same = {cell.arm for cell in cells if cell.cell_id in untouched}
    assert same == {arm.name for arm in PER_PERSONA.arms if "lora" not in arm.name}
    assert with_choices(PER_PERSONA, {}) == PER_PERSONA


def test_arms_that_build_upon_others_are_searched_after_them() -> None:
    study = STUDIES["cluster"]
    assert levels(study, study.search) == [
        ["prefix_all", "lora_all"],
        ["prefix_cluster", "lora_cluster", "prefix_per_user", "lora_per_user"],
        ["prefix_cluster_user", "lora_cluster_user"],
    ]
    only = {name: study.search[name] for name in ("lora_cluster_user", "lora_all")}
    assert levels(study, only) == [["lora_all"], ["lora_cluster_user"]]


def test_every_level_of_a_cluster_study_can_be_searched() -> None:
    study = STUDIES["cluster"]
    own = resolve_settings(study, flags={"search.method": "random", "search.samples": 2})
    found, world = searched(own, study=study, users=22)
    assert set(found.choices) == set(study.search)
    parents = {s.arm: s.parent for s in world.specs.values() if s.purpose == "try"}
    assert world.specs[parents["lora_cluster_user"] or ""].arm == "lora_cluster"


def test_adopted_arms_are_not_searched_and_a_study_without_ranges_is_refused() -> None:
    given_facts = replace(facts(22), adopted_sha256={"lora": "x"})
    world = World()
    steps = search_study(wanted(samples=2), study=GLOBAL, facts=given_facts, read=world.done.get)
    search = Search(steps, finished=lambda names: world.done.keys() & set(names))
    found = world.finish(search)
    assert found is not None
    assert list(found.choices) == ["prefix_all"]
    with pytest.raises(InputError, match="study baseline has nothing to search"):
        check_searchable(wanted(), study=STUDIES["baseline"], adopted=())
    with pytest.raises(InputError, match="study global has nothing to search"):
        check_searchable(wanted(), study=GLOBAL, adopted=("lora", "prefix"))
    check_searchable(Settings(), study=STUDIES["baseline"], adopted=())


@pytest.mark.parametrize("method", ["grid", "random", "optuna"])
@pytest.mark.parametrize("users", [22, 200])
@pytest.mark.parametrize("packed", [3, 8])
def test_a_plan_says_how_many_cells_a_search_needs_at_most(
    method: Method, users: int, packed: int
) -> None:
    own = wanted(method, samples=9, variants_per_cell=packed)
    _, world = searched(own, users=users)
    most = most_cells(own, study=PER_PERSONA, facts=facts(users))
    for arm, cells in most.items():
        needed = sum(spec.arm == arm for spec in world.specs.values())
        # Survivors are as many as can be, or one fewer where the default is among the best.
        assert len(cells) / 2 <= needed <= len(cells)
        assert len({cell.cell_id for cell in cells}) == len(cells)
        assert {cell.arm for cell in cells} == {arm}
        for cell in cells:
            before = {other.cell_id for other in cells if other.spec.purpose == "train"}
            assert cell.spec.purpose != "evaluate" or before.issuperset(cell.depends_on)
    assert set(most) == set(PER_PERSONA.search)


@pytest.mark.parametrize("arm", ["lora_per_user", "prefix_per_user"])
def test_a_race_costs_at_most_three_full_runs_of_one_config(arm: str) -> None:
    def planned(samples: int) -> list[PlannedCell]:
        return most_cells(wanted(samples=samples), study=PER_PERSONA, facts=facts(200))[arm]

    def slots(specs: Iterable[CellSpec]) -> int:
        return sum(len(spec.users) * len(spec.variants) for spec in specs)

    def work(cells: Iterable[PlannedCell]) -> float:
        return sum(cell.work for cell in cells)

    race, one = planned(8), planned(1)
    # 8 → 3 → 1 over 10 %, 30 % and all users, the default beside them.
    assert slots(cell.spec for cell in race) == 8 * 20 + 4 * 40 + 2 * 140
    assert slots(cell.spec for cell in one) == 200
    assert work(race) <= 3 * work(one) * (1 + 1e-9)
    # A full run of the study's own also answers, own adapter and swapped; the race only scores.
    study = make_plan(wanted(), study=PER_PERSONA, facts=facts(200))
    own = [c for c in study.cells if (c.arm, c.spec.purpose) == (arm, "personalize")]
    assert work(race) <= 3 * work(own)
    _, world = searched(wanted(samples=8), users=200)
    assert slots(s for s in world.specs.values() if s.arm == arm) <= 3 * 200


def test_a_shared_candidate_is_scored_in_the_studys_own_blocks() -> None:
    own = wanted(samples=1)
    found, world = searched(own, study=GLOBAL, users=30)
    plan = make_plan(own, study=with_choices(GLOBAL, found.choices), facts=facts(30))
    trained = next(c for c in plan.cells if (c.arm, c.spec.purpose) == ("lora_all", "train"))
    children = {c.spec.users for c in plan.cells if c.spec.parent == trained.cell_id}
    scored = [s for s in world.specs.values() if s.parent == trained.cell_id]
    assert {s.users for s in scored} == children
    test = next(c.spec for c in plan.cells if c.spec.parent == trained.cell_id)
    turned = {"split": "test", "items_sha256": "t", "generate": True}
    assert [s.model_copy(update=turned) for s in scored if s.users == test.users] == [test]


def test_rouge_l_stands_beside_the_score_where_replies_are_generated() -> None:
    usual, quick = searched(wanted(samples=3), users=60)
    own, slow = searched(wanted(samples=3, replies=True), users=60)
    by_arm = {arm: {o.rouge_l for o in usual.history if o.arm == arm} for arm in usual.choices}
    # A shared training validates by itself; per-user candidates are scored by likelihood alone.
    assert by_arm["lora_all"] == {0.5}
    assert by_arm["lora_per_user"] == {None}
    assert {one.rouge_l for one in own.history} == {0.25}
    assert own.choices == usual.choices
    assert {s.generate for s in quick.specs.values() if s.split == "choice"} == {False}
    assert {s.generate for s in slow.specs.values()} == {True}
    last = [one for one in own.history if one.arm == "lora_per_user" and one.rung == 2]
    assert {len(one.replies) for one in last} == {60}
