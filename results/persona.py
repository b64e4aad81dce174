"""Persona prediction: reads the scores of the ledger, evaluates them, writes the artefacts.

``results/persona_pred/persona_pred_eval.json``, ``confusion_matrix.csv`` (of the declared method;
of others ``confusion_matrix_<method>.csv``) and tables; ``data/profiles/user_profiles.json`` and
``data/persona_pred/test_queries.jsonl`` are copies of the cell's own files.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from results.document import records
from results.files import write_atomic, write_csv, write_json
from results.ledger import Ledger
from results.persona_ranking import Ranking
from results.persona_stats import (
    FIRST,
    PRIMARY_METHOD,
    clusters_table,
    confusion_table,
    contrasts_table,
    curves_table,
    method_order,
    methods_table,
    pairs_table,
    users_table,
)
from results.record import Record

PURPOSE = "identify"
SCORES_FILE, QUERIES_FILE, PROFILES_FILE = "scores.parquet", "queries.jsonl", "profiles.json"
FOLDER = Path("results/persona_pred")
COPIES = {
    PROFILES_FILE: Path("data/profiles/user_profiles.json"),
    QUERIES_FILE: Path("data/persona_pred/test_queries.jsonl"),
}
TABLES = ("methods", "contrasts", "clusters", "pairs", "users")


@dataclass(frozen=True, kw_only=True)
class PersonaEvaluation:
    """All numbers of persona prediction; figures and report compute none of their own.

    ``methods``, ``contrasts``, ``users``, ``clusters``, ``pairs`` and ``curves`` are the tables of
    ``persona_stats``; ``left_out`` has arm, user_id, reason of users without a ranking.
    """

    rankings: Mapping[str, Ranking]
    methods: pd.DataFrame
    contrasts: pd.DataFrame
    users: pd.DataFrame
    clusters: pd.DataFrame
    pairs: pd.DataFrame
    curves: pd.DataFrame
    left_out: pd.DataFrame
    cluster_of: Mapping[str, int]
    seed: int
    resamples: int

    @property
    def primary(self) -> str:
        """The method declared to lead; where it was not run, the first there is."""
        return PRIMARY_METHOD if PRIMARY_METHOD in self.rankings else next(iter(self.rankings))

    @cached_property
    def _numbers(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(row["method"], row["metric"]): row for row in records(self.methods)}

    def number(self, method: str, metric: str = FIRST) -> dict[str, Any]:
        """The row of ``methods`` of one method and metric."""
        return self._numbers[method, metric]

    def contrast(self, name: str) -> dict[str, Any] | None:
        """The row of ``contrasts`` of that name."""
        found = self.contrasts[self.contrasts["contrast"] == name]
        return records(found)[0] if len(found) else None


def read_rankings(found: Mapping[str, Record], ledger: Ledger) -> dict[str, Ranking]:
    """All ways of ranking in the ledger's cells, seeds together; candidates of all seeds alone."""
    parts: dict[str, list[Ranking]] = defaultdict(list)
    for record in found.values():
        if record.purpose == PURPOSE and SCORES_FILE in record.files:
            for ranking in _rankings(record, ledger.path(record.cell_id, SCORES_FILE)):
                parts[ranking.method].append(ranking)
    return {name: _over_seeds(parts[name]) for name in sorted(parts, key=method_order)}


def _rankings(record: Record, path: Path) -> list[Ranking]:
    frame = pq.read_table(path).to_pandas()
    found = []
    for method, rows in frame.groupby("method", sort=False):
        scores = np.stack(rows["scores"].to_list())
        able = np.isfinite(scores).all(axis=0)
        users = tuple(user for user, there in zip(record.users, able, strict=True) if there)
        place = {user: index for index, user in enumerate(users)}
        found.append(
            Ranking(
                method=str(method),
                seeds=(record.seed,),
                users=users,
                query_ids=tuple(rows["query_id"]),
                true=np.array([place[user] for user in rows["user_id"]], dtype=np.intp),
                scores=scores[None][:, :, able],
            )
        )
    return found


def _over_seeds(parts: Sequence[Ranking]) -> Ranking:
    """One ranking of several seeds, with the candidates that all of them have."""
    ordered = sorted(parts, key=lambda part: part.seeds)
    users = [user for user in ordered[0].users if all(user in part.users for part in ordered)]
    same = [part.among(users) for part in ordered]
    first = same[0]
    return Ranking(
        method=first.method,
        seeds=tuple(part.seeds[0] for part in same),
        users=first.users,
        query_ids=first.query_ids,
        true=first.true,
        scores=np.concatenate([part.scores for part in same]),
    )


def evaluate_persona(
    found: Mapping[str, Record],
    ledger: Ledger,
    *,
    missing: pd.DataFrame,
    clusters: Mapping[str, int],
    seed: int,
    resamples: int,
) -> PersonaEvaluation | None:
    """Everything about persona prediction; None where no such cell was run.

    Args:
        found: the study's records, by cell id.
        ledger: holds their files.
        missing: the collector's list; its rows of ``identify_…`` arms name the users left out.
        clusters: style cluster of each user.
        seed: of resamples, permutations and sign flips.
        resamples: how many of each.
    """
    rankings = read_rankings(found, ledger)
    if not rankings:
        return None
    every = list(rankings.values())
    own = missing[missing["arm"].str.startswith("identify_")] if len(missing) else missing
    return PersonaEvaluation(
        rankings=rankings,
        methods=methods_table(every, seed=seed, resamples=resamples),
        contrasts=contrasts_table(rankings, seed=seed, resamples=resamples),
        users=users_table(every),
        clusters=clusters_table(every, clusters),
        pairs=pairs_table(every),
        curves=curves_table(every),
        left_out=own.reindex(columns=["arm", "user_id", "reason"]).drop_duplicates(),
        cluster_of=dict(clusters),
        seed=seed,
        resamples=resamples,
    )


def write_persona(
    workspace: Path, evaluation: PersonaEvaluation, found: Mapping[str, Record], ledger: Ledger
) -> list[Path]:
    """Write the evaluation's tables, and copy profiles and queries to their places."""
    folder = workspace / FOLDER
    written = [
        write_json(folder / "persona_pred_eval.json", evaluation_json(evaluation)),
        *(write_csv(folder / f"{name}.csv", getattr(evaluation, name)) for name in TABLES),
    ]
    for name, ranking in evaluation.rankings.items():
        ending = "" if name == evaluation.primary else f"_{name}"
        path = folder / f"confusion_matrix{ending}.csv"
        written.append(write_csv(path, confusion_table(ranking)))
    return written + _copies(workspace, found, ledger)


def _copies(workspace: Path, found: Mapping[str, Record], ledger: Ledger) -> list[Path]:
    """Profiles and queries from the cell that made the profiles."""
    source = next((one for one in found.values() if PROFILES_FILE in one.files), None)
    if source is None:
        return []
    return [
        write_atomic(workspace / place, ledger.path(source.cell_id, name).read_bytes())
        for name, place in COPIES.items()
    ]


def evaluation_json(evaluation: PersonaEvaluation) -> dict[str, Any]:
    """``persona_pred_eval.json``: what ``write_json`` takes, numbers that cannot be had as null."""
    methods: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in records(evaluation.methods):
        sizes = {name: row.pop(name) for name in list(row) if name.startswith("n_")}
        method, metric = row.pop("method"), row.pop("metric")
        methods[method] |= sizes
        methods[method][metric] = row
    whole: dict[str, Any] = _plain(
        {
            "primary_method": evaluation.primary,
            "interval": "95 % percentile bootstrap over users",
            "null": "permuted labels, all queries of a user together",
            "ties": "a tie counts against the true user",
            "seed": evaluation.seed,
            "resamples": evaluation.resamples,
            "methods": dict(methods),
            "contrasts": records(evaluation.contrasts),
            "clusters": records(evaluation.clusters),
            "hardest_pairs": records(evaluation.pairs),
            "left_out": records(evaluation.left_out),
        }
    )
    return whole


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
