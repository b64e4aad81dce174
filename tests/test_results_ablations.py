"""Ablations from records to tables, figures and words, apart from everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results.ablations import TABLE_COLUMNS, Point, ablation_table, lines_of
from results.collector import Collected, ExpectedCell, collect
from results.figure_ablations import ablation_curves
from results.ledger import Ledger
from results.record import MetricInfo, RecordError
from results.registry import append_registry
from results.report_ablations import AblationResults, finish_ablations
from results.stats import seed_interval
from tests.results_fixtures import commit, fake_ledger, items_of, slot, spec_of

METRICS = {
    "rouge_l": MetricInfo(higher_is_better=True, unit="F", title="ROUGE-L"),
    "nll": MetricInfo(higher_is_better=False, unit="nats/token", title="Negative log-likelihood"),
}
DEFAULT = Point("lora_rank", "lora_all", "lora_all", 8)
WIDE = Point("lora_rank", "lora_all.rank_16", "lora_all", 16)
NO_SLOTS = pd.DataFrame(columns=["arm", "user_id", "status", "examples"])


def scores(rows: dict[tuple[str, str, int], dict[str, float]]) -> pd.DataFrame:
    """Long scores from (arm, metric, seed) → user → value."""
    columns = ["arm", "metric", "seed", "user_id", "value"]
    made = [(*key, user, value) for key, own in rows.items() for user, value in own.items()]
    return pd.DataFrame(made, columns=columns).assign(split="test", slice="all", n_items=3)


def compared(points, table, slots=NO_SLOTS, metrics=METRICS) -> pd.DataFrame:  # type: ignore[no-untyped-def]
    return ablation_table(points, table, slots, metrics=metrics, seed=0, resamples=400)


HAND = scores({
    ("lora_all", "rouge_l", 0): {"a": 0.2, "b": 0.4, "c": 0.6},
    ("lora_all", "rouge_l", 1): {"a": 0.9, "b": 0.9, "c": 0.9},
    ("lora_all.rank_16", "rouge_l", 0): {"a": 0.3, "b": 0.6, "c": 0.6},
    ("lora_all", "nll", 0): {"a": 1.0, "b": 2.0, "c": 3.0},
    ("lora_all", "nll", 1): {"a": 2.0, "b": 2.0, "c": 2.0},
    ("lora_all.rank_16", "nll", 0): {"a": 0.5, "b": 2.0, "c": 2.0},
    ("lora_all.rank_16", "nll", 1): {"a": 1.0, "b": 3.0, "c": 2.0},
})  # fmt: skip


def test_lifts_of_a_hand_made_table_on_the_seeds_that_both_have() -> None:
    found = compared([DEFAULT, WIDE], HAND)
    assert list(found.columns) == TABLE_COLUMNS
    rows = found.set_index(["arm", "metric"])
    wide = rows.loc["lora_all.rank_16"]
    # Replies of seed 0 alone: the default's second seed must not count against them.
    assert wide.loc["rouge_l", "seeds"] == "0"
    assert wide.loc["rouge_l", "mean"] == pytest.approx(0.5)
    assert wide.loc["rouge_l", "default_mean"] == pytest.approx(0.4)
    assert wide.loc["rouge_l", "lift"] == pytest.approx(0.1)
    # Likelihoods of both seeds, positive where the loss is lower.
    assert wide.loc["nll", "seeds"] == "0 1"
    assert wide.loc["nll", "lift"] == pytest.approx((0.5 + 0 + 1 + 1 - 1 + 0) / 6)
    assert wide["scored"].to_dict() == {"rouge_l": "generated", "nll": "likelihood"}
    default = rows.loc["lora_all"]
    assert default["lift"].tolist() == [0.0, 0.0]
    assert default["ci_low"].isna().all()
    # The default's own row is over its variants' seeds, so that means can be compared, too.
    assert default["seeds"].to_dict() == {"rouge_l": "0", "nll": "0 1"}
    assert default.loc["rouge_l", "mean"] == pytest.approx(0.4)


@pytest.mark.parametrize("nested", [True, False])
def test_intervals_are_over_users_and_seeds(nested: bool) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(2, 20, 3))
    rows = {
        (arm, "nll", seed): {f"u{n:02d}": float(x) for n, x in enumerate(values[k, :, seed])}
        for k, arm in enumerate(("lora_all", "lora_all.rank_16"))
        for seed in range(3)
    }
    point = Point("lora_rank", WIDE.arm, WIDE.default, 16, nested=nested)
    row = compared([point], scores(rows), metrics={"nll": METRICS["nll"]}).iloc[0]
    lifts = values[0] - values[1]
    expected = seed_interval(lifts, nested=nested, rng=np.random.default_rng(0), resamples=400)
    assert (row["lift"], row["ci_low"], row["ci_high"]) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert row["note"] == ""


def test_users_without_both_scores_are_left_out_and_counted() -> None:
    lost = HAND[~((HAND["arm"] == WIDE.arm) & (HAND["user_id"] == "c"))]
    row = compared([WIDE], lost).set_index("metric").loc["rouge_l"]
    assert row["n_users"] == 2
    assert row["lift"] == pytest.approx(0.15)
    assert "1 user(s) without both scores left out" in row["note"]
    nobody = compared([WIDE], HAND[HAND["arm"] != WIDE.arm]).iloc[0]
    assert (nobody["n_users"], nobody["note"]) == (0, "n/a: no user has both scores")
    assert np.isnan(nobody["lift"])


def test_users_with_fewer_exchanges_than_the_budget_are_counted() -> None:
    slots = pd.DataFrame(
        [
            ("p.examples_8", "a", "ok", 8),
            ("p.examples_8", "b", "ok", 5),
            ("p.examples_8", "b", "ok", 5),
            ("p.examples_8", "c", "skipped", 0),
            ("p.examples_4", "a", "ok", 4),
            ("p", "a", "ok", 6),
        ],
        columns=["arm", "user_id", "status", "examples"],
    )
    points = [Point("online_budget", f"p.examples_{n}", "p", n, examples=n) for n in (4, 8)]
    points.append(Point("online_budget", "p", "p", 10, examples=10, detail="at most 9 tokens"))
    found = compared(points, scores({("p", "nll", 0): {"a": 1.0}}), slots)
    rows = found[found["metric"] == "nll"].set_index("arm")
    assert rows["users_with_fewer"].to_dict() == pytest.approx(
        {"p.examples_4": 0, "p.examples_8": 2, "p": float("nan")}, nan_ok=True
    )
    assert rows["mean_examples"].to_dict() == {"p.examples_4": 4, "p.examples_8": 6, "p": 6}
    assert rows.loc["p", "note"] == "default, at most 9 tokens"


# From here on: a ledger with two arms, and a variant that generated for seed 0 alone.
POINTS = [
    Point("online_budget", "lora_per_user.examples_4", "lora_per_user", 4, True, 4),
    Point("online_budget", "lora_per_user", "lora_per_user", 10, False, 10, "at most 500 tokens"),
]


def variant_cells(ledger: Ledger, *, seeds: int, users: int, **own: object) -> list[ExpectedCell]:
    keys = tuple(f"user_{n}" for n in range(users))
    cells = []
    for seed in range(seeds):
        spec = spec_of("lora_per_user", purpose="personalize", seed=seed, users=keys, split="test")
        spec |= {"arm": "lora_per_user.examples_4", "generate": seed == 0, **own}
        items = pd.concat([items_of("prefix_per_user", seed, key, "own") for key in keys])
        items["nll"] -= 0.5
        if seed:
            made = ["output", "output_tokens", "output_words"]
            items = items.drop(
                columns=[*made, "rouge_l", "verbosity_error", "embedding_similarity"]
            )
        slots = [slot(key, examples=4) for key in keys[:-1]]
        slots.append(slot(keys[-1], status="skipped", reason="3 exchanges", examples=0))
        name = f"variant-s{seed}"
        commit(ledger, name, spec, slots=slots, items=items)
        cells.append(ExpectedCell(name, str(spec["arm"]), seed, keys, "test", "personalize"))
    return cells


def collected(root: Path, **own: object) -> tuple[Collected, Collected]:
    ledger, expected = fake_ledger(root, users=6, seeds=2, arms=["baseline", "lora_per_user"])
    cells = variant_cells(ledger, seeds=2, users=6, **own)
    return collect(ledger, expected), collect(ledger, cells)


def finished(root: Path, **own: object) -> AblationResults:
    arms, variants = collected(root, **own)
    return finish_ablations(
        root,
        arms,
        variants,
        POINTS,
        command="python -m orchestrator report --study full",
        seed=0,
        resamples=200,
    )


def test_a_table_a_figure_and_words_of_each_ablation(tmp_path: Path) -> None:
    found = finished(tmp_path)
    folder = tmp_path / "results" / "ablations"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"online_budget.{ending}" for ending in ("csv", "png", "svg")
    ]
    table = pd.read_csv(folder / "online_budget.csv")
    assert set(table["arm"]) == {point.arm for point in POINTS}
    variant = table[table["arm"] == POINTS[0].arm].set_index("metric")
    assert variant.loc["nll", "seeds"] == "0 1"
    assert str(variant.loc["rouge_l", "seeds"]) == "0"
    assert (variant["users_with_fewer"] == 1).all()
    (figure,) = found.figures
    copies = tmp_path / "results" / "figures" / "final"
    assert {path.name for path in copies.iterdir()} == {
        "ablation_online_budget.png",
        "ablation_online_budget.svg",
    }
    assert "n = 6 users, 1 seed (generated), 2 seeds (likelihood), test items" in figure.caption
    assert figure.caption.endswith("Redraw: python -m orchestrator report --study full")
    assert found.section is not None
    kinds = [block.kind for block in found.section.blocks]
    assert kinds == ["text", "heading", "bullets", "table", "figure", "heading", "bullets"]
    (told,) = [block for block in found.section.blocks[2:3] if block.kind == "bullets"]
    assert "interval above 0: 4 (+0.4" in told.items[1]
    assert "** (1 seed, no claim about training noise): " in told.items[0]
    assert not any(word in item for item in told.items for word in ("better", "worse"))
    assert "user_5 (skipped: 3 exchanges)" in str(found.section.blocks[-1])
    assert found.told({"sections": {"other": None}})["sections"].keys() == {"other", "ablations"}


def test_scores_that_were_not_made_are_in_no_table(tmp_path: Path) -> None:
    arms, variants = collected(tmp_path)
    made = variants.table[variants.table["slice"] == "all"]
    assert set(made.loc[made["seed"] == 1, "metric"]) == {"nll"}
    assert set(made.loc[made["seed"] == 0, "metric"]) == set(arms.metrics)
    assert variants.table["value"].notna().all()
    assert not set(variants.table["arm"]) & set(arms.table["arm"])
    assert not any("." in str(arm) for arm in arms.slots["arm"])
    path = append_registry(variants, tmp_path / "registry.csv", commit="abc")
    rows = pd.read_csv(path).set_index("seed")
    assert rows["macro_rouge_l"].notna().to_dict() == {0: True, 1: False}


def test_variants_of_another_study_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be compared on test: their data_sha256 differ"):
        finished(tmp_path, data_sha256="other")


def test_without_a_variant_s_scores_the_report_says_so(tmp_path: Path) -> None:
    ledger, expected = fake_ledger(tmp_path, users=3, arms=["baseline", "lora_per_user"])
    lost = ExpectedCell("gone", POINTS[0].arm, 0, ("user_0",), "test", "personalize")
    found = finish_ablations(
        tmp_path, collect(ledger, expected), collect(ledger, [lost]), POINTS,
        command="x", seed=0, resamples=100,
    )  # fmt: skip
    assert found.figures == ()
    assert found.section is not None
    text = str(found.section.blocks)
    assert "n/a, no variant has an interval" in text
    assert "user_0 (not run)" in text
    assert finish_ablations(
        tmp_path, collect(ledger, expected), collect(ledger, []), [],
        command="x", seed=0, resamples=100,
    ) == AblationResults()  # fmt: skip


def test_a_default_that_differs_in_more_stands_beside_its_line() -> None:
    rows = scores({
        (arm, "nll", 0): {user: base + shift for user, base in (("a", 1.0), ("b", 2.0))}
        for arm, shift in (("p", 0.0), ("p.x4", 0.1), ("p.x8", -0.1))
    })  # fmt: skip
    points = [Point("o", "p.x4", "p", 4), Point("o", "p", "p", 6), Point("o", "p.x8", "p", 8)]
    found = compared(points, rows, metrics={"nll": METRICS["nll"]})
    assert list(lines_of(found, "o", "nll")) == ["p"]
    drawn = {}
    for name, apart in (("joined", ()), ("apart", ("p",))):
        options = {"metrics": {"nll": METRICS["nll"]}, "axis_title": "x"}
        canvas = ablation_curves(found, "o", apart=apart, **options)  # type: ignore[arg-type]
        assert canvas is not None
        (axis,) = canvas.axes
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["4", "6", "8"]
        drawn[name] = sorted(len(line.get_xdata()) for line in axis.lines)  # type: ignore[arg-type]
    # The line, the default's own mark, and the line of no lift.
    assert drawn == {"joined": [1, 2, 3], "apart": [1, 2, 2]}
    assert ablation_curves(found, "none", metrics=METRICS, axis_title="x") is None
