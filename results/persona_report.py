"""The report's section on persona prediction, and what the rest of the report is told of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from results.collector import Collected
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
    span,
    table,
    value,
)
from results.figure_style import Figure
from results.persona import PersonaEvaluation, evaluate_persona, write_persona
from results.persona_figures import draw_persona_figures
from results.persona_stats import (
    ADAPTED,
    BASE,
    CONTROLS,
    FIRST,
    MACRO,
)
from results.persona_wording import (
    contrast_finding,
    contrast_verdict,
    contrast_words,
    method_title,
    null_words,
)
from results.wording import bounds, interval, number, p_text, plural, share, verdict

MAX_NAMED = 20
DECLARED = ("lora_all", "prefix_all", "lora_per_user", "prefix_per_user")
"""Adapted methods, the one that the decision rule looks at first."""


@dataclass(frozen=True, kw_only=True)
class PersonaResults:
    """What the report takes over: figures, facts, and the decision rule's numbers."""

    figures: tuple[Figure, ...] = ()
    change: Mapping[str, float] | None = None
    facts: Mapping[str, float] | None = None
    findings: tuple[str, ...] = ()
    section: Section | None = None

    def told(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """What to add to the report's facts: the section, and the checkpoint's numbers."""
        if self.section is None:
            return {}
        sections = {**known.get("sections", {}), self.section.key: self.section}
        return {
            "sections": sections,
            "persona_prediction": self.facts,
            "persona_findings": self.findings,
        }


def finish_persona(
    workspace: Path,
    collected: Collected,
    *,
    clusters: Mapping[str, int],
    seed: int,
    resamples: int,
    command: str = "python -m orchestrator report --study persona_prediction",
) -> PersonaResults:
    """Evaluate, write and draw persona prediction; nothing where no such cell was run."""
    records_, ledger = collected.records, collected.ledger
    found = evaluate_persona(
        records_,
        ledger,
        missing=collected.missing,
        clusters=clusters,
        seed=seed,
        resamples=resamples,
    )
    if found is None:
        return PersonaResults()
    write_persona(workspace, found, records_, ledger)
    figures = draw_persona_figures(workspace, found, command=command)
    return PersonaResults(
        figures=tuple(figures),
        change=declared_change(found),
        facts=persona_facts(found),
        findings=tuple(persona_findings(found)),
        section=persona_section(found, figures),
    )


def persona_section(evaluation: PersonaEvaluation, figures: Sequence[Figure]) -> Section:
    """Findings first, then methods, contrasts, clusters, pairs, and who was left out."""
    by_name = {figure.name.removeprefix("persona_"): figure for figure in figures}
    adapted = _rows(evaluation, "adapted")
    others = _rows(evaluation, "against encoder", "centered", "more than words")
    blocks: list[Block] = [
        Text(text=_asked(evaluation), tone="lead"),
        Bullets(items=tuple(_findings(evaluation))),
        _methods(evaluation),
        *_shown(by_name, "accuracy", "confusion_matrix", "match_curves"),
        Heading(text="What adaptation does to separability"),
        Text(text=_counted(adapted) if adapted else _no_adapted(evaluation)),
        *([Bullets(items=tuple(map(contrast_finding, adapted)))] if adapted else []),
    ]
    if adapted or others:
        blocks += [_contrasts([*adapted, *others]), *_shown(by_name, "adaptation")]
    blocks += [Text(text=_reading(), tone="note")]
    blocks += [Heading(text="Clusters and look-alikes"), *_clusters(evaluation)]
    blocks += [*_shown(by_name, "clusters"), *_pairs(evaluation), *_left_out(evaluation)]
    return Section(key="persona_prediction", title="Persona prediction", blocks=tuple(blocks))


def _shown(figures: dict[str, Figure], *names: str) -> list[Block]:
    return [Shown(figure=figures[name]) for name in names if name in figures]


def _rows(evaluation: PersonaEvaluation, *questions: str) -> list[dict[str, Any]]:
    return [row for row in records(evaluation.contrasts) if row["question"] in questions]


def _asked(evaluation: PersonaEvaluation) -> str:
    row = evaluation.number(evaluation.primary)
    return (
        f"Whose message is this? For each of {plural(row['n_queries'], 'first message')} of test "
        f"sessions the {row['n_candidates']:,} users are ranked by how well their profile fits. A "
        "profile is the mean of at most eight of the user's own training messages; replies are in "
        "no profile, and names are masked in profiles and messages. Cold-start users take no part."
    )


def _findings(evaluation: PersonaEvaluation) -> list[str]:
    """The declared method first, then the controls that it must beat."""
    return [
        _finding(evaluation, method)
        for method in (evaluation.primary, BASE, *CONTROLS)
        if method in evaluation.rankings
        and (method == evaluation.primary or evaluation.primary != BASE)
    ]


def _finding(evaluation: PersonaEvaluation, method: str) -> str:
    row, five = evaluation.number(method), evaluation.number(method, "accuracy_at_5")
    return (
        f"**{method_title(method)}**: accuracy {number(row['value'])} "
        f"{interval(row['low'], row['high'])} at 1 and {number(five['value'])} at 5, "
        f"{null_words(row)} ({number(row['null_99'])}; {p_text(row['p_null'])}; chance "
        f"{number(row['chance'])})."
    )


def _methods(evaluation: PersonaEvaluation) -> Table:
    rows = []
    for method in evaluation.rankings:
        first, macro = evaluation.number(method), evaluation.number(method, MACRO)
        sizes = f"{first['n_candidates']:,} / {first['n_queries']:,}"
        line = [Cell(method_title(method)), Cell(sizes, first["n_candidates"])]
        for metric in (FIRST, "accuracy_at_5", "mrr"):
            row = evaluation.number(method, metric)
            ends = interval(row["low"], row["high"])
            line.append(Cell(f"{number(row['value'])} {ends}", _sortable(row["value"])))
        bars = f"{number(first['chance'])} / {number(first['null_99'])}"
        line += [value(macro["value"]), Cell(bars, _sortable(first["null_99"]))]
        rows.append([*line, Cell(null_words(first))])
    headers = ("Method", "Candidates / messages", "Accuracy at 1", "Accuracy at 5", "MRR")
    return table(
        "Ways of telling users apart, with 95 % bootstrap intervals over users; macro: mean over "
        "users; null: 99th percentile of accuracy at 1 under permuted labels. Ties count against "
        "the true user. Methods with fewer candidates have an easier task: compare them by the "
        "paired table below.",
        (*headers, "Macro accuracy", "Chance / null", "Finding"),
        rows,
    )


def _sortable(number_: float) -> float:
    return float(number_) if math.isfinite(number_) else math.inf


def _contrasts(rows: Sequence[dict[str, Any]]) -> Table:
    lines = [
        [
            Cell(contrast_words(row["contrast"])),
            Cell(f"{row['n_users']:,} / {row['n_queries']:,}", float(row["n_users"])),
            Cell(f"{number(row['value'])} / {number(row['reference_value'])}", row["value"]),
            value(row["mean_lift"], signed=True),
            span(*bounds(row), signed=True),
            Cell(p_text(row["p_adjusted"]).removeprefix("p ").removeprefix("= "),
                 _sortable(row["p_adjusted"])),
            Cell(f"{row['helped']} / {row['tied']} / {row['hurt']}", float(row["helped"])),
            Cell(f"{row['only_method']} / {row['only_reference']}", float(row["only_method"])),
            Cell(p_text(row["p_mcnemar"]).removeprefix("p ").removeprefix("= "), row["p_mcnemar"]),
            Cell(contrast_verdict(row)),
        ]
        for row in rows
    ]  # fmt: skip
    headers = ("Contrast", "Users / messages", "Accuracies", "Difference", "95 % interval")
    return table(
        "Accuracy at 1, paired by user, on the messages and candidates that both have. The "
        "sign-flip test over users decides; p is adjusted (Holm for adapted against base, "
        "Benjamini–Hochberg for the rest). McNemar's exact test takes messages as independent.",
        (*headers, "Adjusted p", "Users better / tied / worse", "Only first / second", "McNemar p",
         "Finding"),
        lines,
    )  # fmt: skip


def _counted(rows: Sequence[dict[str, Any]]) -> str:
    """How many adapted methods separate users better, worse, or show no evidence."""
    said = [verdict(row) for row in rows]
    better, worse, unknown = (said.count(name) for name in ("higher", "lower", "n/a"))
    rest = len(rows) - better - worse - unknown
    return (
        f"Of {plural(len(rows), 'adapted method')}, with evidence: {better} better and {worse} "
        f"worse than the base at telling users apart; {rest} without evidence of a difference"
        + (f"; {unknown} n/a (too few users with messages)." if unknown else ".")
    )


def _no_adapted(evaluation: PersonaEvaluation) -> str:
    there = ", ".join(method_title(name) for name in evaluation.rankings if name in ADAPTED)
    if there and BASE not in evaluation.rankings:
        return f"n/a: there is no unadapted base to compare {there} with."
    return "n/a: no adapted method was scored."


def _reading() -> str:
    return (
        "States are mean-pooled hidden states of the last layer over the message's tokens, after "
        "the neutral system prompt. With one adapter per user there is no common space of states, "
        "so users are ranked by the mean log-likelihood per token of the message under each "
        "user's adapter; these adapters were trained on the replies that a user got, not on the "
        "user's own words. Centered takes away what all messages share: the mean of the training "
        "messages' states, or each adapter's mean likelihood over training messages of everybody, "
        "so that one sharp adapter does not win every message. With several seeds a user's "
        "accuracy is the mean over them, and intervals and tests are over users alone: for "
        "adapters that all users share they hold for these seeds, without a claim about training "
        "noise."
    )


def _clusters(evaluation: PersonaEvaluation) -> list[Block]:
    found = evaluation.clusters[evaluation.clusters["method"] == evaluation.primary]
    if not len(found):
        return [Text(text="n/a: the users have no clusters.", tone="note")]
    rows = [
        [
            Cell(f"cluster {row['cluster']}", float(row["cluster"])),
            value(int(row["n_users"])),
            value(int(row["n_queries"])),
            value(row[FIRST]),
            span(row["low"], row["high"]),
            Cell(f"{share(row['errors_inside'])} / {share(row['errors_inside_chance'])}"),
        ]
        for row in records(found)
    ]
    headers = ("Cluster", "Users", "Messages", "Accuracy at 1", "95 % interval")
    caption = (
        f"{method_title(evaluation.primary)} by style cluster of the writer: mean over users with "
        "Student's interval; last column: share of wrong answers that name a user of the same "
        "cluster / at random."
    )
    return [table(caption, (*headers, "Errors inside / at random"), rows)]


def _pairs(evaluation: PersonaEvaluation) -> list[Block]:
    found = evaluation.pairs[evaluation.pairs["method"] == evaluation.primary]
    if not len(found):
        return [Text(text="No message was given to another user.", tone="note")]
    rows = [
        [
            Cell(f"{row['user_a']} and {row['user_b']}"),
            value(int(row["confusions"])) if row["confusions"] % 1 == 0
            else value(row["confusions"], digits=1),
            value(int(row["n_queries"])),
            Cell(share(row["share"]), row["share"]),
        ]
        for row in records(found)
    ]  # fmt: skip
    caption = f"Hardest pairs ({method_title(evaluation.primary)}), both directions together."
    return [table(caption, ("Users", "Taken for each other", "Messages of both", "Share"), rows)]


def _left_out(evaluation: PersonaEvaluation) -> list[Block]:
    """Users without a profile or an adapter, by name; long lists are cut and say so."""
    found = evaluation.left_out
    if not len(found):
        return []
    told = []
    for (arm, reason), group in found.groupby(["arm", "reason"], sort=False):
        names = [str(user) for user in group["user_id"]]
        more = len(names) - MAX_NAMED
        listed = ", ".join(names[:MAX_NAMED]) + (f" and {more:,} more" if more > 0 else "")
        method = method_title(str(arm).removeprefix("identify_"))
        told.append(f"{method}: {listed} ({reason}).")
    return [Heading(text="Users left out"), Bullets(items=tuple(told))]


def persona_findings(evaluation: PersonaEvaluation) -> list[str]:
    """What the summary and the screen say: the declared method, and what adaptation did to it."""
    adapted = _rows(evaluation, "adapted")
    return [_finding(evaluation, evaluation.primary), *([_counted(adapted)] if adapted else [])]


def persona_facts(evaluation: PersonaEvaluation) -> dict[str, float]:
    """For the checkpoint and the summary; see ``results.facts.Facts.persona_prediction``."""
    row = evaluation.number(evaluation.primary)
    found = {
        "accuracy": row["value"],
        "low": row["low"],
        "chance": row["chance"],
        "null_99": row["null_99"],
    }
    change = declared_change(evaluation)
    if change is not None:
        found |= {
            "difference": change["difference"],
            "difference_low": change["low"],
            "difference_high": change["high"],
        }
    return {name: float(item) for name, item in found.items()}


def declared_change(evaluation: PersonaEvaluation) -> dict[str, float] | None:
    """Adapted less base accuracy for the decision rule: ``difference, low, high``.

    The first of ``DECLARED`` that was run, whatever it found; None without any.
    """
    for method in DECLARED:
        row = evaluation.contrast(f"{method} - {BASE}")
        if row is not None and pd.notna(row["low"]):
            return {"difference": row["mean_lift"], "low": row["low"], "high": row["high"]}
    return None
