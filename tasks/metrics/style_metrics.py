"""How far an output is from the way the user's replies sound (training sessions alone)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from data.schema import Style
from data.style import formality, sentiment
from data.words import word_count


def word_counts(texts: Sequence[str]) -> np.ndarray:
    """Words of each text: int64 ``[n]``."""
    return np.array([word_count(text) for text in texts], dtype=np.int64)


def verbosity_errors(outputs: Sequence[str], styles: Sequence[Style]) -> np.ndarray:
    """|words of the output − mean words of the user's replies in training|: float64 ``[n]``.

    An empty output has 0 words, so its error is the user's whole mean.
    """
    wanted = np.array([style.reply_words for style in styles], dtype=float)
    return np.abs(word_counts(outputs) - wanted)


def sentiment_distances(outputs: Sequence[str], styles: Sequence[Style]) -> np.ndarray:
    """|sentiment of the output − the user's mean|, in [0, 2]: float64 ``[n]``.

    An empty output has no tone and gets the largest distance possible for that user.
    """
    wanted = [style.sentiment for style in styles]
    return _distances(outputs, wanted, measure=sentiment, low=-1.0, high=1.0)


def formality_distances(outputs: Sequence[str], styles: Sequence[Style]) -> np.ndarray:
    """|formality of the output − the user's mean|, in [0, 1]: float64 ``[n]``.

    An empty output gets the largest distance possible for that user.
    """
    wanted = [style.formality for style in styles]
    return _distances(outputs, wanted, measure=formality, low=0.0, high=1.0)


def embedding_similarities(
    references: Sequence[str],
    outputs: Sequence[str],
    *,
    reference_vectors: np.ndarray,
    output_vectors: np.ndarray,
) -> np.ndarray:
    """Cosine of unit vectors ``[n, d]`` row by row: float64 ``[n]``; 0 where a text is empty."""
    cosines = np.einsum(
        "nd,nd->n", reference_vectors.astype(np.float64), output_vectors.astype(np.float64)
    )
    pairs = zip(references, outputs, strict=True)
    said = np.array([bool(ref.strip() and out.strip()) for ref, out in pairs], dtype=bool)
    return np.where(said, cosines, 0.0)


def _distances(
    outputs: Sequence[str],
    wanted: Sequence[float],
    *,
    measure: Callable[[str], float],
    low: float,
    high: float,
) -> np.ndarray:
    found = {text: measure(text) for text in set(outputs) if text.strip()}
    return np.array(
        [
            abs(found[text] - mean) if text in found else max(mean - low, high - mean)
            for text, mean in zip(outputs, wanted, strict=True)
        ],
        dtype=float,
    )
