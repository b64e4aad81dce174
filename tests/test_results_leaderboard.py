"""Arms ranked while a study runs: users so far, paired with the baseline, every cell read once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from results.leaderboard import Leaderboard, Standing


def items(folder: Path, name: str, scores: dict[str, list[float]], control: str = "own") -> Path:
    rows = [(user, value, control) for user, values in scores.items() for value in values]
    path = folder / f"{name}.parquet"
    pd.DataFrame(rows, columns=["user_id", "rouge_l", "control"]).to_parquet(path)
    return path


def test_lifts_are_those_of_the_users_that_the_baseline_has_too(tmp_path: Path) -> None:
    board = Leaderboard()
    board.add("baseline", items(tmp_path, "base", {"a": [0.2, 0.4], "b": [0.1], "c": [0.2]}))
    board.add("lora_all", items(tmp_path, "lora", {"a": [0.5], "b": [0.2], "z": [0.9]}))
    lora, base = board.standings()
    assert base == Standing("baseline", 3, pytest.approx(0.2))
    lifts = np.array([0.2, 0.1])
    ends = stats.t.interval(0.95, 1, lifts.mean(), stats.sem(lifts))
    assert (lora.arm, lora.users, lora.mean) == ("lora_all", 3, pytest.approx(1.6 / 3))
    assert (lora.lift, lora.low, lora.high) == pytest.approx((0.15, *ends))


def test_blocks_add_users_and_seeds_are_averaged(tmp_path: Path) -> None:
    board = Leaderboard()
    for name, scores in (("one", {"a": [0.2]}), ("two", {"b": [0.6]}), ("again", {"a": [0.4]})):
        board.add("lora_all", items(tmp_path, name, scores))
    assert board.standings() == [Standing("lora_all", 2, pytest.approx(0.45))]


def test_controls_and_missing_scores_do_not_count(tmp_path: Path) -> None:
    board = Leaderboard()
    board.add("lora_per_user", items(tmp_path, "swapped", {"a": [0.2]}, control="swapped"))
    board.add("lora_per_user", items(tmp_path, "none", {"a": [float("nan")]}))
    assert board.standings() == []


def test_one_common_user_or_equal_lifts_have_no_interval(tmp_path: Path) -> None:
    board = Leaderboard()
    board.add("baseline", items(tmp_path, "base", {"a": [0.1], "b": [0.2]}))
    board.add("lora_all", items(tmp_path, "lora", {"a": [0.3]}))
    board.add("prefix_all", items(tmp_path, "prefix", {"a": [0.2], "b": [0.3]}))
    found = {one.arm: one for one in board.standings()}
    assert found["lora_all"].lift is None
    assert found["prefix_all"].lift == pytest.approx(0.1)


def test_equal_means_of_other_seeds_have_no_interval(tmp_path: Path) -> None:
    board = Leaderboard()
    for arm, scores in (("baseline", (0.1, 0.2, 0.3)), ("lora_all", (0.3, 0.2, 0.1))):
        for seed, score in enumerate(scores):
            path = items(tmp_path, f"{arm}{seed}", {"a": [score], "b": [0.5], "c": [score]})
            board.add(arm, path)
    lora = next(one for one in board.standings() if one.arm == "lora_all")
    assert lora.lift == 0
    assert lora.low is None
