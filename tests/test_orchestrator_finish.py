"""What the command line and the report tell of a finished study, beside its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.facts import report_facts
from orchestrator.finish import arm_rows
from orchestrator.layers import resolve_settings
from results.analysis import analyze
from search_spaces.catalog import STUDIES
from tests.results_study import fake_collected
from tests.test_orchestrator_splits import prepared, splits_of, user


def test_the_screen_shows_the_interval_of_the_report() -> None:
    found = analyze(fake_collected(seeds=(0, 1, 2)), seed=0, margin=0.01, resamples=200)
    rows = {row.arm: row for row in arm_rows(found)}
    for arm in ("lora_all", "lora_per_user"):
        told = found.row(f"{arm} - baseline")
        assert (told["low"], told["high"]) != (told["ci_low"], told["ci_high"])
        shown = (rows[arm].low, rows[arm].high)
        assert shown == pytest.approx((told["low"], told["high"]), abs=1e-6)


@pytest.mark.parametrize("broken", [False, True])
def test_facts_hold_the_whole_command_and_the_check_of_the_splits(
    broken: bool, tmp_path: Path
) -> None:
    splits = {"user_a": splits_of(0) | ({"test": [4]} if broken else {})}
    data = prepared(tmp_path, splits, user("user_a"))
    totals = {"totals": {"sessions": {"train": 3}}}
    (tmp_path / "data/splits/split_stats.json").write_text(json.dumps(totals))
    cleaned = {"counts": {}, "kept": {"users": 1}}
    (tmp_path / "data/cleaned/cleaning_stats.json").write_text(json.dumps(cleaned))
    options = ["statistics.stable_share_hurt=0.2", "data.signal=0.5"]
    settings = resolve_settings(STUDIES["per_persona"], options=options)
    plan = SimpleNamespace(study="per_persona", cells=(), stages=())
    facts = report_facts(plan, {}, settings=settings, prepared=data)
    words = "--set data.signal=0.5 --set statistics.stable_share_hurt=0.2"
    assert facts["command"] == f"python -m orchestrator run --study per_persona {words}"
    assert facts["splits_valid"] is not broken
    assert ("not disjoint" if broken else "1 user checked") in facts["splits_detail"]
