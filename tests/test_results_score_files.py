"""Oddities of CSV files: read as people see them, or refused with file, line and column."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.cli import main
from results.id_spelling import alike
from results.record import RecordError
from results.score_files import read_scores

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: str | bytes) -> Path:
        path = tmp_path / "scores.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


def read(path: Path, metric: str = "m") -> pd.Series:
    return read_scores(path, id_column="who", metrics=[metric])[metric]


@pytest.mark.parametrize(
    ("cell", "number"),
    [("0.5", 0.5), (" .5 ", 0.5), ("+5.", 5.0), ("-1e-3", -0.001), ("1E5", 1e5), ("007", 7.0)],
)
def test_plain_numbers_are_read(write: Write, cell: str, number: float) -> None:
    assert read(write(f"who,m\na,{cell}\n"))["a"] == number


@pytest.mark.parametrize(
    "cell",
    ["0_5", "1_000", "0x10", "١٢", "５", "inf", "-Infinity", "1e999", "50%", "TRUE", "1 000", "−1",
     '"1,234.5"', '"1.234,5"', '"1,234,567"', '"1,234"', "1e", ".", "0.5.1", "nan(1)", "1d5", "½"],
)  # fmt: skip
def test_what_is_no_plain_number_is_refused_by_name(write: Write, cell: str) -> None:
    path = write(f"who,x,m\na,?,0.5\nb,?,{cell}\n")
    with pytest.raises(RecordError) as raised:
        read(path)
    assert f"{path}, line 3: m is {cell.strip(chr(34))!r}" in str(raised.value)


@pytest.mark.parametrize("cell", ["", " ", "NaN", "NA", "n/a", "null", "None"])
def test_a_cell_without_a_score_is_none(write: Write, cell: str) -> None:
    scores = read(write(f"who,m\na,{cell}\nb,1\n"))
    assert math.isnan(scores["a"])


def test_ids_stay_what_they_are(write: Write) -> None:
    ids = ["NA", "null", "1e5", "007", "7", "0_5", "nan", "TRUE", "1.0"]
    path = write("m,who\n" + "".join(f"1,{name}\n" for name in ids))
    assert list(read(path).index) == ids


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_separators_are_told_by_the_header(write: Write, separator: str) -> None:
    text = "who,note,m\na,x y,0.5\n\n, ,\nb,z,0.25\n".replace(",", separator)
    assert read(write(text)).to_dict() == {"a": 0.5, "b": 0.25}
    assert read(write(text.replace("\n", "\r\n"))).to_dict() == {"a": 0.5, "b": 0.25}


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [(("0,5", "1"), (0.5, 1)), ((",5", "1,25"), (0.5, 1.25)), (("1,234", "0,412"), (1.234, 0.412))],
)
def test_decimal_commas_are_read_where_they_can_be_nothing_else(
    write: Write, cells: tuple[str, str], numbers: tuple[float, float]
) -> None:
    scores = read(write(f"who;m\na;{cells[0]}\nb;{cells[1]}\n"))
    assert tuple(scores) == numbers


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (("1,234", "2"), "the comma may be one of decimals or of thousands"),
        (("0,5", "0.5"), "other cells are not written with a comma"),
    ],
)
def test_commas_that_may_mean_two_things_are_refused(
    write: Write, cells: tuple[str, str], reason: str
) -> None:
    with pytest.raises(RecordError, match=f"line 2: m is '{cells[0]}' .{reason}"):
        read(write(f"who;m\na;{cells[0]}\nb;{cells[1]}\n"))


def test_excel_s_own_first_line_names_the_separator(write: Write) -> None:
    assert read(write("sep=;\nwho;m,x;m\na;1;2,5\n")).to_dict() == {"a": 2.5}
    with pytest.raises(RecordError, match="line 3: m is 'high'"):
        read(write("sep=;\nwho;m\na;high\n"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_tell_themselves_are_read(write: Write, encoding: str) -> None:
    assert read(write("who,m\né,1\n".encode(encoding))).to_dict() == {"é": 1.0}


def test_long_and_broken_cells_of_other_columns_are_passed_over(write: Write) -> None:
    long = "x " * 70_000
    scores = read(write(f'who,m,text\na,1,"{long}"\nb,2,"two\nlines, ""quoted"""\nc,3,\n'))
    assert scores.to_dict() == {"a": 1, "b": 2, "c": 3}
    with pytest.raises(RecordError, match="line 4: m is 'x'"):
        read(write('who,m,text\na,1,"two\nlines"\nb,x,\n'))


def test_letters_are_the_same_however_they_are_composed(write: Write) -> None:
    scores = read_scores(
        write("qui,exactitude e\u0301\nJose\u0301,1\n"),
        id_column="qui",
        metrics=["exactitude \u00e9"],
    )
    assert scores.index.tolist() == ["Jos\u00e9"]
    with pytest.raises(RecordError) as raised:
        read(write("who,m\nJos\u00e9,1\nJose\u0301,2\n"))
    assert "line 3: who 'José' a second time" in str(raised.value).replace("e\u0301", "é")
    assert "code points in line 2 ('Jos\\xe9' and 'Jose\\u0301')" in str(raised.value)


def test_names_in_the_header_may_have_spaces_around_them(write: Write) -> None:
    assert read(write("who , m\na,1\n")).to_dict() == {"a": 1.0}
    with pytest.raises(RecordError, match="'m' stands there 2 times"):
        read(write("who, m,m\na,1,2\n"))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PAR1\x15\x04", "a Parquet file"),
        (b"PK\x03\x04\x14", "an Excel workbook"),
        (gzip.compress(b"who,m\na,1\n", mtime=0), "a gzip file"),
        (b'[{"who": "a", "m": 1}]', "looks like JSON"),
        (b'{"who": "a", "m": 1}\n', "looks like JSON"),
        ("who,m\na,1\n".encode("utf-16-le"), "NUL bytes"),
    ],
)
def test_other_files_are_named_for_what_they_are(write: Write, content: bytes, what: str) -> None:
    with pytest.raises(RecordError, match=what):
        read(write(content))


def test_ids_that_differ_in_spelling_are_told() -> None:
    assert alike(["001", "x"], ["1", "y"]) == (
        "1 id differs only in case, leading zeros or a final .0 ('001' and '1'): write them alike "
        "in both tables"
    )
    assert alike(["Ann", "12.0"], ["ann", "12"]).startswith("2 ids differ")
    assert alike(["a"], ["b"]) == ""


def test_ids_that_match_in_part_are_told_on_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("who,m\n01,.1\n10,.2\n11,.3\n")
    Path("b.csv").write_text("who,m\n1,.1\n10,.3\n11,.3\n")
    command = ["compare", "--baseline", "a.csv", "--arm", "b.csv", "--id", "who", "--metrics", "m"]
    assert main([*command, "--resamples", "200", "--out", "out"]) == 0
    assert "Among them 1 id differs only in case, leading zeros" in capsys.readouterr().out
    Path("b.csv").write_text("who,m\n1,.1\n")
    assert main([*command, "--out", "out"]) == 2
    assert "the same users are needed: 1 id differs" in capsys.readouterr().err.replace("\n", " ")


def test_what_fails_on_the_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from results import two_tables

    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("who,m\na,.1\nb,.2\nc,.4\n")
    request = two_tables.TwoTables(
        baseline=tmp_path / "a.csv", arm=tmp_path / "b.csv", id_column="who", metrics=("m",),
        resamples=200,
    )  # fmt: skip
    compared = two_tables.compare_tables(request)

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(two_tables, "write_json", full)
    with pytest.raises(OSError, match="no space"):
        two_tables.write_comparison(request, compared, tmp_path / "new" / "out", command="again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]
