"""How varied an output is: distinct-n (Li et al. 2016, arXiv:1510.03055)."""

from __future__ import annotations

import re
from itertools import pairwise

_WORD = re.compile(r"\w+")


def distinct_2(text: str) -> float:
    """Different word pairs / word pairs, in (0, 1]; NaN where there is no pair to count."""
    words = _WORD.findall(text.lower())
    pairs = list(pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else float("nan")
