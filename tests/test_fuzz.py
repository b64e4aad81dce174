"""A small, seeded part of ``benchmarks.fuzz``: readers accept, or refuse with their own error."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fuzz import SUFFIXES, TARGETS, Told, fuzz_one
from orchestrator.exit_codes import InputError
from orchestrator.layers import resolve_settings
from search_spaces.catalog import STUDIES


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_makes_a_reader_raise_anything_else(name: str, tmp_path: Path) -> None:
    told = Told()
    for seed in range(500):
        fuzz_one(name, seed, folder=tmp_path, told=told)
    assert told.findings == []
    assert told.accepted > 10, "valid inputs are among them"
    # Bad rows are listed beside good ones; files and texts as a whole are refused.
    assert name in ("jsonl", "edgewise") or told.refused.total() > 10


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 3000, "a: " + "[" * 3000 + "]" * 3000, "a: &x [*x]"]
)
def test_settings_nested_too_deeply_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"nested too deeply|unknown setting|expected"):
        resolve_settings(STUDIES["baseline"], config=path)
    with pytest.raises(InputError, match=r"nested too deeply|unknown setting"):
        resolve_settings(STUDIES["baseline"], options=[text.replace(": ", "=", 1)])


def test_a_reader_that_breaks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> object:
        raise KeyError("oh")

    from dataclasses import replace

    monkeypatch.setitem(TARGETS, "record", replace(TARGETS["record"], read=broken))
    told = Told()
    fuzz_one("record", 3, folder=tmp_path, told=told)
    assert told.findings == ["seed 3: KeyError: 'oh'"]
    assert (tmp_path / SUFFIXES["record"]).is_file()
