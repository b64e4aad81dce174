"""How long tests wait: long enough for a machine of half the speed that does other work too.

Nothing is asserted about time. A wait ends as soon as its answer comes, so patience costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_SECONDS = 900.0
"""For whatever starts Ray, a study, a server, ssh or a browser."""

T = TypeVar("T")


def wait_for(ask: Callable[[], T], *, what: str, every_seconds: float = 0.05) -> T:
    """What ``ask`` answers, once that is not false; the test fails where it never comes."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not (found := ask()):
        assert time.monotonic() < until, f"{what}: nothing within {PATIENCE_SECONDS:.0f} s"
        time.sleep(every_seconds)
    return found
