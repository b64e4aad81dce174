"""Words for a terminal or a pipe that cannot show all of them: replaced, never fatal."""

from __future__ import annotations

import codecs
import sys
from typing import Any

ERRORS = "plain-text"
"""Name of our handler of characters that an encoding lacks."""
_PLAIN = {
    "…": "...",
    "×": "x",
    "·": "-",
    "–": "-",
    "—": "-",
    "−": "-",
    "≥": ">=",
    "≤": "<=",
    "±": "+/-",
    "→": "->",
    "«": '"',
    "»": '"',
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
}
"""Characters of our own messages in ASCII; any other becomes a question mark."""


def print_what_can_be_shown() -> None:
    """Let standard output and error replace characters that their encoding lacks.

    Otherwise a command would end on its own «…» where the locale is ASCII or Latin-1, and on a
    file's name that is not UTF-8.
    """
    codecs.register_error(ERRORS, _replaced)
    for stream in (sys.stdout, sys.stderr):
        # A test's or an embedding program's stream may be of another kind.
        if getattr(stream, "errors", None) in ("strict", "surrogateescape"):
            stream.reconfigure(errors=ERRORS)  # type: ignore[union-attr]


def is_unicode(stream: Any) -> bool:
    """Whether every character can be written there."""
    return "utf" in str(getattr(stream, "encoding", None) or "utf-8").lower()


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one, "?") for one in missing), error.end
