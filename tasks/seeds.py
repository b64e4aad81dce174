"""Random streams have names: a seed is a hash of what the numbers are for."""

from __future__ import annotations

import hashlib


def seed_of(*name: str | int) -> int:
    """A 63-bit seed for the stream of that name; equal on every machine and in every process."""
    text = "/".join(str(part) for part in name)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
