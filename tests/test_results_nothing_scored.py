"""Metrics that say nothing: told in line 1 of the screen, the report and its short forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.cli import _show_outcome
from orchestrator.finish import Summary
from results.analysis import analyze
from results.decisions import decide
from results.nothing_scored import scoring_warnings
from results.report import write_report
from results.summary import advise
from tests.results_study import fake_collected


def analyzed(collected):
    return analyze(collected, seed=0, margin=0.01, resamples=200)


def test_a_study_whose_metrics_say_something_has_no_warning():
    collected = fake_collected(users=5, arms={"baseline": 0.0, "lora_all": 0.1})
    assert scoring_warnings(collected.table, analyzed(collected)) == ()


def test_a_metric_that_is_0_throughout_is_named():
    collected = fake_collected(users=5, arms={"baseline": 0.0, "lora_all": 0.1})
    collected.table.loc[collected.table["metric"] == "rouge_l", "value"] = 0.0
    (line,) = scoring_warnings(collected.table, analyzed(collected))
    assert line.startswith("ROUGE-L is 0 throughout, for every arm: it cannot tell them apart")
    (advice,) = advise(analyzed(collected), decide(analyzed(collected)))
    assert advice.startswith("No rule can speak for or against an adapter: ROUGE-L is 0 throughout")
    one = collected.table["arm"].eq("lora_all") & collected.table["metric"].eq("rouge_l")
    collected.table.loc[one, "value"] = 0.01
    assert scoring_warnings(collected.table, analyzed(collected)) == ()


def test_true_replies_with_nothing_to_score_are_counted_once():
    collected = fake_collected(
        users=5, items=4, seeds=(0, 1), arms={"baseline": 0.0, "lora_all": 0.1}
    )
    table = collected.table
    own = (table["metric"] == "rouge_l") & (table["user_id"] == "user_001")
    table.loc[own, "n_items"] = 3
    collected.table = table[~((table["metric"] == "rouge_l") & (table["user_id"] == "user_002"))]
    (line,) = scoring_warnings(collected.table, analyzed(collected))
    assert line.startswith("5 of 20 items (25.0 %) left out of ROUGE-L: a true reply without")


def test_a_study_without_a_single_word_is_reported_as_such(tmp_path: Path):
    collected = fake_collected(users=5, arms={"baseline": 0.0, "lora_all": 0.1})
    collected.table = collected.table[collected.table["metric"] != "rouge_l"]
    analysis = analyzed(collected)
    warnings = scoring_warnings(collected.table, analysis)
    assert warnings[0].startswith("15 of 15 items (100.0 %) left out of ROUGE-L")
    write_report(tmp_path, collected, analysis, decide(analysis), [], {"warnings": warnings})
    assert np.isnan(analysis.macro["mean"]).sum() in (0, 2)


def test_warnings_stand_in_line_1_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collected = fake_collected(users=5, arms={"baseline": 0.0, "lora_all": 0.1})
    analysis = analyzed(collected)
    facts = {"warnings": ("ROUGE-L is 0 throughout",), "data_warnings": ["no English"]}
    write_report(tmp_path, collected, analysis, decide(analysis), [], facts)
    for name, heading in (
        ("REPORT.md", "## Summary"),
        ("results/all_persona_summary.md", "## What was found"),
        ("results/recommendations.md", "## What to do"),
    ):
        text = (tmp_path / name).read_text()
        under = text[text.index(heading) + len(heading) :].strip()
        assert under.split("\n")[0].strip("> ") == "**Warning.** ROUGE-L is 0 throughout."
    assert "Warning: no English." in (tmp_path / "REPORT.md").read_text()

    class Outcome:
        summary = Summary("", (), "", warnings=("ROUGE-L is 0 throughout",))
        ran = reused = 0
        seconds = 1.0
        failures = ()

    _show_outcome(Outcome(), None)
    assert capsys.readouterr().out.startswith("Warning: ROUGE-L is 0 throughout.\n")
