"""Of what reaches standard error, C++'s part goes nowhere and Python's own goes on."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from orchestrator.cluster import _silence_node_messages
from orchestrator.quiet_ray import without_native_messages

PROGRAM = """
import os, sys
from orchestrator.quiet_ray import without_native_messages
os.write(2, b"native before\\n")
with without_native_messages():
    os.write(2, b"native inside\\n")
    print("ours inside, é", file=sys.stderr)
    print("tty", os.isatty(sys.stderr.fileno()))
os.write(2, b"native after\\n")
print("ours after", file=sys.stderr)
"""


def test_native_messages_are_kept_out_for_a_while() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", PROGRAM],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0
    lines = ["native before", "ours inside, é", "native after", "ours after"]
    assert done.stderr.splitlines() == lines


def test_a_stream_of_another_kind_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with without_native_messages():
        assert sys.stderr is stream


def test_rays_own_printing_of_node_messages_is_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._private import worker

    monkeypatch.setattr(worker, "_worker_logs_enabled", True)
    told = {"lines": ["The node has been marked dead"], "pid": "raylet", "is_err": False}
    _silence_node_messages()
    worker.print_to_stdstream(dict(told, ip="", job=""), ignore_prefix=False)
    assert capsys.readouterr() == ("", "")
