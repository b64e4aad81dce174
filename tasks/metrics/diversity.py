"""How varied an output is: distinct-n (Li et al. 2016, arXiv:1510.03055)."""

from __future__ import annotations

import re
from itertools import pairwise

from data.words import split_words

_ASCII_WORD = re.compile(r"\w+")


def distinct_2(text: str) -> float:
    """Different word pairs / word pairs, in (0, 1]; NaN where there is no pair to count."""
    words = _words(text)
    pairs = list(pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else float("nan")


def _words(text: str) -> list[str]:
    """The words of ``data.words``; in ASCII text an underscore joins them."""
    return _ASCII_WORD.findall(text.lower()) if text.isascii() else split_words(text)
