"""All metrics in one table, with direction, unit, and the rule for empty text.

A new metric is a function from a batch of scored replies to one column, and its row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np
import pandas as pd

from data.schema import Style
from tasks.config import TaskError
from tasks.metrics.actions import KINDS, Action, action_scores, parse_actions, routine_actions
from tasks.metrics.diversity import distinct_2
from tasks.metrics.rouge import rouge_l_items
from tasks.metrics.style_metrics import (
    embedding_similarities,
    formality_distances,
    sentiment_distances,
    verbosity_errors,
    word_counts,
)

REFERENCE, ROUTINE = "reference", "routine"
Settings = Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class ReplyBatch:
    """Replies to score, all of length n: texts, the user's style of each, unit vectors [n, d]."""

    references: list[str]
    outputs: list[str]
    styles: list[Style]
    routine_settings: list[Settings | None]
    reference_vectors: np.ndarray
    output_vectors: np.ndarray

    @cached_property
    def actions(self) -> dict[str, list[dict[str, float]]]:
        """Action scores of each reply against the reference and against the routine."""
        expected = [parse_actions(text) for text in self.references]
        found = [parse_actions(text) for text in self.outputs]
        routine = [
            routine_actions(settings) if said and settings is not None else frozenset[Action]()
            for said, settings in zip(expected, self.routine_settings, strict=True)
        ]
        return {
            REFERENCE: list(map(action_scores, expected, found)),
            ROUTINE: list(map(action_scores, routine, found)),
        }


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. ``fn`` gives float64 ``[n]``; None where it is not computed from texts.

    ``level`` ``item``: a user's value is the mean over the user's items, NaN left out and
    counted. ``user``: derived from the user's items by the collector. ``empty`` is the rule for
    an empty output (or nothing to score); ``detail`` metrics belong in detailed tables alone.
    """

    fn: Callable[[ReplyBatch], np.ndarray] | None
    higher_is_better: bool
    unit: str
    title: str
    empty: str
    level: Literal["item", "user"] = "item"
    detail: bool = False


def _rouge_l(batch: ReplyBatch) -> np.ndarray:
    return rouge_l_items(batch.references, batch.outputs)


def _verbosity_error(batch: ReplyBatch) -> np.ndarray:
    return verbosity_errors(batch.outputs, batch.styles)


def _embedding_similarity(batch: ReplyBatch) -> np.ndarray:
    return embedding_similarities(
        batch.references,
        batch.outputs,
        reference_vectors=batch.reference_vectors,
        output_vectors=batch.output_vectors,
    )


def _sentiment_distance(batch: ReplyBatch) -> np.ndarray:
    return sentiment_distances(batch.outputs, batch.styles)


def _formality_distance(batch: ReplyBatch) -> np.ndarray:
    return formality_distances(batch.outputs, batch.styles)


def _distinct_2(batch: ReplyBatch) -> np.ndarray:
    return np.array([distinct_2(text) for text in batch.outputs], dtype=float)


def _action(batch: ReplyBatch, *, against: str, score: str) -> np.ndarray:
    return np.array([scores[score] for scores in batch.actions[against]], dtype=float)


_NO_ACTION = {
    REFERENCE: "NaN where the reference states no action of the kind: excluded and counted",
    ROUTINE: "NaN where the reference states no action or no routine applies",
}


def _action_metrics(against: str, *, prefix: str) -> dict[str, Metric]:
    """Rows for whole actions, devices, settings, numeric and categorical values."""
    shown = {"precision": "precision", "recall": "recall", "f1": "F1"}
    return {
        f"{prefix}{kind}_{score}": Metric(
            partial(_action, against=against, score=f"{kind}_{score}"),
            higher_is_better=True,
            unit="share",
            title=f"{kind.replace('_', ' ').capitalize()} {label} against the {against}",
            empty=_NO_ACTION[against]
            + ("; NaN where the output states none" if score == "precision" else "; 0"),
            detail=(kind, score) != ("action", "f1"),
        )
        for kind in KINDS
        for score, label in shown.items()
    }


METRICS: dict[str, Metric] = {
    "rouge_l": Metric(
        _rouge_l,
        True,
        "F",
        "ROUGE-L",
        "0 where the output has no word; NaN where the reference has none: excluded and counted",
    ),
    "verbosity_error": Metric(
        _verbosity_error, False, "words", "Verbosity error", "an empty output has 0 words"
    ),
    "embedding_similarity": Metric(
        _embedding_similarity, True, "cosine", "Embedding similarity", "0 where a text is empty"
    ),
    "sentiment_distance": Metric(
        _sentiment_distance, False, "points", "Sentiment distance", "largest possible distance"
    ),
    "formality_distance": Metric(
        _formality_distance, False, "points", "Formality distance", "largest possible distance"
    ),
    "distinct_2": Metric(
        _distinct_2, True, "share", "Distinct-2", "NaN under two words: excluded and counted"
    ),
    "nll": Metric(
        None,
        False,
        "nats/token",
        "Negative log-likelihood of the true reply",
        "needs no output: never empty",
    ),
    "output_length_std": Metric(
        None,
        False,
        "words",
        "Output length standard deviation",
        "an empty output has 0 words",
        level="user",
    ),
    **_action_metrics(REFERENCE, prefix=""),
    **_action_metrics(ROUTINE, prefix="routine_"),
}


def score_items(
    frame: pd.DataFrame,
    styles: Mapping[str, Style],
    *,
    reference_vectors: np.ndarray,
    output_vectors: np.ndarray,
) -> pd.DataFrame:
    """A copy of ``frame`` with one column per item-level metric and ``output_words``.

    ``frame`` has ``user_id, reference, output`` and may have ``routine_settings`` (triples of
    texts, or None); ``styles`` is keyed by user id; vectors are ``[n, d]``, of unit length, in
    the frame's order. ``nll`` is the caller's to fill in. Raises TaskError where the shapes do
    not fit or a user has no style.
    """
    for name, vectors in (("reference", reference_vectors), ("output", output_vectors)):
        if len(vectors) != len(frame):
            raise TaskError(f"{len(vectors)} {name} vectors for {len(frame)} items")
    unknown = sorted(set(frame["user_id"]) - set(styles))
    if unknown:
        raise TaskError(f"no style for user {unknown[0]!r} ({len(unknown)} users in all)")
    has_settings = "routine_settings" in frame.columns
    settings = frame["routine_settings"].tolist() if has_settings else [None] * len(frame)
    batch = ReplyBatch(
        references=frame["reference"].tolist(),
        outputs=frame["output"].tolist(),
        styles=[styles[user] for user in frame["user_id"]],
        routine_settings=[None if pd.api.types.is_scalar(rows) else rows for rows in settings],
        reference_vectors=reference_vectors,
        output_vectors=output_vectors,
    )
    columns = {name: metric.fn(batch) for name, metric in METRICS.items() if metric.fn is not None}
    return frame.assign(**columns, output_words=word_counts(batch.outputs))
