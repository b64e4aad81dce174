"""The report's section on the search before a study: what was tried, and the log of choices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Canvas

from results import figure_search
from results.document import (
    Block,
    Bullets,
    Cell,
    Section,
    Shown,
    Table,
    Text,
    records,
    table,
    value,
)
from results.figure_fonts import glyph_note
from results.figure_style import Figure, house_style, save
from results.search import (
    DEFAULT,
    arms_of,
    last_rung,
    read_history,
    rung_of,
    search_path,
)
from results.wording import arm_title, number, plural

KEY = "search"
FOLDER = Path("results/figures/search")
MAX_ROWS = 80
DIGITS = 4
METHODS = {
    "grid": "the points of a grid",
    "random": "random draws",
    "optuna": "Optuna's tree-structured Parzen estimator, asked in batches of four",
}


@dataclass(frozen=True, kw_only=True)
class SearchResults:
    """What the report takes over."""

    figures: tuple[Figure, ...] = ()
    section: Section | None = None

    def told(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """What to add to the report's facts."""
        if self.section is None:
            return {}
        return {"sections": {**known.get("sections", {}), KEY: self.section}}


def finish_search(
    workspace: Path,
    *,
    study: str,
    method: str,
    command: str = "python -m orchestrator report",
) -> SearchResults:
    """Figures and section of the search that the study was run with; nothing without one.

    Args:
        workspace: the study's folder.
        study: its name.
        method: ``grid``, ``random``, ``optuna``, or ``none``.
        command: what draws the figures again.
    """
    if method == "none":
        return SearchResults()
    history = read_history(search_path(workspace, study))
    if history.empty:
        return SearchResults()
    figures = draw_search(workspace, history, study=study, command=command)
    return SearchResults(
        figures=tuple(figures), section=search_section(history, figures, study=study, method=method)
    )


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    title: str
    draw: Callable[[pd.DataFrame], Canvas | None]
    text: str


FIGURES: dict[str, _Drawing] = {
    "importance": _Drawing(
        title="Settings that validation scores go along with",
        draw=figure_search.importances,
        text="Spearman's rank correlation over the candidates of the first rung. Blue: larger "
        "values go along with better scores. Candidates are few and several settings vary at "
        "once: it tells where to look.",
    ),
    "parallel": _Drawing(
        title="All candidates of the search",
        draw=figure_search.parallel_coordinates,
        text="Each line is a candidate of the first rung; the axes run from the least to the "
        "largest value tried, the last one is the validation score (lower is better).",
    ),
}


def draw_search(
    workspace: Path, history: pd.DataFrame, *, study: str, command: str
) -> list[Figure]:
    """Draw the set into ``results/figures/search/``; figures without data are left out."""
    found = []
    with house_style():
        for name, drawing in FIGURES.items():
            canvas = drawing.draw(history)
            if canvas is None:
                continue
            note = glyph_note(canvas)
            found.append(
                Figure(
                    name=f"search_{name}",
                    title=drawing.title,
                    paths=save(canvas, workspace / FOLDER, f"{study}_{name}"),
                    caption=f"{drawing.title}. {drawing.text} {_size(history)} Interval: none."
                    f"{note} Redraw: {command}",
                    alt=f"{drawing.title}. {drawing.text}",
                )
            )
    return found


def _size(history: pd.DataFrame) -> str:
    first = history[history["rung"] == 0]
    return f"n = {plural(len(first), 'candidate')}, validation items."


def search_section(
    history: pd.DataFrame, figures: Sequence[Figure], *, study: str, method: str
) -> Section:
    """How settings were chosen, the log of choices, all candidates."""
    blocks: list[Block] = [
        Text(text=_method(history, method)),
        Bullets(items=tuple(_choice(history, arm) for arm in arms_of(history))),
        _candidates(history, study),
        *(Shown(figure=figure) for figure in figures),
    ]
    return Section(key=KEY, title="Search: how settings were chosen", blocks=tuple(blocks))


def _method(history: pd.DataFrame, method: str) -> str:
    tried = int(history.loc[history["rung"] == 0, "candidate"].max()) + 1
    return (
        f"Before the study ran, each arm below tried up to {plural(tried, 'config')} (the default "
        f"and {METHODS.get(method, method)}) with the first seed. Choices saw the earlier half of "
        "each user's validation sessions alone: no test item, and none of those that the no-harm "
        "gate asks. Scored is the negative log-likelihood per token of the true replies (NLL, "
        "lower is better), one number per user, mean over users. After each rung the best third "
        "went on, with the default beside it to the end, so that no choice is worse than the "
        "default on the same users; a candidate that lacks a user comes behind those that do not, "
        "and ties go to the default. On test items each arm was run with the chosen config alone. "
        "The best of several validation scores is optimistic by its choice; the test scores are "
        "not."
    )


def _choice(history: pd.DataFrame, arm: str) -> str:
    """One arm's line in the log of choices."""
    end = last_rung(history, arm)
    best = next(iter(records(end[end["chosen"]])))
    default = next(iter(records(end[end["candidate"] == DEFAULT])))
    score = f"NLL {number(best['nll'], digits=DIGITS)} on {plural(int(best['users']), 'user')}"
    path = f"Candidates: {_path(history, arm)}."
    if best["candidate"] == DEFAULT:
        return f"**{arm_title(arm)}**: the default config stays, {score}. {path}"
    against = f"against {number(default['nll'], digits=DIGITS)} of the default"
    changed = _changes(best["settings"], default["settings"])
    return f"**{arm_title(arm)}**: {changed}; {score} {against}. {path}"


def _changes(config: Mapping[str, Any], default: Mapping[str, Any]) -> str:
    changed = [
        f"`{name}` {_text(default.get(name))} → {_text(new)}"
        for name, new in config.items()
        if new != default.get(name)
    ]
    return ", ".join(changed)


def _path(history: pd.DataFrame, arm: str) -> str:
    """«8 on 20 users → 4 on 60 users → 2 on 200 users»."""
    parts = []
    for rung in sorted(set(history.loc[history["arm"] == arm, "rung"])):
        rows = rung_of(history, arm, int(rung))
        epochs = rows["epochs"].iloc[0]
        on = plural(int(rows["users"].max()), "user")
        after = "" if _unknown(epochs) else f" after {plural(int(epochs), 'epoch')}"
        parts.append(f"{len(rows)} on {on}{after}")
    return " → ".join(parts)


def _candidates(history: pd.DataFrame, study: str) -> Table:
    """Every candidate on its last rung, best first within an arm."""
    last = history.sort_values("rung").groupby(["arm", "candidate"], sort=False).tail(1)
    order = {arm: place for place, arm in enumerate(arms_of(history))}
    last = last.assign(place=last["arm"].map(order)).sort_values(
        ["place", "rung", "nll"], ascending=[True, False, True]
    )
    rows = [_row(row) for row in records(last.head(MAX_ROWS))]
    more = len(last) - len(rows)
    cut = f" {more:,} more are there." if more > 0 else ""
    return table(
        "All candidates, each on its last rung; NLLs of different rungs do not compare. Every rung "
        f"is in results/search/{study}.csv.{cut}",
        ("Arm", "Candidate", "Users", "Epochs", "NLL", "ROUGE-L", "Seconds", "Settings", ""),
        rows,
    )


def _row(row: Mapping[str, Any]) -> list[Cell]:
    default = row["candidate"] == DEFAULT
    settings = ", ".join(
        f"{figure_search.short(name)} {_text(setting)}" for name, setting in row["settings"].items()
    )
    return [
        Cell(arm_title(str(row["arm"]))),
        Cell(f"{row['candidate']}" + (" (default)" if default else ""), float(row["candidate"])),
        value(int(row["users"])),
        Cell("—") if _unknown(row["epochs"]) else value(int(row["epochs"])),
        value(row["nll"], digits=DIGITS),
        Cell("—") if _unknown(row["rouge_l"]) else value(float(row["rouge_l"])),
        value(float(row["seconds"]), digits=1),
        Cell(settings),
        Cell("chosen" if row["chosen"] else ""),
    ]


def _unknown(number_: Any) -> bool:
    return number_ is None or math.isnan(float(number_))


def _text(setting: Any) -> str:
    return f"{setting:g}" if isinstance(setting, float) else str(setting)
