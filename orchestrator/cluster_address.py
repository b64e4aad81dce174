"""``--address``: what it may be, and whether a Ray answers there, asked before Ray is.

Ray itself tries for minutes to join a cluster that is not there.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.exit_codes import InfrastructureError, InputError

AUTO = "auto"
VARIABLE = "RAY_ADDRESS"
"""Ray looks here first where the address is ``auto``."""
CONNECT_SECONDS = 5.0
GREETING_SECONDS = 30.0
"""A connection is taken by the system at once, but a busy head may be slow to answer."""
_ALLOWED = "give HOST:PORT of the cluster's head, as 10.0.0.1:6379, or auto on one of its nodes"
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_BYTES, _SETTINGS_FRAME = 9, 4


@dataclass(frozen=True, slots=True)
class HeadAddress:
    """Where the head of a cluster (its GCS) listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str, *, what: str = "--address") -> HeadAddress:
    """``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        InputError: anything else; says what is allowed.
    """
    if "://" in text:
        raise InputError(
            f"{what} {text}: Ray Client and other protocols are not supported, as trials need the "
            f"cluster's own network; {_ALLOWED}, or send the command there with `ray job submit`"
        )
    if text == "local":
        raise InputError(f"{what} local: leave {what} out for a Ray on this machine alone")
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    good = _is_ipv6(name) if bracketed else bool(_HOST.fullmatch(name))
    if not colon or not good or not (port.isascii() and port.isdecimal()):
        raise InputError(f"{what} {text!r} is no address: {_ALLOWED}")
    if not 1 <= int(port) <= 65535:
        raise InputError(f"{what} {text!r}: ports go from 1 to 65535; {_ALLOWED}")
    return HeadAddress(name, int(port))


def _is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return False
    return True


def reachable_head(text: str, *, running_here: Callable[[], str]) -> HeadAddress:
    """The head that an address leads to, after it has answered.

    Args:
        text: of ``--address``.
        running_here: asks Ray for the address of a cluster on this machine; raises
            ConnectionError where there is none.

    Raises:
        InputError: the address is malformed.
        InfrastructureError: nothing answers there, or there is no cluster to be found.
    """
    told = os.environ.get(VARIABLE, "") if text == AUTO else ""
    if told and told != AUTO:
        found = parse_address(told, what=f"{VARIABLE} (which --address auto takes)")
    elif text == AUTO:
        found = _of_this_machine(running_here)
    else:
        found = parse_address(text)
    problem = connection_problem(found)
    if problem is not None:
        raise InfrastructureError(
            f"no Ray at {found}: {problem}. Is the cluster up (`ray start --head` on its head, or "
            "`ray up`), is this its GCS port (6379 by default), and does this machine reach it?"
        )
    return found


def _of_this_machine(running_here: Callable[[], str]) -> HeadAddress:
    try:
        return parse_address(running_here())
    except ConnectionError as error:
        raise InfrastructureError(
            "--address auto: no Ray runs on this machine. Start one (`ray start --head`), give "
            f"--address HOST:PORT or set {VARIABLE}; without --address a local Ray is started"
        ) from error


def connection_problem(
    address: HeadAddress, *, greeting_seconds: float = GREETING_SECONDS
) -> str | None:
    """Why nothing that speaks Ray's protocol answers at an address; None if something does."""
    place = (address.host, address.port)
    waited = CONNECT_SECONDS
    try:
        with socket.create_connection(place, timeout=waited) as connection:
            waited = greeting_seconds
            connection.settimeout(waited)
            return None if _uses_tls() else _greeted(connection)
    except socket.gaierror:
        return f"the host {address.host!r} is not known"
    except TimeoutError:
        return f"it does not answer within {waited:g} s"
    except ConnectionRefusedError:
        return "the connection is refused, nothing listens there"
    except (OSError, UnicodeError) as error:
        return str(error)


def _uses_tls() -> bool:
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def _greeted(connection: socket.socket) -> str | None:
    """Ray's servers speak gRPC: over HTTP/2, whose first frame from the server is its settings."""
    connection.sendall(_HTTP2_GREETING)
    answer = b""
    while len(answer) < _FRAME_BYTES:
        more = connection.recv(_FRAME_BYTES - len(answer))
        if not more:
            break
        answer += more
    if len(answer) < _FRAME_BYTES or answer[3] != _SETTINGS_FRAME:
        return "something else than Ray's GCS listens there"
    return None
