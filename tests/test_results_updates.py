"""Validation gain by number of updates: numbers by hand, words by the numbers, no arm's table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from results.analysis import analyze
from results.cold_warm import MIN_USERS
from results.collector import ExpectedCell, collect
from results.figures import draw_figures
from results.report import write_stats
from results.report_updates import updates_blocks
from results.tables import TableFacts, write_tables
from results.updates import SCORE_COLUMNS, TABLE_COLUMNS, Traced, Updates, gain_by_updates
from tests.results_fixtures import commit, fake_ledger, slot, spec_of
from tests.results_study import fake_collected, traced_users


def found(traced: Traced, **options: int) -> Updates:
    return gain_by_updates(traced, **{"seed": 0, "resamples": 400, **options})


def lost(*rows: tuple[str, str, str]) -> pd.DataFrame:
    named = [(arm, 0, user, reason) for arm, user, reason in rows]
    return pd.DataFrame(named, columns=["arm", "seed", "user_id", "reason"])


def test_gains_of_a_hand_made_table() -> None:
    nlls = {"a": (2.0, 1.5, 1.4), "b": (3.0, 3.0, 3.3), "c": (1.0, 0.9, 0.6)}
    updates = {"a": 10, "b": 10, "c": 7}
    rows = [
        ("lora_per_user", 0, user, epochs, epochs * updates[user], nll, 4)
        for user, own in nlls.items()
        for epochs, nll in enumerate(own)
    ]
    made = found(Traced(scores=pd.DataFrame(rows, columns=SCORE_COLUMNS)))
    table = made.table.set_index("epochs")
    assert list(made.table.columns) == TABLE_COLUMNS
    assert table["updates"].tolist() == [0, 9, 18]
    assert table["gain"].to_numpy() == pytest.approx(
        [0, (0.5 + 0 + 0.1) / 3, (0.6 - 0.3 + 0.4) / 3]
    )
    assert table["more"].to_numpy()[1:] == pytest.approx([0.2, (0.1 - 0.3 + 0.3) / 3])
    assert table["share_gaining"].to_numpy()[1:] == pytest.approx([2 / 3, 2 / 3])
    assert table.loc[0, ["more", "share_gaining"]].isna().all()
    assert (table["n_users"] == 3).all()
    assert table[["low", "high", "more_low", "more_high"]].isna().all(axis=None)
    assert set(table["note"]) == {"n/a: 3 users; an interval needs 6"}
    users = made.users.set_index(["user_id", "epochs"])["gain"]
    assert users["b", 2] == pytest.approx(-0.3)
    assert users["c", 0] == 0


def test_intervals_are_percentile_intervals_over_users() -> None:
    traced = traced_users(20, noise=0.04, arms=("lora_per_user",))
    made = found(traced, resamples=20_000)
    for epochs in (1, 2, 3):
        row = made.table.set_index("epochs").loc[epochs]
        gains = made.users.loc[made.users["epochs"] == epochs, "gain"].to_numpy()
        other = scipy_stats.bootstrap(
            (gains,), np.mean, n_resamples=20_000, method="percentile", rng=1
        ).confidence_interval
        assert row["low"] == pytest.approx(other.low, abs=1e-3)
        assert row["high"] == pytest.approx(other.high, abs=1e-3)
    steps = traced.scores.pivot(index="user_id", columns="epochs", values="nll").to_numpy()
    rise = steps[:, 1] - steps[:, 2]
    other = scipy_stats.bootstrap(
        (rise,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    row = made.table.set_index("epochs").loc[2]
    assert row["more_low"] == pytest.approx(other.low, abs=1e-3)
    assert row["more_high"] == pytest.approx(other.high, abs=1e-3)
    few = found(traced_users(MIN_USERS - 1))
    assert few.table[["low", "more_low"]].isna().all(axis=None)
    known = found(traced_users(MIN_USERS)).table
    assert known["low"].notna().all()


def test_who_was_not_traced_is_told_and_nothing_breaks() -> None:
    assert found(Traced()).table.empty
    assert found(Traced()).seed is None
    gone = lost(
        ("prefix_per_user", "a", "skipped: no exchange to score in split choice"),
        ("prefix_per_user", "b", "skipped: no exchange to score in split choice"),
        ("lora_per_user", "b", "not run"),
    )
    made = found(Traced(scores=traced_users(7, arms=("lora_per_user",)).scores, missing=gone))
    assert made.arms == ["lora_per_user"]
    row = made.rows("prefix_per_user").iloc[0]
    assert row["n_users"] == 0
    assert row["note"] == "n/a: 2 users (skipped: no exchange to score in split choice)"
    assert set(made.rows("lora_per_user")["note"]) == {"not traced: 1 user (not run)"}


def told(folder: Path, traced: Traced) -> str:
    collected = fake_collected(users=3)
    collected.traced = traced
    analysis = analyze(collected, seed=0, margin=0.01, resamples=200)
    figures = draw_figures(folder, collected, analysis, only=frozenset({"validation_gain"}))
    blocks = updates_blocks(analysis, {figure.name: figure for figure in figures})
    assert [block.kind for block in blocks] == ["text", "bullets", "figure"][: 2 + len(figures)]
    assert len(figures) == bool(len(traced.scores))
    return " ".join(blocks[1].items)  # type: ignore[union-attr]


def test_words_follow_the_numbers(tmp_path: Path) -> None:
    one = ("lora_per_user",)
    ends = told(tmp_path, traced_users(9, arms=one))
    assert "after 30 updates: mean gain +0.0500 [+0.0500, +0.0500] nats per token" in ends
    assert "100 % of 9 users gain" in ends
    assert "The last epoch in which the mean rises ends after 20 updates (+0.0200 [" in ends
    assert "the next one shows no evidence of a rise (+0.0000 [" in ends
    rises = told(tmp_path, traced_users(9, arms=one, gains=(0.0, 0.1, 0.2)))
    assert "The mean still rises in the last epoch (+0.1000 [" in rises
    falls = told(tmp_path, traced_users(9, arms=one, gains=(0.0, 0.1, 0.05)))
    assert "no evidence" not in falls
    assert "; it falls in the epoch up to 20 updates (−0.0500 [" in falls
    never = told(tmp_path, traced_users(9, arms=one, gains=(0.0, 0.0, 0.0)))
    assert "In no epoch does the interval of the mean's rise lie above 0." in never
    alone = told(tmp_path, traced_users(1, arms=one))
    assert "interval n/a (1 user; an interval needs 6); nothing follows for others" in alone
    gone = told(tmp_path, Traced(missing=lost(("lora_per_user", "a", "not run"))))
    assert gone == "**Per-user LoRA**: validation gain n/a, 1 user (not run)."
    assert "best" not in ends + rises + falls + never + alone


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("users", [1, 2, 8])
def test_the_figure_and_its_caption(tmp_path: Path, users: int) -> None:
    collected = fake_collected(users=3, traced=users)
    analysis = analyze(collected, seed=0, margin=0.01, resamples=200)
    only = frozenset({"validation_gain"})
    (figure,) = draw_figures(tmp_path, collected, analysis, only=only, command="again")
    places = {path.parent.name for path in figure.paths}
    assert places == {"stability", "final"}
    size = f"{users} user{'s' if users > 1 else ''}, 1 seed (0), items of the earlier half of"
    assert f"n = {size} validation." in figure.caption
    assert figure.caption.endswith("Redraw: again")


def traced_items(users: dict[str, tuple[float, ...]], seed: float = 0.0) -> pd.DataFrame:
    rows = [
        (user, f"{user}/1/{turn}", "own", epochs, 5 * epochs, nll + (turn - 2) * 0.5)
        for user, own in users.items()
        for epochs, nll in enumerate(own)
        for turn in (1, 3)
    ]
    names = ["user_id", "item_id", "control", "epochs", "updates", "nll"]
    return pd.DataFrame(rows, columns=names)


def test_the_arms_tables_do_not_change(tmp_path: Path) -> None:
    ledger, expected = fake_ledger(tmp_path, users=3)
    before = collect(ledger, expected)
    facts = TableFacts("abc", str)
    written = {path: path.read_bytes() for path in write_tables(before, tmp_path, facts=facts)}
    users = ["user_0", "user_1", "user_2"]
    spec = spec_of("lora_per_user", purpose="trace", seed=0, users=users, split="choice")
    items = traced_items({"user_0": (2.0, 1.5), "user_1": (1.0, 1.25)})
    slots = [slot("user_0"), slot("user_1"), slot("user_2", status="failed", reason="bad")]
    commit(ledger, "traced", spec, slots=slots, items=items)
    cells = [
        ExpectedCell("traced", "lora_per_user", 0, tuple(users), "choice", "trace"),
        ExpectedCell("gone", "prefix_per_user", 0, tuple(users), "choice", "trace"),
    ]
    after = collect(ledger, [*expected, *cells])
    for name in ("table", "slots", "curves", "missing", "few"):
        pd.testing.assert_frame_equal(getattr(after, name), getattr(before, name))
    again = {path: path.read_bytes() for path in write_tables(after, tmp_path, facts=facts)}
    assert again == written
    scores = after.traced.scores.set_index(["user_id", "epochs"])
    assert scores["nll"].to_dict() == {
        ("user_0", 0): 2.0, ("user_0", 1): 1.5, ("user_1", 0): 1.0, ("user_1", 1): 1.25,
    }  # fmt: skip
    assert set(scores["n_items"]) == {2}
    assert after.traced.missing[["arm", "user_id", "reason"]].to_numpy().tolist() == [
        ["lora_per_user", "user_2", "failed: bad"],
        *(["prefix_per_user", user, "not run"] for user in users),
    ]
    one, two = (analyze(side, seed=0, margin=0.01, resamples=100) for side in (before, after))
    for name in ("comparisons", "macro", "lifts", "slices", "missing"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name))
    assert one.arms == two.arms
    files = {path.name for path in write_stats(tmp_path, two)}
    assert {"updates.csv", "updates_users.csv"} <= files
    table = pd.read_csv(tmp_path / "results" / "stats" / "updates.csv")
    lora = table[(table["arm"] == "lora_per_user") & (table["epochs"] == 1)].iloc[0]
    assert (lora["gain"], lora["updates"], lora["n_users"]) == (0.125, 5, 2)
