"""Ablations written, drawn and told: their own tables, figures and section of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from results.ablations import LIKELIHOOD, Point, ablation_table, lines_of
from results.analysis import HEADLINE, PRIMARY_METRIC
from results.collector import Collected, check_comparable
from results.document import (
    Block,
    Bullets,
    Cell,
    Heading,
    Section,
    Shown,
    Table,
    Text,
    records,
    table,
    value,
)
from results.figure_ablations import ablation_curves
from results.figure_fonts import glyph_note, with_note
from results.figure_style import Figure, house_style, save
from results.files import write_atomic, write_csv
from results.record import ARM_PURPOSES, MetricInfo
from results.wording import arm_title, interval, number, plural

AXES = {
    "lora_targets": "linear modules that LoRA adapts",
    "lora_rank": "rank of LoRA (alpha = 2 × rank)",
    "prefix_length": "tokens of the prefix",
    "online_budget": "online exchanges that the adapter is trained on",
}
TITLES = {
    "lora_targets": "LoRA targets",
    "lora_rank": "LoRA rank",
    "prefix_length": "Prefix length",
    "online_budget": "Online budget",
}
BUDGET_COLUMNS = ["mean_examples", "users_with_fewer"]
MAX_NAMED = 20


@dataclass(frozen=True, kw_only=True)
class AblationResults:
    """What the report takes over; empty where the study has no variant."""

    figures: tuple[Figure, ...] = ()
    section: Section | None = None

    def told(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """What to add to the report's facts: the section."""
        if self.section is None:
            return {}
        return {"sections": {**known.get("sections", {}), self.section.key: self.section}}


def finish_ablations(
    workspace: Path,
    arms: Collected,
    variants: Collected,
    points: Sequence[Point],
    *,
    command: str,
    seed: int,
    resamples: int,
) -> AblationResults:
    """Compare, write and draw all ablations; nothing without points.

    Args:
        workspace: the study's folder.
        arms: the study's arms, the defaults among them.
        variants: the ablations' own arms, collected apart.
        points: variants and defaults, in the order of the tables.
        command: what draws the figures again.
        seed: of the resamples.
        resamples: how many.

    Raises:
        RecordError: variants and arms were scored on different items, data, decoding or model.
    """
    if not points:
        return AblationResults()
    check_comparable(
        [
            record
            for side in (arms, variants)
            for record in side.records.values()
            if record.purpose in ARM_PURPOSES and "items.parquet" in record.files
        ]
    )
    metrics = {name: arms.metrics[name] for name in HEADLINE if name in arms.metrics}
    found = ablation_table(
        points,
        pd.concat([arms.table, variants.table], ignore_index=True),
        pd.concat([arms.slots, variants.slots], ignore_index=True),
        metrics=metrics,
        seed=seed,
        resamples=resamples,
    )
    names = list(dict.fromkeys(point.ablation for point in points))
    for name in names:
        write_csv(workspace / "results" / "ablations" / f"{name}.csv", _written(found, name))
    figures = draw_ablations(workspace, found, points, metrics=metrics, command=command)
    blocks = ablation_blocks(found, metrics=metrics, figures=figures, missing=variants.missing)
    section = Section(key="ablations", title="Ablations", blocks=tuple(blocks))
    return AblationResults(figures=tuple(figures.values()), section=section)


def _written(found: pd.DataFrame, name: str) -> pd.DataFrame:
    """One ablation's rows; columns that only a budget fills are left out elsewhere."""
    own = found[found["ablation"] == name]
    return own.drop(columns=BUDGET_COLUMNS) if own[BUDGET_COLUMNS].isna().all(axis=None) else own


def draw_ablations(
    workspace: Path,
    found: pd.DataFrame,
    points: Sequence[Point],
    *,
    metrics: Mapping[str, MetricInfo],
    command: str,
) -> dict[str, Figure]:
    """A figure per ablation into ``results/ablations/``, and a copy among the final figures."""
    folder = workspace / "results" / "ablations"
    shown = {name: metrics[name] for name in (PRIMARY_METRIC, LIKELIHOOD) if name in metrics}
    apart = {(point.ablation, point.arm) for point in points if point.detail}
    figures = {}
    with house_style():
        for name in dict.fromkeys(found["ablation"]):
            canvas = ablation_curves(
                found,
                name,
                metrics=shown,
                axis_title=_axis(name),
                apart={arm for ablation, arm in apart if ablation == name},
            )
            if canvas is None:
                continue
            note = glyph_note(canvas)
            paths = list(save(canvas, folder, name))
            copies = workspace / "results" / "figures" / "final"
            paths += [
                write_atomic(copies / f"ablation_{path.name}", path.read_bytes()) for path in paths
            ]
            figures[name] = Figure(
                name=f"ablation_{name}",
                title=_title(name),
                paths=tuple(paths),
                caption=with_note(_caption(found, name, command=command), note),
                alt=f"{_title(name)}: lift over the default against the {_axis(name)}.",
            )
    return figures


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " ").capitalize())


def _axis(name: str) -> str:
    return AXES.get(name, name.replace("_", " "))


def _caption(found: pd.DataFrame, name: str, *, command: str) -> str:
    rows = found[(found["ablation"] == name) & (found["arm"] != found["default"])]
    seeds = {
        str(kind): max(len(str(text).split()) for text in part["seeds"])
        for kind, part in rows.groupby("scored")
    }
    told = ", ".join(f"{plural(count, 'seed')} ({kind})" for kind, count in sorted(seeds.items()))
    return (
        f"{_title(name)}. Mean lift over the arm's default against the {_axis(name)}; above 0 is "
        "better; the default is hollow. "
        f"n = {plural(int(rows['n_users'].max()), 'user')}, {told}, test items. Interval: 95 % "
        "over users and seeds (bootstrap of users' means where variant and default start from the "
        "same adapter or with one seed, Student's over users and over seeds otherwise), each value "
        f"by itself. Redraw: {command}"
    )


def ablation_blocks(
    found: pd.DataFrame,
    *,
    metrics: Mapping[str, MetricInfo],
    figures: Mapping[str, Figure],
    missing: pd.DataFrame,
) -> list[Block]:
    """The report's blocks: how it was done, then findings, table and figure of each ablation."""
    shown = {name: metrics[name] for name in (PRIMARY_METRIC, LIKELIHOOD) if name in metrics}
    blocks: list[Block] = [Text(text=_method(found))]
    for name in dict.fromkeys(found["ablation"]):
        told = [
            _finding(arm, rows, metrics[metric])
            for metric in shown
            for arm, rows in lines_of(found, name, metric).items()
        ]
        blocks += [Heading(text=_title(name)), Bullets(items=tuple(told))]
        blocks.append(_table(found, name, shown))
        blocks += [Shown(figure=figures[name])] if name in figures else []
    return blocks + _missing(missing)


def _method(found: pd.DataFrame) -> str:
    variants = found[found["arm"] != found["default"]]
    seeds = variants.groupby("scored")["seeds"].agg(
        lambda texts: max(len(text.split()) for text in texts)
    )
    replies = plural(int(seeds.get("generated", 0)), "seed")
    likelihoods = plural(int(seeds.get("likelihood", 0)), "seed")
    return (
        "One quantity is changed at a time, everything else is the recipe's. A per-user adapter of "
        "another shape starts from an all-persona adapter of that shape; the online budgets share "
        "the default's start, and no token budget cuts them. Learning rates are the default's, not "
        "chosen anew for each variant. Each variant is compared with the "
        "arm's default on the same users, items and seeds. The likelihood of the true replies is "
        f"scored for {likelihoods}; replies are generated for {replies}. Variants are in no other "
        "table of this report. These intervals answer no declared question, and each stands for "
        "its value alone: there is no correction for looking at several."
    )


def _finding(arm: str, rows: pd.DataFrame, info: MetricInfo) -> str:
    """One sentence per line and metric, in words that its intervals support."""
    variants = records(rows[rows["arm"] != rows["default"]])
    # «ROUGE-L» is a name, «Negative log-likelihood …» begins with a word.
    word = info.title[1:2].islower()
    metric = info.title[0].lower() + info.title[1:] if word else info.title
    name = f"**{arm_title(arm)}, {metric}**"
    known = [row for row in variants if math.isfinite(row["ci_low"])]
    if not known:
        return f"{name}: n/a, no variant has an interval."
    sides = {
        "interval above 0": [row for row in known if row["ci_low"] > 0],
        "interval below 0": [row for row in known if row["ci_high"] < 0],
        "no evidence of a difference": [r for r in known if r["ci_low"] <= 0 <= r["ci_high"]],
    }
    parts = [f"{said}: {', '.join(map(_lift, rows))}" for said, rows in sides.items() if rows]
    return f"{name} ({_trust(known)}): {'; '.join(parts)}."


def _trust(rows: Sequence[Mapping[str, Any]]) -> str:
    """What intervals of so many seeds and values can carry."""
    seeds = max(len(str(row["seeds"]).split()) for row in rows)
    noise = ", no claim about training noise" if seeds < 3 else ""
    looks = f", {len(rows)} values looked at without correction" if len(rows) > 1 else ""
    return f"{plural(seeds, 'seed')}{noise}{looks}"


def _lift(row: Mapping[str, Any]) -> str:
    ends = interval(row["ci_low"], row["ci_high"], signed=True)
    return f"{_text(row['value'])} ({number(row['lift'], signed=True)} {ends})"


def _text(quantity: float | str) -> str:
    return quantity if isinstance(quantity, str) else f"{quantity:g}"


def _table(found: pd.DataFrame, name: str, shown: Mapping[str, MetricInfo]) -> Table:
    """A row per arm and value; a pair of columns per metric."""
    own = found[found["ablation"] == name]
    budget = own["users_with_fewer"].notna().any()
    lines = []
    for arm in dict.fromkeys(own["arm"]):
        rows = {row["metric"]: row for row in records(own[own["arm"] == arm])}
        first = next(iter(rows.values()))
        cells = [Cell(arm_title(first["default"])), _value(first), value(int(first["n_users"]))]
        for metric in shown:
            cells += _metric_cells(rows[metric])
        if budget:
            cells += [_count(first["mean_examples"], digits=1), _count(first["users_with_fewer"])]
        lines.append(cells)
    headers = ["Arm", "Value", "Users"]
    for info in shown.values():
        arrow = "↑" if info.higher_is_better else "↓"
        headers += [f"{info.title} {arrow}", "Lift over the default"]
    headers += ["Exchanges used (mean)", "Users with fewer"] if budget else []
    return table(
        f"{_title(name)}: means over users, and the paired lift over the default (positive is "
        "better) with its 95 % interval over users and seeds. All metrics are in "
        f"results/ablations/{name}.csv.",
        headers,
        lines,
    )


def _value(row: Mapping[str, Any]) -> Cell:
    quantity = row["value"]
    text = _text(quantity)
    if row["arm"] == row["default"]:
        text += f" ({row['note']})" if str(row["note"]).startswith("default") else " (default)"
    return Cell(text, None if isinstance(quantity, str) else float(quantity))


def _metric_cells(row: Mapping[str, Any]) -> list[Cell]:
    mean = value(row["mean"])
    if row["arm"] == row["default"]:
        return [mean, Cell("reference", -math.inf)]
    if not math.isfinite(row["lift"]):
        return [mean, Cell(str(row["note"]) or "n/a", math.inf)]
    ends = interval(row["ci_low"], row["ci_high"], signed=True)
    return [mean, Cell(f"{number(row['lift'], signed=True)} {ends}", row["lift"])]


def _count(quantity: float, *, digits: int = 0) -> Cell:
    if not math.isfinite(quantity):
        return Cell("—", math.inf)
    return Cell(number(quantity, digits=digits), quantity)


def _missing(missing: pd.DataFrame) -> list[Block]:
    """Variants without an adapter or a score, by reason; long lists are cut and say so."""
    if not len(missing):
        return []
    told = []
    for key, group in missing.groupby(["arm", "reason"], sort=False):
        arm, reason = map(str, key)
        names = list(dict.fromkeys(str(user) for user in group["user_id"]))
        more = len(names) - MAX_NAMED
        listed = ", ".join(names[:MAX_NAMED]) + (f" and {more:,} more" if more > 0 else "")
        told.append(f"{arm}: {listed} ({reason}).")
    return [Heading(text="Missing variants"), Bullets(items=tuple(told))]
