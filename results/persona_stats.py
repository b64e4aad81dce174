"""Persona prediction in numbers: accuracies, nulls, adapted against not, clusters, confusions.

Pure, given the generator. The unit is the user: intervals resample users, the paired test flips
users' signs. McNemar's exact test on the same queries stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from results.comparison import noted
from results.paired_tests import mcnemar, t_interval
from results.persona_ranking import (
    HITS,
    Ranking,
    chance,
    match_curve,
    own_hits,
    own_ranks,
    p_above,
    pair_sums,
    permutation_null,
)
from results.resampling import RESAMPLES, Floats
from results.stats import Comparison, accuracy, adjust, compare

NAN = float("nan")
FIRST, MACRO = "accuracy_at_1", "macro_accuracy"
METRICS = (FIRST, "accuracy_at_5", "mrr", MACRO)
PRIMARY_METHOD = "encoder"
"""The profile that was declared to lead, before results."""
BASE, CONTROLS, CENTERED = "base", ("tfidf", "length"), "_centered"
ADAPTED = ("prefix_all", "lora_all", "prefix_per_user", "lora_per_user")
ORDER = ("encoder", BASE, *ADAPTED)
DECIMALS = 12
HARDEST_PAIRS = 10
MIN_USERS = 3
"""A cluster's interval needs so many."""

Question = Literal["adapted", "against encoder", "more than words", "centered"]


@dataclass(frozen=True, kw_only=True)
class PersonaContrast:
    """Two ways of ranking on the same queries and candidates; ``primary`` was declared so."""

    method: str
    reference: str
    question: Question
    primary: bool = False

    @property
    def name(self) -> str:
        """The contrast's name in every table."""
        return f"{self.method} - {self.reference}"


def method_order(method: str) -> tuple[int, int, str]:
    """Sorting key: encoder, base, adapted; then centered ones; then controls."""
    plain = method.removesuffix(CENTERED)
    place = ORDER.index(plain) if plain in ORDER else len(ORDER)
    if method in CONTROLS:
        return 2, CONTROLS.index(method), method
    return int(method.endswith(CENTERED)), place, method


def declared(methods: Iterable[str]) -> list[PersonaContrast]:
    """Contrasts of the methods that are there, the declared ones first."""
    there = set(methods)
    wanted = [
        *(_contrast(name, BASE, "adapted", primary=True) for name in ADAPTED),
        *(_contrast(name, PRIMARY_METHOD, "against encoder") for name in (BASE, *ADAPTED)),
        *(_contrast(name, f"{BASE}{CENTERED}", "centered") for name in _centered(ADAPTED)),
        *(
            _contrast(name, control, "more than words")
            for name in (PRIMARY_METHOD, BASE)
            for control in CONTROLS
        ),
    ]
    return [one for one in wanted if {one.method, one.reference} <= there]


def _centered(methods: Sequence[str]) -> list[str]:
    return [name + CENTERED for name in methods]


def _contrast(
    method: str, reference: str, question: Question, *, primary: bool = False
) -> PersonaContrast:
    return PersonaContrast(method=method, reference=reference, question=question, primary=primary)


def methods_table(
    rankings: Sequence[Ranking], *, seed: int, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Each method on each metric: value, interval, chance, and the null of permuted labels."""
    rows = [
        row for ranking in rankings for row in _method_rows(ranking, seed=seed, resamples=resamples)
    ]
    return pd.DataFrame(rows, columns=METHOD_COLUMNS)


METHOD_COLUMNS = [
    *("method", "metric", "value", "low", "high", "chance", "null_mean", "null_95", "null_99"),
    *("p_null", "above_null", "n_users", "n_queries", "n_candidates", "n_seeds"),
]


def _method_rows(ranking: Ranking, *, seed: int, resamples: int) -> list[dict[str, Any]]:
    sizes = {
        "n_users": int((ranking.queries_of > 0).sum()),
        "n_queries": len(ranking.query_ids),
        "n_candidates": len(ranking.users),
        "n_seeds": len(ranking.seeds),
    }
    rows = []
    for metric in METRICS:
        hit = FIRST if metric == MACRO else metric
        found = accuracy(
            ranking.writers,
            own_hits(ranking, hit),
            rng=np.random.default_rng(seed),
            macro=metric == MACRO,
            resamples=resamples,
        )
        # Shares meet the null's percentiles exactly; float dust must not decide which is above.
        value = round(found.value, DECIMALS)
        row = {"method": ranking.method, "metric": metric, "value": value}
        row |= {"low": found.low, "high": found.high}
        row |= _null(ranking, metric, hit, value, seed=seed, permutations=resamples)
        rows.append(row | sizes)
    return rows


def _null(
    ranking: Ranking, metric: str, hit: str, value: float, *, seed: int, permutations: int
) -> dict[str, Any]:
    queries = ranking.queries_of
    if not queries.sum():
        return {"chance": chance(hit, len(ranking.users)), "above_null": False}
    weights = np.full(len(queries), 1 / queries.sum())
    if metric == MACRO:
        weights = np.divide(1, queries, out=np.zeros_like(queries), where=queries > 0)
        weights /= (queries > 0).sum()
    null = permutation_null(
        pair_sums(ranking, hit),
        weights,
        rng=np.random.default_rng(seed),
        permutations=permutations,
    )
    edges = np.quantile(null, [0.95, 0.99]).round(DECIMALS)
    return {
        "chance": chance(hit, len(ranking.users)),
        "null_mean": float(null.mean()),
        "null_95": float(edges[0]),
        "null_99": float(edges[1]),
        "p_null": p_above(null, value),
        "above_null": bool(value > edges[1]),
    }


def common_users(left: Ranking, right: Ranking) -> list[str]:
    """Candidates of both, in the first one's order."""
    there = set(right.users)
    return [user for user in left.users if user in there]


def contrasts_table(
    rankings: Mapping[str, Ranking], *, seed: int, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Per-user accuracy at 1, paired, on common queries and candidates, with exact McNemar.

    Columns of ``Comparison`` and ``low, high`` (the interval to report), ``question``,
    ``n_queries, n_candidates``, ``value`` and ``reference_value`` (macro accuracies),
    ``only_method, only_reference, p_mcnemar`` (first common seed).
    """
    wanted = declared(rankings)
    found: list[Comparison] = []
    beside: list[dict[str, Any]] = []
    for one in wanted:
        row, extra = _compared(one, rankings, seed=seed, resamples=resamples)
        found.append(row)
        beside.append(extra)
    primary = {(one.name, FIRST) for one in wanted if one.primary}
    rows = [asdict(row) for row in adjust(found, primary=primary)] if found else []
    table = pd.DataFrame([row | extra for row, extra in zip(rows, beside, strict=True)])
    if not len(table):
        return pd.DataFrame(columns=["contrast", "question", "low", "high", "mean_lift"])
    # Differences of shares can end at 0 exactly; float dust must not give them a sign.
    ends = {end: table[f"ci_{end}"].round(DECIMALS) for end in ("low", "high")}
    return table.assign(**ends)


def _compared(
    one: PersonaContrast, rankings: Mapping[str, Ranking], *, seed: int, resamples: int
) -> tuple[Comparison, dict[str, Any]]:
    users = common_users(rankings[one.method], rankings[one.reference])
    left, right = (rankings[name].among(users) for name in (one.method, one.reference))
    sides = [user_accuracies(side) for side in (left, right)]
    row = compare(
        one.name,
        FIRST,
        (sides[0] - sides[1]).to_numpy(),
        margin=1.0,
        rng=np.random.default_rng(seed),
        resamples=resamples,
    )
    row = noted(replace(row, p_tost=NAN), "TOST: no margin declared for this metric")
    seeds = (left.seeds[0], right.seeds[0])
    first, second, p = mcnemar(own_ranks(left)[0] == 1, own_ranks(right)[0] == 1)
    return row, {
        "question": one.question,
        "n_queries": len(left.query_ids),
        "n_candidates": len(users),
        "value": float(sides[0].mean()),
        "reference_value": float(sides[1].mean()),
        "only_method": first,
        "only_reference": second,
        "p_mcnemar": p,
        "mcnemar_seeds": "/".join(map(str, dict.fromkeys(seeds))),
    }


def user_accuracies(ranking: Ranking) -> pd.Series[float]:
    """Accuracy at 1 of each user with queries, in the candidates' order."""
    hits = pd.Series(own_hits(ranking, FIRST)).groupby(ranking.true).mean()
    return hits.set_axis([ranking.users[int(place)] for place in hits.index])


def users_table(rankings: Sequence[Ranking]) -> pd.DataFrame:
    """``method, user_id, n_queries, accuracy_at_1, mrr`` of every user with queries."""
    frames = []
    for ranking in rankings:
        values = {name: own_hits(ranking, name) for name in HITS}
        frame = pd.DataFrame({"user_id": ranking.writers, **values})
        means = frame.groupby("user_id", sort=False).mean()
        means.insert(0, "n_queries", frame.groupby("user_id", sort=False).size())
        frames.append(means.reset_index().assign(method=ranking.method))
    columns = ["method", "user_id", "n_queries", *HITS]
    return pd.concat(frames)[columns].reset_index(drop=True) if frames else pd.DataFrame(columns)


def clusters_table(rankings: Sequence[Ranking], clusters: Mapping[str, int]) -> pd.DataFrame:
    """Accuracy at 1 by cluster of the writers, and how many errors stay inside the cluster.

    Mean over users with Student's interval, cut to [0, 1], from three users on.
    ``errors_inside_chance`` is the share that errors at random would have.
    """
    rows = []
    for ranking in rankings:
        labels = np.array([clusters.get(user, -1) for user in ranking.users])
        own = user_accuracies(ranking)
        wrong = pair_sums(ranking, FIRST)
        np.fill_diagonal(wrong, 0.0)
        places = {user: place for place, user in enumerate(ranking.users)}
        queries = ranking.queries_of
        for cluster in sorted(set(labels[labels >= 0])):
            members = np.flatnonzero(labels == cluster)
            scored = own[[places[user] in set(members) for user in own.index]].to_numpy()
            errors = wrong[members]
            low, high = t_interval(scored)
            known = len(scored) >= MIN_USERS and np.isfinite(low[0])
            rows.append(
                {
                    "method": ranking.method,
                    "cluster": int(cluster),
                    "n_users": len(scored),
                    "n_queries": int(queries[members].sum()),
                    FIRST: float(scored.mean()) if len(scored) else NAN,
                    "low": float(max(0.0, low[0])) if known else NAN,
                    "high": float(min(1.0, high[0])) if known else NAN,
                    "errors": float(errors.sum()),
                    **_inside(errors, members),
                }
            )
    return pd.DataFrame(rows, columns=CLUSTER_COLUMNS)


def _inside(errors: Floats, members: NDArray[np.intp]) -> dict[str, float]:
    """Share of a cluster's errors that stay inside it; a cluster of one has no such errors."""
    if len(members) < 2:
        return {"errors_inside": NAN, "errors_inside_chance": NAN}
    return {
        "errors_inside": _share(errors[:, members].sum(), errors.sum()),
        "errors_inside_chance": _share(len(members) - 1, errors.shape[1] - 1),
    }


CLUSTER_COLUMNS = [
    *("method", "cluster", "n_users", "n_queries", FIRST, "low", "high"),
    *("errors", "errors_inside", "errors_inside_chance"),
]


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else NAN


def pairs_table(rankings: Sequence[Ranking], *, most: int = HARDEST_PAIRS) -> pd.DataFrame:
    """The pairs of users that are taken for each other most often, both directions together."""
    rows = []
    for ranking in rankings:
        wrong = pair_sums(ranking, FIRST)
        both = np.triu(wrong + wrong.T, k=1)
        queries = ranking.queries_of
        order = np.argsort(-both, axis=None, kind="stable")[:most]
        for a, b in zip(*np.unravel_index(order, both.shape), strict=True):
            if both[a, b] > 0:
                total = int(queries[a] + queries[b])
                rows.append(
                    {
                        "method": ranking.method,
                        "user_a": ranking.users[a],
                        "user_b": ranking.users[b],
                        "confusions": float(both[a, b]),
                        "a_as_b": float(wrong[a, b]),
                        "b_as_a": float(wrong[b, a]),
                        "n_queries": total,
                        "share": _share(both[a, b], total),
                    }
                )
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


PAIR_COLUMNS = [
    *("method", "user_a", "user_b", "confusions", "a_as_b", "b_as_a", "n_queries", "share")
]


def curves_table(rankings: Sequence[Ranking]) -> pd.DataFrame:
    """Cumulative match: ``method, k, share`` of queries whose writer is among the first k."""
    frames = [
        pd.DataFrame(
            {
                "method": ranking.method,
                "k": np.arange(1, len(ranking.users) + 1),
                "share": match_curve(ranking),
            }
        )
        for ranking in rankings
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=CURVE_COLUMNS)


CURVE_COLUMNS = ["method", "k", "share"]


def confusion_table(ranking: Ranking) -> pd.DataFrame:
    """Counts: ``true_user_id``, a column per predicted user, ``nobody`` (a tie at the top)."""
    counts: Floats = pair_sums(ranking, FIRST)
    table = pd.DataFrame(counts, columns=list(ranking.users))
    if (counts == np.round(counts)).all():
        table = table.astype(int)
    table.insert(0, "true_user_id", list(ranking.users))
    nobody = ranking.queries_of - counts.sum(axis=1)
    return table.assign(nobody=np.round(nobody, 9).astype(table.dtypes.iloc[-1]))
