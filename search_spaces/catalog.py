"""All studies by the name that ``--study`` takes. A new study is its file and one row here."""

from __future__ import annotations

from search_spaces import baseline, global_study, per_persona
from search_spaces.space import Study

STUDIES: dict[str, Study] = {
    study.name: study for study in (baseline.STUDY, global_study.STUDY, per_persona.STUDY)
}
