"""The recipe's search ranges, arm by arm; studies list those of the arms that they train.

Learning rates are multiples of the base model's own default: a third to five thirds of the
recipe's 3e-4 are the usual 1e-4 … 5e-4. A per-user arm starts from a shared adapter, so it cannot
have another rank, scale or length; what its search varies is how it is trained.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.ranges import Choice, IntRange, Range, Times

SHARED_RATE = Times(1 / 3, 5 / 3)
PERSONAL_RATE = Times(1 / 3, 3.0)

RECIPE: dict[str, Mapping[str, Range]] = {
    "prefix_all": {
        "shared.prefix.learning_rate": SHARED_RATE,
        "shared.prefix.examples_per_step": IntRange(4, 8, step=2),
        "prefix.tokens": IntRange(20, 50, step=10),
    },
    "lora_all": {
        "shared.lora.learning_rate": SHARED_RATE,
        "shared.lora.examples_per_step": IntRange(4, 8, step=2),
        "lora.rank": Choice((8, 16)),
        "lora.alpha": Choice((16.0, 32.0)),
        "lora.dropout": Choice((0.0, 0.05, 0.1)),
    },
    "prefix_cluster": {
        "cluster.prefix.learning_rate": SHARED_RATE,
        "cluster.prefix.examples_per_step": IntRange(4, 8, step=2),
    },
    "lora_cluster": {
        "cluster.lora.learning_rate": SHARED_RATE,
        "cluster.lora.examples_per_step": IntRange(4, 8, step=2),
    },
    **{
        f"{adapter}_{end}": {
            f"personal.{adapter}.learning_rate": PERSONAL_RATE,
            f"personal.{adapter}.epochs": IntRange(1, 3),
            f"personal.{adapter}.examples": IntRange(8, 12, step=2),
        }
        for adapter in ("prefix", "lora")
        for end in ("per_user", "cluster_user")
    },
}
"""Name of an arm → dotted setting → range."""


def recipe_of(*arms: str) -> dict[str, Mapping[str, Range]]:
    """The recipe's ranges of some arms, in this order."""
    return {arm: RECIPE[arm] for arm in arms}
