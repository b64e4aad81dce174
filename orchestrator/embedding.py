"""The stage between prepare and plan: users' mean sentence embeddings, and clusters from them.

It runs for studies that know clusters (cluster arms, or persona prediction, whose results are
shown by cluster) or where ``data.embeddings`` says so. At most eight messages a user are embedded,
once per workspace: vectors of the same data and encoder are found and used again. Sessions, splits
and the data's hash stay as they are, so that only cells of cluster arms know of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from data.embeddings import (
    Embeddings,
    embed_users,
    embeddings_identity,
    load_embeddings,
    save_embeddings,
)
from data.manifest import EMBEDDINGS, Prepared
from data.reclustering import recluster
from orchestrator.settings import Settings
from search_spaces.space import Study

SECONDS_BETWEEN_LINES = 30.0


def knows_clusters(study: Study) -> bool:
    """Whether an arm of the study trains per cluster, or is shown by cluster."""
    return any(arm.grouping == "cluster" or arm.identify is not None for arm in study.arms)


def wanted_clusters(prepared: Prepared, *, settings: Settings, study: Study) -> str | None:
    """Identity of the embeddings that clusters must be made of; None for lexical style alone."""
    choice = settings.data.embeddings
    if choice == "never":
        return None
    if choice == "auto" and not knows_clusters(study):
        return prepared.clusters_from
    return embeddings_identity(prepared, encoder=settings.evaluation.encoder)


def clusters_are_made(prepared: Prepared, *, settings: Settings, study: Study) -> bool:
    """Whether the workspace has the clusters that the study wants."""
    wanted = wanted_clusters(prepared, settings=settings, study=study)
    return prepared.clusters_from == wanted


def with_clusters(
    prepared: Prepared, *, settings: Settings, study: Study, say: Callable[[str], None]
) -> Prepared:
    """The data with the clusters that the study wants; made now unless they are there.

    Raises:
        TaskError: the encoder cannot be loaded.
        DataError: the encoder gives values that are not finite.
    """
    wanted = wanted_clusters(prepared, settings=settings, study=study)
    kept = (prepared.workspace / EMBEDDINGS).is_file()
    if prepared.clusters_from == wanted and (wanted is None or kept):
        return prepared
    if wanted is None:
        prepared, clustering = recluster(prepared, None)
        say(f"{len(clustering.sizes)} clusters of users by lexical style alone")
        return prepared
    found = load_embeddings(prepared.workspace, identity=wanted)
    if found is None:
        found = _embed(prepared, encoder=settings.evaluation.encoder, say=say)
        save_embeddings(prepared.workspace, found)
    prepared, clustering = recluster(prepared, found)
    say(f"{len(clustering.sizes)} clusters of users by lexical style and mean embedding")
    return prepared


def _embed(prepared: Prepared, *, encoder: str, say: Callable[[str], None]) -> Embeddings:
    """Load the encoder and embed, with a line now and then where there are many users."""
    # Torch takes a second to import, which studies without clusters need not wait for.
    from tasks.encoder import load_encoder

    users = len(prepared.users)
    say(f"Embedding messages of {users} users ({encoder}) …")
    loaded, told = load_encoder(encoder), time.monotonic()

    def progress(done: int) -> None:
        nonlocal told
        if done < users and time.monotonic() - told >= SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            say(f"Embedded {done} of {users} users …")

    found = embed_users(prepared, loaded.encode, encoder=encoder, progress=progress)
    speed = f"{found.texts_per_second:.0f} texts/s"
    say(f"Embedded {found.texts} texts in {found.seconds:.1f} s ({speed})")
    return found
