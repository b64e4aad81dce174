"""The report's section on time: planned against spent, by hand."""

from __future__ import annotations

from pathlib import Path

from orchestrator.candidate_cells import STAGE
from results.document import Table, Text
from results.report import render_markdown
from results.report_spent import KEY, spent_section, spent_told
from results.stage_times import SEARCH, StageTime, total_of

TIMES = (
    StageTime(stage=SEARCH, cells=9, failed=1, planned=100.0, spent=60.0),
    StageTime(stage="baseline", cells=3, planned=20.0, spent=30.0),
    StageTime(stage="per_user", cells=4, failed=1, planned=80.0, spent=90.0),
)


def rows_of(times: tuple[StageTime, ...]) -> list[list[str]]:
    """The table's cells as texts."""
    (shown,) = (b for b in spent_section(times, retried=0).blocks if isinstance(b, Table))
    return [[cell.text for cell in row] for row in shown.rows]


def words_of(times: tuple[StageTime, ...], *, retried: int = 0) -> str:
    """The section's paragraphs."""
    blocks = spent_section(times, retried=retried).blocks
    return " ".join(block.text for block in blocks if isinstance(block, Text))


def test_each_stage_has_planned_spent_and_their_factor_and_so_has_the_whole() -> None:
    assert rows_of(TIMES) == [
        ["search", "9", "1", "100", "60", "0.60"],
        ["baseline", "3", "0", "20", "30", "1.50"],
        ["per_user", "4", "1", "80", "90", "1.12"],
        ["all", "16", "2", "200", "180", "0.90"],
    ]
    told = words_of(TIMES, retried=1)
    assert "Trials that failed: 2 of 16" in told
    assert "1 cell needed more than one try." in told
    assert "the most cells that it can need" in told
    assert SEARCH == STAGE


def test_a_stage_that_was_not_foretold_says_so_and_keeps_the_whole_from_a_factor() -> None:
    times = (TIMES[1], StageTime(stage="per_user", cells=2, spent=7.0))
    assert rows_of(times)[1:] == [
        ["per_user", "2", "0", "n/a", "7", "n/a"],
        ["all", "5", "0", "n/a", "37", "n/a"],
    ]
    assert "No forecast was made of: per_user." in words_of(times)
    assert "None of 5 trials failed." in words_of(times)
    assert "No forecast was made: the run is so short" in words_of(times[1:])
    assert total_of(TIMES).factor == 0.9


def test_the_section_goes_to_the_report_beside_those_of_others(tmp_path: Path) -> None:
    found = spent_told(TIMES, retried=0, known={"sections": {"search": "kept"}})
    assert found["sections"]["search"] == "kept"
    text = render_markdown("t", [found["sections"][KEY]], root=tmp_path)
    assert "## Time: planned against spent" in text
    assert "| all | 16 | 2 | 200 | 180 | 0.90 |" in text
    assert spent_told((), retried=0, known={}) == {}
