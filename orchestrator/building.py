"""``build-model``: the embedded base from nothing, on neutral users that no study sees."""

from __future__ import annotations

from pathlib import Path

from data.synthetic import neutral_dialogues
from tasks.base_model import EMBEDDED_FOLDER
from tasks.build_model import (
    NEUTRAL_SEED,
    NEUTRAL_SESSIONS,
    NEUTRAL_USERS,
    Provenance,
    build_model,
)


def build_embedded(folder: Path | None, *, minutes: float | None, seed: int) -> Provenance:
    """Train the base model into ``folder``, by default the shipped one's place."""
    users, sessions = NEUTRAL_USERS, NEUTRAL_SESSIONS
    return build_model(
        folder or EMBEDDED_FOLDER,
        dialogues=neutral_dialogues(users=users, sessions=sessions, seed=NEUTRAL_SEED),
        data=f"{users} neutral synthetic users x {sessions} sessions, seed {NEUTRAL_SEED}",
        seed=seed,
        minutes=minutes,
    )
