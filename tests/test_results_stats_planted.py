"""The planted-truth benchmark in small: it passes on sound tests and can fail on unsound ones."""

import json

import numpy as np
import pytest

from benchmarks import planted_truth, statistics


@pytest.mark.parametrize("name", sorted(planted_truth.LIFTS))
def test_exact_tests_keep_their_level_on_every_kind_of_lift(name):
    numbers = planted_truth.null_studies(name, 12, studies=500, resamples=200, seed=1)
    found = planted_truth.null_findings(name, 12, numbers)
    assert [one.question for one in found if one.required and not one.passed] == []
    assert {one.question.split()[0] for one in found if one.required} >= {"p_permutation", "p_sign"}


def test_a_test_that_rejects_too_often_fails_and_is_named():
    numbers = planted_truth.null_studies("normal", 20, studies=500, resamples=200, seed=1)
    numbers["p_permutation"] = numbers["p_permutation"] / 4
    numbers["ci_low"] = np.abs(numbers["ci_low"])
    found = planted_truth.null_findings("normal", 20, numbers)
    failed = {one.question.split()[0]: one.remark for one in found if not one.passed}
    assert set(failed) == {"p_permutation", "percentile"}
    assert failed["p_permutation"].endswith("above nominal")


def test_the_command_writes_findings_and_its_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(statistics, "LIFTS", {"normal": planted_truth.normal})
    monkeypatch.setattr(statistics, "USERS", (12,))
    out = tmp_path / "deep" / "truth.json"
    options = ["--out", str(out), "--studies", "100", "--resamples", "100"]
    monkeypatch.setattr("sys.argv", ["statistics", *options])
    code = statistics.main()
    report = json.loads(out.read_text())
    assert code == (0 if report["passed"] else 1)
    assert report["studies"] == 100
    assert np.isfinite([one["rate"] for one in report["findings"]]).all()
    assert "written to" in capsys.readouterr().out
