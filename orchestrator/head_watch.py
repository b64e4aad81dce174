"""Whether a cluster's head still answers, while a run depends on it.

Without its head, Ray ends the process from C++ after a minute, without a word of ours. So the head
is asked for a connection every few seconds; in time before that, the run ends with exit code 3 and
its words.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable

from orchestrator.cluster_address import CONNECT_SECONDS, HeadAddress, connection_problem
from orchestrator.exit_codes import ExitCode, InfrastructureError

PROBE_SECONDS = 3.0
RAY_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
RAY_PATIENCE_SECONDS = 60.0
"""So long does Ray try to reach a head again, before it ends the process."""
MARGIN_SECONDS = 25.0
"""So much earlier is the run ended, of which ``GRACE_SECONDS`` for its normal way out."""
GRACE_SECONDS = 12.0


def patience_seconds() -> float:
    """How long a head may be silent; a head that is started anew meanwhile is found again."""
    try:
        rays = float(os.environ.get(RAY_PATIENCE, RAY_PATIENCE_SECONDS))
    except ValueError:
        rays = RAY_PATIENCE_SECONDS
    return max(rays - MARGIN_SECONDS, PROBE_SECONDS)


def head_is_gone(address: HeadAddress, problem: str) -> InfrastructureError:
    """The error, with what to do."""
    return InfrastructureError(
        f"the cluster's head at {address} is gone: {problem}. Finished cells are saved; once a "
        "cluster is up again, the same command with its address goes on from there"
    )


def _problem(address: HeadAddress) -> str | None:
    """As before a start, but without patience for a slow answer: that is the watch's own."""
    return connection_problem(address, greeting_seconds=CONNECT_SECONDS)


class HeadWatch:
    """Asks the head in a thread of its own.

    Once it is gone, ``on_lost`` is told, and the process has ``GRACE_SECONDS`` to end by itself;
    after that it is ended here, as the main thread waits for Ray.
    """

    def __init__(
        self,
        address: HeadAddress,
        *,
        on_lost: Callable[[InfrastructureError], None],
        probe: Callable[[HeadAddress], str | None] | None = None,
        end: Callable[[InfrastructureError], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.lost = False
        self._on_lost = on_lost
        self._probe = probe or _problem
        self._end = end or end_process
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="head-watch", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; a head that is lost stays so, and the process ends."""
        if not self.lost:
            self._stop.set()

    def give_up(self) -> None:
        """Take the head for lost: the process ends without Ray's way out, which waits for it."""
        self.lost = True
        atexit.register(end_silently)

    def problem(self) -> str | None:
        """Why the head does not answer now; None if it does."""
        return self._probe(self.address)

    def watch(self, wait: Callable[[float], bool]) -> InfrastructureError | None:
        """Ask until the head is gone, or ``wait`` (given seconds) says that this is enough."""
        silent_since: float | None = None
        while not wait(PROBE_SECONDS):
            asked = self._clock()
            problem = self.problem()
            if problem is None:
                silent_since = None
                continue
            silent_since = asked if silent_since is None else silent_since
            if self._clock() - silent_since >= patience_seconds():
                return head_is_gone(self.address, problem)
        return None

    def _run(self) -> None:
        error = self.watch(self._stop.wait)
        if error is None:
            return
        self.give_up()
        self._on_lost(error)
        if not self._stop.wait(GRACE_SECONDS):
            self._end(error)


def end_process(error: InfrastructureError) -> None:
    """Say why, and end the process from whatever thread."""
    sys.stderr.write(f"Error: {error}\n")
    end_silently()


def end_silently() -> None:
    """End the process at once, as an infrastructure failure."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(ExitCode.INFRASTRUCTURE)
