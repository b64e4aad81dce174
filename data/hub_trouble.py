"""What the Hugging Face hub's library raises, in words, whatever HTTP client it uses.

Its clients have changed (requests, httpx, httpx2) and so has the family of errors. What all of them
carry is looked at: the chain of causes, the answer's status, the operating system's own errors.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Result = TypeVar("Result")

Kind = Literal["name", "revision", "access", "offline", "network", "server", "disk", "other"]

LOG_IN = "log in with `hf auth login`, or give HF_TOKEN"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the hub gave nothing.

    ``words`` end a sentence that began with the name of what was asked for. ``attempts``: after
    how many tries nothing else is to be expected.
    """

    kind: Kind
    words: str
    attempts: int = 1


class HubError(Exception):
    """The hub gave nothing; the cause is the library's own error."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.words)
        self.trouble = trouble


OFTEN = 5
"""Tries where the trouble passes by itself: a busy hub, a line that broke."""
TWICE = 2
"""Tries where there is no network at all, so that a command without one ends in a moment."""


def ask_hub(
    ask: Callable[[], Result], *, waits: Sequence[float], sleep: Callable[[float], None]
) -> Result:
    """``ask()``, tried again while its trouble may pass.

    Args:
        ask: asks the hub's library.
        waits: seconds before the second, third, … try; there is one try more than these.
        sleep: waits so many seconds.

    Raises:
        HubError: why there is no answer.
    """
    for attempt in range(1, len(waits) + 2):
        try:
            return ask()
        except Exception as error:
            trouble = trouble_of(error)
            if attempt >= min(trouble.attempts, len(waits) + 1):
                raise HubError(trouble) from error
        sleep(waits[attempt - 1])
    raise AssertionError("unreachable")


def trouble_of(error: BaseException) -> Trouble:
    """What an error of the hub's library, or anything below it, means."""
    chain = list(_chain(error))
    for look in (_by_library, _by_status, _by_network, _by_disk):
        found = look(chain)
        if found is not None:
            return found
    told = _first_line(error)
    if isinstance(error, (ValueError, KeyError, TypeError, AttributeError)):
        return Trouble(
            "other", f"the hub's answer cannot be read ({told}); does a proxy answer in its place?"
        )
    if isinstance(error, OSError) or _named(chain, r"HTTP|Connect|Network|Protocol|Transport"):
        return Trouble("network", f"the hub cannot be reached ({told})", OFTEN)
    return Trouble("other", f"the hub's library fails ({told})")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, what caused that, …"""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or now.__context__


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _named(chain: Sequence[BaseException], pattern: str) -> bool:
    return any(re.search(pattern, name) for error in chain for name in _names(error))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _by_library(chain: Sequence[BaseException]) -> Trouble | None:
    """By the library's own classes, by name: they have moved between its modules."""
    table = (
        ("GatedRepoError", "access", f"it is gated: accept its terms on the hub and {LOG_IN}"),
        ("DisabledRepoError", "access", "the hub has disabled it"),
        ("RevisionNotFoundError", "revision", "there is no such revision"),
        ("RepositoryNotFoundError", "name", "there is none on the hub that can be read"),
        ("HFValidationError", "name", "that is no name of the hub"),
        ("OfflineModeIsEnabled", "offline", "offline mode (HF_HUB_OFFLINE) is on"),
        ("RemoteEntryNotFoundError", "name", "a file that is needed is not there on the hub"),
    )
    known = {name for error in chain for name in _names(error)}
    found = next((row for row in table if row[0] in known), None)
    return None if found is None else Trouble(found[1], found[2])  # type: ignore[arg-type]


def _by_status(chain: Sequence[BaseException]) -> Trouble | None:
    """By the HTTP status of the answer that an error carries."""
    codes = (getattr(getattr(e, "response", None), "status_code", None) for e in chain)
    code = next((int(code) for code in codes if isinstance(code, int) and code >= 400), None)
    if code is None:
        return None
    if code == 407:
        return Trouble("network", "the proxy wants a login (407): put it into HTTPS_PROXY")
    if code in (401, 403):
        words = f"the hub refuses access ({code}): check the spelling, and {LOG_IN}"
        return Trouble("access", words)
    if code == 404:
        return Trouble("name", "there is none on the hub that can be read")
    if code == 429:
        words = f"the hub has had too many requests (429): wait some minutes, or {LOG_IN}"
        return Trouble("server", words, OFTEN)
    if code >= 500:
        return Trouble("server", f"the hub has trouble of its own ({code}): try later", OFTEN)
    return Trouble("server", f"the hub refuses the request ({code})")


_NO_NAME = r"(?i)name resolution|getaddrinfo|name or service not known|nodename nor servname"
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)


def _by_network(chain: Sequence[BaseException]) -> Trouble | None:
    """By what the operating system says of the way to the hub."""
    said = " ".join(map(str, chain))
    if any(isinstance(error, ssl.SSLError) for error in chain) or "CERTIFICATE_VERIFY" in said:
        return Trouble(
            "network",
            "the hub's certificate is not trusted here; behind a proxy that reads along, give "
            "its own in SSL_CERT_FILE",
        )
    if _named(chain, r"ProxyError"):
        return Trouble("network", "the proxy (HTTPS_PROXY, HTTP_PROXY) cannot be reached", TWICE)
    if any(isinstance(error, socket.gaierror) for error in chain) or re.search(_NO_NAME, said):
        return Trouble("network", "the hub cannot be reached: its name is not found here", TWICE)
    if any(isinstance(error, ConnectionRefusedError) for error in chain):
        return Trouble("network", "the hub cannot be reached: the connection is refused", TWICE)
    if any(isinstance(e, OSError) and e.errno in _NO_ROUTE for e in chain):
        return Trouble("network", "the hub cannot be reached: there is no way to it", TWICE)
    if any(isinstance(error, TimeoutError) for error in chain) or _named(chain, r"Timeout"):
        tries = TWICE if _named(chain, r"ConnectTimeout") else OFTEN
        return Trouble("network", "the hub cannot be reached: it does not answer in time", tries)
    return None


_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)


def _by_disk(chain: Sequence[BaseException]) -> Trouble | None:
    """By what the operating system says of the cache that the hub's files are kept in."""
    found = (e for e in chain if isinstance(e, OSError) and e.errno in _DISK)
    error = next(found, None)
    if error is None:
        return None
    place = "" if error.filename is None else f"{error.filename}: "
    return Trouble(
        "disk",
        f"the hub's files cannot be kept ({place}{error.strerror}): make room there, or give "
        "another folder in HF_HOME",
    )
