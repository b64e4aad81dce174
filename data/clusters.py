"""Style clusters: k-means over users' training-session features, k by silhouette.

Features are lexical style (verbosity, reply length, sentiment, formality), standardized over the
clustered users, and beside it, where there are embeddings (``data.embeddings``), the principal
components of the users' mean embeddings, with the same weight in all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.schema import DataError, Style

FEATURES = ("verbosity", "reply_words", "sentiment", "formality")
SILHOUETTE_SAMPLE_USERS = 2_000
EMBEDDING_COMPONENTS = 8
SAME_EMBEDDING = 1e-5
"""Standard deviation of a component, relative to the largest coordinate, below which it is none."""


@dataclass(frozen=True, slots=True)
class Clustering:
    """Clusters of users: 0 is the largest, ties go to the one with the earliest user.

    ``silhouette`` is the mean of the chosen k (None for a single cluster), ``tried`` that of
    every k that was tried, ``warning`` says why there are fewer clusters than asked for.
    """

    cluster_of: dict[str, int]
    sizes: tuple[int, ...]
    silhouette: float | None
    tried: dict[int, float]
    warning: str | None = None


def style_features(
    styles: Mapping[str, Style],
    *,
    embeddings: Mapping[str, NDArray[np.floating] | None] | None = None,
) -> NDArray[np.float64]:
    """Features [users, 4 + components], each of the four with mean 0 and deviation 1 (or all 0).

    Embeddings are reduced to their first eight principal components, which together weigh as
    much as the four lexical features: their variances add up to 4. A user whose embedding is
    None stands at the mean of the others. Raises DataError for a missing or non-finite embedding.
    """
    lexical = np.array(
        [[getattr(style, name) for name in FEATURES] for style in styles.values()], dtype=float
    ).reshape(len(styles), len(FEATURES))
    parts = [_standardized(lexical)]
    if embeddings is not None:
        parts.append(_components(_embedding_rows(list(styles), embeddings)))
    return np.concatenate(parts, axis=1)


def _embedding_rows(
    users: Sequence[str], embeddings: Mapping[str, NDArray[np.floating] | None]
) -> NDArray[np.float64]:
    lacking = [user for user in users if user not in embeddings]
    if lacking:
        raise DataError(f"no embedding for {len(lacking)} users, the first is {lacking[0]}")
    vectors = [embeddings[user] for user in users]
    known = [np.asarray(vector, dtype=float) for vector in vectors if vector is not None]
    if not known:
        return np.zeros((len(users), 0))
    if not np.isfinite(known).all():
        raise DataError("embeddings hold values that are not finite numbers")
    mean = np.mean(known, axis=0)
    return np.stack([mean if vector is None else np.asarray(vector) for vector in vectors])


def _standardized(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns with mean 0 and deviation 1; a column of equal values becomes 0."""
    centered = rows - rows.mean(axis=0)
    deviation = centered.std(axis=0)
    flat = deviation <= 1e-9 * (1 + np.abs(rows).max(axis=0, initial=0))
    return np.where(flat, 0.0, centered / np.where(flat, 1.0, deviation))


def _components(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    centered = rows - rows.mean(axis=0)
    with _one_thread():
        _, values, right = np.linalg.svd(centered, full_matrices=False)
    # Embeddings are float32, and the same text in another pass differs by some 1e-7: what spreads
    # no more than that is noise, which scaling would blow up to features.
    noise = SAME_EMBEDDING * math.sqrt(len(rows)) * (1 + np.abs(rows).max(initial=0))
    kept = min(EMBEDDING_COMPONENTS, int((values > noise).sum()))
    if not kept:
        return np.zeros((len(rows), 0))
    # A component's sign is arbitrary: fix it so that every machine gives the same features.
    signs = np.sign(right[np.arange(kept), np.abs(right[:kept]).argmax(axis=1)])
    scores = centered @ (right[:kept] * signs[:, None]).T
    return scores / np.sqrt((scores**2).sum(axis=1).mean() / len(FEATURES))


def cluster_users(
    styles: Mapping[str, Style],
    *,
    clusters: tuple[int, int] = (5, 10),
    seed: int = 0,
    embeddings: Mapping[str, NDArray[np.floating] | None] | None = None,
) -> Clustering:
    """k-means for every k of ``clusters``; the k with the best mean silhouette wins.

    The silhouette is computed on at most 2,000 users, fixed by the seed. Users with d different
    feature rows get at most d − 1 clusters, and one cluster where that leaves fewer than two.
    """
    if not styles:
        return Clustering({}, (), None, {}, "no users to cluster")
    features = style_features(styles, embeddings=embeddings)
    distinct = len(np.unique(features.round(9), axis=0))
    high = min(clusters[1], distinct - 1)
    low = min(clusters[0], high)
    if high < 2:
        reason = f"{len(styles)} users with {distinct} different styles make a single cluster"
        return Clustering(dict.fromkeys(styles, 0), (len(styles),), None, {}, reason)
    labels = {k: _k_means(features, k, seed=seed) for k in range(low, high + 1)}
    tried = {k: _silhouette(features, found, seed=seed) for k, found in labels.items()}
    best = max(tried, key=lambda k: (tried[k], -k))
    cluster_of, sizes = _relabelled(list(styles), labels[best])
    warning = None
    if high < clusters[0]:
        warning = (
            f"{distinct} different styles are too few for {clusters[0]} clusters: {best} are used"
        )
    return Clustering(cluster_of, sizes, round(tried[best], 6), _rounded(tried), warning)


def _rounded(values: Mapping[int, float]) -> dict[int, float]:
    return {k: round(value, 6) for k, value in values.items()}


def _k_means(features: NDArray[np.float64], k: int, *, seed: int) -> NDArray[np.int64]:
    # Slow to import, and only preparation needs it.
    from sklearn.cluster import KMeans

    with _one_thread():
        found = KMeans(n_clusters=k, n_init=10, random_state=seed).fit_predict(features)
    return np.asarray(found, dtype=np.int64)


def _one_thread() -> AbstractContextManager[object]:
    """Sums in another order could move a user at a border to another cluster."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits


def _silhouette(features: NDArray[np.float64], labels: NDArray[np.int64], *, seed: int) -> float:
    from sklearn.metrics import silhouette_score

    if len(labels) > SILHOUETTE_SAMPLE_USERS:
        chosen = np.random.default_rng(seed).permutation(len(labels))[:SILHOUETTE_SAMPLE_USERS]
        features, labels = features[chosen], labels[chosen]
    if not 2 <= len(np.unique(labels)) < len(labels):
        return -1.0
    return float(silhouette_score(features, labels))


def _relabelled(
    users: Sequence[str], labels: NDArray[np.int64]
) -> tuple[dict[str, int], tuple[int, ...]]:
    values, first, counts = np.unique(labels, return_index=True, return_counts=True)
    order = sorted(range(len(values)), key=lambda i: (-counts[i], first[i]))
    new = {int(values[old]): place for place, old in enumerate(order)}
    cluster_of = {user: new[int(label)] for user, label in zip(users, labels, strict=True)}
    return cluster_of, tuple(int(counts[old]) for old in order)
