"""Everything: all arms, cold start, clusters with gates, persona prediction, ablations, 3 seeds."""

from __future__ import annotations

from dataclasses import replace

from search_spaces import ablation, cluster, per_persona, persona_prediction
from search_spaces.space import Arm, Study

PARTS = (per_persona.STUDY, cluster.STUDY, persona_prediction.STUDY, ablation.STUDY)


def arms_of(studies: tuple[Study, ...]) -> tuple[Arm, ...]:
    """The studies' arms in order, each once: prerequisites stay before what needs them.

    An arm that any of them asks for with its gate, or traced, is so.
    """
    arms: dict[str, Arm] = {}
    for study in studies:
        for arm in study.arms:
            known = arms.get(arm.name, arm)
            arms[arm.name] = replace(
                known, gated=known.gated or arm.gated, traced=known.traced or arm.traced
            )
    return tuple(arms.values())


STUDY = Study(
    name="full",
    summary="All arms and controls, cold start, persona prediction and ablations, with 3 seeds.",
    arms=arms_of(PARTS),
    settings={"seeds": (0, 1, 2)},
    search={arm: ranges for study in PARTS for arm, ranges in study.search.items()},
)
