"""Figures of persona prediction: who is taken for whom, how well users are told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from results.document import records
from results.figure_fonts import glyph_note, with_note
from results.figure_style import (
    BLUE,
    GRAY,
    INK,
    LINE,
    MUTED,
    PAPER,
    PURPLE,
    VERMILLION,
    Figure,
    arm_color,
    copied,
    house_style,
    panels,
    save,
    short_name,
    zero_line,
)
from results.persona import PersonaEvaluation
from results.persona_ranking import pair_sums
from results.persona_stats import (
    BASE,
    CENTERED,
    CONTROLS,
    FIRST,
    MACRO,
    PRIMARY_METHOD,
)
from results.persona_wording import contrast_words, method_title
from results.wording import plural, verdict

FOLDER = Path("results/figures/persona_pred")
FINAL = Path("results/figures/final")
NAMED_USERS = 40
"""Up to so many users have their names beside the heat map."""
METRIC_TITLES = {FIRST: "Accuracy at 1", "accuracy_at_5": "Accuracy at 5", "mrr": "MRR"}
BOOTSTRAP = "95 % percentile bootstrap over users"
# From paper to dark blue; lightness falls evenly, so a gray print reads alike.
_SHARES = LinearSegmentedColormap.from_list(
    "shares", ["#f4f7fa", "#b8d6ea", "#5aa2cf", "#0072b2", "#02395a"]
)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One figure: how it is drawn and told. ``draw`` returns None without data for it."""

    title: str
    draw: Callable[[PersonaEvaluation], Canvas | None]
    text: str
    interval: str


def method_color(method: str) -> str:
    """The arm's color; encoder and base have their own, controls are gray."""
    known = {PRIMARY_METHOD: PURPLE, BASE: INK, "tfidf": MUTED, "length": GRAY}
    plain = method.removesuffix(CENTERED)
    return known.get(plain) or arm_color(plain)


def confusion_order(evaluation: PersonaEvaluation, users: Sequence[str]) -> list[int]:
    """Places of the users by cluster, then in their own order; users without a cluster last."""
    clusters = evaluation.cluster_of
    return sorted(range(len(users)), key=lambda place: (clusters.get(users[place], 1 << 30), place))


def confusion(evaluation: PersonaEvaluation) -> Canvas | None:
    """Heat map of the declared method: true users down, predicted users across."""
    ranking = evaluation.rankings[evaluation.primary]
    if not len(ranking.query_ids):
        return None
    order = confusion_order(evaluation, ranking.users)
    queries = np.maximum(ranking.queries_of, 1)[:, None]
    shares = (pair_sums(ranking, FIRST) / queries)[np.ix_(order, order)]
    names = [ranking.users[place] for place in order]
    canvas, (axis,) = panels(1, columns=1, width=7.2, height=6.4)
    image = axis.imshow(shares, cmap=_SHARES, vmin=0, vmax=max(0.01, shares.max()), aspect="equal")
    bar = canvas.colorbar(image, ax=axis, shrink=0.8, pad=0.02)
    bar.set_label("share of the true user's messages")
    bar.outline.set_visible(False)
    _user_ticks(axis, evaluation, names)
    axis.set_xlabel("predicted user")
    axis.set_ylabel("true user")
    axis.set_title(_accuracy_title(evaluation, evaluation.primary))
    return canvas


def _accuracy_title(evaluation: PersonaEvaluation, method: str) -> str:
    row = evaluation.number(method)
    if row["n_candidates"] < 2:
        return f"{method_title(method)}: n/a, nobody else to be taken for"
    return f"{method_title(method)}: accuracy {row['value']:.2f}, chance {row['chance']:.3f}"


def _user_ticks(axis: Axes, evaluation: PersonaEvaluation, names: Sequence[str]) -> None:
    """Lines between clusters, and the names of the users or, if they are many, of clusters."""
    labels = [evaluation.cluster_of.get(name) for name in names]
    starts = [0, *(k for k in range(1, len(names)) if labels[k] != labels[k - 1]), len(names)]
    for edge in starts[1:-1]:
        for line in (axis.axhline, axis.axvline):
            line(edge - 0.5, color=MUTED, linewidth=0.6, alpha=0.7)
    axis.tick_params(length=0)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    if len(names) <= NAMED_USERS:
        short = [short_name(name) for name in names]
        axis.set_xticks(range(len(names)), short, rotation=90, fontsize=7)
        axis.set_yticks(range(len(names)), short, fontsize=7)
        return
    middles = [(a + b - 1) / 2 for a, b in pairwise(starts)]
    clusters = [labels[start] for start in starts[:-1]]
    told = ["none" if cluster is None else f"cluster {cluster}" for cluster in clusters]
    axis.set_xticks(middles, told, rotation=90, fontsize=7)
    axis.set_yticks(middles, told, fontsize=7)


def accuracies(evaluation: PersonaEvaluation) -> Canvas | None:
    """A panel per metric, a row per method: value and interval over chance and null."""
    methods = list(evaluation.rankings)
    height = 0.9 + 0.3 * len(methods)
    canvas, axes = panels(3, columns=3, width=9.6, height=height, share_y=True)
    for axis, (metric, title) in zip(axes, METRIC_TITLES.items(), strict=True):
        for place, method in enumerate(methods):
            row = evaluation.number(method, metric)
            # Chance may differ from row to row: per-user adapters have fewer candidates.
            axis.barh(place, row["null_99"], height=0.72, color=LINE, zorder=1)
            axis.vlines(row["chance"], place - 0.36, place + 0.36, color=MUTED, linewidth=1)
            color = method_color(method)
            hollow = method.endswith(CENTERED)
            axis.hlines(place, row["low"], row["high"], color=color, linewidth=1.8)
            face = PAPER if hollow else color
            axis.plot(row["value"], place, "o", color=color, markerfacecolor=face, markersize=5.5)
        axis.set_title(title)
        axis.set_xlim(left=0)
        axis.grid(axis="x")
    axes[0].set_yticks(range(len(methods)), [method_title(method) for method in methods])
    axes[0].set_ylim(len(methods) - 0.4, -0.6)
    axes[0].tick_params(axis="y", length=0)
    return canvas


def adaptation(evaluation: PersonaEvaluation) -> Canvas | None:
    """Differences in accuracy per user, adapted against not and against the controls."""
    rows = [row for row in records(evaluation.contrasts) if row["n_users"]]
    if not rows:
        return None
    canvas, (axis,) = panels(1, columns=1, width=8.2, height=0.9 + 0.3 * len(rows))
    colors = {"higher": BLUE, "lower": VERMILLION}
    for place, row in enumerate(rows):
        color = colors.get(verdict(row), GRAY)
        face = color if row["question"] == "adapted" else PAPER
        axis.hlines(place, row["low"], row["high"], color=color, linewidth=1.8)
        axis.plot(row["mean_lift"], place, "o", color=color, markerfacecolor=face, markersize=6)
    zero_line(axis)
    axis.set_yticks(range(len(rows)), [contrast_words(row["contrast"]) for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("difference in accuracy at 1, mean over users")
    axis.grid(axis="x")
    return canvas


def match_curves(evaluation: PersonaEvaluation) -> Canvas | None:
    """Share of messages whose writer is among the first k candidates, for growing k."""
    curves = evaluation.curves[~evaluation.curves["method"].str.endswith(CENTERED)]
    # Of one candidate there is no second place to come to.
    if curves.empty or curves["k"].max() < 2:
        return None
    canvas, (axis,) = panels(1, columns=1, width=6.6, height=4.2)
    for method, rows in curves.groupby("method", sort=False):
        style = "--" if method in CONTROLS else "-"
        color, label = method_color(str(method)), method_title(str(method))
        axis.plot(rows["k"], rows["share"], style, color=color, linewidth=1.6, label=label)
    most = int(curves["k"].max())
    axis.plot([1, most], [1 / most, 1], ":", color=INK, linewidth=1, label="chance")
    axis.set_xlim(1, most)
    axis.set_ylim(0, 1.02)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("k: users that are looked at")
    axis.set_ylabel("share of messages whose writer is among them")
    axis.grid()
    axis.legend(loc="lower right")
    return canvas


def clusters(evaluation: PersonaEvaluation) -> Canvas | None:
    """Accuracy by cluster of the writers, and how many errors stay inside the cluster."""
    table = evaluation.clusters[evaluation.clusters["method"] == evaluation.primary]
    table = table[table["n_users"] > 0]
    if table.empty:
        return None
    labels = [
        f"cluster {row['cluster']} ({plural(int(row['n_users']), 'user')})"
        for row in records(table)
    ]
    places = np.arange(len(table))
    canvas, axes = panels(2, columns=2, width=8.2, height=0.9 + 0.3 * len(table), share_y=True)
    axes[0].hlines(places, table["low"], table["high"], color=PURPLE, linewidth=1.8)
    axes[0].plot(table[FIRST], places, "o", color=PURPLE, clip_on=False)
    macro = evaluation.number(evaluation.primary, MACRO)["value"]
    axes[0].axvline(macro, color=MUTED, linewidth=1, linestyle="--")
    axes[0].set_title("Accuracy at 1")
    axes[0].set_yticks(places, labels)
    axes[0].set_ylim(len(table) - 0.4, -0.6)
    axes[1].plot(table["errors_inside"], places, "o", color=INK, clip_on=False)
    axes[1].vlines(
        table["errors_inside_chance"], places - 0.3, places + 0.3, color=MUTED, linewidth=1.5
    )
    axes[1].set_title("Errors that stay inside the cluster")
    for axis in axes:
        axis.set_xlim(0, 1)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x")
    return canvas


FIGURES: dict[str, Drawing] = {
    "confusion_matrix": Drawing(
        title="Who is taken for whom",
        draw=confusion,
        text="Each row is a true user, each column the user that the message was given to; the "
        "diagonal is right. Users are ordered by style cluster, with lines between clusters. A "
        "tie at the top predicts nobody and is in no column.",
        interval="none",
    ),
    "accuracy": Drawing(
        title="How well users are told apart",
        draw=accuracies,
        text="Points: the method's value; hollow ones are centered. Gray bars reach to the 99th "
        "percentile of the null of permuted labels; the line in them is chance.",
        interval=BOOTSTRAP,
    ),
    "adaptation": Drawing(
        title="What adaptation does to separability",
        draw=adaptation,
        text="Paired differences on the same messages and candidates. Filled: declared primary. "
        "Blue: evidence of better separation, vermillion: of worse, gray: neither.",
        interval=f"{BOOTSTRAP}; p adjusted within its family",
    ),
    "match_curves": Drawing(
        title="Cumulative match",
        draw=match_curves,
        text="Share of messages whose writer is among the k best candidates. Dashed: controls.",
        interval="none",
    ),
    "clusters": Drawing(
        title="Persona prediction by cluster",
        draw=clusters,
        text="Left: mean over the cluster's users; dashed: over all users. Right: share of wrong "
        "answers that name a user of the same cluster; the line is the share at random.",
        interval="95 % Student's t (clusters are small), cut to [0, 1]; none below 3 users",
    ),
}


def draw_persona_figures(
    workspace: Path,
    evaluation: PersonaEvaluation,
    *,
    command: str = "python -m orchestrator report --study persona_prediction",
) -> list[Figure]:
    """Draw the set into ``results/figures/persona_pred/``, with a copy among the final figures.

    Figures without data are left out.
    """
    found = []
    with house_style():
        for name, drawing in FIGURES.items():
            canvas = drawing.draw(evaluation)
            if canvas is None:
                continue
            note = glyph_note(canvas)
            paths = save(canvas, workspace / FOLDER, name)
            copies = workspace / FINAL
            found.append(
                Figure(
                    name=f"persona_{name}",
                    title=drawing.title,
                    paths=(*paths, *(copied(path, copies, f"persona_{name}") for path in paths)),
                    caption=with_note(_caption(drawing, evaluation, command), note),
                    alt=f"{drawing.title}. {drawing.text}",
                )
            )
    return found


def _caption(drawing: Drawing, evaluation: PersonaEvaluation, command: str) -> str:
    row = evaluation.number(evaluation.primary)
    size = f"{plural(row['n_users'], 'user')}, {plural(row['n_queries'], 'message')}"
    return (
        f"{drawing.title}. {drawing.text} n = {size}, test sessions. "
        f"Interval: {drawing.interval}. Redraw: {command}"
    )
