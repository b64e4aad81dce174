"""Who ranks where for whose message: ranks, hits, confusions, and the null of permuted labels.

Ties are counted against the true user: a user's rank is the number of candidates that score at
least as high. So a way of ranking that tells nobody apart hits nothing, and a tie at the top
predicts nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from results.record import RecordError
from results.resampling import RESAMPLES, Floats, chunk_rows

HITS: dict[str, Callable[[Floats], Floats]] = {
    "accuracy_at_1": lambda ranks: (ranks <= 1).astype(np.float64),
    "accuracy_at_5": lambda ranks: (ranks <= 5).astype(np.float64),
    "mrr": lambda ranks: 1 / ranks,
}
"""What a query counts, from the true user's rank."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Scores of one way of ranking.

    Attributes:
        method: its name.
        seeds: training seeds, in order.
        users: candidates, in order.
        query_ids: names of the queries.
        true: place in ``users`` of each query's writer, ``[queries]``.
        scores: higher is the better match, ``[seeds, queries, users]``.
    """

    method: str
    seeds: tuple[int, ...]
    users: tuple[str, ...]
    query_ids: tuple[str, ...]
    true: NDArray[np.intp]
    scores: Floats

    def __post_init__(self) -> None:
        shape = (len(self.seeds), len(self.query_ids), len(self.users))
        if self.scores.shape != shape or self.true.shape != shape[1:2]:
            raise RecordError(
                f"{self.method}: scores of shape {self.scores.shape} and {len(self.true)} writers "
                f"for {shape} seeds, queries and users"
            )

    def among(self, users: Sequence[str]) -> Ranking:
        """The same with these candidates alone, in this order, and with their queries alone."""
        place = {user: index for index, user in enumerate(self.users)}
        kept = [place[user] for user in users]
        new = np.full(len(self.users), -1, dtype=np.intp)
        new[kept] = np.arange(len(kept))
        rows = np.flatnonzero(new[self.true] >= 0)
        return replace(
            self,
            users=tuple(users),
            query_ids=tuple(self.query_ids[row] for row in rows),
            true=new[self.true[rows]],
            scores=self.scores[:, rows][:, :, kept],
        )

    @property
    def writers(self) -> NDArray[np.str_]:
        """The true user of each query, ``[queries]``."""
        return np.array(self.users, dtype=np.str_)[self.true]

    @property
    def queries_of(self) -> Floats:
        """Number of queries of each user, ``[users]``."""
        return np.bincount(self.true, minlength=len(self.users)).astype(np.float64)


def all_ranks(ranking: Ranking) -> Floats:
    """Rank of every candidate for every query, 1 is best: ``[seeds, queries, users]``."""
    if not ranking.scores.size:
        return np.ones_like(ranking.scores)
    return np.asarray(stats.rankdata(-ranking.scores, method="max", axis=2), dtype=np.float64)


def own_ranks(ranking: Ranking) -> Floats:
    """Rank of the true user, ``[seeds, queries]``."""
    own = np.take_along_axis(ranking.scores, ranking.true[None, :, None], axis=2)
    return np.asarray((ranking.scores >= own).sum(axis=2), dtype=np.float64)


def own_hits(ranking: Ranking, metric: str) -> Floats:
    """What each query counts, mean over seeds, ``[queries]``."""
    return np.asarray(HITS[metric](own_ranks(ranking)).mean(axis=0))


def pair_sums(ranking: Ranking, metric: str) -> Floats:
    """Sum over user u's queries of what candidate v would count, mean over seeds: ``[u, v]``.

    For accuracy at 1 this is the confusion matrix; a query with a tie at the top is in no column.
    """
    values = HITS[metric](all_ranks(ranking)).mean(axis=0)
    sums = np.zeros((len(ranking.users), len(ranking.users)))
    np.add.at(sums, ranking.true, values)
    return sums


def chance(metric: str, candidates: int) -> float:
    """Expected value where all orders of the candidates are equally likely."""
    if not candidates:
        return float("nan")
    return float(HITS[metric](np.arange(1.0, candidates + 1)).mean())


def permutation_null(
    pairs: Floats,
    weights: Floats,
    *,
    rng: np.random.Generator,
    permutations: int = RESAMPLES,
) -> Floats:
    """Values under permuted labels: whose profile is whose is shuffled, ``[permutations]``.

    All queries of a user move together, since they resemble each other; the null would be too
    narrow if every query were shuffled by itself.

    Args:
        pairs: ``[u, v]`` from ``pair_sums``.
        weights: What a sum counts, ``[u]``: 1 / queries of all (micro) or 1 / (queries of the
            user · users with queries) (macro).
        rng: Source of the permutations.
        permutations: How many.
    """
    weighted = pairs * weights[:, None]
    users = np.arange(len(pairs))
    found = []
    for rows in chunk_rows(len(pairs), permutations):
        orders = rng.permuted(np.broadcast_to(users, (rows, len(users))), axis=1)
        found.append(weighted[users, orders].sum(axis=1))
    return np.concatenate(found)


def p_above(null: Floats, value: float) -> float:
    """One-sided p of a value at least so large, the value counted in (Phipson & Smyth 2010)."""
    dust = 1e-12 * max(1.0, abs(value))
    return float((1 + (null >= value - dust).sum()) / (1 + len(null)))


def match_curve(ranking: Ranking) -> Floats:
    """Share of queries whose true user is among the first k, k = 1 … users: ``[users]``."""
    ranks = own_ranks(ranking)
    counts = np.bincount(ranks.astype(np.intp).ravel(), minlength=len(ranking.users) + 1)[1:]
    return np.asarray(counts.cumsum() / max(1, ranks.size), dtype=np.float64)
