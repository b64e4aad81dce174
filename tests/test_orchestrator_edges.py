"""What a first day brings: paths that are none, homes that are nobody's, terminals without «…»."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from orchestrator import checks, home
from orchestrator.cli import _print_json, main
from orchestrator.exit_codes import ExitCode, InputError
from orchestrator.home import can_be_made, prepare_home, private_folder
from orchestrator.stored_workspace import workspace_at
from orchestrator.terminal import print_what_can_be_shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("plan", "--workspace", "a\0b"), "a character that no path can have"),
        (("status", "--workspace", "~nobody-at-all/x"), "Could not determine home directory"),
        (("validate", "--workspace", "loop"), "Symlink loop"),
        (("plan", "--workspace", ""), "--workspace is empty"),
        (("plan", "--workspace", "x" * 300), "File name too long"),
        (("run", "--data", "x" * 5000), "File name too long"),
        (("run", "--model", "~nobody-at-all/x"), "Could not determine home directory"),
        (("run", "--model", "x" * 300), "is no folder: File name too long"),
        (("run", "--set", "shared.lora_from=~nobody-at-all/x"), "shared.lora_from"),
        (("run", "--only-failed"), "nothing was run in"),
        (("plan", "--users", "9" * 23), "data.users input should be less than or equal to"),
        (("plan", "--config", "."), ".: cannot be read: Is a directory"),
        (("plan", "--seeds", ","), "whole numbers with commas are wanted"),
        (("plan", "--set", "=1"), "must be name=value"),
        (("data", "synthesize", "--into", "file"), "--into file is a file"),
        (("build-model", "--into", "file"), "--into file is a file"),
        (("build-model", "--minutes", "nan"), "a number above 0 is wanted"),
    ],
)
def test_what_cannot_be_is_one_line_of_bad_input(
    words: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    assert main(list(words)) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


def test_a_process_without_a_home_gets_a_private_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(home.tempfile, "tempdir", str(tmp_path))
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(os.path, "expanduser", lambda text: os.environ.get("HOME", text))
    monkeypatch.setattr(home.getpass, "getuser", lambda: {}["uid not found"])
    assert home.home() is None
    prepare_home()
    made = tmp_path / f"persona-sweep-{os.getuid()}"
    assert os.environ["HOME"] == str(made)
    assert os.environ["LOGNAME"] == str(os.getuid())
    assert made.stat().st_mode & 0o077 == 0
    assert "MPLCONFIGDIR" not in os.environ
    assert checks._home().state == "warning"
    made.chmod(0o755)
    assert private_folder() is None, "others could read along"


def test_a_home_that_cannot_be_written_is_found_by_doctor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "MPLCONFIGDIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/proc/nohome")
    monkeypatch.setattr(home.tempfile, "tempdir", str(tmp_path))
    prepare_home()
    assert os.environ["HOME"] == "/proc/nohome"
    assert os.environ["MPLCONFIGDIR"] == str(private_folder()) + "/matplotlib"
    for found in (checks._home(), checks._token()):
        assert found.state == "warning"
        assert "HOME=FOLDER" in found.found
    assert "RAY_AUTH_TOKEN" in checks._token().found
    monkeypatch.delenv("PERSONA_SWEEP_CACHE", raising=False)
    with pytest.raises(InputError, match="PERSONA_SWEEP_CACHE"):
        workspace_at("s3://bucket/study")
    monkeypatch.setenv("TMPDIR", "/no/such/folder")
    assert "TMPDIR=/no/such/folder cannot be used" in checks._temporary().found


@pytest.mark.parametrize(
    ("place", "possible"),
    [("/proc/x", False), ("/dev/null/x", False), ("{}/a/b/c", True), ("{}", True)],
)
def test_what_can_be_made(place: str, possible: bool, tmp_path: Path) -> None:
    assert can_be_made(Path(place.format(tmp_path))) == possible


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", b"... x 12 >= 3 ?? ?"),
        ("latin-1", b"... \xd7 12 >= 3 ?? ?"),
        ("utf-8", "… × 12 ≥ 3 精度 ?".encode()),
    ],
)
def test_what_a_terminal_cannot_show_is_replaced(
    encoding: str, shown: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    print_what_can_be_shown()
    sys.stdout.write("… × 12 ≥ 3 精度 \udcff")
    stream.flush()
    assert raw.getvalue() == shown


def test_a_document_keeps_every_character_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    print_what_can_be_shown()
    _print_json(json.dumps({"精度": "…"}))
    stream.flush()
    assert json.loads(raw.getvalue()) == {"精度": "…"}
