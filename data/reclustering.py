"""Clusters made anew from what is prepared: style with mean embeddings beside it, or style alone.

Nothing but clusters changes: sessions, splits, items and the data's hash stay. The manifest goes
first and comes back last, so clusters that were broken off half-way count as not prepared.
"""

from __future__ import annotations

import json
from dataclasses import replace

from data.clusters import Clustering, cluster_users
from data.embeddings import Embeddings
from data.manifest import MANIFEST, SPLIT, Prepared, save_prepared, sizes_written
from data.schema import Json
from data.shards import read_index, read_styles, write_index
from data.tally import cluster_stats
from data.writing import write_json


def recluster(prepared: Prepared, found: Embeddings | None) -> tuple[Prepared, Clustering]:
    """Cluster the warm users with their mean embeddings beside the style, or by style alone.

    Rewrites ``cluster_map.json``, clusters, embeddings and warnings in ``split_stats.json`` and
    the shards' index. Raises DataError where a warm user is not among the embeddings.
    """
    settings, workspace = prepared.settings, prepared.workspace
    styles = read_styles(prepared.shards)
    clustering = cluster_users(
        {user: styles[user] for user in prepared.users},
        clusters=settings.clusters,
        seed=settings.seed,
        embeddings=None if found is None else found.vectors,
    )
    (workspace / MANIFEST).unlink(missing_ok=True)
    write_json(workspace / SPLIT / "cluster_map.json", clustering.cluster_of)
    warnings = _write_stats(prepared, clustering, found)
    places = {
        user: (shard, row) for user, (shard, row, _, _) in read_index(prepared.shards).items()
    }
    cold = frozenset(prepared.cold_start_users)
    write_index(prepared.shards, places, cluster_of=clustering.cluster_of, cold_start=cold)
    changed = replace(
        prepared,
        clusters_from=None if found is None else found.identity,
        warnings=tuple(warnings),
        files=sizes_written(workspace),
    )
    save_prepared(changed)
    return changed, clustering


def _write_stats(prepared: Prepared, clustering: Clustering, found: Embeddings | None) -> list[str]:
    """Put the new clusters into ``split_stats.json``; returns the warnings that hold now."""
    path = prepared.workspace / SPLIT / "split_stats.json"
    stats: Json = json.loads(path.read_text(encoding="utf-8"))
    before = stats["clusters"]["warning"]
    stats["clusters"] = cluster_stats(clustering)
    stats["embeddings"] = None if found is None else found.stats()
    warnings: list[str] = [text for text in stats["warnings"] if text != before]
    warnings += [clustering.warning] if clustering.warning else []
    stats["warnings"] = warnings
    for user, entry in stats["users"].items():
        entry["cluster"] = clustering.cluster_of.get(user)
    write_json(path, stats)
    return warnings
