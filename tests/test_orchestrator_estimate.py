"""Estimates of time: steps of cells, schedules, prices, the probe, planned against spent."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from data.schema import Message, Session, UserData
from data.style import style_of
from orchestrator.estimate import (
    DISPATCH_SECONDS,
    Estimate,
    Kind,
    Prices,
    Speeds,
    Step,
    UserSizes,
    cell_seconds,
    characters_of,
    estimate,
    kind_of,
    schedule_seconds,
    steps_of,
)
from orchestrator.forecast import (
    FORECASTS,
    cells_to_measure,
    keep_forecast,
    planned_stages,
    stage_times,
)
from orchestrator.layers import resolve_settings
from orchestrator.plan import Facts, Plan, PlannedCell, make_plan
from orchestrator.probe import can_probe, measure, miniatures, sample_users, shortened
from orchestrator.settings import DataChoice, Settings
from orchestrator.trial_memory import ModelShape
from results.record import Record
from results.reproducibility import _planned
from results.search import cells_path
from results.stage_times import StageTime
from search_spaces.catalog import STUDIES
from tasks.cell import CellSpec
from tasks.config import LoraConfig, TrainingConfig

FACTS = Facts(
    data_sha256="d",
    items_sha256={"val": "v", "test": "t"},
    users=tuple(f"user_{n}" for n in range(4)),
    model_sha256="m",
    template_sha256="p",
    dtype="float32",
    cold_start_users=("cold_1",),
)
SIZES = UserSizes(
    train_sessions=20,
    online=(100.0, 120.0, 300.0),
    first=(100.0, 200.0, 300.0),
    replies={"test": 50, "val": 40, "gate": 20, "choice": 20},
)


def spec(purpose: str = "evaluate", **changes: object) -> CellSpec:
    known = {
        **{"arm": "a", "purpose": purpose, "grouping": "user", "users": ("user_1", "user_2")},
        **{"data_sha256": "d", "items_sha256": "i"},
        **{"template_sha256": "t", "model_sha256": "m"},
    }
    return CellSpec.model_validate(known | changes)


def test_steps_of_every_kind_of_cell_counted_by_hand() -> None:
    lora = {"adapter": LoraConfig(), "training": TrainingConfig(epochs=3, examples=2)}
    assert steps_of(spec(), SIZES) == {"reply": 100, "score": 100}
    assert steps_of(spec(split="gate"), SIZES) == {"reply": 40, "score": 40}
    assert steps_of(spec(generate=False), SIZES) == {"reply": pytest.approx(20)}
    # Two users, three epochs, the first two of the online slice's exchanges.
    assert steps_of(spec("personalize", swapped_control=True, **lora), SIZES) == {
        "reply": 200,
        "score": 200,
        "character": 2 * 3 * 220,
    }
    shared = {"adapter": LoraConfig(), "training": TrainingConfig(epochs=5)}
    assert steps_of(spec("train", split="val", **shared), SIZES) == {
        "session": 2 * 20 * 5,
        "reply": 2 * 20 * 5,
    }
    # After none, one, two and all exchanges: four sets of replies, three adapters to train.
    few = spec("adapt_from_few", exchange_counts=(1, 2), **lora)
    assert steps_of(few, SIZES) == {"reply": 400, "character": 2 * 3 * (100 + 300 + 600)}
    traced = spec("trace", split="choice", generate=False, **lora)
    assert steps_of(traced, SIZES) == {
        "reply": pytest.approx(2 * 20 * 4 * 0.2),
        "character": 2 * 3 * 220,
    }
    tries = spec("try", split="choice", variants=(lora["training"], lora["training"]))
    assert steps_of(tries, SIZES) == {"reply": 80, "character": 2 * 2 * 3 * 220}
    assert steps_of(tries.model_copy(update={"generate": False}), SIZES)["reply"] == 16
    wide = spec("try", grouping="all", split="choice", variants=(shared["training"],) * 2)
    assert steps_of(wide, SIZES) == {"session": 400, "reply": 400}
    assert steps_of(spec("adopt"), SIZES) == {}
    ranked = spec("identify", representation="likelihood")
    assert steps_of(ranked, SIZES) == {"reply": pytest.approx(2 * 50 * 2 * 0.2)}


def test_every_cell_of_every_study_has_an_estimate() -> None:
    speeds = Speeds({("reply", "none"): 0.01, ("session", "lora"): 0.1})
    for study in STUDIES.values():
        facts = replace(FACTS, clusters_sha256="c")
        for cell in make_plan(Settings(), study=study, facts=facts).cells:
            assert cell_seconds(cell.spec, sizes=SIZES, speeds=speeds) > DISPATCH_SECONDS


def test_a_kind_that_was_not_measured_takes_the_slowest_one_that_was() -> None:
    speeds = Speeds({("reply", "none"): 0.01, ("reply", "lora"): 0.02})
    assert speeds.of("reply", "none") == 0.01
    assert speeds.of("reply", "prefix") == 0.02
    assert speeds.of("score", "prefix") == 0.0


def record(name: str, total: float) -> Record:
    return Record.model_construct(cell_id=name, seconds={"total": total})


def cell(name: str, *parents: str, work: float = 1.0) -> PlannedCell:
    return PlannedCell(name, spec(), "per_user", "a", parents, work)


def test_a_schedule_waits_for_parents_and_shares_actors() -> None:
    cells = [cell("train", work=9), cell("child", "train"), cell("a"), cell("b")]
    seconds = {"train": 10.0, "child": 4.0, "a": 3.0, "b": 3.0}

    def ends(actors: int, *finished: str) -> float:
        return schedule_seconds(cells, finished=set(finished), seconds=seconds, actors=actors)

    assert ends(1) == 20
    assert ends(2) == 14  # a and b beside the training, the child after it.
    assert ends(9) == 14
    assert ends(1, "train") == 10
    assert ends(2, "train", "a", "b", "child") == 0


def test_an_estimate_of_stages_counts_all_cells_and_of_time_the_missing_ones() -> None:
    cells = [cell("a"), cell("b")]
    speeds = Speeds({("reply", "none"): 0.1})
    each = 10 + DISPATCH_SECONDS
    found = estimate(cells, finished={"a"}, sizes=SIZES, speeds=speeds, actors=1)
    assert found.stages == {"per_user": pytest.approx(2 * each)}
    assert found.sweep_seconds == pytest.approx(each)
    assert found.total_seconds > each
    done = estimate(cells, finished={"a", "b"}, sizes=SIZES, speeds=speeds, actors=1)
    assert done.total_seconds == 0


def test_prices_are_of_all_gpus_and_nodes_for_the_whole_time() -> None:
    assert Prices().cost(3600, gpus=8, nodes=2) is None
    # Zero would say that the time costs nothing.
    assert Prices(per_gpu_hour=3.0).cost(3600, gpus=0, nodes=2) is None
    assert Prices(per_gpu_hour=3.0, per_hour=1.0).cost(3600, gpus=0, nodes=2) == 2
    assert Prices(per_gpu_hour=3.0).cost(1800, gpus=8, nodes=2) == 12
    assert Prices(per_gpu_hour=3.0, per_hour=1.0).cost(3600, gpus=2, nodes=2) == 8


def talk(number: int, split: str) -> Session:
    messages = tuple(Message("user" if k % 2 == 0 else "assistant", "x" * 10) for k in range(4))
    return Session(number, split, messages, (1, 3), None, None)  # type: ignore[arg-type]


def test_sizes_are_means_over_users_and_characters_count_the_context() -> None:
    splits = ["train", "train", "online", "val", "val", "test"]
    sessions = tuple(talk(number, split) for number, split in enumerate(splits))
    user = UserData("user_1", "1", sessions, style_of(sessions))
    other = replace(user, sessions=sessions[1:])
    sizes = UserSizes.of([user, other])
    assert sizes.train_sessions == 1.5
    assert sizes.replies == {"val": 4, "test": 2, "gate": 2, "choice": 2}
    # The first exchange of a session reads two messages of ten characters, the second four.
    assert sizes.online == (20, 40)
    assert characters_of(user, []) == []


def test_a_sample_of_users_is_made_without_touching_anything(tmp_path: Path) -> None:
    users = sample_users(DataChoice(sessions=10), prepared=None, most=3)
    assert len(users) == 3
    short = shortened(users[0])
    counts = {split: len(short.of_split(split)) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    assert counts == {"train": 1, "val": 1, "test": 1}
    assert short.of_split("online") == users[0].of_split("online")


def test_one_miniature_for_each_kind_of_cell() -> None:
    cells = make_plan(Settings(), study=STUDIES["per_persona"], facts=FACTS).cells
    found = [
        (one.purpose, one.adapter.kind if one.adapter else "none", one.few_shot_examples > 0)
        for one in miniatures(cells, users=("u1", "u2"))
    ]
    assert found == [
        ("evaluate", "none", False),
        ("evaluate", "none", True),
        ("train", "prefix", False),
        ("train", "lora", False),
        ("personalize", "prefix", False),
        ("personalize", "lora", False),
    ]


def test_what_is_left_is_measured_also_where_its_adapters_are_trained_already() -> None:
    plan = make_plan(Settings(), study=STUDIES["global"], facts=FACTS)
    left = {c.cell_id for c in plan.cells if c.arm == "lora_all" and c.spec.purpose == "evaluate"}
    assert not list(miniatures([c for c in plan.cells if c.cell_id in left], users=("u1", "u2")))
    cells = cells_to_measure(plan, done=plan.ids - left)
    (found,) = miniatures(cells, users=("u1", "u2"))
    assert (found.purpose, found.arm) == ("train", "lora_all")


def test_a_base_that_takes_long_to_load_is_not_probed() -> None:
    shape = ModelShape(32_000, 4096, 32, 32, 8, 128, 14_336, tied=False)
    assert not can_probe(shape, device="cuda")
    assert can_probe(replace(shape, layers=1, width=64), device="cpu")
    assert not can_probe(None, device="cpu")


@pytest.mark.slow
def test_the_probe_measures_every_step_of_the_study_on_the_real_base() -> None:
    cells = make_plan(Settings(), study=STUDIES["per_persona"], facts=FACTS).cells
    users = [shortened(user) for user in sample_users(DataChoice(), prepared=None, most=2)]
    specs = list(miniatures(cells, users=[user.user_key for user in users]))
    found = measure(specs, users=users)
    assert 0 < found.cpu_share <= 1
    assert all(seconds > 0 for seconds in found.speeds.seconds.values())
    steps = {step for step, _ in found.speeds.seconds}
    assert {"reply", "score"} <= steps <= {"reply", "score", "session", "character"}


TINY = (
    *("data.users=6", "data.sessions=12", "data.cold_start_share=0.0", "block_users=3"),
    *("shared.lora.epochs=2", "shared.prefix.epochs=2", "cold_warm.warm_users=3"),
)
"""Settings of the study whose seconds stand in ``golden/spent_tiny.json``, by kind of cell."""


def test_a_finished_study_as_its_own_probe_foretells_what_it_took() -> None:
    """From the kinds of cells that a probe has, the time of all kinds: a third is of others."""
    study = STUDIES["per_persona"]
    settings = resolve_settings(study, options=TINY)
    users = sample_users(settings.data, prepared=None, most=6)
    facts = replace(FACTS, users=tuple(user.user_key for user in users), cold_start_users=())
    cells = make_plan(settings, study=study, facts=facts).cells
    sizes = UserSizes.of(users)
    left = json.loads((Path(__file__).parent / "golden" / "spent_tiny.json").read_text())
    taken: Counter[tuple[Step, Kind]] = Counter()
    steps: Counter[tuple[Step, Kind]] = Counter()
    spent = probed = 0.0
    for one in cells:
        spec, kind = one.spec, kind_of(one.spec)
        seconds = left[f"{spec.arm} {spec.purpose} {spec.split}"].pop()
        spent += seconds["total"]
        own: dict[Step, float] = {}
        if spec.purpose == "train":
            own["session"] = seconds["train"] - seconds["validation"]
        elif spec.purpose == "personalize":
            own["character"] = seconds["train"]
        if spec.purpose == "personalize" or (spec.purpose == "evaluate" and not spec.adapter):
            own |= {"reply": seconds["decode"], "score": seconds["score"]}
        for step, took in own.items():
            taken[step, kind] += took  # type: ignore[assignment]
            steps[step, kind] += steps_of(spec, sizes)[step]  # type: ignore[assignment]
        probed += seconds["total"] if own else 0.0
    assert not any(left.values()), "the plan is not that of the study that was run"
    assert probed < 0.7 * spent
    speeds = Speeds({key: took / steps[key] for key, took in taken.items()})
    found = estimate(cells, finished=(), sizes=sizes, speeds=speeds, actors=1)
    assert spent / 1.5 < sum(found.stages.values()) < spent * 1.5
    # One actor takes all cells in turn, and two at least half of that.
    assert found.sweep_seconds == pytest.approx(sum(found.stages.values()))
    two = estimate(cells, finished=(), sizes=sizes, speeds=speeds, actors=2)
    assert found.sweep_seconds / 2 <= two.sweep_seconds < found.sweep_seconds


def test_planned_stands_beside_spent(tmp_path: Path) -> None:
    first = Estimate({"per_user": 20.04}, 10.0, 30.0, {"per_user": 2})
    assert planned_stages(tmp_path, study="s") == {}
    keep_forecast(tmp_path, first, study="s")
    # A run that goes on is measured against what was said at first.
    keep_forecast(tmp_path, Estimate({"per_user": 1.0}, 1.0, 1.0, {"per_user": 2}), study="s")
    assert planned_stages(tmp_path, study="s") == {"per_user": 20.0}
    plan = Plan("s", (cell("a"), cell("b")))
    made = {name: record(name, total) for name, total in (("a", 12.0), ("b", 13.0), ("c", 99.0))}
    rows = stage_times(tmp_path, plan, made)
    assert rows == [StageTime(stage="per_user", cells=2, planned=20.0, spent=25.0)]
    assert _planned(rows).splitlines()[2:] == [
        "| per_user | 20 | 25 | 1.25 |",
        "| all | 20 | 25 | 1.25 |",
    ]
    # With more seeds there is more to do: what was said of fewer cells is no plan for it.
    keep_forecast(tmp_path, Estimate({"per_user": 61.0}, 1.0, 1.0, {"per_user": 6}), study="s")
    assert planned_stages(tmp_path, study="s") == {"per_user": 61.0}
    (tmp_path / FORECASTS).write_text('{"s": {"per_user": 20.0}}')  # As written before.
    assert planned_stages(tmp_path, study="s") == {}


def test_a_searchs_cells_are_a_stage_of_their_own(tmp_path: Path) -> None:
    keep_forecast(
        tmp_path,
        Estimate({"search": 50.0, "per_user": 9.0}, 1.0, 1.0, {"search": 5, "per_user": 2}),
        study="s",
    )
    path = cells_path(tmp_path, "s")
    path.parent.mkdir(parents=True)
    # A hash may be of digits alone; "a" is the study's own cell, "x" failed.
    path.write_text("cell_id,arm,seconds\n0012,m,4.0\n12e5,m,6.5\nx,m,\na,m,12.0\n")
    plan = Plan("s", (cell("a"), cell("b")))
    assert stage_times(tmp_path, plan, {"a": record("a", 12.0)}) == [
        StageTime(stage="search", cells=3, failed=1, planned=50.0, spent=10.5),
        StageTime(stage="per_user", cells=2, failed=1, planned=9.0, spent=12.0),
    ]


def test_a_study_begins_when_its_search_has_ended() -> None:
    tries = [replace(cell(f"s{n}"), stage="search") for n in range(2)]
    # A candidate that starts from an adapter of the study does not wait for it here.
    tries[1] = replace(tries[1], depends_on=("a",))
    speeds = Speeds({("reply", "none"): 0.1})
    each = 10 + DISPATCH_SECONDS
    found = estimate([cell("a"), *tries], finished=(), sizes=SIZES, speeds=speeds, actors=2)
    assert found.search_seconds == pytest.approx(each)
    assert found.sweep_seconds == pytest.approx(2 * each)
    assert found.cells == {"per_user": 1, "search": 2}
