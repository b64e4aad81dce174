"""One adapter per user, from 8–12 of the user's own exchanges, against one for everybody."""

from dataclasses import replace

from search_spaces.recipe import recipe_of
from search_spaces.space import (
    BASELINE,
    FEW_SHOT,
    LORA_ALL,
    LORA_COLD_START,
    LORA_PER_USER,
    LORA_WARM_START,
    PREFIX_ALL,
    PREFIX_COLD_START,
    PREFIX_PER_USER,
    PREFIX_WARM_START,
    Study,
)

STUDY = Study(
    name="per_persona",
    summary="Per-user LoRA and prefix micro-updates with swapped controls, from all-persona ones.",
    arms=(
        *(BASELINE, FEW_SHOT, PREFIX_ALL, LORA_ALL),
        *(replace(arm, traced=True) for arm in (PREFIX_PER_USER, LORA_PER_USER)),
        *(PREFIX_COLD_START, PREFIX_WARM_START, LORA_COLD_START, LORA_WARM_START),
    ),
    search=recipe_of("prefix_all", "lora_all", "prefix_per_user", "lora_per_user"),
)
