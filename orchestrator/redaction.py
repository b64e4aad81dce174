"""Secrets out of whatever is shown or written: errors, commands, reasons of failures.

Settings hold none; but an error of a library may quote an address with a password in it, or a
header with a token.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HIDDEN = "…"
LEAST_CHARACTERS = 8
"""Shorter values of the environment are not looked for: they would be found in ordinary words."""
_SECRET_NAME = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|API_?KEY|ACCESS_?KEY|CREDENTIAL", re.I)
_USER_INFO = re.compile(r"(://[^/\s:@]*):[^@\s/]+@")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")


def redacted(text: str, *, environment: Mapping[str, str] | None = None) -> str:
    """The text without passwords in addresses, tokens in headers, and secrets of the environment.

    Args:
        text: anything that a person or a file is to see.
        environment: whose variables named like secrets are looked for; by default the process's.
    """
    known = os.environ if environment is None else environment
    for name, value in known.items():
        if len(value) >= LEAST_CHARACTERS and _SECRET_NAME.search(name) and not _is_path(value):
            text = text.replace(value, HIDDEN)
    text = _USER_INFO.sub(rf"\1:{HIDDEN}@", text)
    return _BEARER.sub(rf"\1 {HIDDEN}", text)


def _is_path(value: str) -> bool:
    """RAY_AUTH_TOKEN_PATH and its like name files, which errors may name too."""
    return value.startswith(("/", "~", "./"))
