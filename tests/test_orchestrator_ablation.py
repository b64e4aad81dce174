"""The ablations' plan: what is varied, what it starts from, and what replies are made for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pytest

from orchestrator.ablation_points import ablation_points
from orchestrator.choices import with_choices
from orchestrator.export import adapter_cells
from orchestrator.finish import expected_cells, has_scores
from orchestrator.layers import resolve_settings
from orchestrator.plan import Facts, Plan, PlannedCell, make_plan
from orchestrator.settings import Settings
from results.ablations import is_variant
from results.contrasts import is_all_persona, is_per_user
from search_spaces.catalog import STUDIES
from tasks.config import LoraConfig, PrefixConfig

STUDY = STUDIES["ablation"]
FACTS = Facts(
    data_sha256="d",
    items_sha256={"val": "v", "test": "t"},
    users=tuple(f"user_{n}" for n in range(25)),
    model_sha256="m",
    template_sha256="p",
    dtype="float32",
)


def settings_of(*options: str) -> Settings:
    return resolve_settings(STUDY, options=options)


def plan(*options: str) -> Plan:
    return make_plan(settings_of(*options), study=STUDY, facts=FACTS)


def variants(made: Plan) -> list[PlannedCell]:
    return [cell for cell in made.cells if cell.variant is not None]


def parent(made: Plan, cell: PlannedCell) -> PlannedCell:
    return next(other for other in made.cells if other.cell_id == cell.spec.parent)


def test_cells_of_every_ablation_counted_by_hand() -> None:
    made = plan()
    assert made.stages == ("baseline", "global", "per_user", "ablation")
    # 25 users are two blocks, and there are 3 seeds. A shape is trained once and scored on both
    # blocks (3 cells), and its per-user adapters are made in both (2 cells).
    shapes = {"lora_targets": 1, "lora_rank": 2, "prefix_length": 3}  # Besides the default.
    counts = Counter(cell.variant.ablation for cell in variants(made) if cell.variant)
    assert counts == {
        **{name: number * (3 + 2) * 3 for name, number in shapes.items()},
        "online_budget": 4 * 2 * 2 * 3,  # Budgets × adapters × blocks × seeds.
    }
    # The untrained baseline knows no seed: 2 splits × 2 blocks, and one
    # of them again. The others are the default arms.
    assert len(made.cells) - len(variants(made)) == 5 + 2 * (3 + 2) * 3
    assert len({cell.cell_id for cell in made.cells}) == len(made.cells)


def test_every_shape_starts_from_a_parent_of_its_own_shape_and_seed() -> None:
    made = plan()
    values: dict[str, set[object]] = {}
    for cell in variants(made):
        spec, adapter = cell.spec, cell.spec.adapter
        if spec.parent is not None:
            first = parent(made, cell)
            assert (first.spec.adapter, first.spec.seed) == (adapter, spec.seed)
            budget = cell.variant is not None and cell.variant.ablation == "online_budget"
            assert (first.variant is None) == budget
        if isinstance(adapter, LoraConfig):
            assert adapter.alpha == 2 * adapter.rank
            values.setdefault("rank", set()).add(adapter.rank)
            values.setdefault("targets", set()).add(adapter.target_modules)
        if isinstance(adapter, PrefixConfig):
            values.setdefault("tokens", set()).add(adapter.tokens)
        if spec.purpose == "personalize" and spec.training is not None:
            asked = (spec.training.examples, spec.training.token_budget)
            values.setdefault("budget", set()).add(asked)
    assert values == {
        "rank": {4, 8, 16},
        "targets": {("q_proj", "v_proj"), ("all-linear",)},
        "tokens": {10, 20, 50, 100},
        "budget": {(10, 500), (4, None), (8, None), (12, None), (20, None)},
    }


def test_variants_generate_for_one_seed_and_score_likelihoods_for_all() -> None:
    scored = [cell for cell in plan().cells if cell.spec.purpose != "train"]
    generating = {
        (cell.variant is None, cell.spec.seed): cell.spec.generate
        for cell in scored
        if cell.arm != "baseline"
    }
    assert generating == {
        **{(True, seed): True for seed in (0, 1, 2)},
        (False, 0): True,
        (False, 1): False,
        (False, 2): False,
    }
    for cell in scored:
        assert not (cell.variant is not None and cell.spec.swapped_control)
    first = {cell.spec.seed for cell in variants(plan("seeds=[5, 3]")) if cell.spec.generate}
    assert first == {3, 5}  # Trainings and the first seed's scores.
    assert {
        cell.spec.seed
        for cell in variants(plan("seeds=[5, 3]"))
        if cell.spec.generate and cell.spec.purpose != "train"
    } == {5}


def test_the_defaults_are_the_main_study_s_own_cells() -> None:
    main = STUDIES["per_persona"]
    cells = make_plan(
        resolve_settings(main, options=["seeds=[0, 1, 2]"]), study=main, facts=FACTS
    ).cells
    theirs = {cell.cell_id for cell in cells}
    for cell in plan().cells:
        assert (cell.cell_id in theirs) == (cell.variant is None)


def test_a_variant_that_is_the_study_s_own_setting_is_not_run_again() -> None:
    usual = {cell.arm for cell in variants(plan())}
    assert not {arm for arm in usual if arm.endswith((".rank_8", ".tokens_20", "_attention"))}
    wide = {cell.arm for cell in variants(plan("lora.rank=16", "lora.alpha=32"))}
    assert {arm for arm in wide if ".rank" in arm} == {
        f"lora_{who}.rank_{rank}" for who in ("all", "per_user") for rank in (4, 8)
    }
    free = plan("personal.lora.examples=12", "personal.lora.token_budget=null")
    lora = {cell.arm for cell in variants(free) if ".examples" in cell.arm and "lora" in cell.arm}
    assert lora == {f"lora_per_user.examples_{number}" for number in (4, 8, 20)}


def test_variants_have_names_that_files_and_tables_can_bear() -> None:
    for arm in STUDY.arms:
        assert is_variant(arm.name) == (arm.variant is not None)
        assert re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)?", arm.name)
        if arm.variant is not None:
            # Nothing that goes by the names of the main arms may take a variant for one.
            assert not is_all_persona(arm.name)
            assert not is_per_user(arm.name)


def test_points_stand_in_order_with_the_default_among_them() -> None:
    lines: dict[tuple[str, str], list[object]] = {}
    for point in ablation_points(plan()):
        lines.setdefault((point.ablation, point.default), []).append(point.value)
        assert point.nested == (point.ablation == "online_budget" and not point.is_default)
        cut = point.ablation == "online_budget" and point.is_default
        assert point.detail == ("at most 500 trained tokens" if cut else "")
        wanted = point.value if point.ablation == "online_budget" else None
        assert point.examples == wanted
    ranks, lengths, budgets = [4, 8, 16], [10, 20, 50, 100], [4, 8, 10, 12, 20]
    targets = ["q_proj + v_proj", "all-linear"]
    assert lines == {
        **{("lora_targets", f"lora_{who}"): targets for who in ("all", "per_user")},
        **{("lora_rank", f"lora_{who}"): ranks for who in ("all", "per_user")},
        **{("prefix_length", f"prefix_{who}"): lengths for who in ("all", "per_user")},
        **{("online_budget", f"{kind}_per_user"): budgets for kind in ("lora", "prefix")},
    }


def test_a_plan_without_variants_has_no_points() -> None:
    main = STUDIES["per_persona"]
    settings = resolve_settings(main)
    made = make_plan(settings, study=main, facts=FACTS)
    assert ablation_points(made) == []
    assert expected_cells(made, variants=True) == []


def test_variants_are_collected_apart_and_not_exported() -> None:
    made = plan()
    arms = {cell.arm for cell in expected_cells(made)}
    apart = {cell.arm for cell in expected_cells(made, variants=True)}
    assert not any(map(is_variant, arms))
    assert all(map(is_variant, apart))
    exported = {cell.arm for cell in adapter_cells(made, [cell.cell_id for cell in made.cells])}
    assert exported == {f"{k}_{who}" for k in ("lora", "prefix") for who in ("all", "per_user")}


@pytest.mark.parametrize(("arms", "expected"), [(["lora_all.rank_4"], False), (["baseline"], True)])
def test_scores_of_variants_alone_make_no_report(arms: Sequence[str], expected: bool) -> None:
    class Fake:
        purpose, files = "evaluate", ("items.parquet",)

    made = plan()
    records = {cell.cell_id: Fake() for cell in made.cells if cell.arm in arms}
    assert has_scores(made, records) is expected  # type: ignore[arg-type]


def test_variants_differ_from_what_a_search_chose_by_their_own_quantity_alone() -> None:
    chosen = {
        "lora_all": {"lora.rank": 16, "lora.alpha": 32.0, "lora.dropout": 0.1},
        "lora_per_user": {"personal.lora.learning_rate": 7e-3, "personal.lora.examples": 12},
    }
    searched = with_choices(STUDY, chosen)
    made = make_plan(settings_of(), study=searched, facts=FACTS)
    points = [point for point in ablation_points(made) if point.ablation == "lora_rank"]
    assert {point.value for point in points if point.is_default} == {16}
    arms = {cell.arm for cell in made.cells}
    # The rank and the budget that were chosen are the default's now; rank 8 is a variant.
    assert {"lora_all.rank_8", "lora_per_user.examples_8"} <= arms
    assert "lora_all.rank_16" not in arms
    for cell in variants(made):
        adapter, training = cell.spec.adapter, cell.spec.training
        if isinstance(adapter, LoraConfig):
            assert adapter.dropout == 0.1
        if cell.arm.startswith("lora_per_user") and training is not None:
            assert training.learning_rate == 7e-3
            if ".rank" in cell.arm:
                assert training.examples == 12
                assert parent(made, cell).spec.adapter == adapter
