"""A hostile dataset through the whole of ``--study full``: ids and texts stay data everywhere."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode
from results.files import FORMULA_STARTS
from tasks.base_model import EMBEDDED_FOLDER
from tests.browser import opened
from tests.test_orchestrator_full import SMALL

SCRIPT = "<script>document.title='gone';window.gone=1</script>"
IDS = ("../x", "a/b", "CON", "🏠", "x" * 300, "A", "a", "=cmd()", SCRIPT)
TEXTS = (
    f"Dim the lights {SCRIPT} please",
    "</script></style><img src=x onerror='window.gone=1'> turn it on",
    "=HYPERLINK(\"http://evil.example\",\"x\") set the heat",
    "+1 warmer, -1 colder, @home",
    "\x1b[31mred\x1b[0m \x07 lights \x1b]0;title\x07 off",
    "{{7*7}} ${7*7} $(touch pwned) `touch pwned` | *bold* | [x](javascript:window.gone=1)",
    "\u202egnp.exe the lamp and the \u2066blinds\u2069",
    "'; DROP TABLE users; -- and the \ud83d lamp",
)  # fmt: skip


def rows() -> list[dict[str, object]]:
    """Ten sessions a user; some begin with the assistant, repeat a role, or end oddly."""
    found: list[dict[str, object]] = []
    for place, name in enumerate(IDS):
        for number in range(10):
            said = [TEXTS[(place + number + k) % len(TEXTS)] for k in range(4)]
            messages = [
                {"role": role, "text": f"{text} {place}.{number}.{k}"}
                for k, (role, text) in enumerate(
                    zip(("user", "assistant", "user", "assistant"), said, strict=True)
                )
            ]
            match (place + number) % 5:
                case 1:
                    messages = [{"role": "assistant", "text": "Hello"}, *messages]
                case 2:
                    messages = [messages[0], *messages]
                case 3:
                    messages = [*messages, {"role": "user", "text": " "}]
            found.append({"persona_id": name, "session_id": number, "messages": messages})
    found[0]["messages"][0]["text"] = "lights " * 150_000  # type: ignore[index]
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_ids_and_texts_stay_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], thorough: bool
) -> None:
    if not (EMBEDDED_FOLDER / "model.safetensors").is_file():
        pytest.skip("the model is not built")
    outer = tmp_path / "outer"
    root = outer / "deep" / "study"
    root.parent.mkdir(parents=True)
    source = outer / "hostile.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    before = {path for path in outer.rglob("*") if root not in path.parents}
    words = [word for word in SMALL if word not in ("--users", "7")]
    study = "full" if thorough else "per_persona"
    run = ["run", "--workspace", str(root), "--study", study, "--data", str(source), *words]
    code = main(run)
    shown = capsys.readouterr()
    assert code == ExitCode.DONE, shown.err
    assert {p for p in outer.rglob("*") if root not in p.parents} == before | {root}
    assert not [path for path in tmp_path.rglob("*") if path.name == "pwned"]
    names = [path.relative_to(root).as_posix() for path in (root / "models").rglob("*")]
    assert all(re.fullmatch(r"[A-Za-z0-9_./-]+", name) for name in names), names[:5]
    told = shown.out + shown.err
    assert not [sign for sign in told if not (sign.isprintable() or sign == "\n")]
    check_tables(root)
    check_report(root / "results" / "report.html", tmp_path / "profile")
    markdown = (root / "REPORT.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert "onerror=" not in re.sub(r"&lt;[^\n]*", "", markdown)


def check_tables(root: Path) -> None:
    """Every CSV is read by both readers, and no cell of text would be run by a spreadsheet."""
    paths = sorted(root.rglob("*.csv"))
    assert len(paths) > 20
    for path in paths:
        pd.read_csv(path)
        with path.open(encoding="utf-8", newline="") as file:
            cells = {cell for row in csv.reader(file) for cell in row}
        bad = [cell for cell in cells if cell.startswith(FORMULA_STARTS) and not is_number(cell)]
        assert bad == [], path
    assert "'=cmd()" in (root / "models" / "users.csv").read_text(encoding="utf-8") or any(
        "user_=cmd()" in path.read_text(encoding="utf-8") for path in paths
    )


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_report(page: Path, profile: Path) -> None:
    """The page as a browser sees it: nothing of the data ran, nothing was asked for."""
    with opened(profile) as browser:
        browser.send("Page.navigate", url=page.as_uri())
        browser.until("document.readyState == 'complete' && !!document.querySelector('th button')")
        browser.ask("document.querySelectorAll('button.open').forEach(one => one.click())")
        assert browser.ask("typeof window.gone") == "undefined"
        assert browser.ask("document.title").startswith("Personalization study")
        assert browser.ask("document.querySelectorAll('img[src=x]').length") == 0
        assert SCRIPT in browser.ask("document.body.textContent")
        urls = [
            event["params"]["request"]["url"]
            for event in browser.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        assert [url for url in urls if not url.startswith("data:")] == [page.as_uri()]
        errors = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        assert [event for event in browser.events if event["method"] in errors] == []
