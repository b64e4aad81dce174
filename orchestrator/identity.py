"""A cell's id: the hash of the canonical JSON of everything that can change its numbers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from tasks.cell import CellSpec

ID_DIGITS = 16


class IdentityError(TypeError):
    """A value that has no canonical form; naming it beats hashing it by chance."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII only: equal values give equal text.

    Only None, bool, int, finite float, str, lists, tuples and mappings with text keys have a
    canonical form.

    Raises:
        IdentityError: anything else; the message has the place inside ``value``.
    """
    _check(value, "value")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _check(value: Any, place: str) -> None:
    # Exact types: a subclass (an Enum, a numpy float) may print otherwise in another version.
    if value is None or type(value) in (bool, int, str):
        return
    if type(value) is float:
        if not math.isfinite(value):
            raise IdentityError(f"{place} is {value}: only finite numbers have an identity")
    elif type(value) in (list, tuple):
        for index, entry in enumerate(value):
            _check(entry, f"{place}[{index}]")
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            if type(key) is not str:
                raise IdentityError(f"{place} has the key {key!r}: keys must be text")
            _check(entry, f"{place}.{key}")
    else:
        raise IdentityError(
            f"{place} is a {type(value).__name__}: only plain JSON values have an identity"
        )


def cell_id(spec: CellSpec) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the spec's canonical JSON."""
    text = canonical_json(spec.model_dump(mode="json"))
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]
