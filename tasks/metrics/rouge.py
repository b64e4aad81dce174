"""ROUGE-L F-measure (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries").

On ASCII text equal to Google's ``rouge-score`` without stemming; words of other scripts are as in
``data.words``. F = 2PR / (P + R) with P = LCS / |output| and R = LCS / |reference|. A side without
a word scores 0; items whose reference has none are excluded (``rouge_l_items``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import LCSseq

from data.words import has_words, split_words


def rouge_l(reference: str, output: str) -> float:
    """ROUGE-L F of one output, in [0, 1]."""
    return _f_measure(split_words(reference), split_words(output))


def rouge_l_all(references: Sequence[str], outputs: Sequence[str]) -> np.ndarray:
    """ROUGE-L F of each pair: float64 ``[n]``. Equal texts are tokenized once."""
    words = {text: split_words(text) for text in {*references, *outputs}}
    pairs = zip(references, outputs, strict=True)
    return np.array([_f_measure(words[ref], words[out]) for ref, out in pairs], dtype=float)


def rouge_l_items(references: Sequence[str], outputs: Sequence[str]) -> np.ndarray:
    """ROUGE-L F of each item: float64 ``[n]``, NaN where the reference has no word.

    Emoji or punctuation alone would score 0 whatever was answered: there is nothing to score.
    """
    worded = {text: has_words(text) for text in set(references)}
    there = np.array([worded[text] for text in references], dtype=bool)
    return np.where(there, rouge_l_all(references, outputs), np.nan)


def _f_measure(reference: list[str], output: list[str]) -> float:
    if not reference or not output:
        return 0.0
    # Numbers instead of strings: the bit-parallel algorithm then never meets a hash collision.
    ids: dict[str, int] = {}
    left = [ids.setdefault(token, len(ids)) for token in reference]
    right = [ids.setdefault(token, len(ids)) for token in output]
    common = LCSseq.similarity(left, right)
    if common == 0:
        return 0.0
    precision, recall = common / len(output), common / len(reference)
    return 2 * precision * recall / (precision + recall)
