"""Every command and subcommand: help with an example, and the exit codes that are documented."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from click import Command, Group

from orchestrator.cli import app, main
from orchestrator.exit_codes import ExitCode
from results.lock import workspace_lock

README = Path(__file__).resolve().parent.parent / "README.md"


def commands() -> Iterator[tuple[tuple[str, ...], Command]]:
    """Words and command of everything that can be run."""
    waiting: list[tuple[tuple[str, ...], Command]] = [((), typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        inner = getattr(command, "commands", None)
        if inner is None:
            yield words, command
        else:
            waiting += [((*words, name), one) for name, one in inner.items()]


COMMANDS = {" ".join(words): command for words, command in commands()}


def test_these_are_the_commands() -> None:
    assert {
        *(
            "run",
            "plan",
            "report",
            "compare",
            "export",
            "status",
            "validate",
            "doctor",
            "cluster-check",
        ),
        *("build-model", "config-schema", "data prepare", "data synthesize"),
    } <= set(COMMANDS)
    assert not any(isinstance(command, Group) for command in COMMANDS.values())


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_help_says_what_it_does_with_an_example_of_real_options(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words.split(), "--help"]) == ExitCode.DONE
    text = capsys.readouterr().out
    pattern = rf"Example: python -m orchestrator {re.escape(words)}\b(.*?)\n\n"
    example = re.search(pattern, text, re.DOTALL)
    assert example is not None, text
    given = [word for word in shlex.split(example[1]) if word.startswith("--")]
    known = {name for one in COMMANDS[words].params for name in (*one.opts, *one.secondary_opts)}
    assert set(given) <= known
    options = [one for one in COMMANDS[words].params if one.param_type_name == "option"]
    assert all(getattr(one, "help", None) for one in options), "an option without a word"


def test_every_command_of_the_readme_exists() -> None:
    text = README.read_text(encoding="utf-8")
    for line in re.findall(r"python -m orchestrator ([^`\n#…]+)", text):
        words = shlex.split(line)
        name = " ".join(words[:2]) if words[0] == "data" else words[0]
        assert name in COMMANDS, line
        known = {option for one in COMMANDS[name].params for option in one.opts}
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}, line


@pytest.mark.parametrize(
    "words",
    [
        *("status", "status --watch", "report", "export --into out"),
        *("run --study none", "plan --study none", "plan --price-per-hour -1"),
        *("compare --baseline a.csv --arm b.csv --id u --metrics m --out out", "nonsense", ""),
        *("data prepare --data nowhere.jsonl", "data synthesize", "build-model --nonsense"),
    ],
)
def test_bad_input_ends_with_2_and_leaves_nothing(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(words)) == ExitCode.BAD_INPUT
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_that_another_run_holds_ends_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with workspace_lock(tmp_path):
        words = ["data", "prepare", "--workspace", str(tmp_path), "--users", "2"]
        assert main(words) == ExitCode.INFRASTRUCTURE
    assert "Error:" in capsys.readouterr().err


def test_the_schema_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config-schema"]) == ExitCode.DONE
    assert '"$schema"' in capsys.readouterr().out


def test_the_readme_and_the_help_name_the_same_exit_codes() -> None:
    text = README.read_text(encoding="utf-8")
    told = re.search(r"\*\*Exit codes\*\*: (.*?)\n(?:- |\n)", text, re.S)
    assert told is not None
    assert {int(code) for code in re.findall(r"\b(\d+) [a-z]", told[1])} == set(map(int, ExitCode))
