"""One adapter per user, from 8–12 of the user's own exchanges, against one for everybody."""

from search_spaces.space import (
    BASELINE,
    LORA_ALL,
    LORA_PER_USER,
    PREFIX_ALL,
    PREFIX_PER_USER,
    Study,
)

STUDY = Study(
    name="per_persona",
    summary="Per-user LoRA and prefix micro-updates with swapped controls, from all-persona ones.",
    arms=(BASELINE, PREFIX_ALL, LORA_ALL, PREFIX_PER_USER, LORA_PER_USER),
)
