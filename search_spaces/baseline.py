"""The bare base model on the frozen items: the reference of every other study."""

from search_spaces.space import BASELINE, Study

STUDY = Study(
    name="baseline",
    summary="The base model without any adapter, on validation and test items.",
    arms=(BASELINE,),
)
