"""The command line: exit codes, messages, and nothing left behind by bad input."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from data.settings import DataSettings
from orchestrator.cli import main, summary_table
from orchestrator.exit_codes import ExitCode, InputError
from orchestrator.finish import SUMMARY_FILE, ArmRow, Summary, known_summary
from orchestrator.study import Request
from orchestrator.workspace import Workspace
from results.lock import LOCK_FILE, workspace_lock
from search_spaces.catalog import STUDIES


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--study", "per_persna"), "unknown study 'per_persna'. Did you mean 'per_persona'?"),
        (("--model", "embeded"), "did you mean 'embedded'?"),
        (("--model", "./no/such/model"), "model './no/such/model' is no folder"),
        (("--data", "synthetik"), "Did you mean 'synthetic'?"),
        (("--data", "edgewise:/no/such/folder"), "neither a source nor an existing folder"),
        (("--set", "lora.rnk=3"), "unknown setting 'lora.rnk'; did you mean 'lora.rank'?"),
        (("--set", "lora.rank=three"), "lora.rank input should be a valid integer"),
        (("--set", "evaluation.encoder=embeded"), "did you mean 'embedded'?"),
        (("--set", "shared.lora_from=./none"), "shared.lora_from: none has no adapter_config"),
        (("--config", "none.yaml"), "none.yaml: cannot be read"),
        (("--seeds", "one"), "whole numbers with commas are wanted"),
        (("--seeds", "-1,0"), "seeds.0 input should be greater than or equal to 0, not -1"),
        (("--seeds", "99999999999999999999"), "should be less than or equal to 2147483647"),
        (("--seeds", "0,1,0"), "seeds are to be different from each other; given twice: 0"),
        (("--set", "seeds=[1, 1]"), "seeds are to be different from each other"),
        (("--set", "seeds=3"), "seeds is to be a list, as [3], not 3"),
        (("--set", "search.ranges=foo"), "search.ranges is to be a list, as [foo], not 'foo'"),
        (("--set", "seeds=[]"), "seeds is to have at least 1 item"),
        (("--set", "personal.lora.lr=1"), "did you mean 'personal.lora.learning_rate'?"),
        (("--set", "personal.lora.zzz=1"), "in 'personal.lora' there are: learning_rate, epochs"),
        (("--gpu-fraction", "nan"), "a trial cannot take nan GPUs"),
        (("--gpu-fraction", "inf"), "a trial cannot take inf GPUs"),
        (("--address", "head"), "--address 'head' is no address: give HOST:PORT"),
        (("--skip-bad-rows", "-1"), "data.skip_bad_rows input should be greater than or equal"),
        (("--skip-bad-rows", "few"), "Invalid value for '--skip-bad-rows'"),
        (("--users", "0"), "data.users input should be greater than or equal to 1"),
        (("--set", "threads=4096"), "threads is 4096, but this machine has"),
        (("--local", "--address", "auto"), "--local and --address exclude each other"),
        (("--stduy", "x"), "No such option: --stduy"),
        (("--search", "bayes"), "search.method input should be 'none', 'grid', 'random'"),
        (("--search", "grid", "--samples", "0"), "search.samples input should be greater than"),
        (("--samples", "3"), "--samples says how long a search is; give --search"),
        (("--search", "grid", "--study", "baseline"), "study baseline has nothing to search"),
        (
            ("--search", "grid", "--set", "search.ranges=[lora.rnk = 3]"),
            "search.ranges 'lora.rnk = 3': unknown setting; did you mean 'lora.rank'?",
        ),
        (
            ("--search", "grid", "--set", "search.arms=[lora_al]"),
            "'lora_al' is no arm that study per_persona can search; did you mean 'lora_all'?",
        ),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "run", "--workspace", str(tmp_path / "work"), *words)
    assert code == ExitCode.BAD_INPUT
    assert message in err.replace("\n", " ")
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [(), ("--fresh",)])
def test_a_second_driver_on_a_workspace_is_told_who_has_it_and_touches_nothing(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "results" / "ledger" / "cell" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    with workspace_lock(tmp_path) as lock:
        code, _, err = run(capsys, "run", "--workspace", str(tmp_path), *words)
        assert code == ExitCode.INFRASTRUCTURE
        assert f"in use by process {lock.holder.pid} on {lock.holder.host}" in " ".join(err.split())
        lock.confirm()
    left = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"results"}
    assert record.read_text() == "{}"
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_workspace_that_is_no_folder_or_cannot_be_made_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "deep"):
        for command in ("run", "plan", "status", "validate"):
            code, _, err = run(capsys, command, "--workspace", str(place))
            assert code == ExitCode.BAD_INPUT
            assert "is a file" in err
    assert (tmp_path / "file").read_text() == "mine"
    for place in ("/proc/study", "/proc"):
        code, _, err = run(capsys, "run", "--workspace", place)
        assert code == ExitCode.INFRASTRUCTURE
        assert place in err
        assert "writable" in err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device", "/mnt/x.csv"), "/mnt/x.csv: No space left on dev"),
        (ZeroDivisionError("division by zero"), "Traceback"),
        (RuntimeError("https://me:secret-word@host"), "https://me:…@host"),
        (SystemExit(1), ""),
    ],
)
def test_no_other_end_is_taken_for_that_of_failed_trials(
    error: BaseException,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(root: Path) -> None:
        raise error

    monkeypatch.setattr("orchestrator.checks.validate_workspace", fail)
    code, _, err = run(capsys, "validate", "--workspace", str(tmp_path))
    assert code == ExitCode.INFRASTRUCTURE
    assert told in err
    assert "secret-word" not in err


def test_everything_wrong_in_a_file_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "study.yaml"
    config.write_text("lora:\n  rnak: 3\npersonal:\n  lora:\n    early_stopping: no\nthreads: x\n")
    code, _, err = run(capsys, "run", "--workspace", str(tmp_path / "w"), "--config", str(config))
    assert code == ExitCode.BAD_INPUT
    assert "study.yaml:2: unknown setting 'lora.rnak'; did you mean 'lora.rank'?" in err
    assert "study.yaml:5: personal.lora.early_stopping: no is read as false or true" in err
    assert "study.yaml:6: threads input should be a valid integer, not 'x'" in err
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_a_folder_without_the_dataset_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw").mkdir()
    words = ("--workspace", str(tmp_path / "work"), "--data", str(tmp_path / "raw"))
    code, _, err = run(capsys, "run", *words)
    assert code == ExitCode.BAD_INPUT
    assert "characters.jsonl" in err
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


ROW = b'{"persona_id": "ann", "session_id": 0, "messages": []}'


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (ROW[:18], "line 2: not valid JSON: Unterminated string starting at character 16"),
        (ROW.replace(b"ann", b"Jos\xe9"), "line 2: byte 20 is not UTF-8 (latin-1?)"),
        (ROW.replace(b"persona_id", b"who"), "line 2: lacks 'persona_id' (fields there: who, "),
    ],
)
def test_a_bad_row_ends_the_command_with_file_and_line_and_leaves_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    row: bytes,
    reason: str,
) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(ROW + b"\n" + row + b"\n")
    monkeypatch.setattr("orchestrator.study._Ray.start", lambda self: None)
    words = ("--workspace", str(tmp_path / "work"), "--data", str(path))
    for command in (("data", "prepare"), ("run", "--study", "baseline")):
        code, _, err = run(capsys, *command, *words)
        assert code == ExitCode.BAD_INPUT
        assert f"{path}, {reason}" in err
        assert "1 bad row so far, 0 allowed" in err
        assert "--skip-bad-rows 1" in err
        assert [place.name for place in tmp_path.iterdir()] == ["chats.jsonl"]


def test_three_files_of_different_length_end_the_command_with_the_missing_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "homes"
    folder.mkdir()
    for name, lines in (("characters", 2), ("routines", 1), ("sessions", 2)):
        (folder / f"{name}.jsonl").write_text("{}\n" * lines)
    monkeypatch.setattr("orchestrator.study._Ray.start", lambda self: None)
    words = ("--workspace", str(tmp_path / "work"), "--data", str(folder))
    code, _, err = run(capsys, "data", "prepare", *words)
    assert code == ExitCode.BAD_INPUT
    assert f"{folder / 'routines.jsonl'}, line 2: " in err
    assert [place.name for place in tmp_path.iterdir()] == ["homes"]


def test_tolerances_of_data_are_options_of_every_command_that_prepares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[DataSettings] = []

    def keep(request: Request, **_: object) -> None:
        asked.append(request.settings.data.prepare_settings())
        raise InputError("far enough")

    for place in ("study.run_study", "study.prepare_only", "outlook.look_ahead"):
        monkeypatch.setattr(f"orchestrator.{place}", keep)
    for command in (("run",), ("plan",), ("data", "prepare")):
        words = (*command, "--workspace", str(tmp_path / "w"))
        assert run(capsys, *words, "--strict", "--skip-bad-rows", "3")[0] == ExitCode.BAD_INPUT
        assert run(capsys, *words, "--set", "data.strict=true")[0] == ExitCode.BAD_INPUT
        told = [(settings.strict, settings.skip_bad_rows) for settings in asked[-2:]]
        assert told == [(True, 3), (True, 0)]
    assert len(asked) == 6


def test_a_plan_shows_every_arm_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--workspace", str(tmp_path / "work"), "--study", "per_persona")
    code, out, _ = run(capsys, "run", "--dry-run", "--no-probe", *words)
    assert code == ExitCode.DONE
    for arm in STUDIES["per_persona"].arms:
        assert arm.name in out
    code, out, _ = run(capsys, "plan", "--json", "--no-probe", "--users", "100", *words)
    assert code == ExitCode.DONE
    found = json.loads(out)
    own = [cell for cell in found["cells"] if cell["arm"] == "lora_per_user"]
    assert sum(cell["users"] for cell in own if cell["purpose"] == "personalize") == 90
    assert sum(cell["users"] for cell in own if cell["purpose"] == "trace") == 90
    assert list(tmp_path.iterdir()) == []


def test_a_plan_shows_the_most_that_a_search_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--workspace", str(tmp_path / "work"), "--study", "global", "--search", "optuna")
    code, out, _ = run(capsys, "plan", "--json", "--no-probe", *words, "--samples", "5")
    assert code == ExitCode.DONE
    found = json.loads(out)
    search = {row["arm"]: row["cells"] for row in found["arms"] if row["stage"] == "search"}
    # Five trainings of one epoch, three whole ones; each scored in two blocks of users.
    assert search == {"lora_all": (5 + 3) * 3, "prefix_all": (5 + 3) * 3}
    stand_ins = [cell for cell in found["cells"] if cell["stand_in"]]
    assert {cell["stage"] for cell in stand_ins} == {"search"}
    assert len(stand_ins) == sum(search.values())
    assert len(found["cells"]) == sum(row["cells"] for row in found["arms"])
    assert any("the most that it can need" in note for note in found["notes"])
    assert run(capsys, "run", "--dry-run", "--no-probe", *words)[0] == ExitCode.DONE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [("status",), ("report",), ("export", "--into", "x"), ("report", "--study", "globl")],
)
def test_commands_that_need_a_run_say_so(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *words, "--workspace", str(tmp_path))
    assert code == ExitCode.BAD_INPUT
    assert "run it first" in err or "start one" in err or "Did you mean 'global'?" in err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_workspace_does_not_validate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "validate", "--workspace", str(tmp_path))[0] == ExitCode.FAILED_TRIALS


def test_synthetic_data_can_be_made_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--into", str(tmp_path / "raw"), "--users", "2", "--sessions", "3")
    assert run(capsys, "data", "synthesize", *words)[0] == ExitCode.DONE
    names = {path.name for path in (tmp_path / "raw").iterdir()}
    assert names == {"characters.jsonl", "routines.jsonl", "sessions.jsonl"}


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--help")
    commands = [line.split()[0] for line in out.split("Commands:")[1].splitlines() if line.strip()]
    assert {"run", "plan", "report", "export", "status", "validate", "doctor"} <= set(commands)
    for command in commands:
        words = ["data", "prepare"] if command == "data" else [command]
        code, out, _ = run(capsys, *words, "--help")
        assert code == ExitCode.DONE
        assert "Example: python -m orchestrator" in " ".join(out.split())


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "config-schema")
    assert code == ExitCode.DONE
    assert "personal" in json.loads(out)["properties"]


def test_the_closing_table_compares_only_where_there_is_something_to_compare() -> None:
    alone = ArmRow("baseline", 0.1, None, None, None, None, None, 14)
    helped = ArmRow("lora_all", 0.2, 0.1, 0.05, 0.15, 9, 5, 14)
    table = summary_table([alone])
    assert table.title == "Macro ROUGE-L on test items, n = 14 users"
    assert [column.header for column in table.columns] == ["arm", "ROUGE-L"]
    table = summary_table([alone, helped])
    assert table.title == "Macro ROUGE-L on test items, lift over the baseline, n = 14 users"
    assert [list(column.cells)[1] for column in table.columns] == [
        *("lora_all", "0.200", "+0.100", "+0.050 … +0.150", "9", "5")
    ]


def test_an_earlier_runs_summary_comes_back_as_it_was(tmp_path: Path) -> None:
    row = ArmRow("lora_all", 0.2, 0.1, 0.05, 0.15, 9, 5, 14)
    summary = Summary("abc", (row,), "REPORT.md", ("Sentence encoder: accuracy 0.300.",))
    path = tmp_path / SUMMARY_FILE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(asdict(summary)))
    assert known_summary(Workspace(tmp_path), "abc") is None  # There is no report.
    (tmp_path / "REPORT.md").write_text("")
    assert known_summary(Workspace(tmp_path), "abc") == summary
    assert known_summary(Workspace(tmp_path), "other") is None
