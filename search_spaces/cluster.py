"""One adapter per cluster of users, small user deltas on top of it, and the no-harm gate."""

from dataclasses import replace

from search_spaces.recipe import recipe_of
from search_spaces.space import (
    BASELINE,
    LORA_ALL,
    LORA_CLUSTER,
    LORA_CLUSTER_USER,
    LORA_PER_USER,
    PREFIX_ALL,
    PREFIX_CLUSTER,
    PREFIX_CLUSTER_USER,
    PREFIX_PER_USER,
    Study,
)

STUDY = Study(
    name="cluster",
    summary="Adapters per cluster, user deltas on top of them, and the no-harm gate.",
    arms=(
        BASELINE,
        PREFIX_ALL,
        LORA_ALL,
        PREFIX_CLUSTER,
        LORA_CLUSTER,
        *(
            replace(arm, gated=True, traced=True)
            for arm in (PREFIX_PER_USER, LORA_PER_USER, PREFIX_CLUSTER_USER, LORA_CLUSTER_USER)
        ),
    ),
    search=recipe_of(
        *("prefix_all", "lora_all", "prefix_cluster", "lora_cluster"),
        *("prefix_per_user", "lora_per_user", "prefix_cluster_user", "lora_cluster_user"),
    ),
)
