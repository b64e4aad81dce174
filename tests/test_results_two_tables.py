"""Score tables made elsewhere: read strictly, paired by user, compared as a study's arms are."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from orchestrator.cli import main
from results.comparison import Comparison
from results.record import RecordError
from results.score_files import read_scores
from results.two_tables import TwoTables, compare_tables, write_comparison

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return written


@pytest.fixture
def two(write: Write) -> TwoTables:
    """Users b, c, d, e are in both; m: lifts of .1, .2, −.1 and .2; loss: none of d."""
    return TwoTables(
        baseline=write("base.csv", "who,m,loss\na,.5,1\nb,.1,2\nc,.2,2\nd,.3,2\ne,.4,2\n"),
        arm=write("lora.csv", "loss,who,m,x\n1,b,.2,?\n1.5,c,.4,\n,d,.2,\n3,e,.6,\n9,f,.9,\n"),
        id_column="who",
        metrics=("m", "loss"),
        lower_is_better=("loss",),
        resamples=500,
    )


def rows_of(request: TwoTables) -> dict[str, pd.Series]:
    table = compare_tables(request).analysis.comparisons
    return {str(row["metric"]): row for _, row in table.iterrows()}


def test_users_of_both_tables_are_paired_and_the_others_named(two: TwoTables) -> None:
    compared = compare_tables(two)
    assert (compared.only_baseline, compared.only_arm) == (("a",), ("f",))
    lifts = compared.analysis.lifts
    found = lifts.pivot_table(index="user_id", columns="metric", values="lift")
    assert found["m"].to_dict() == pytest.approx({"b": 0.1, "c": 0.2, "d": -0.1, "e": 0.2})
    assert found["loss"].dropna().to_dict() == pytest.approx({"b": 1.0, "c": 0.5, "e": -1.0})


def test_numbers_are_those_of_the_oracles(two: TwoTables) -> None:
    row = rows_of(two)["m"]
    lifts = np.array([0.1, 0.2, -0.1, 0.2])
    t = scipy_stats.ttest_1samp(lifts, 0.0)
    assert (row["t"], row["p_t"]) == pytest.approx((t.statistic, t.pvalue), abs=1e-9)
    assert row["mean_lift"] == pytest.approx(0.1)
    # 16 sign flips; 6 of them have a mean as far from 0 as +.4 / 4: by hand ±.6 (2), ±.4 (4).
    assert row["p_permutation"] == pytest.approx(6 / 16)
    assert (row["helped"], row["tied"], row["hurt"]) == (3, 0, 1)
    assert row["p_sign"] == pytest.approx(scipy_stats.binomtest(1, 4).pvalue)
    assert row["dz"] == pytest.approx(lifts.mean() / lifts.std(ddof=1))


def test_the_metrics_are_one_family_under_holm(two: TwoTables) -> None:
    rows = rows_of(two)
    p = sorted(row["p_permutation"] for row in rows.values())
    adjusted = sorted(row["p_adjusted"] for row in rows.values())
    assert adjusted == pytest.approx([min(1, 2 * p[0]), max(min(1, 2 * p[0]), p[1])])
    assert {row["family"] for row in rows.values()} == {"primary (Holm)"}


def test_only_the_first_metric_has_the_margin(two: TwoTables) -> None:
    assert math.isnan(rows_of(two)["m"]["p_tost"])
    rows = rows_of(TwoTables(**{**vars(two), "margin": 0.5}))
    assert 0 < rows["m"]["p_tost"] < 0.05
    assert math.isnan(rows["loss"]["p_tost"])


def test_files_hold_every_statistic_and_say_who_was_left_out(
    two: TwoTables, tmp_path: Path
) -> None:
    paths = write_comparison(two, compare_tables(two), tmp_path / "out", command="again")
    assert all(path.stat().st_size for path in paths)
    table = pd.read_csv(tmp_path / "out" / "comparisons.csv")
    assert set(Comparison.__dataclass_fields__) <= set(table.columns)
    told = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert told["left_out"] == {"only_in_baseline": ["a"], "only_in_arm": ["f"]}
    assert [row["metric"] for row in told["comparisons"]] == ["m", "loss"]
    assert told["comparisons"][1]["p_tost"] is None
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "1 user only in lora.csv, left out: f" in text
    assert "loss: 3 user(s) without both scores left out" in text
    assert "n = 3 to 4 users" in text
    assert "n = 3 users" in text
    assert "Redraw: again" in text
    pictures = {path.stem for path in (tmp_path / "out" / "figures").glob("*.png")}
    assert {"metric_by_metric", "macro_metrics", "sorted_lifts_1", "sorted_lifts_2"} <= pictures


def test_every_metric_is_drawn_on_as_many_sheets_as_it_takes(write: Write, tmp_path: Path) -> None:
    metrics = [f"m{number:02}" for number in range(20)]
    head = ",".join(["who", *metrics])
    rows = [[f"u{user}", *(f"{(user * 7 + m) % 11}" for m in range(20))] for user in range(5)]
    lines = [",".join(row) for row in rows]
    arm = [",".join([row[0], *(f"{float(x) + (i + at) % 3}" for at, x in enumerate(row[1:]))])
           for i, row in enumerate(rows)]  # fmt: skip
    request = TwoTables(
        baseline=write("b.csv", "\n".join([head, *lines])),
        arm=write("a.csv", "\n".join([head, *arm])),
        id_column="who", metrics=metrics, resamples=200,
    )  # fmt: skip
    write_comparison(request, compare_tables(request), tmp_path / "out", command="again")
    text = (tmp_path / "out" / "comparison.md").read_text()
    spans = re.findall(r"(m\d\d) to (m\d\d), (\d+) of 20 metrics\. Mean lift", text)
    assert spans[0][0] == "m00"
    assert spans[-1][1] == "m19"
    assert sum(int(count) for _, _, count in spans) == 20
    pictures = {path.stem for path in (tmp_path / "out" / "figures").glob("*.png")}
    for name in ("metric_by_metric", "macro_metrics"):
        assert {name, *(f"{name}_{n}" for n in range(2, len(spans) + 1))} <= pictures


@pytest.mark.parametrize(
    ("base", "arm", "reason"),
    [
        ("who,m\na,.5\n", "who,m\na,.7\n", "need two users or more"),
        ("who,m\na,.5\nb,.2\n", "who,m\na,.5\nb,.2\n", "all differences are equal"),
        ("who,m\na,.1\nb,.2\nc,.3\n", "who,m\na,.2\nb,.3\nc,.4\n", "all differences are equal"),
        ("who,m\na,.1\nb,\n", "who,m\na,\nb,.3\n", "no score of"),
    ],
)
def test_what_cannot_be_had_is_told_without_a_warning(
    write: Write, tmp_path: Path, base: str, arm: str, reason: str
) -> None:
    request = TwoTables(
        baseline=write("b.csv", base), arm=write("a.csv", arm), id_column="who", metrics=("m",),
        resamples=200,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compared = compare_tables(request)
        write_comparison(request, compared, tmp_path / "out", command="again")
    row = compared.analysis.comparisons.iloc[0]
    assert reason in row["note"]
    assert math.isnan(row["bca_low"])
    assert math.isnan(row["t"])
    assert "n/a" in (tmp_path / "out" / "comparison.md").read_text()


def test_equal_lifts_leave_no_dust_in_the_interval(write: Write) -> None:
    request = TwoTables(
        baseline=write("b.csv", "who,m\na,.1\nb,.2\nc,.3\n"),
        arm=write("a.csv", "who,m\na,.2\nb,.3\nc,.4\n"),
        id_column="who",
        metrics=("m",),
        resamples=200,
    )
    row = rows_of(request)["m"]
    assert row["ci_low"] == row["ci_high"] == row["mean_lift"] == 0.1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("who,mm\na,1\n", "'m' is missing; did you mean 'mm'? (its columns: who, mm)"),
        ("who,m,m\na,1,1\n", "'m' stands there 2 times"),
        ("who,m\na,1\na,2\n", "line 3: who 'a' a second time"),
        ("who,m\n ,1\n", "line 2: no who"),
        ("who,m\na,high\n", "line 2: m is 'high'"),
        ("who,m\na,inf\n", "line 2: m is 'inf'"),
        ("who,m\na,1,2\n", "line 2: 3 cells, but 2 columns"),
        ("who,m\n", "a header and no rows"),
        ("", "(its columns: none)"),
        ('who,m\n"a,1\n', "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_file_and_line(
    write: Write, text: str, words: str
) -> None:
    path = write("scores.csv", text)
    with pytest.raises(RecordError) as raised:
        read_scores(path, id_column="who", metrics=["m"])
    assert words in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_byte_order_mark_is_read_over_and_latin_1_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes("\ufeffwho,m\né,1\n".encode())
    assert read_scores(path, id_column="who", metrics=["m"]).loc["é", "m"] == 1.0
    path.write_bytes("who,m\né,1\n".encode("latin-1"))
    with pytest.raises(RecordError, match="UTF-8"):
        read_scores(path, id_column="who", metrics=["m"])


def test_names_that_do_not_fit_are_refused(two: TwoTables, write: Write) -> None:
    for changed, words in (
        ({"metrics": ("m", "m")}, "named twice: m"),
        ({"lower_is_better": ("M",)}, "Lower is better for M, which is not compared"),
        ({"arm": write("other.csv", "who,m,loss\nz,1,1\n")}, "No who of .* is in .*other.csv"),
    ):
        with pytest.raises(RecordError, match=words):
            compare_tables(TwoTables(**{**vars(two), **changed}))


def test_the_command_takes_several_metrics_and_keeps_a_files_own_name(
    two: TwoTables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--baseline", str(two.baseline), "--arm", str(two.arm), "--id", "who"]
    rest = ["--metrics", "m", "loss", "--lower-is-better", "loss", "--resamples", "200"]
    assert main(["compare", *files, *rest, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "lora - baseline" in shown
    assert "loss" in shown
    assert "left out: f" in shown


def test_bad_input_ends_with_2_and_writes_nothing(
    two: TwoTables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--baseline", str(two.baseline), "--arm", str(two.arm), "--id", "who"]
    into = tmp_path / "out"
    assert main(["compare", *files, "--metrics", "mm", "--out", str(into)]) == 2
    assert "did you mean 'm'?" in capsys.readouterr().err
    assert not into.exists()
    assert main(["compare", *files, "--metrics", "m", "--out", str(two.arm)]) == 2
    missing = ["--baseline", "no.csv", "--arm", str(two.arm), "--id", "who", "--metrics", "m"]
    assert main(["compare", *missing, "--out", str(into)]) == 2
    assert "no.csv cannot be read" in capsys.readouterr().err
