"""Secrets stay in the environment, nothing that is read back can run code, Ray asks for a token."""

from __future__ import annotations

import ast
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import checks
from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode
from orchestrator.ray_environment import make_token
from orchestrator.redaction import redacted
from orchestrator.shipping import PACKAGES, ROOT
from orchestrator.workspace import Workspace

FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "torch.load",
    "pandas.read_pickle",
    "pd.read_pickle",
    "yaml.load",
    "eval",
    "exec",
}
FORBIDDEN_FLAGS = {"allow_pickle": True, "trust_remote_code": True, "weights_only": False}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_nothing_that_is_read_back_can_run_code() -> None:
    found = []
    for path in (path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [(path.name, n) for n in names if n.split(".")[0] in FORBIDDEN_MODULES]
        for call in calls(tree):
            name = ast.unparse(call.func)
            # ``compile`` and ``exec`` of a --config FILE.py are what its user asks for.
            allowed = path.name == "python_reading.py"
            found += [(path.name, name)] if name in FORBIDDEN_CALLS and not allowed else []
            found += [
                (path.name, f"{word.arg}={word.value.value}")
                for word in call.keywords
                if isinstance(word.value, ast.Constant)
                and word.arg in FORBIDDEN_FLAGS
                and word.value.value is FORBIDDEN_FLAGS[word.arg]
            ]
    assert found == []


def test_a_password_in_a_setting_is_refused_and_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "planted-9f3c"
    uri = f"tracking.mlflow_uri=https://me:{secret}@tracker.example"
    root = tmp_path / "study"
    code = main(["run", "--workspace", str(root), "--set", uri])
    shown = capsys.readouterr()
    assert code == ExitCode.BAD_INPUT
    assert "MLFLOW_TRACKING_PASSWORD" in shown.err
    assert secret not in shown.err + shown.out
    assert not root.exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://me:pa55@host/x failed", "GET https://me:…@host/x failed"),
        ("Authorization: Bearer abcdefgh1234 refused", "Authorization: Bearer … refused"),
        ("token planted-77aa is wrong", "token … is wrong"),
        ("no such file /home/me/token", "no such file /home/me/token"),
        ("s3://bucket/a:b and user_1@home", "s3://bucket/a:b and user_1@home"),
    ],
)
def test_secrets_are_taken_out_of_what_is_shown(text: str, shown: str) -> None:
    environment = {
        "HF_TOKEN": "planted-77aa",
        "SHORT_TOKEN": "is",
        "A_TOKEN_PATH": "/home/me/token",
    }
    assert redacted(text, environment=environment) == shown


@pytest.mark.parametrize("said", [None, "disabled"])
def test_every_start_asks_for_the_token_unless_a_person_says_otherwise(said: str | None) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    code = (
        "import os; from orchestrator.ray_environment import prepare_environment;"
        "prepare_environment(); print(os.environ['RAY_AUTH_MODE'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": str(ROOT)} | ({} if said is None else {"RAY_AUTH_MODE": said}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == (said or "token")


def test_the_token_is_made_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".ray" / "auth_token"
    assert checks._token().state == "ok"
    make_token()
    first = path.read_text()
    assert len(first) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert checks._token().state == "ok"
    make_token()
    assert path.read_text() == first
    path.chmod(0o644)
    found = checks._token()
    assert (found.state, f"chmod 600 {path}" in found.found) == ("failed", True)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    path.unlink()
    make_token()
    assert not path.exists()


def test_doctor_finds_a_ray_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert checks._authentication().state == "failed"
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert checks._authentication().state == "ok"


def test_doctor_finds_a_dashboard_that_others_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    with socket.socket() as server:
        server.bind((own, 0))
        monkeypatch.setattr(checks, "DASHBOARD_PORT", server.getsockname()[1])
        assert checks._dashboard().state == "ok", "nothing listens yet"
        server.listen()
        found = checks._dashboard()
    assert (found.state, own in found.found) == ("failed", True)


def test_doctor_looks_at_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    names = [check.name for check in checks.examine_machine(Workspace(tmp_path))]
    assert {"Python", "torch", "ray", "GPUs", "memory", "disk", "hub cache"} <= set(names)
    assert {"Ray token", "Ray authentication", "Ray dashboard"} <= set(names)
    assert main(["doctor", "--workspace", str(tmp_path)]) == ExitCode.DONE
    assert "every start asks for the token" in capsys.readouterr().out
    assert os.listdir(tmp_path) == []  # noqa: PTH208
