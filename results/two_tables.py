"""Two per-user score tables against each other: a study's statistics and figures for any scores.

The tables may come from anywhere. Users are paired by id; who is in one table alone is named and
left out. All metrics that are asked for are one family (Holm).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from results.analysis import Analysis, analyze
from results.cold_warm import SCORE_COLUMNS
from results.collector import CURVE_COLUMNS, MISSING_COLUMNS, SLOT_COLUMNS
from results.comparison import TESTS
from results.contrasts import BASELINE, Contrast
from results.document import Block, Bullets, Section, Shown, Table, span, table, value
from results.figure_fonts import with_note
from results.figure_scores import metric_pages
from results.figure_style import house_style
from results.figures import FIGURES, Figure, drawn
from results.files import file_sha256, write_atomic, write_csv, write_json
from results.id_spelling import alike
from results.record import MetricInfo, RecordError
from results.report import render_markdown
from results.score_files import read_scores
from results.updates import Traced
from results.wording import Row, caution, finding, p_number, plural

NAN = float("nan")
SHOWN = 5
SPLIT = "given"
BOOTSTRAP = "95 % percentile bootstrap over users"
WHOLE = {
    "metric_by_metric": (
        "Mean lift in each metric's own unit, signed so that right is better.",
        BOOTSTRAP,
    ),
    "macro_metrics": (
        "Mean over each table's users. Intervals may overlap although the paired difference is "
        "clear.",
        BOOTSTRAP,
    ),
}
"""Text and interval of the figures of all metrics; ``EACH`` are drawn metric by metric."""
EACH = {
    "lift_violins": (
        "Each point is a user's lift; box: quartiles, whiskers: 1.5 quartile ranges, diamond: "
        "mean.",
        "none (spread of users, not uncertainty of the mean)",
    ),
    "sorted_lifts": (
        "Users sorted by their lift; helped and hurt are signs.",
        "95 % Wilson interval of the share hurt, in the title",
    ),
    "helped_hurt": ("Counts of users; the sign test is exact, two-sided, ties left out.", "none"),
}


@dataclass(frozen=True, kw_only=True)
class TwoTables:
    """What is compared, and how.

    Attributes:
        baseline, arm: CSV files; lifts are ``arm - baseline``, positive where the arm is better.
        id_column: names the user in both.
        metrics: columns; the first is the primary one, whose unit ``margin`` is in.
        lower_is_better: those of them of which less is better.
        name: the arm's name in tables and figures.
        margin: equivalence margin of the first metric; NaN: no TOST.
        seed, resamples: of bootstrap and permutation.
    """

    baseline: Path
    arm: Path
    id_column: str
    metrics: Sequence[str]
    lower_is_better: Sequence[str] = ()
    name: str | None = None
    margin: float = NAN
    seed: int = 0
    resamples: int = 10_000

    @property
    def contrast(self) -> Contrast:
        """The only one there is; its question was the user's before results."""
        name = self.name or self.arm.stem
        # A table may be called as the other side is.
        arm = f"{name} (arm)" if name == BASELINE else name
        return Contrast(arm=arm, reference=BASELINE, question="adapted", primary=True)


class Scores:
    """The tables in the form that the analysis reads; nothing but scores is there."""

    def __init__(self, table: pd.DataFrame, metrics: Mapping[str, MetricInfo]) -> None:
        self.table, self.metrics = table, metrics
        self.slots = pd.DataFrame(columns=SLOT_COLUMNS)
        self.curves = pd.DataFrame(columns=CURVE_COLUMNS)
        self.missing = pd.DataFrame(columns=MISSING_COLUMNS)
        self.few = pd.DataFrame(columns=SCORE_COLUMNS)
        self.traced = Traced()

    def items(
        self, arm: str, *, seed: int, split: str = "test", columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """None: the tables hold users' scores alone."""
        return pd.DataFrame(columns=list(columns or ()))


@dataclass(frozen=True)
class Compared:
    """Numbers of two tables, and the users that only one of them has."""

    scores: Scores
    analysis: Analysis
    only_baseline: tuple[str, ...]
    only_arm: tuple[str, ...]


def compare_tables(request: TwoTables) -> Compared:
    """Read both tables and compare them over the users of both.

    Raises:
        RecordError: a file, column or cell that cannot be used, no common user, a metric named
            twice, or a direction of a metric that is not compared.
    """
    names = list(request.metrics)
    _check_names(names, request.lower_is_better)
    read = {
        arm: read_scores(path, id_column=request.id_column, metrics=names)
        for arm, path in ((BASELINE, request.baseline), (request.contrast.arm, request.arm))
    }
    before, after = read.values()
    if not len(before.index.intersection(after.index)):
        hint = alike(list(before.index), list(after.index))
        raise RecordError(
            f"No {request.id_column} of {request.baseline} is in {request.arm} "
            f"(the first are {before.index[0]!r} and {after.index[0]!r}); the same users are needed"
            + (f": {hint}" if hint else "")
        )
    metrics = {
        name: MetricInfo(
            higher_is_better=name not in request.lower_is_better, unit="score", title=name
        )
        for name in names
    }
    scores = Scores(_tidy(read), metrics)
    analysis = analyze(
        scores,
        seed=request.seed,
        margin=request.margin,
        resamples=request.resamples,
        primary_metric=names[0],
        contrasts=[request.contrast],
        primary=[(request.contrast.name, name) for name in names],
        main_metrics=names,
    )
    return Compared(
        scores,
        analysis,
        only_baseline=tuple(before.index.difference(after.index)),
        only_arm=tuple(after.index.difference(before.index)),
    )


def _check_names(metrics: Sequence[str], lower: Sequence[str]) -> None:
    twice = sorted({name for name in metrics if metrics.count(name) > 1})
    strange = sorted(set(lower) - set(metrics))
    if twice:
        raise RecordError(f"Metrics named twice: {', '.join(twice)}; each is compared once.")
    if strange:
        raise RecordError(
            f"Lower is better for {', '.join(strange)}, which is not compared; "
            f"one of {', '.join(metrics)} is allowed."
        )


def _tidy(read: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Both tables as the collector's one: a row per arm, user and metric with a score."""
    parts = [
        frame.rename_axis("user_id")
        .reset_index()
        .melt(id_vars="user_id", var_name="metric")
        .assign(arm=arm)
        for arm, frame in read.items()
    ]
    tidy = pd.concat(parts, ignore_index=True).dropna(subset=["value"])
    return tidy.assign(seed=0, split=SPLIT, slice="all", n_items=1)


def write_comparison(
    request: TwoTables, compared: Compared, into: Path, *, command: str
) -> list[Path]:
    """``comparisons.csv``, ``lifts.csv``, ``comparison.json``, ``comparison.md`` and figures.

    ``command`` is what makes them again, for the captions; returns the paths written. All is made
    beside ``into`` first, so that what fails on the way leaves nothing there.
    """
    there = next(folder for folder in (into, *into.absolute().parents) if folder.is_dir())
    with TemporaryDirectory(prefix=".compare-", dir=there) as staged:
        made = _written(request, compared, Path(staged), command=command)
        return [_moved(path, into / path.relative_to(staged)) for path in made]


def _moved(path: Path, to: Path) -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    return path.replace(to)


def _written(request: TwoTables, compared: Compared, into: Path, *, command: str) -> list[Path]:
    figures = _figures(compared, into / "figures", command=command)
    text = render_markdown(_title(request), sections(request, compared, figures), root=into)
    return [
        write_csv(into / "comparisons.csv", compared.analysis.comparisons),
        write_csv(into / "lifts.csv", compared.analysis.lifts),
        write_json(into / "comparison.json", as_json(request, compared)),
        write_atomic(into / "comparison.md", text.encode("utf-8", "backslashreplace")),
        *(path for figure in figures for path in figure.paths),
    ]


def as_json(request: TwoTables, compared: Compared) -> dict[str, Any]:
    """All of it for other programs; numbers that cannot be had are null, with their reason."""
    rows = compared.analysis.comparisons.astype(object)
    return {
        "baseline": {"file": request.baseline.name, "sha256": file_sha256(request.baseline)},
        "arm": {"file": request.arm.name, "sha256": file_sha256(request.arm)},
        "id": request.id_column,
        "lower_is_better": list(request.lower_is_better),
        "margin": None if math.isnan(request.margin) else request.margin,
        "seed": request.seed,
        "resamples": request.resamples,
        "left_out": {
            "only_in_baseline": list(compared.only_baseline),
            "only_in_arm": list(compared.only_arm),
        },
        "comparisons": rows.where(rows.notna(), None).to_dict(orient="records"),
    }


def left_out_lines(request: TwoTables, compared: Compared) -> list[str]:
    """Who is in one table alone, the first few by name, and whether spelling may be why."""
    sides = ((request.baseline, compared.only_baseline), (request.arm, compared.only_arm))
    hint = alike(compared.only_baseline, compared.only_arm)
    return [
        f"{plural(len(users), 'user')} only in {path.name}, left out: {_first(users)}"
        for path, users in sides
        if users
    ] + ([f"Among them {hint}"] if hint else [])


def _first(users: Sequence[str]) -> str:
    more = len(users) - SHOWN
    return ", ".join(users[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _title(request: TwoTables) -> str:
    return f"{request.contrast.arm} against {request.baseline.name}"


def sections(request: TwoTables, compared: Compared, figures: Sequence[Figure]) -> list[Section]:
    """The comparison for people: what it says, the numbers, who was left out, figures."""
    rows = _rows(compared.analysis)
    said = tuple(
        finding(row, metric=f"of {name}", margin=request.margin, name=name) for name, row in rows
    )
    shown = tuple(Shown(figure=figure) for figure in figures)
    blocks: dict[str, tuple[Block, ...]] = {
        "Findings": (Bullets(items=said),),
        "Statistics": (_table(request, rows),),
        "What was compared": (Bullets(items=_notes(request, compared)),),
        "Figures": shown,
    }
    return [Section(key=title, title=title, blocks=part) for title, part in blocks.items()]


def _rows(analysis: Analysis) -> list[tuple[str, Row]]:
    """The metrics that users have in both tables, with their numbers."""
    found = [(name, analysis.row(analysis.contrasts[0].name, name)) for name in analysis.metrics]
    return [(name, row) for name, row in found if row is not None]


def _table(request: TwoTables, rows: Sequence[tuple[str, Row]]) -> Table:
    headers = (
        *("Metric", "Users", "Mean lift", "95 % interval", "BCa interval", "Adjusted p"),
        *(" / ".join(TESTS), "dz", "Cliff's delta", "P(improvement)"),
        *("Helped / tied / hurt", "TOST p", "Smallest detectable"),
    )
    lines = [
        (
            f"{name} ({'lower' if name in request.lower_is_better else 'higher'} is better)",
            value(int(row["n_users"])),
            value(row["mean_lift"], signed=True),
            span(row["ci_low"], row["ci_high"], signed=True),
            span(row["bca_low"], row["bca_high"], signed=True),
            p_number(float(row["p_adjusted"])),
            " / ".join(p_number(float(row[test])) for test in TESTS),
            value(row["dz"], signed=True, digits=2),
            value(row["cliffs_delta"], signed=True, digits=2),
            value(row["prob_improvement"], digits=2),
            f"{row['helped']} / {row['tied']} / {row['hurt']}",
            p_number(float(row["p_tost"])),
            value(row["mde80"]),
        )
        for name, row in rows
    ]
    return table(f"Lifts: {request.arm.name} minus {request.baseline.name}.", headers, lines)


def _notes(request: TwoTables, compared: Compared) -> tuple[str, ...]:
    """How users were paired, who was left out, and how to read the numbers."""
    both = compared.analysis.comparisons["n_users"]
    notes = [
        f"{plural(int(both.max()), 'user')} in both tables, paired by {request.id_column}; lifts "
        "are signed so that positive is better.",
        *(f"{line}." for line in left_out_lines(request, compared)),
        *(
            f"{name}: {remark}."
            for name, row in _rows(compared.analysis)
            for remark in row["note"].split("; ")
            if "n/a" in remark or "without both scores" in remark
        ),
        f"Intervals are 95 % over users, {request.resamples:,} resamples, seed {request.seed}; "
        "p is adjusted over the metrics compared (Holm, sign-flip permutation test). Helped and "
        "hurt are signs of a user's lift.",
        "All numbers: comparisons.csv and comparison.json; every user's lift: lifts.csv.",
    ]
    few = caution(int(both.max()), n_seeds=3)
    return (*notes, f"{few[0].upper()}{few[1:]}.") if few else tuple(notes)


def _figures(compared: Compared, folder: Path, *, command: str) -> list[Figure]:
    """Figures of all metrics once, of users' lifts metric by metric."""
    analysis = compared.analysis
    scored = [name for name, _ in _rows(analysis)]
    sheets = metric_pages(analysis, analysis.arms)
    wanted = [
        (name if place == 1 else f"{name}_{place}", replace(analysis, main_metrics=page), name)
        for name in WHOLE
        for place, page in enumerate(map(tuple, sheets), start=1)
    ] + [
        (f"{name}_{place}", replace(analysis, primary_metric=metric), name)
        for place, metric in enumerate(scored, start=1)
        for name in EACH
    ]
    found = []
    with house_style():
        for file, numbers, name in wanted:
            figure = drawn(
                FIGURES[name],
                numbers,
                compared.scores,
                folders=(folder,),
                name=file,
                command=command,
            )
            if figure is not None:
                caption = _caption(name, numbers, sheets=len(sheets), command=command)
                found.append(replace(figure, caption=with_note(caption, figure.note)))
    return found


def _caption(name: str, analysis: Analysis, *, sheets: int, command: str) -> str:
    text, interval = (WHOLE | EACH)[name]
    shown = analysis.headline()
    if name in EACH:
        shown = [analysis.primary_metric]
        text = f"{shown[0]}. {text}"
    elif sheets > 1:
        text = f"{shown[0]} to {shown[-1]}, {len(shown)} of {len(analysis.metrics)} metrics. {text}"
    rows = dict(_rows(analysis))
    sizes = sorted({int(rows[metric]["n_users"]) for metric in shown if metric in rows}) or [0]
    users = " to ".join(dict.fromkeys((str(sizes[0]), str(sizes[-1]))))
    return f"{text} n = {users} users. Interval: {interval}. Redraw: {command}"
