"""The table of faults: complete, of tests that exist, and red where a row was not shown."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults import ROWS, TESTS, FaultTable, RecordCount, node_ids


def test_every_row_has_tests_and_every_test_exists() -> None:
    assert list(ROWS) == list(range(1, 28))
    assert all(row.tests and all(row.tests.values()) for row in ROWS.values())
    for node in node_ids():
        file, _, test = node.partition("::")
        text = (TESTS.parent / Path(file)).read_text(encoding="utf-8")
        assert re.search(rf"^def {test}\(", text, re.MULTILINE), node


def test_the_table_shows_counts_and_what_was_not_run() -> None:
    table = FaultTable()
    for node in node_ids():
        table.outcomes[node] = "passed"
    first = node_ids()[0]
    table.records[first] = [RecordCount(19, 19, 0, 0), RecordCount(5, 4, 0, 1)]
    lines = table.lines()
    assert len(lines) == 1 + len(ROWS)
    assert re.search(r"passed +24 +23 +0 +1$", lines[1])
    table.outcomes[first] = "failed"
    assert " failed " in table.lines()[1]
    del table.outcomes[first]
    assert " not run " in table.lines()[1]
