"""ROUGE-L F-measure (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries").

Equal to Google's ``rouge-score`` without stemming: lower case, tokens are runs of ``[a-z0-9]``,
F = 2PR / (P + R) with P = LCS / |output| and R = LCS / |reference|. An empty side scores 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import LCSseq

_TOKEN = re.compile(r"[a-z0-9]+")


def rouge_tokens(text: str) -> list[str]:
    """Tokens as ROUGE counts them; letters outside a–z separate."""
    return _TOKEN.findall(text.lower())


def rouge_l(reference: str, output: str) -> float:
    """ROUGE-L F of one output, in [0, 1]."""
    return _f_measure(rouge_tokens(reference), rouge_tokens(output))


def rouge_l_all(references: Sequence[str], outputs: Sequence[str]) -> np.ndarray:
    """ROUGE-L F of each pair: float64 ``[n]``. Equal texts are tokenized once."""
    tokens = {text: rouge_tokens(text) for text in {*references, *outputs}}
    pairs = zip(references, outputs, strict=True)
    return np.array([_f_measure(tokens[ref], tokens[out]) for ref, out in pairs], dtype=float)


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
