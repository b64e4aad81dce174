"""The report in all its forms: sections, escaping, poor studies, and the page in a browser."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from orchestrator.checks import validate_workspace
from results.analysis import Thresholds, analyze
from results.decisions import decide
from results.document import Section, Text, markdown_cell, markdown_fence
from results.figures import draw_figures
from results.record import MetricInfo
from results.repetition import Repetition
from results.report import write_report
from results.report_frame import methods_section
from results.report_tables import reliability_table, slice_table
from tests.browser import opened
from tests.results_study import fake_collected

EVIL = '<script>document.title="gone"</script> "quoted" & **bold** | `tick` </dd>'
FEW = frozenset({"forest", "own_vs_swapped", "macro_metrics", "before_after"})


def reported(folder, facts=None, *, only=FEW, **changes):
    collected = fake_collected(**changes)
    return report_of(folder, collected, facts, only=only)


def report_of(folder, collected, facts=None, *, only=FEW):
    analysis = analyze(collected, seed=0, margin=0.01, resamples=200)
    figures = draw_figures(folder, collected, analysis, only=only)
    write_report(folder, collected, analysis, decide(analysis), figures, facts or {})
    return (folder / "REPORT.md").read_text(), (folder / "results" / "report.html").read_text()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    facts = {"study": "per_persona", "model": EVIL, "configs": {"lora_all": {"rank": 8}}}
    return folder, *reported(folder, facts, users=6, text=EVIL)


class Outline(HTMLParser):
    """Tags that are open, scripts, and the text of h2."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.headings, self.scripts, self.bad = [], [], 0, []

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.bad += [name for name, value in attrs if name.startswith("on")]
        self.bad += [
            value
            for name, value in attrs
            if name in ("src", "href") and not value.startswith(("#", "data:"))
        ]
        if tag not in ("meta", "link", "img", "input", "br", "use", "path", "circle", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("use", "path", "circle", "rect"):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.bad += [name for name, value in attrs if name.startswith("on")]

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_sections_are_those_asked_for_and_checkpoints_end_the_report(study):
    _, markdown, page = study
    titles = re.findall(r"^## (.+)$", markdown, re.MULTILINE)
    assert titles == [
        "Summary",
        "Introduction",
        "Methods",
        "Results",
        "Persona prediction",
        "Discussion",
        "Limitations and future work",
        "Appendix",
        "Checkpoints",
    ]
    outline = Outline()
    outline.feed(page)
    assert [title for title in outline.headings if title != "Users"] == titles
    assert outline.open == []
    assert "own − swapped" in markdown[: markdown.index("## Introduction")]
    assert "BCa interval covers the true mean in 87, 89 and 93 %" in markdown


def test_the_page_loads_nothing_and_texts_stay_text(study):
    _, _, page = study
    outline = Outline()
    outline.feed(page)
    assert outline.scripts == 1
    assert outline.bad == []
    assert "&lt;script&gt;document.title" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert not re.search(r"@import|url\(['\"]?(?!#)", page)


def test_markdown_tables_are_whole_and_html_in_texts_is_escaped(study):
    _, markdown, _ = study
    assert "<script>" not in markdown
    block: list[str] = []
    tables = 0
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            block.append(line)
            continue
        if block:
            widths = {len(re.findall(r"(?<!\\)\|", row)) for row in block}
            assert len(widths) == 1, block
            assert re.fullmatch(r"[|\s:-]+", block[1])
            tables += 1
        block = []
    assert tables >= 6


def test_lifts_are_shown_by_kind_of_sessions_and_by_turn(study):
    _, markdown, _ = study
    lines = markdown.splitlines()
    place = next(n for n, line in enumerate(lines) if "Routine-driven sessions" in line)
    headers = [cell.strip() for cell in lines[place].strip("|").split("|")]
    kinds = ["Routine-driven sessions", "Spontaneous sessions", "First turn", "Later turns"]
    assert headers == ["Arm", *kinds]
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines[place + 2 :][:6]]
    lora = next(row for row in rows if row[0] == "All-persona LoRA")
    # The planted shifts: .01, −.02, .03 and −.01 beside the same lift.
    means = [float(cell.split()[0].replace("−", "-")) for cell in lora[1:]]
    assert [round(mean - means[1], 3) for mean in means] == [0.03, 0.0, 0.05, 0.01]


def test_a_group_of_one_user_has_no_interval_and_says_why(tmp_path):
    collected = fake_collected(users=5)
    clusters = {f"user_{number:03d}": number for number in range(5)}
    analysis = analyze(collected, seed=0, margin=0.01, resamples=100, clusters=clusters)
    figures = draw_figures(tmp_path, collected, analysis, only=FEW)
    write_report(tmp_path, collected, analysis, decide(analysis), figures, {})
    told = (tmp_path / "REPORT.md").read_text()
    assert re.search(
        r"worst is cluster \d \(n = 1\) with [+−][\d.]+ \(no interval: one user\)\.", told
    )
    assert re.search(r"Cluster \d of 5 \(n = 1\): [+−][\d.]+ \(no interval: one user\)\.", told)
    assert "n/a (n/a" not in told


def test_order_of_time_and_who_is_left_out_are_told_as_given(tmp_path):
    facts = {"time_order": "by timestamp for 9 users", "left_out": ["1 user left out: <b>x</b>"]}
    markdown, page = reported(tmp_path, facts, users=4)
    assert "Time order of a user's sessions: by timestamp for 9 users." in markdown
    assert "1 user left out: &lt;b&gt;x&lt;/b&gt;." in page
    nothing, _ = reported(tmp_path, users=4)
    assert "Time order of a user's sessions: not recorded." in nothing


def test_a_kind_without_items_has_no_column_and_one_without_users_says_so():
    collected = fake_collected(users=8)
    table = collected.table[collected.table["slice"] != "spontaneous"]
    gone = (table["arm"] == "lora_all") & (table["slice"] == "first_turn")
    analysis = analyze(replace(collected, table=table[~gone]), seed=0, margin=0.01, resamples=100)
    shown = slice_table(analysis)
    assert shown.headers == ("Arm", "Routine-driven sessions", "First turn", "Later turns")
    cells = {row[0].text: [cell.text for cell in row[1:]] for row in shown.rows}
    assert cells["All-persona LoRA"][1] == "n/a: no such items"
    assert all("n = 8" in text for text in cells["All-persona prefix"])


def test_pipes_and_newlines_stay_inside_a_cell():
    assert markdown_cell("a|b\nc \\| <i>") == "a\\|b c \\| &lt;i&gt;"
    assert "](" not in markdown_cell("[click](javascript:x)")
    assert markdown_fence("a ```` b") == "`````"


def test_stages_that_were_not_run_say_so_with_their_command(study):
    _, markdown, page = study
    for name in ("persona_prediction", "ablation", "cluster"):
        assert f"`python -m orchestrator run --study {name}`" in markdown
    assert "Cold against warm start was not part of this study." in markdown
    assert "<code>python -m orchestrator run --study ablation</code>" in page


def test_figures_are_linked_where_they_are(study):
    folder, markdown, _ = study
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", markdown)
    assert links
    assert all((folder / link).is_file() for link in links)


def test_short_documents_and_statistics_are_written(study):
    folder = study[0]
    results = folder / "results"
    assert "All-persona LoRA" in (results / "all_persona_summary.md").read_text()
    advice = (results / "recommendations.md").read_text()
    assert "## Declared before results" in advice
    assert "Would change with:" in advice
    assert "no claim about training noise" in advice
    table = pd.read_csv(results / "stats" / "comparisons.csv")
    needed = "contrast metric n_users mean_lift ci_low ci_high bca_low bca_high t p_t p_wilcoxon"
    needed += " p_permutation p_sign helped tied hurt dz cliffs_delta prob_improvement p_tost"
    needed += " mde80 p_adjusted family"
    assert set(needed.split()) <= set(table.columns)
    for name in ("macro", "lifts", "missing"):
        assert (results / "stats" / f"{name}.csv").is_file()


def test_methods_tell_the_runs_own_resamples_thresholds_and_families(tmp_path):
    collected = fake_collected(users=4)
    limits = Thresholds(stable_share_hurt=0.2, high_variance_share=0.15)
    found = analyze(collected, seed=7, margin=0.01, resamples=123, thresholds=limits)
    told = str(methods_section(found, {}))
    assert "bootstrap, 123 resamples of users" in told
    assert "else 123 flips + 1" in told
    assert "10,000" not in told
    assert "Seed of all resamples and flips: 7." in told
    assert "stable: share hurt under 20 %" in told
    assert "helped and hurt both above 15 %" in told
    sizes = found.comparisons.groupby("family")["p_adjusted"].count()
    first, rest = sizes["primary (Holm)"], sizes["secondary (Benjamini-Hochberg)"]
    assert f"primary (Holm) {first} tests on 1 metric;" in told
    assert f"secondary (Benjamini-Hochberg) {rest} tests on 4 metrics." in told


def test_checkpoints_pass_fail_and_not_run_by_their_numbers(tmp_path):
    facts = {
        "splits_valid": False,
        "splits_detail": "2 sessions in two parts",
        "baseline_repeat": Repetition(items=40, users=8, changed=0, largest_nats=0.0),
        "persona_prediction": {"accuracy": 0.3, "low": 0.2, "chance": 0.1},
    }
    markdown, _ = reported(tmp_path, facts, users=8)
    ending = markdown[markdown.index("## Checkpoints") :]
    assert "| Splits valid and leak-free | not passed | 2 sessions in two parts |" in ending
    told = "40 validation items of 8 users answered twice: 0 came out otherwise, "
    assert f"| Baseline reproducible | passed | {told}likelihoods differ by up to 0 " in ending
    assert "| Persona accuracy above chance | passed | accuracy 0.300" in ending
    shown = {check.name: check for check in validate_workspace(tmp_path)}
    assert shown["Baseline reproducible"].state == "ok"
    assert shown["Baseline reproducible"].found.startswith(told)
    assert shown["Splits valid and leak-free"].state == "warning"
    assert shown["Splits valid and leak-free"].found == "not passed: 2 sessions in two parts"
    (tmp_path / "results" / "checkpoints.json").unlink()
    assert "no report yet" in validate_workspace(tmp_path)[-1].found
    silent, _ = reported(tmp_path / "b", users=8)
    assert silent[silent.index("## Checkpoints") :].count("not run") >= 3


def test_findings_on_persona_prediction_stand_in_the_summary(tmp_path):
    facts = {"persona_findings": ("**Sentence encoder**: accuracy 0.300.",)}
    for text in reported(tmp_path, facts, users=3, only=frozenset()):
        summary = text[text.index("Summary") : text.index("Recommendation")]
        assert "Persona prediction, whose message is this:" in summary
        assert "accuracy 0.300" in summary


def test_sections_of_other_stages_take_the_place_of_the_note(tmp_path):
    text = Text(text="Accuracy was measured.")
    section = Section(key="persona_prediction", title="Persona prediction", blocks=(text,))
    markdown, page = reported(tmp_path, {"sections": {"persona_prediction": section}}, users=3)
    assert "Accuracy was measured." in markdown
    assert "Accuracy was measured." in page
    assert "--study persona_prediction" not in markdown


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"users": 1}, "need two users or more"),
        ({"users": 4, "noise": 0.0}, "all differences are equal"),
        ({"users": 4, "arms": {"baseline": 0.0, "lora_per_user": 0.1}}, "no score of lora_all"),
        ({"users": 4, "arms": {"lora_all": 0.1, "prefix_all": 0.1}}, "no score of baseline"),
        ({"users": 3, "arms": {"baseline": 0.0}}, "was not part of this study"),
    ],
)
def test_poor_studies_get_a_report_with_reasons(tmp_path, changes, reason):
    markdown, page = reported(tmp_path, **changes)
    stats = (tmp_path / "results" / "stats" / "comparisons.csv").read_text()
    assert reason in markdown or reason in stats
    for text in (markdown, page):
        assert not re.search(r"\bnan\b|\bNaN\b|\bNone\b|Traceback", text)
    if changes["users"] == 1:
        assert "n/a" in markdown
        assert "no difference" not in markdown.replace("«no difference»", "")


def test_a_study_without_adapters_shows_no_empty_sections(tmp_path):
    markdown, page = reported(tmp_path, users=3, arms={"baseline": 0.0})
    assert "An all-persona arm was not part of this study." in markdown
    assert "No adapter was trained in this study" in markdown
    for text in (markdown, page):
        assert "All other contrasts" not in text
        assert "rules below say" not in text
    assert "Replies before and after" not in markdown


def test_metrics_without_any_number_are_named_and_get_no_column(tmp_path):
    collected = fake_collected(users=3)
    empty = collected.table["metric"] == "embedding_similarity"
    collected.table.loc[empty, "value"] = float("nan")
    markdown, _ = report_of(tmp_path, collected, only=frozenset({"macro_metrics"}))
    assert "- Nothing to score in these data: Embedding similarity." in markdown
    assert "Embedding similarity ↑" not in markdown
    assert "ROUGE-L ↑" in markdown
    whole, _ = reported(tmp_path / "b", users=3)
    assert "Nothing to score" not in whole
    assert "Embedding similarity ↑" in whole


@pytest.mark.parametrize(
    ("sampled", "told"),
    [
        (False, "decoding (greedy, max_new_tokens 8)."),
        (True, "decoding (do_sample True, temperature 0.7, top_p 0.9, max_new_tokens 8)."),
    ],
)
def test_greedy_decoding_is_told_without_the_settings_of_sampling(tmp_path, sampled, told):
    decoding = {"do_sample": sampled, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 8}
    markdown, _ = reported(tmp_path, {"decoding": decoding}, only=frozenset(), users=3)
    assert told in markdown


def test_the_reliability_table_has_notes_only_where_there_are_some():
    row = {"arm": "lora_all", "of": "score", "icc": 0.1, "reliability": 0.2, "split_half": 0.3}
    row |= {"n_users": 3, "items_per_user": 2.0, "note": ""}
    analysis = analyze(fake_collected(users=3), seed=0, margin=0.01, resamples=100)
    plain = reliability_table(replace(analysis, reliability=pd.DataFrame([row])))
    assert plain.headers[-1] == "Split half"
    assert [len(cells) for cells in plain.rows] == [7]
    rows = pd.DataFrame([row, row | {"note": "n/a: one item"}])
    noted = reliability_table(replace(analysis, reliability=rows))
    assert noted.headers[-1] == "Note"
    assert [cells[-1].text for cells in noted.rows] == ["", "n/a: one item"]


def test_perplexity_is_e_to_the_negative_log_likelihood(tmp_path):
    collected = fake_collected(users=3, arms={"baseline": 0.0, "lora_all": 0.1, "prefix_all": 0.1})
    rows = collected.table[collected.table["metric"] == "verbosity_error"].assign(metric="nll")
    values = {"baseline": math.log(338_149), "lora_all": math.log(1.8651), "prefix_all": 31.2}
    collected.table = pd.concat([collected.table, rows.assign(value=rows["arm"].map(values))])
    nll = MetricInfo(higher_is_better=False, unit="nats/token", title="NLL")
    collected.metrics = {**collected.metrics, "nll": nll}
    markdown, _ = report_of(tmp_path, collected, only=frozenset())
    told = "over users): Baseline 338,000, All-persona LoRA 1.87, All-persona prefix e^31."
    assert told in markdown


def test_missing_users_are_named(tmp_path):
    collected = fake_collected(users=5)
    gone = (collected.table["arm"] == "lora_per_user") & (collected.table["user_id"] == "user_002")
    reason = pd.DataFrame([("lora_per_user", 0, "user_002", "failed: out | of memory")])
    reason.columns = ["arm", "seed", "user_id", "reason"]
    poorer = replace(collected, table=collected.table[~gone], missing=reason)
    markdown, page = report_of(tmp_path, poorer)
    assert "failed: out \\| of memory" in markdown
    assert "failed: out | of memory" in page
    assert "| lora_per_user | lora_per_user - baseline |" in markdown


def test_in_a_browser_sort_and_drill_down_work_and_nothing_is_requested(study, tmp_path):
    address = (study[0] / "results" / "report.html").as_uri()
    with opened(tmp_path / "profile") as browser:
        browser.send("Page.navigate", url=address)
        browser.until("document.readyState == 'complete' && !!document.querySelector('th button')")
        assert browser.ask("document.title").startswith("Personalization study")
        column = (
            "Array.from(document.querySelectorAll('#users-table tbody')).map("
            "body => parseFloat(body.rows[0].cells[2].dataset.sort))"
        )
        click = "document.querySelectorAll('#users-table th button')[2].click()"
        browser.ask(click)
        up = browser.ask(column)
        browser.ask(click)
        assert up == sorted(up)
        assert len(up) == 6
        assert browser.ask(column) == up[::-1]
        hidden = "document.querySelector('#users-table tr.detail').hidden"
        assert browser.ask(hidden) is True
        browser.ask("document.querySelector('#users-table button.open').click()")
        assert browser.ask(hidden) is False
        said = browser.ask("document.querySelector('.detail dd').textContent")
        assert '<script>document.title="gone"</script>' in said
        asked = [
            event["params"]["request"]["url"]
            for event in browser.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        assert [url for url in asked if not url.startswith("data:")] == [address]
        errors = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        assert [event for event in browser.events if event["method"] in errors] == []
