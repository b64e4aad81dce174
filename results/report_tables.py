"""The report's tables: contrasts, macro scores, reliability, users."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from results.analysis import Analysis
from results.contrasts import BASELINE, SWAPPED, Contrast, is_per_user, is_swapped
from results.document import Cell, Table, records, span, table, value
from results.wording import (
    SLICE_TITLES,
    arm_title,
    bounds,
    contrast_title,
    detectable,
    interval,
    number,
    p_number,
    plural,
    reason,
    share,
    spoken_tests,
    verdict,
)

MAX_METRICS = 6


def title_of(analysis: Analysis, metric: str | None = None) -> str:
    """The metric's title (the primary one's unless named)."""
    return analysis.metrics[metric or analysis.primary_metric].title


def measure(analysis: Analysis, metric: str | None = None) -> str:
    """What a lift is measured in: «ROUGE-L», «words of verbosity error»."""
    info = analysis.metrics[metric or analysis.primary_metric]
    if info.unit in ("F", "cosine", "share", "points"):
        return info.title
    return f"{info.unit} of {info.title[0].lower()}{info.title[1:]}"


def contrast_table(analysis: Analysis, contrasts: Sequence[Contrast], *, caption: str) -> Table:
    """Contrasts on the primary metric, one row each; «n/a» with the reason."""
    rows = []
    for contrast in contrasts:
        row = analysis.row(contrast.name)
        if row is None:
            continue
        said = verdict(row)
        words = f"n/a: {reason(row)}" if said == "n/a" else _VERDICTS[said]
        if row["flag"]:
            words += f" ({spoken_tests(str(row['flag']))})"
        p = float(row["p_adjusted"])
        rows.append(
            [
                Cell(contrast_title(contrast.name)),
                value(int(row["n_users"])),
                value(float(row["mean_lift"]), signed=True),
                span(*bounds(row), signed=True),
                Cell(p_number(p), p if math.isfinite(p) else math.inf),
                value(float(row["dz"]), digits=2, signed=True),
                Cell(f"{row['helped']} / {row['tied']} / {row['hurt']}", float(row["helped"])),
                value(detectable(row)),
                Cell(words),
            ]
        )
    headers = ("Contrast", "Users", "Mean lift", "95 % interval", "Adjusted p", "dz")
    return table(
        f"{caption} ({title_of(analysis)}, {plural(analysis.n_seeds, 'seed')}).",
        (*headers, "Helped / tied / hurt", "Smallest detectable", "Finding"),
        rows,
    )


_VERDICTS = {
    "higher": "evidence of a gain",
    "lower": "evidence of a loss",
    "perhaps higher": "interval above 0, not confirmed by the adjusted test",
    "perhaps lower": "interval below 0, not confirmed by the adjusted test",
    "test alone": "not confirmed: the adjusted test finds a difference, the interval holds 0",
    "within margin": "no evidence of a difference; mean within the margin",
    "no evidence": "no evidence of a difference",
}


def macro_table(analysis: Analysis, arms: Sequence[str]) -> Table:
    """Macro scores of arms on the main metrics, with intervals, and the lift of the primary one."""
    main = analysis.headline()
    metrics = main[:MAX_METRICS]
    cells = {(row["arm"], row["metric"]): row for row in records(analysis.macro)}
    rows = []
    for arm in arms:
        sizes = [cells[arm, metric]["n_users"] for metric in metrics if (arm, metric) in cells]
        line = [
            Cell(arm_title(arm)),
            value(max(map(int, sizes), default=0)),
            _lift_cell(analysis, arm),
        ]
        for metric in metrics:
            found = cells.get((arm, metric))
            if found is None or not math.isfinite(found["mean"]):
                line.append(Cell("n/a", math.inf))
                continue
            ends = interval(found["ci_low"], found["ci_high"])
            line.append(Cell(f"{number(found['mean'])} {ends}", float(found["mean"])))
        rows.append(line)
    arrows = [
        f"{title_of(analysis, m)} {'↑' if analysis.metrics[m].higher_is_better else '↓'}"
        for m in metrics
    ]
    return table(
        "Macro scores: mean over users with the 95 % bootstrap interval over users; arrows point "
        f"to better. {len(metrics)} of {len(main)} main metrics; all are in "
        "results/stats/macro.csv. The lift over the "
        f"baseline is in {title_of(analysis)}, paired by user.",
        ("Arm", "Users", "Lift over the baseline", *arrows),
        rows,
    )


def slice_table(analysis: Analysis) -> Table:
    """Each arm's lift over the baseline by kind of items, one row per arm."""
    kinds = [kind for kind in SLICE_TITLES if kind in set(analysis.slices["slice"])]
    cells = {(row["contrast"], row["slice"]): row for row in records(analysis.slices)}
    arms = [arm for arm in analysis.arms if arm != BASELINE and not is_swapped(arm)]
    rows = [
        [Cell(arm_title(arm)), *(_slice_cell(cells.get((f"{arm} - {BASELINE}", k))) for k in kinds)]
        for arm in arms
    ]
    caption = (
        f"Lift over the baseline by kind of items ({title_of(analysis)}): mean over the users that "
        "have such items (n), with the 95 % bootstrap interval over users. No test was declared "
        "for these; all contrasts are in results/stats/slices.csv."
    )
    return table(caption, ("Arm", *(SLICE_TITLES[kind] for kind in kinds)), rows)


def _slice_cell(row: Mapping[str, Any] | None) -> Cell:
    if row is None or not row["n_users"]:
        return Cell("n/a: no such items", math.inf)
    size = number(row["mean_lift"], signed=True)
    ends = interval(row["ci_low"], row["ci_high"], signed=True)
    return Cell(f"{size} {ends} (n = {row['n_users']})", float(row["mean_lift"]))


def _lift_cell(analysis: Analysis, arm: str) -> Cell:
    if arm == BASELINE:
        return Cell("reference", -math.inf)
    row = analysis.row(f"{arm} - {BASELINE}")
    if row is None or not math.isfinite(row["mean_lift"]):
        return Cell("n/a: no baseline" if row is None or not row["n_users"] else "n/a", math.inf)
    size = number(row["mean_lift"], signed=True)
    ends = interval(*bounds(row), signed=True)
    return Cell(f"{size} {ends}", float(row["mean_lift"]))


def users_table(
    analysis: Analysis, scores: Mapping[str, float], users: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, list[Cell]]]:
    """Headers and cells per user: baseline score, then each arm's lift, own minus swapped last."""
    arms = [arm for arm in analysis.arms if arm != BASELINE and not is_swapped(arm)]
    names = [f"{arm} - {BASELINE}" for arm in arms]
    names += [f"{arm} - {arm}{SWAPPED}" for arm in arms if is_per_user(arm)]
    lifts = {name: analysis.lifts_of(name).set_index("user_id")["lift"].to_dict() for name in names}
    names = [name for name in names if lifts[name]]
    headers = ("User", f"Baseline {title_of(analysis)}", *map(contrast_title, names))
    rows = {
        user: [
            Cell(user),
            value(scores.get(user)),
            *(value(lifts[name].get(user), signed=True) for name in names),
        ]
        for user in users
    }
    return headers, rows


def reliability_table(analysis: Analysis) -> Table:
    """How far one user's number can be trusted, per arm."""
    rows = [
        [
            Cell(arm_title(row["arm"])),
            Cell(row["of"]),
            value(int(row["n_users"])),
            value(float(row["items_per_user"]), digits=1),
            value(float(row["icc"]), digits=2),
            value(float(row["reliability"]), digits=2),
            value(float(row["split_half"]), digits=2),
            Cell(row["note"]),
        ]
        for row in records(analysis.reliability)
    ]
    caption = (
        f"Reliability of one user's number ({title_of(analysis)}): share of the spread between "
        "users that is the users' own. Where it is low, do not rank users by it."
    )
    names = ("Arm", "Of", "Users", "Items a user", "ICC", "Reliability", "Split half", "Note")
    shown = len(names) if analysis.reliability["note"].any() else len(names) - 1
    return table(caption, names[:shown], [row[:shown] for row in rows])


def hurt_line(analysis: Analysis, arm: str) -> str:
    """Share of users hurt by an arm against the baseline, with its interval."""
    row = analysis.row(f"{arm} - {BASELINE}")
    if row is None or not row["n_users"]:
        return f"{arm_title(arm)}: n/a, there is no baseline to compare with."
    low, high = share(row["share_hurt_low"]), share(row["share_hurt_high"])
    return (
        f"{arm_title(arm)}: {row['hurt']} of {plural(int(row['n_users']), 'user')} hurt "
        f"(95 % interval {low} to {high})."
    )
