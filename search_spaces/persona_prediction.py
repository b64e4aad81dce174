"""Whose message is this? Users told apart by their own messages, without and with adaptation."""

from search_spaces.space import (
    BASELINE,
    IDENTIFY,
    LORA_ALL,
    LORA_PER_USER,
    PREFIX_ALL,
    PREFIX_PER_USER,
    Study,
)

STUDY = Study(
    name="persona_prediction",
    summary="Whose message is this: encoder, base, all-persona and per-user adapters compared.",
    arms=(BASELINE, PREFIX_ALL, LORA_ALL, PREFIX_PER_USER, LORA_PER_USER, *IDENTIFY),
)
