"""The report's results: what is personal first, then arms, users, stability, cold against warm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from results.analysis import Analysis
from results.contrasts import (
    QUESTIONS,
    Contrast,
    is_all_persona,
    is_swapped,
)
from results.document import Block, Bullets, Heading, Section, Shown, Text, records
from results.facts import Facts
from results.figure_style import Figure
from results.report_cold_warm import cold_warm_blocks
from results.report_tables import (
    contrast_table,
    macro_table,
    measure,
    reliability_table,
    slice_table,
    title_of,
)
from results.report_updates import updates_blocks
from results.wording import (
    arm_title,
    caution,
    contrast_title,
    finding,
    interval,
    interval_or_note,
    number,
)

RUN = "python -m orchestrator run --study"


MANY_FINDINGS = 12
"""Past so many findings the summary shows a table instead of sentences."""


def findings(analysis: Analysis, contrasts: Iterable[Contrast]) -> tuple[str, ...]:
    """One sentence for each contrast on the primary metric."""
    rows = [analysis.row(contrast.name) for contrast in contrasts]
    metric = measure(analysis)
    return tuple(
        finding(row, metric=metric, margin=analysis.margin) for row in rows if row is not None
    )


def asked(analysis: Analysis, *questions: str) -> list[Contrast]:
    """Contrasts that answer some of the questions; swapped controls against others left out."""
    return [c for c in analysis.contrasts if c.question in questions and not is_swapped(c.arm)]


def not_run(what: str, study: str) -> Text:
    """The one line of a section whose stage was not part of the study."""
    return Text(text=f"{what} was not part of this study. To run it: `{RUN} {study}`.", tone="note")


def shown(figures: Mapping[str, Figure], *names: str) -> list[Block]:
    """The named figures that were drawn."""
    return [Shown(figure=figures[name]) for name in names if name in figures]


def warned(facts: Facts) -> list[Block]:
    """What the numbers cannot say, above everything else."""
    return [Text(text=f"**Warning.** {line}.", tone="note") for line in facts.get("warnings", ())]


def summary_section(analysis: Analysis, advice: Sequence[str], facts: Facts) -> Section:
    """What was found, own minus swapped first, and what it may be trusted for."""
    leading = findings(analysis, asked(analysis, "personal"))
    measured = (
        "The leading question is whether a gain is **personal**: each user's replies are scored "
        "under the own adapter and under another user's of the same training (own − swapped). "
        f"Measured is {title_of(analysis)} between the model's reply and the user's true next "
        "reply, one number per user, on held-out sessions; it is text overlap, not satisfaction."
    )
    blocks: list[Block] = [*warned(facts), Text(text=measured, tone="lead")]
    if leading:
        blocks.append(Bullets(items=leading))
    else:
        blocks.append(not_run("A per-user arm with its swapped control", "per_persona"))
    blocks += _other_findings(analysis, asked(analysis, "personal_step", "prompted", "adapted"))
    if told := facts.get("persona_findings"):
        blocks.append(Text(text="Persona prediction, whose message is this:"))
        blocks.append(Bullets(items=tuple(told)))
    blocks += [Heading(text="Recommendation"), Bullets(items=tuple(advice))]
    trust = caution(len(analysis.users), analysis.n_seeds)
    blocks += [Text(text=f"To be read with care: {trust}.", tone="note")] if trust else []
    return Section(key="summary", title="Summary", blocks=tuple(blocks))


def _other_findings(analysis: Analysis, contrasts: Sequence[Contrast]) -> list[Block]:
    """A sentence each, or a table where sentences would be a wall."""
    if len(contrasts) > MANY_FINDINGS:
        caption = "Each arm against the baseline, the step before it and the few-shot prompt"
        return [contrast_table(analysis, contrasts, caption=caption)]
    told = findings(analysis, contrasts)
    return [Bullets(items=told)] if told else []


def results_section(
    analysis: Analysis, *, facts: Facts, figures: Mapping[str, Figure], users: Sequence[Block]
) -> Section:
    """Everything measured, from the personal part to cold against warm."""
    blocks = [
        *_personal(analysis, figures),
        *_macro(analysis, figures),
        *_distribution(analysis, figures),
        *_groups(analysis, figures, facts),
        *_gate(analysis),
        *_stability(analysis, figures),
        Heading(text="Cold start against warm start"),
        *_cold_warm(analysis, facts, figures),
        *_ablations(facts),
        *_replies(figures, users),
    ]
    return Section(key="results", title="Results", blocks=tuple(blocks))


def _replies(figures: Mapping[str, Figure], users: Sequence[Block]) -> list[Block]:
    """Replies side by side, where the report shows some."""
    blocks = [*shown(figures, "before_after"), *users]
    return [Heading(text="Replies before and after"), *blocks] if blocks else []


def _given(facts: Facts, key: str, otherwise: Block) -> list[Block]:
    section = facts.get("sections", {}).get(key)
    return list(section.blocks) if section else [otherwise]


def _cold_warm(analysis: Analysis, facts: Facts, figures: Mapping[str, Figure]) -> list[Block]:
    blocks = cold_warm_blocks(analysis, figures)
    return blocks or _given(facts, "cold_warm", not_run("Cold against warm start", "per_persona"))


def _ablations(facts: Facts) -> list[Block]:
    return [
        Heading(text="Ablations"),
        *_given(facts, "ablations", not_run("An ablation", "ablation")),
    ]


def _personal(analysis: Analysis, figures: Mapping[str, Figure]) -> list[Block]:
    """Own minus swapped: the part of the gain that only the user's own adapter gives."""
    contrasts = asked(analysis, "personal")
    if not contrasts:
        return [
            Heading(text="What is personal: own − swapped"),
            not_run("A per-user arm", "per_persona"),
        ]
    return [
        Heading(text="What is personal: own − swapped"),
        contrast_table(analysis, contrasts, caption=QUESTIONS["personal"].capitalize()),
        *shown(figures, "own_vs_swapped"),
    ]


def _macro(analysis: Analysis, figures: Mapping[str, Figure]) -> list[Block]:
    contrasts = [c for c in analysis.contrasts if c.question != "personal"]
    compared = [contrast_table(analysis, contrasts, caption="All other contrasts")]
    shared = any(map(is_all_persona, analysis.arms))
    return [
        Heading(text="All arms against the baseline"),
        macro_table(analysis, analysis.arms),
        *([] if shared else [not_run("An all-persona arm", "global")]),
        *shown(figures, "macro_metrics", "macro_metrics_more"),
        *shown(figures, "metric_by_metric", "metric_by_metric_more"),
        *(compared if contrasts else []),
        *shown(figures, "forest", "forest_steps"),
    ]


def _distribution(analysis: Analysis, figures: Mapping[str, Figure]) -> list[Block]:
    """How users differ, and how far one user's number can be trusted."""
    band = (
        "With one seed there is no noise band: helped and hurt are signs of the lift."
        if analysis.n_seeds < 2
        else "Helped and hurt are counted outside each user's noise band, the largest difference "
        "between two training seeds of the arm."
    )
    blocks: list[Block] = [
        Heading(text="How users differ"),
        Text(text=band),
        *shown(figures, "lift_violins", "sorted_lifts", "helped_hurt", "helped_hurt_steps"),
    ]
    if len(analysis.reliability):
        blocks.append(reliability_table(analysis))
    return blocks


def _groups(analysis: Analysis, figures: Mapping[str, Figure], facts: Facts) -> list[Block]:
    """Kinds of sessions, and clusters of users (fairness)."""
    blocks: list[Block] = []
    if (analysis.slices["n_users"] > 0).any():
        blocks += [Heading(text="Kinds of sessions and turns"), slice_table(analysis)]
        blocks += shown(figures, "slices")
    if len(analysis.clusters):
        worst = [
            f"{contrast_title(str(name))}: worst is cluster {row['cluster']} "
            f"(n = {row['n_users']}) with {number(row['mean_lift'], signed=True)} "
            f"{interval_or_note(row)}."
            for name, group in analysis.clusters.groupby("contrast", sort=False)
            if not is_swapped(str(name).partition(" - ")[0])
            for row in records(group.head(1))
        ]
        blocks += [Heading(text="Groups of users"), Bullets(items=tuple(worst))]
        blocks += shown(figures, "clusters")
    if not any("cluster" in arm for arm in analysis.arms):
        blocks.append(not_run("An arm with adapters per cluster", "cluster"))
    return blocks + _given_only(facts, "clusters")


def _gate(analysis: Analysis) -> list[Block]:
    """Whose adapter the no-harm gate kept, and what picking with hindsight would have brought."""
    if not len(analysis.gate.oracles):
        return []
    told = []
    for row in records(analysis.gate.oracles):
        seed = f", seed {row['seed']}" if analysis.n_seeds > 1 else ""
        chance = number(row["null_high"], signed=True)
        lift, without = (number(row[name], signed=True) for name in ("gated_lift", "own_lift"))
        told.append(
            f"{arm_title(str(row['arm']))}{seed}: kept for {row['kept']} of {row['n_users']} "
            f"users; mean lift over {arm_title(str(row['fallback']))} {lift} behind the gate, "
            f"{without} without it. Picking each user's better adapter with hindsight gains "
            f"{number(row['oracle_gain'], signed=True)} over the better arm for all; noise alone "
            f"gains up to {chance} (95 % of permutations)."
        )
    text = (
        "A user's adapter is kept only where it beats the shared one on validation exchanges that "
        "nothing else has used; the others fall back to the shared one: per-user arms to "
        "everybody's adapter, cluster-then-user arms to their cluster's. Who kept theirs is in "
        "results/stats/gate.csv."
    )
    return [Heading(text="No-harm gate"), Text(text=text), Bullets(items=tuple(told))]


def _given_only(facts: Facts, key: str) -> list[Block]:
    section = facts.get("sections", {}).get(key)
    return list(section.blocks) if section else []


def _stability(analysis: Analysis, figures: Mapping[str, Figure]) -> list[Block]:
    """How far adapters move, and whether that goes with gain."""
    blocks: list[Block] = [Heading(text="Stability of the micro-update")]
    if not len(analysis.drift.users):
        return [*blocks, not_run("A per-user micro-update", "per_persona")]
    told = []
    for row in records(analysis.drift.correlations):
        note = f" ({str(row['note']).removeprefix('n/a: ')})" if row["note"] else ""
        if not math.isfinite(row["rho"]):
            told.append(f"{arm_title(row['arm'])}: correlation of drift with gain n/a{note}.")
            continue
        ends = interval(row["low"], row["high"], digits=2, signed=True)
        clear = math.isfinite(row["low"]) and (row["low"] > 0 or row["high"] < 0)
        said = "no evidence that drift and gain go together"
        if clear:
            said = "drift goes with gain" if row["rho"] > 0 else "drift goes with loss"
        rho = number(row["rho"], digits=2, signed=True)
        told.append(
            f"{arm_title(row['arm'])}: Spearman {rho} {ends}, n = {row['n_users']}: {said}{note}."
        )
    return [
        *blocks,
        Bullets(items=tuple(told)),
        *shown(figures, "shift_norms", "drift_vs_gain"),
        *_updates(analysis, figures),
        *shown(figures, "training_curves"),
    ]


def _updates(analysis: Analysis, figures: Mapping[str, Figure]) -> list[Block]:
    blocks = updates_blocks(analysis, figures)
    return blocks or [not_run("Validation gain by number of updates", "per_persona")]


def persona_section(analysis: Analysis, facts: Facts) -> Section:
    """What adaptation does to separability, where the stage was run."""
    blocks = _given(
        facts, "persona_prediction", not_run("Persona prediction", "persona_prediction")
    )
    return Section(key="persona", title="Persona prediction", blocks=tuple(blocks))
