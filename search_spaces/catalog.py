"""All studies by the name that ``--study`` takes. A new study is its file and one row here."""

from __future__ import annotations

from search_spaces import (
    ablation,
    baseline,
    cluster,
    full,
    global_study,
    per_persona,
    persona_prediction,
)
from search_spaces.space import Study

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        baseline.STUDY,
        global_study.STUDY,
        per_persona.STUDY,
        cluster.STUDY,
        persona_prediction.STUDY,
        ablation.STUDY,
        full.STUDY,
    )
}
