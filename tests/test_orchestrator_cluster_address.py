"""``--address``: refused at once where it is malformed or nothing answers; no cluster is needed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator import cluster_address
from orchestrator.cli import main
from orchestrator.cluster_address import (
    HeadAddress,
    connection_problem,
    parse_address,
    reachable_head,
)
from orchestrator.exit_codes import ExitCode, InfrastructureError, InputError


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken, so that no other process gets it, and on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def server(answer: bytes) -> Iterator[HeadAddress]:
    """Answers one connection with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield HeadAddress("127.0.0.1", listening.getsockname()[1])
        thread.join()


def test_addresses_are_host_and_port() -> None:
    assert parse_address("10.0.0.1:6379") == HeadAddress("10.0.0.1", 6379)
    assert parse_address("head-0.cluster_a:1") == HeadAddress("head-0.cluster_a", 1)
    assert str(parse_address("[::1]:6379")) == "[::1]:6379"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("head", "is no address: give HOST:PORT"),
        (":6379", "is no address"),
        ("", "is no address"),
        ("head:", "is no address"),
        ("head:port", "is no address"),
        ("head:-1", "is no address"),
        ("head:٣", "is no address"),
        ("he ad:1", "is no address"),
        ("::1:6379", "is no address"),
        ("[head]:6379", "is no address"),
        ("head:0", "ports go from 1 to 65535"),
        ("head:65536", "ports go from 1 to 65535"),
        ("ray://head:10001", "Ray Client and other protocols are not supported"),
        ("local", "leave --address out"),
    ],
)
def test_a_malformed_address_is_bad_input(text: str, told: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_address(text)
    assert told in str(raised.value)


@pytest.mark.parametrize("words", [("run",), ("run", "--dry-run"), ("doctor",)])
def test_commands_end_at_once_where_nothing_listens(
    words: tuple[str, ...],
    closed_port: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = (*words, "--workspace", str(tmp_path / "work"), "--address")
    assert main([*words, f"127.0.0.1:{closed_port}"]) == ExitCode.INFRASTRUCTURE
    shown = capsys.readouterr()
    # `doctor` tells it in a table, line by line.
    told = " ".join((shown.out + shown.err).replace("│", " ").split())
    assert f"no Ray at 127.0.0.1:{closed_port}: the connection is refused" in told
    assert main([*words, "127.0.0.1"]) == ExitCode.BAD_INPUT
    assert "give HOST:PORT" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (socket.gaierror(-2, "Name or service not known"), "the host 'head' is not known"),
        (TimeoutError("timed out"), "does not answer within 5 s"),
        (OSError(113, "No route to host"), "No route to host"),
    ],
)
def test_what_the_network_says_is_told(
    error: OSError, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        asked.append((address, timeout))
        raise error

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(InfrastructureError, match=told):
        reachable_head("head:6379", running_here=lambda: pytest.fail("asked"))
    assert asked == [(("head", 6379), cluster_address.CONNECT_SECONDS)]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"-ERR\r\n"])
def test_a_server_of_another_kind_is_no_ray(answer: bytes) -> None:
    with server(answer) as address:
        assert connection_problem(address) == "something else than Ray's GCS listens there"


def test_a_server_that_says_nothing_is_not_waited_for_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = HeadAddress("127.0.0.1", silent.getsockname()[1])
        assert connection_problem(address, greeting_seconds=0.01) == (
            "it does not answer within 0.01 s"
        )


def test_a_server_that_speaks_rays_protocol_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with server(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) as address:
        assert reachable_head(str(address), running_here=str) == address
    with server(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) as address:
        assert reachable_head("auto", running_here=lambda: str(address)) == address


def test_auto_is_what_ray_itself_would_join(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_here() -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    with pytest.raises(InfrastructureError, match=f"no Ray at 127.0.0.1:{closed_port}: "):
        reachable_head("auto", running_here=none_here)
    monkeypatch.setenv("RAY_ADDRESS", "head")
    with pytest.raises(InputError, match=r"RAY_ADDRESS .*'head' is no address"):
        reachable_head("auto", running_here=none_here)
    monkeypatch.delenv("RAY_ADDRESS")

    with pytest.raises(InfrastructureError, match="--address auto: no Ray runs on this machine"):
        reachable_head("auto", running_here=none_here)
