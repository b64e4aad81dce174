"""The hub's troubles in words: a closed port, a server that refuses, limits, fails or babbles."""

from __future__ import annotations

import errno
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

import tasks.base_model
from data import hub
from data.hub_trouble import HubError, ask_hub, trouble_of
from data.schema import DataError
from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode
from tasks.base_model import check_model_exists, read_config
from tasks.config import ModelConfig, TaskError
from tasks.encoder import check_encoder_exists, load_encoder


@contextmanager
def answering(status: int, body: bytes = b"{}") -> Iterator[tuple[str, list[str]]]:
    """A hub on loopback that answers everything so; its address and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield monkeypatch
    huggingface_hub.close_session()


def closed_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


@pytest.mark.parametrize(
    ("status", "body", "told", "tries"),
    [
        (401, b"{}", "refuses access (401): check the spelling", 1),
        (403, b"{}", "refuses access (403)", 1),
        (404, b"{}", "no model on the hub that can be read", 1),
        (429, b"{}", "too many requests (429)", 5),
        (500, b"{}", "trouble of its own (500)", 5),
        (503, b"{}", "trouble of its own (503)", 5),
        (418, b"{}", "refuses the request (418)", 1),
        (200, b"<html>log in to the wireless</html>", "answer cannot be read", 1),
        (200, b"[]", "answer cannot be read", 1),
    ],
)
def test_each_answer_of_a_hub_has_its_sentence(
    status: int, body: bytes, told: str, tries: int, at: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    at.setattr(tasks.base_model.time, "sleep", waits.append)
    with answering(status, body) as (address, asked):
        at.setattr(constants, "ENDPOINT", address)
        with pytest.raises(TaskError) as caught:
            check_model_exists(ModelConfig(name="owner/name-x"))
        with pytest.raises(DataError) as of_data:
            hub.with_back_off(lambda: hub._newest_revision("owner/name-x"), what="x", sleep=id)
    assert told in str(caught.value)
    assert "embedded" in str(caught.value)
    assert len(waits) == tries - 1
    assert len(asked) == 2 * tries
    assert "hub:x is not" in str(of_data.value)
    assert "\n" not in f"{caught.value}{of_data.value}"


def test_without_a_network_every_command_ends_in_a_moment_with_one_line(
    at: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at.setattr(constants, "ENDPOINT", closed_port())
    at.chdir(tmp_path)
    place = ("--workspace", str(tmp_path / "w"))
    waits: list[float] = []
    at.setattr(tasks.base_model.time, "sleep", waits.append)
    for words in (
        ("run", "--model", "owner/name"),
        ("plan", "--no-probe", "--model", "owner/name"),
        ("run", "--set", "evaluation.encoder=owner/name"),
        ("data", "prepare", "--embed", "--set", "evaluation.encoder=owner/name"),
    ):
        assert main([*words, *place]) == ExitCode.BAD_INPUT
        told = capsys.readouterr().err
        assert "'owner/name' is not in the hub cache, and the hub cannot be reached" in told
        assert told.count("\n") == 1
    assert waits == [1.0] * 4
    assert list(tmp_path.iterdir()) == []


def test_a_config_and_an_encoder_of_an_unreachable_hub_are_told_likewise(
    at: pytest.MonkeyPatch,
) -> None:
    at.setattr(constants, "ENDPOINT", closed_port())
    at.setattr(tasks.base_model.time, "sleep", id)
    with pytest.raises(TaskError, match="the connection is refused"):
        read_config(ModelConfig(name="owner/name"))
    with pytest.raises(TaskError, match=r"evaluation\.encoder: .*the connection is refused"):
        check_encoder_exists("owner/name")

    def down(*_: object, **__: object) -> None:
        raise Oddity from ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    # The real one takes ten seconds to import.
    at.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=down))
    with pytest.raises(TaskError, match=r"encoder 'owner/name' cannot be loaded: .* is refused"):
        load_encoder("owner/name", device="cpu")


class Oddity(Exception):  # noqa: N818
    """Of an HTTP client that nobody has heard of."""


def caused(by: BaseException) -> Oddity:
    try:
        try:
            raise by
        except BaseException as error:
            raise Oddity("of a client") from error
    except Oddity as odd:
        return odd


@pytest.mark.parametrize(
    ("by", "kind", "told", "tries"),
    [
        (socket.gaierror(-2, "Name or service not known"), "network", "name is not found", 2),
        (ConnectionRefusedError(111, "Connection refused"), "network", "is refused", 2),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "network", "no way to it", 2),
        (TimeoutError("timed out"), "network", "not answer in time", 5),
        (ConnectionResetError(104, "reset by peer"), "network", "cannot be reached", 5),
        (ssl.SSLCertVerificationError("verify failed"), "network", "certificate is not trust", 1),
        (PermissionError(13, "Permission denied", "/c/hub"), "disk", "HF_HOME", 1),
        (OSError(errno.ENOSPC, "No space left on device", "/c/hub"), "disk", "/c/hub: No sp", 1),
        (ZeroDivisionError("by zero"), "other", "the hub's library fails (Oddity: of a cl", 1),
    ],
)
def test_what_lies_below_a_clients_error_decides(
    by: BaseException, kind: str, told: str, tries: int
) -> None:
    found = trouble_of(caused(by))
    assert (found.kind, found.attempts) == (kind, tries)
    assert told in found.words


def test_waits_are_no_longer_than_the_trouble_deserves() -> None:
    waits: list[float] = []

    def down() -> None:
        raise caused(socket.gaierror(-3, "Temporary failure in name resolution"))

    with pytest.raises(HubError):
        ask_hub(down, waits=(1, 2, 4, 8), sleep=waits.append)
    assert waits == [1]
