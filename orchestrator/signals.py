"""SIGINT and SIGTERM: the first ends the run in order, the second at once.

SIGTERM is also the notice that a spot machine gives before it goes: what is running may then come
to its end, if that takes no longer than the notice is given for.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from orchestrator.exit_codes import ExitCode, Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Whether a stop was asked for.

    By default the first signal raises ``Interrupted`` where the program is. Inside ``polled()``
    it only sets a flag, and ``check`` raises at a place where nothing is half-done.

    Attributes:
        drain_seconds: so long after SIGTERM what is busy may come to its end; SIGINT, by which a
            person stops, waits for nothing.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.drain_seconds = 0.0
        self._asked = threading.Event()
        self._failure: Exception | None = None
        self._until: float | None = None
        self._clock = clock
        self._polled = False
        self._before: dict[signal.Signals, Any] = {}

    @property
    def draining(self) -> bool:
        """Whether nothing new is to be begun, and what runs may go on for a while."""
        return self._until is not None and self._clock() < self._until

    def check(self, *, busy: bool = False) -> None:
        """Raise Interrupted if a stop was asked for; while ``busy`` and draining, not yet.

        Raises first what ``fail`` was given.
        """
        if self._failure is not None:
            raise self._failure
        if self._asked.is_set() and not (busy and self.draining):
            raise Interrupted("stopped by a signal")

    @contextmanager
    def polled(self) -> Iterator[None]:
        """Inside, the first signal waits for the next ``check``."""
        self._polled = True
        try:
            yield
        finally:
            self._polled = False
        self.check()

    def fail(self, error: Exception) -> None:
        """Let the next ``check`` raise this; for threads that see that the run cannot go on."""
        self._failure = error

    def renew(self) -> None:
        """Take the signals back: Ray's start puts handlers of its own, which end the process."""
        for number in self._before:
            signal.signal(number, self._handle)

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Handle the signals inside the block; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked.is_set():
            os._exit(ExitCode.INTERRUPTED)
        self._asked.set()
        if number == signal.SIGTERM and self._polled:
            self._until = self._clock() + self.drain_seconds
        if not self._polled:
            raise Interrupted(f"stopped by {signal.Signals(number).name}")
