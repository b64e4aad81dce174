"""REPORT.md, results/report.html, results/all_persona_summary.md and results/recommendations.md.

The same document is rendered twice. The HTML file is complete in itself: styles, script and
figures are inside, a content policy forbids it to load anything, and all texts are escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from results.analysis import Analysis
from results.checkpoints import CHECKPOINTS_FILE, checkpoints, write_checkpoints
from results.contrasts import BASELINE, is_swapped
from results.decisions import Decision
from results.document import (
    Block,
    Section,
    Text,
    markdown_cell,
    markdown_fence,
    markdown_inline,
)
from results.facts import Facts
from results.figure_inline import inline_figure
from results.figures import Figure, leading_arm
from results.files import write_atomic, write_csv
from results.item_tables import sample_examples
from results.pairing import CollectedTables
from results.report_frame import (
    appendix,
    checkpoints_section,
    discussion,
    introduction,
    limitations,
    methods_section,
)
from results.report_results import persona_section, results_section, summary_section
from results.report_tables import title_of, users_table
from results.summary import advise, recommendations_sections, summary_sections
from results.wording import arm_title, number, plural

MAX_USERS = 300
EXAMPLES_PER_USER = 3
_UNIT = re.compile(r"(\d) %")
"""A number and its percent sign stay on one line."""
STATS_TABLES = ("comparisons", "macro", "lifts", "missing", "slices", "clusters", "reliability")


def write_stats(workspace: Path, analysis: Analysis) -> list[Path]:
    """Write the analysis' tables to ``results/stats/*.csv``, drift among them."""
    tables = {name: getattr(analysis, name) for name in STATS_TABLES}
    tables |= {"gate": analysis.gate.choices, "gate_oracles": analysis.gate.oracles}
    tables |= {"drift": analysis.drift.users, "drift_correlations": analysis.drift.correlations}
    if len(analysis.cold_warm.table):
        tables["cold_warm"] = analysis.cold_warm.table
    if len(analysis.updates.table):
        tables |= {"updates": analysis.updates.table, "updates_users": analysis.updates.users}
    folder = workspace / "results" / "stats"
    return [write_csv(folder / f"{name}.csv", frame) for name, frame in tables.items()]


def write_report(
    workspace: Path,
    collected: CollectedTables,
    analysis: Analysis,
    decisions: Sequence[Decision],
    figures: Sequence[Figure],
    facts: Mapping[str, Any],
) -> list[Path]:
    """Write the report in all its forms, and the statistics' tables.

    Args:
        workspace: The study's folder.
        collected: The collector's tables; texts of sampled items are read from it.
        analysis: From ``analyze``.
        decisions: From ``decide``.
        figures: From ``draw_figures``.
        facts: See ``results.facts.Facts``; everything is optional.

    Returns:
        The paths written.
    """
    told = cast(Facts, dict(facts))
    advice = advise(analysis, decisions)
    by_name = {figure.name: figure for figure in figures}
    done = checkpoints(analysis, facts=told, figures=figures)
    shown_users = chosen_users(analysis)
    sections = [
        summary_section(analysis, advice, told),
        introduction(analysis),
        methods_section(analysis, told),
        *sections_of(told, "search"),
        results_section(
            analysis, facts=told, figures=by_name, users=_users_note(analysis, shown_users)
        ),
        persona_section(analysis, told),
        discussion(analysis, decisions, advice, told),
        limitations(analysis),
        appendix(analysis, told),
        *sections_of(told, "spent"),
        checkpoints_section(done),
    ]
    title = "Personalization study" + (f": {told['study']}" if told.get("study") else "")
    results = workspace / "results"
    page = render_html(
        title,
        sections,
        figures=figures,
        users=users_view(collected, analysis, shown_users),
        subtitle=subtitle(analysis, told),
    )
    return [
        *write_stats(workspace, analysis),
        write_checkpoints(results / CHECKPOINTS_FILE.name, done),
        write_atomic(
            workspace / "REPORT.md",
            render_markdown(title, sections, root=workspace, link="results/report.html").encode(),
        ),
        write_atomic(results / "report.html", page.encode()),
        write_atomic(
            results / "all_persona_summary.md",
            render_markdown(
                "All-persona adapters: summary",
                summary_sections(analysis, by_name, told),
                root=results,
            ).encode(),
        ),
        write_atomic(
            results / "recommendations.md",
            render_markdown(
                "Recommendations", recommendations_sections(analysis, decisions, told), root=results
            ).encode(),
        ),
    ]


def sections_of(facts: Facts, key: str) -> list[Section]:
    """A section that only some studies have."""
    section = facts.get("sections", {}).get(key)
    return [section] if section else []


def subtitle(analysis: Analysis, facts: Facts) -> str:
    """Size, model and date in one line."""
    arms = plural(len([arm for arm in analysis.arms if not is_swapped(arm)]), "arm")
    parts = [
        plural(len(analysis.users), "user"),
        arms,
        plural(analysis.n_seeds, "seed"),
        facts.get("model", ""),
        minute(facts.get("finished_utc", "")),
    ]
    return " · ".join(filter(None, parts))


def minute(stamp: str) -> str:
    """A UTC time stamp as a person writes it: ``2026-01-31 09:05 UTC``."""
    return f"{stamp[:10]} {stamp[11:16]} UTC" if len(stamp) >= 16 else stamp


def chosen_users(analysis: Analysis) -> list[str]:
    """Users that the drill-down shows: all, or evenly many along the lifts where too many."""
    arm = leading_arm(analysis)
    lifts = analysis.lifts_of(f"{arm} - baseline").sort_values("lift") if arm else pd.DataFrame()
    ranked = [str(user) for user in lifts["user_id"]] if len(lifts) else []
    ranked += [user for user in analysis.users if user not in set(ranked)]
    if len(ranked) <= MAX_USERS:
        return sorted(ranked)
    step = (len(ranked) - 1) / (MAX_USERS - 1)
    return sorted({ranked[round(place * step)] for place in range(MAX_USERS)})


def _users_note(analysis: Analysis, users: Sequence[str]) -> list[Block]:
    if len(users) == len(analysis.users):
        return []
    text = f"The table of users in report.html shows {len(users):,} of {len(analysis.users):,}, "
    return [Text(text=text + "evenly along the lifts; all are in results/stats/lifts.csv.")]


def users_view(
    collected: CollectedTables, analysis: Analysis, users: Sequence[str]
) -> dict[str, Any]:
    """The drill-down: headers, and for each user the cells and the sampled examples."""
    metric = analysis.primary_metric
    scores = baseline_scores(collected, analysis)
    headers, rows = users_table(analysis, scores, users)
    arm = leading_arm(analysis)
    examples: dict[str, list[dict[str, Any]]] = {}
    if arm is not None:
        sampled = sample_examples(
            collected, arm, metric=metric, users=users, per_user=EXAMPLES_PER_USER
        )
        for row in sampled.to_dict("records"):
            examples.setdefault(str(row["user_id"]), []).append(
                {str(key): value for key, value in row.items()}
            )
    return {
        "headers": headers,
        "rows": [(user, cells, examples.get(user, [])) for user, cells in rows.items()],
        "arm": arm_title(arm) if arm else "",
        "metric": title_of(analysis),
    }


def baseline_scores(collected: CollectedTables, analysis: Analysis) -> dict[str, float]:
    """Each user's baseline score on the primary metric, mean over seeds."""
    table = collected.table
    chosen = table[
        (table["arm"] == BASELINE)
        & (table["metric"] == analysis.primary_metric)
        & (table["slice"] == "all")
        & (table["split"] == analysis.split)
    ]
    means = chosen.groupby("user_id", observed=True)["value"].mean()
    return {str(user): float(mean) for user, mean in means.to_dict().items()}


def environment(*, html: bool) -> jinja2.Environment:
    """The templates, with the filters that they use."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("results", "templates"),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "cell": markdown_cell,
        "inline": markdown_inline,
        "fence": markdown_fence,
        "number": number,
        "marked": _marked,
    }
    return made


def _marked(text: str) -> Markup:
    """Escaped text in which `commands` become code and **names** bold."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if code else _bold(part)
        for part, code in _between(text, "`")
    )


def _bold(text: str) -> Markup:
    return Markup("").join(
        Markup("<strong>{}</strong>").format(part) if bold else escape(part)
        for part, bold in _between(_UNIT.sub("\\1\u00a0%", text), "**")
    )


def _between(text: str, mark: str) -> list[tuple[str, bool]]:
    """Parts of a text, and whether each stands between two marks; a lone mark stays."""
    parts = str(text).split(mark)
    if len(parts) % 2 == 0:
        parts[-2:] = [mark.join(parts[-2:])]
    return [(part, place % 2 == 1) for place, part in enumerate(parts)]


def render_markdown(
    title: str, sections: Sequence[Section], *, root: Path, link: str | None = None
) -> str:
    """The document as GitHub-flavored Markdown; figures are linked relative to ``root``."""
    template = environment(html=False).get_template("report.md.j2")

    def relative(path: Path) -> str:
        return path.relative_to(root).as_posix()

    text = template.render(title=title, sections=sections, relative=relative, link=link)
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join(lines).rstrip() + "\n"


def render_html(
    title: str,
    sections: Sequence[Section],
    *,
    figures: Sequence[Figure],
    users: Mapping[str, Any],
    subtitle: str,
) -> str:
    """The document as one HTML file that loads nothing."""
    templates = environment(html=True)
    loader = cast(jinja2.BaseLoader, templates.loader)
    style, script = (loader.get_source(templates, name)[0] for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return templates.get_template("report.html.j2").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        users=users,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        pictures={figure.name: Markup(inline_figure(figure)) for figure in figures},
    )
