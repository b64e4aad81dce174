"""The short documents: the all-persona summary and the recommendations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from results.analysis import Analysis
from results.contrasts import BASELINE, is_all_persona
from results.decisions import Decision, recommendation
from results.document import Block, Bullets, Section, Shown, Text, table
from results.facts import Facts
from results.figure_style import Figure
from results.report_results import findings, not_run, warned
from results.report_tables import contrast_table, hurt_line, macro_table, measure, title_of
from results.wording import ALPHA, arm_title, caution, finding, number, share

FIGURES = ("macro_bars", "lift_boxes", "metric_by_metric_shared")


def summary_sections(
    analysis: Analysis, figures: Mapping[str, Figure], facts: Facts
) -> list[Section]:
    """What the adapters that all users share do, metric by metric."""
    arms = [arm for arm in analysis.arms if is_all_persona(arm)]
    if not arms:
        absent = not_run("An all-persona arm", "global")
        return [_section("What was found", [*warned(facts), absent])]
    chosen = [
        c
        for c in analysis.contrasts
        if is_all_persona(c.arm) and (c.reference == BASELINE or is_all_persona(c.reference))
    ]
    trust = caution(len(analysis.users), analysis.n_seeds)
    first: list[Block] = [*warned(facts), Bullets(items=findings(analysis, chosen))]
    first += [Text(text=f"To be read with care: {trust}.", tone="note")] if trust else []
    drawn: list[Block] = [Shown(figure=figures[name]) for name in FIGURES if name in figures]
    return [
        _section("What was found", first),
        _section(
            "Macro scores",
            [
                macro_table(analysis, [BASELINE, *arms] if BASELINE in analysis.arms else arms),
                contrast_table(analysis, chosen, caption="Contrasts of the shared arms"),
            ],
        ),
        _section(
            "Metric by metric",
            [
                Text(text="Lifts are signed so that + is better."),
                Bullets(items=_metric_lines(analysis, arms)),
            ],
        ),
        _section("Users hurt", [Bullets(items=tuple(hurt_line(analysis, arm) for arm in arms))]),
        *([_section("Figures", drawn)] if drawn else []),
    ]


def _metric_lines(analysis: Analysis, arms: Sequence[str]) -> tuple[str, ...]:
    """A sentence per arm and main metric, beyond the primary one."""
    lines = []
    for metric in analysis.headline():
        for arm in arms:
            row = analysis.row(f"{arm} - {BASELINE}", metric)
            if row is not None and metric != analysis.primary_metric:
                lines.append(finding(row, metric=measure(analysis, metric), margin=analysis.margin))
    return tuple(lines) or ("n/a: no other metric was scored.",)


def advise(analysis: Analysis, decisions: Sequence[Decision]) -> list[str]:
    """The rules' advice; none where the metric that they read is 0 for everything."""
    means = analysis.macro.loc[analysis.macro["metric"] == analysis.primary_metric, "mean"].dropna()
    if means.ne(0).any():
        return recommendation(list(decisions))
    title = title_of(analysis)
    nothing = f"{title} is 0 throughout, for every arm" if len(means) else f"{title} has no score"
    return [
        f"No rule can speak for or against an adapter: {nothing}. Take a base model that answers "
        "in the users' language, or train for longer."
    ]


def recommendations_sections(
    analysis: Analysis, decisions: Sequence[Decision], facts: Facts
) -> list[Section]:
    """The advice, then every rule with the numbers that fired it and what would change it."""
    limits = analysis.thresholds
    trust = caution(len(analysis.users), analysis.n_seeds)
    declared = (
        f"Primary metric: {title_of(analysis)}; margin for no harm: {analysis.margin:g}.",
        "Positive: the lower bound of the mean lift lies above 0, and the adjusted test confirms "
        f"it (p < {ALPHA:g}).",
        f"Stable: the upper bound of the share hurt lies under {share(limits.stable_share_hurt)}.",
        "High variance: the lower bounds of the helped and of the hurt share both lie above "
        f"{share(limits.high_variance_share)}.",
    )
    advice: list[Block] = [*warned(facts), Bullets(items=tuple(advise(analysis, decisions)))]
    advice += [Text(text=f"To be read with care: {trust}.", tone="note")] if trust else []
    rules = [
        _section(
            f"{one.rule.capitalize()}: {arm_title(one.arm)}" if one.arm != "all"
            else one.rule.capitalize(),
            _rule_blocks(one),
        )
        for one in decisions
    ]  # fmt: skip
    return [
        _section("What to do", advice),
        _section("Declared before results", [Bullets(items=declared)]),
        *rules,
    ]


def _rule_blocks(one: Decision) -> list[Block]:
    """Status, numbers, and what would change the rule's outcome."""
    blocks: list[Block] = [Text(text=f"{one.status.capitalize()}. {one.verdict}")]
    if one.numbers:
        rows = [(_NAMES.get(name, name), _plain(number_)) for name, number_ in one.numbers.items()]
        blocks.append(table("Numbers.", ("Number", "Value"), rows))
    if one.would_change:
        blocks.append(Text(text=f"Would change with: {one.would_change}."))
    return blocks


_NAMES = {
    "n_users": "users",
    "mean_lift": "mean lift",
    "low": "lower bound",
    "high": "upper bound",
    "share_helped_low": "share helped, lower bound",
    "share_hurt_low": "share hurt, lower bound",
    "share_hurt_high": "share hurt, upper bound",
    "p_adjusted": "adjusted p",
    "own_minus_swapped_low": "own − swapped, lower bound",
    "own_minus_swapped_p_adjusted": "own − swapped, adjusted p",
    "gated_minus_own_low": "gated − own, lower bound",
    "gated_minus_own_high": "gated − own, upper bound",
}


def _plain(number_: float | int) -> str:
    if isinstance(number_, int) or (math.isfinite(number_) and float(number_).is_integer()):
        return f"{int(number_):,}"
    return number(float(number_), digits=4)


def _section(title: str, blocks: Sequence[Block]) -> Section:
    key = "".join(c if c.isalnum() else "-" for c in title.lower())
    return Section(key=key, title=title, blocks=tuple(blocks))
