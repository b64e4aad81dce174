"""What a plan tells a person: time, money, every arm by its name, at any width."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli import main
from orchestrator.estimate import Estimate
from orchestrator.exit_codes import ExitCode
from orchestrator.forecast import Forecast
from orchestrator.placement import Machine


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    code = main(list(words))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_price_of_gpus_where_there_are_none_is_no_cost_of_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.placement.this_machine", lambda: Machine(2, 0))
    known = Forecast(Estimate({"baseline": 7200.0}, 7200.0, 7200.0), {})
    monkeypatch.setattr("orchestrator.outlook.forecast_plan", lambda *_, **__: known)
    plan = ("plan", "--study", "global", "--workspace", str(tmp_path / "w"))
    code, out, _ = run(capsys, *plan, "--price-per-gpu-hour", "3")
    assert code == ExitCode.DONE
    assert "about 2 h 0 min\n" in out
    assert "no GPU here: 0 GPU hours" in out
    assert "--price-per-hour prices the machine" in out
    _, out, _ = run(capsys, *plan, "--price-per-gpu-hour", "3", "--json")
    assert json.loads(out)["cost"] is None
    _, out, _ = run(capsys, *plan, "--price-per-gpu-hour", "3", "--price-per-hour", "0.5")
    assert "about 2 h 0 min, cost 1.00\n" in out
    assert "a price per GPU hour adds nothing\n" in out
    monkeypatch.setattr("orchestrator.placement.this_machine", lambda: Machine(2, 2, logical=True))
    _, out, _ = run(capsys, *plan, "--price-per-gpu-hour", "3")
    assert "about 2 h 0 min, cost 12.00\n" in out
    assert "no GPU" not in out


@pytest.mark.parametrize("option", ["--price-per-hour", "--price-per-gpu-hour"])
@pytest.mark.parametrize("price", ["inf", "-inf", "nan", "-1", "1e300"])
def test_a_price_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, price: str
) -> None:
    for command in (("plan",), ("run", "--dry-run")):
        words = (*command, "--json", "--no-probe", "--workspace", str(tmp_path / "w"))
        code, out, err = run(capsys, *words, option, price)
        assert (code, out) == (ExitCode.BAD_INPUT, "")
        assert option in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("width", [50, 80, 100])
def test_a_plan_names_every_arm_in_full_at_any_width(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
) -> None:
    words = ("plan", "--no-probe", "--study", "full", "--workspace", str(tmp_path / "w"))
    arms = {row["arm"] for row in json.loads(run(capsys, *words, "--json")[1])["arms"]}
    assert len(arms) > 30
    monkeypatch.setattr("orchestrator.cli.out", Console(width=width, force_terminal=True))
    _, out, _ = run(capsys, *words)
    lines = re.sub("\x1b[^m]*m", "", out).splitlines()
    assert max(map(len, lines)) <= width
    column = lines[2].index("cells") - 1
    names = "".join(line[:column].replace(" ", "") for line in lines)
    assert "…" not in names
    assert [arm for arm in arms if arm not in names] == []
    # Words of the notes are whole.
    assert "nothing can be found done" in " ".join(" ".join(lines).split())
