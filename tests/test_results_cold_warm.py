"""Cold against warm start: curves, intervals only where they mean something, words by numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.analysis import analyze
from results.cold_warm import MIN_USERS, SCORE_COLUMNS, TABLE_COLUMNS, compare_starts
from results.collector import ExpectedCell, collect
from results.figures import draw_figures
from results.report_cold_warm import cold_warm_blocks
from results.tables import TableFacts, write_tables
from tests.results_fixtures import commit, fake_ledger, slot, spec_of
from tests.results_study import fake_collected, few_exchanges


def compared(frame: pd.DataFrame, **options: int):  # type: ignore[no-untyped-def]
    return compare_starts(frame, **{"seed": 0, "resamples": 400, **options})


def point(found, adapter: str, start: str, number: str) -> pd.Series:  # type: ignore[no-untyped-def]
    rows = found.rows(adapter, start)
    return rows[rows["exchanges"] == number].iloc[0]


def test_means_lifts_and_counts_of_a_hand_made_table() -> None:
    rows = [
        ("lora", seed, "warm", number, used, user, score, 4)
        for seed in (0, 1)
        for user, scores in {"a": (0.2, 0.4), "b": (0.4, 0.3), "c": (0.5, 0.5)}.items()
        for (number, used), score in zip((("0", 0), ("all", 7)), scores, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=SCORE_COLUMNS)
    frame.loc[frame["seed"] == 1, "score"] += 0.1  # A seed that moves everything moves no lift.
    row = point(compared(frame), "lora", "warm", "all")
    assert row["mean"] == pytest.approx(0.4 + 0.05)
    assert row["lift"] == pytest.approx(0.1 / 3)
    assert (row["helped"], row["tied"], row["hurt"]) == (1, 1, 1)
    assert (row["n_users"], row["n_seeds"], row["mean_used"]) == (3, 2, 7.0)
    assert np.isnan(row["low"])
    assert row["note"] == "n/a: 3 users; an interval needs 6"


def test_equal_means_of_other_seeds_are_ties() -> None:
    scores = {"0": (0.1, 0.2, 0.3), "all": (0.3, 0.2, 0.1)}
    assert sum(scores["0"]) != sum(scores["all"])
    rows = [
        ("lora", seed, "warm", number, 4, user, values[seed], 4)
        for number, values in scores.items()
        for seed in range(3)
        for user in "ab"
    ]
    row = point(compared(pd.DataFrame(rows, columns=SCORE_COLUMNS)), "lora", "warm", "all")
    assert (row["helped"], row["tied"], row["hurt"]) == (0, 2, 0)
    assert row["lift"] == 0


def test_intervals_begin_where_they_can_cover() -> None:
    assert 1 - 2.0 ** (1 - MIN_USERS) >= 0.95 > 1 - 2.0 ** (2 - MIN_USERS)
    few = compared(few_exchanges(cold=MIN_USERS - 1, warm=MIN_USERS, noise=0.05))
    assert few.table.loc[few.table["start"] == "cold", ["low", "lift_high"]].isna().all(axis=None)
    warm = few.table[few.table["start"] == "warm"]
    assert (warm["low"] < warm["mean"]).all()
    assert (warm["mean"] < warm["high"]).all()
    assert few.table["minus_warm_low"].isna().all()
    enough = compared(few_exchanges(cold=MIN_USERS, warm=20, noise=0.05))
    moved = enough.table[(enough.table["start"] == "cold") & (enough.table["exchanges"] != "0")]
    assert (moved["minus_warm_low"] < moved["minus_warm"]).all()
    assert (moved["minus_warm"] < moved["minus_warm_high"]).all()


def test_cold_minus_warm_is_the_difference_of_the_mean_lifts() -> None:
    cold, warm = few_exchanges(cold=7, warm=0, gain=0.03), few_exchanges(cold=0, warm=8, gain=0.02)
    found = compared(pd.concat([cold, warm], ignore_index=True))
    row = point(found, "lora", "cold", "4")
    assert row["minus_warm"] == pytest.approx(4 * 0.01)
    assert row["minus_warm_low"] == pytest.approx(4 * 0.01)
    assert np.isnan(point(found, "lora", "warm", "4")["minus_warm"])
    alone = compared(cold)
    assert np.isnan(point(alone, "lora", "cold", "4")["minus_warm"])


@settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from(["0", "1", "2", "16", "4", "all"]), min_size=1, unique=True))
def test_numbers_stand_in_the_order_of_exchanges(numbers: list[str]) -> None:
    numbers = [*numbers, "0"] if "0" not in numbers else numbers
    rows = [("lora", 0, "warm", n, 1, "u", 0.5, 1) for n in numbers]
    found = compared(pd.DataFrame(rows, columns=SCORE_COLUMNS))
    places = [float("inf") if n == "all" else float(n) for n in found.table["exchanges"]]
    assert places == sorted(places)


def test_a_user_without_so_many_exchanges_leaves_only_that_number() -> None:
    frame = few_exchanges(cold=0, warm=8)
    frame = frame[~((frame["user_id"] == "warm_3") & (frame["exchanges"] == "4"))]
    found = compared(frame)
    sizes = found.rows("lora", "warm").set_index("exchanges")["n_users"].to_dict()
    assert sizes == {"0": 8, "1": 8, "2": 8, "4": 7, "all": 8}


def test_nothing_was_run_and_nothing_breaks() -> None:
    found = compared(pd.DataFrame(columns=SCORE_COLUMNS))
    assert list(found.table.columns) == TABLE_COLUMNS
    assert found.table.empty
    assert found.users.empty
    analysis = analyze(fake_collected(users=3), seed=0, margin=0.01, resamples=100)
    assert cold_warm_blocks(analysis, {}) == []


def told(tmp_path: Path, few: tuple[int, int], **changes: float) -> str:
    collected = fake_collected(users=3, few=few)
    collected.few = few_exchanges(cold=few[0], warm=few[1], **changes)  # type: ignore[arg-type]
    analysis = analyze(collected, seed=0, margin=0.01, resamples=200)
    figures = draw_figures(tmp_path, collected, analysis, only=frozenset({"cold_warm"}))
    assert [figure.name for figure in figures] == ["cold_warm"]
    blocks = cold_warm_blocks(analysis, {figure.name: figure for figure in figures})
    assert [block.kind for block in blocks] == ["text", "bullets", "table", "figure"]
    return " ".join(blocks[1].items)  # type: ignore[union-attr]


def test_words_follow_the_numbers(tmp_path: Path) -> None:
    small = told(tmp_path, (2, 8), gain=0.05, noise=0.001)
    assert "With 2 users there is no interval, and nothing follows for others." in small
    assert "fewest exchanges with an interval above 0: 1, lift +0.050 [" in small
    assert "after all (mean 10): lift +0.500 [" in small
    one = told(tmp_path, (1, 8), gain=0.0, noise=0.2)
    assert "With 1 user there" in one
    assert "no number of exchanges has an interval above 0" in one
    none = told(tmp_path, (0, 6), gain=-0.05)
    assert "**Cold start, LoRA**: n/a, no cold-start user was scored." in none
    assert "interval below 0 after 1: lift −0.050 [" in none


def test_the_collector_keeps_these_scores_away_from_the_arms(tmp_path: Path) -> None:
    ledger, expected = fake_ledger(tmp_path, users=3)
    before = collect(ledger, expected)
    assert before.few.empty
    # Other items, data and users than the arms': nothing of it may meet them.
    spec = spec_of("lora_per_user", purpose="adapt_from_few", seed=0, users=["cold"], split="test")
    spec |= {"arm": "lora_cold_start", "items_sha256": "others"}
    items = pd.DataFrame({
        "user_id": "cold", "item_id": ["cold/1/1", "cold/1/3"] * 2, "control": "own",
        "exchanges": ["0", "0", "1", "1"], "exchanges_used": [0, 0, 1, 1], "cold_start": True,
        "rouge_l": [0.25, 0.75, 0.5, 1.0], "routine_driven": None,
    })  # fmt: skip
    slots = [slot("cold@1"), slot("cold@4", status="skipped", reason="too few")]
    commit(ledger, "few", spec, slots=slots, items=items)
    cell = ExpectedCell("few", "lora_cold_start", 0, ("cold",), "test", "adapt_from_few")
    after = collect(ledger, [*expected, cell])
    pd.testing.assert_frame_equal(after.table, before.table)
    pd.testing.assert_frame_equal(after.slots, before.slots)
    assert list(after.few["start"].unique()) == ["cold"]
    assert after.few.set_index("exchanges")["score"].to_dict() == {"0": 0.5, "1": 0.75}
    gone = ["lora_cold_start", 0, "cold@4", "skipped: too few"]
    assert after.missing.to_numpy().tolist() == [*before.missing.to_numpy().tolist(), gone]
    found = analyze(after, seed=0, margin=0.01, resamples=100)
    assert "cold" not in found.users
    assert not any("start" in arm for arm in found.arms)
    assert found.cold_warm.n_users("cold") == 1
    paths = write_tables(after, tmp_path, facts=TableFacts("abc", str))
    assert not any("start" in path.parent.name for path in paths)
    registry = (tmp_path / "experiment_registry.csv").read_text()
    assert "cold_start" not in registry
