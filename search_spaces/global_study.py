"""One adapter for everybody: prefix and LoRA trained on all users' sessions."""

from search_spaces.recipe import recipe_of
from search_spaces.space import BASELINE, LORA_ALL, PREFIX_ALL, Study

STUDY = Study(
    name="global",
    summary="One prefix and one LoRA for all users, against the bare base model.",
    arms=(BASELINE, PREFIX_ALL, LORA_ALL),
    search=recipe_of("prefix_all", "lora_all"),
)
