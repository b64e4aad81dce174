"""Ray's own messages stay out of the terminal; all of them stand in Ray's session folder."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

STANDARD_ERROR = 2


@contextmanager
def without_native_messages() -> Iterator[None]:
    """Inside, what C++ writes to the process's standard error goes nowhere; Python's goes on.

    Ray's C++ part writes lines and stack traces there when a node or the head goes away, whatever
    it is told about logging. Their copies are ``python-core-driver-*.log`` of Ray's session.
    """
    stream = sys.stderr
    if not _is_standard_error(stream):
        yield
        return
    stream.flush()
    kept = os.dup(STANDARD_ERROR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STANDARD_ERROR)
    os.close(nowhere)
    own = os.fdopen(kept, "w", buffering=1, encoding=stream.encoding, errors=stream.errors)
    sys.stderr = own
    try:
        yield
    finally:
        own.flush()
        os.dup2(kept, STANDARD_ERROR)
        sys.stderr = stream
        own.close()


def _is_standard_error(stream: object) -> bool:
    """Whether it is the process's own, and not a test's or an embedding program's."""
    try:
        return stream.fileno() == STANDARD_ERROR  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False


@contextmanager
def kept_messages(logger: str) -> Iterator[list[str]]:
    """Inside, what a logger of Python says goes into the list and nowhere else."""
    told: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        told.append(record.getMessage())
        return False

    found = logging.getLogger(logger)
    found.addFilter(keep)
    try:
        yield told
    finally:
        found.removeFilter(keep)
