"""Synthetic households in EdgeWisePersona's format: 24 users a laptop can study in minutes.

Everything that a personal assistant could learn of a user is drawn once per user (a *persona*):
routines with preferred settings, and how the assistant talks to the household — opener, closer,
calling by name, length, formality, what talkative replies remark on. The ``signal`` dial is the
probability with which each of these is really used, separately in every session (settings,
situation, who speaks) and every reply (style); otherwise a stranger, drawn afresh from the same
population, takes the place of the user. So at 0 the sessions do not depend on the persona at
all and users are exchangeable, at 1 they follow it fully, and what all users together look like
is the same at every value.

All households of one ``seed`` also share a *dialect*: the frame of confirmations, how values are
put into words, a stock remark. It does not scale with ``signal``. Neutral users, on whom the
embedded base model is trained, have no persona (``signal`` 0) and no dialect (each reply draws
its own), so a study's all-persona adapter has the dialect to learn and the base does not know it.
This is planted on purpose: lifts over the embedded base say that the pipeline works, and nothing
about how much personalization helps real people.

``applied_routines`` names the routine behind a session and the replies state its settings. In a
session that a stranger's routine drives (``signal`` < 1) it names the user's own routine nearest
to the situation, whose settings the replies then do not follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from data import phrases
from data.conversations import play_session
from data.households import Dialect, Persona, Routine, draw_dialect, draw_persona
from data.schema import DataError, Json
from data.writing import write_jsonl


@dataclass(frozen=True, slots=True)
class SyntheticUser:
    """One user's line of each of the three files."""

    character: Json
    routines: Json
    sessions: Json


def write_synthetic(
    folder: Path, *, users: int = 24, sessions: int = 50, seed: int = 0, signal: float = 1.0
) -> Path:
    """Write ``characters.jsonl``, ``routines.jsonl`` and ``sessions.jsonl``; line i is user i.

    The files depend on the arguments alone, and user i is the same however many users are made.
    Each file appears whole or not at all. Returns the folder. DataError for arguments out of
    range.
    """
    if users < 1:
        raise DataError(f"users is {users}; at least 1 synthetic user is needed")
    made = [synthetic_user(i, sessions=sessions, seed=seed, signal=signal) for i in range(users)]
    write_jsonl(folder / "characters.jsonl", (user.character for user in made))
    write_jsonl(folder / "routines.jsonl", (user.routines for user in made))
    write_jsonl(folder / "sessions.jsonl", (user.sessions for user in made))
    return folder


def synthetic_user(
    user_index: int, *, sessions: int = 50, seed: int = 0, signal: float = 1.0
) -> SyntheticUser:
    """User ``user_index`` of the population ``seed``; a pure function of its arguments.

    Raises DataError for a signal outside [0, 1] or fewer than one session.
    """
    if not 0 <= signal <= 1:
        raise DataError(f"signal is {signal}; allowed is 0 (nothing personal) to 1 (stable users)")
    if sessions < 1:
        raise DataError(f"sessions is {sessions}; a user needs at least 1")
    persona = draw_persona(Random(f"persona/{seed}/{user_index}"))
    rng = Random(f"sessions/{seed}/{user_index}")
    dialect = population_dialect(seed)
    said: set[str] = set()
    made = [
        play_session(rng, i, persona, dialect=dialect, signal=signal, said=said)
        for i in range(sessions)
    ]
    return SyntheticUser(
        character={"character": _character(persona)},
        routines={"routines": [_routine_json(routine) for routine in persona.routines]},
        sessions={"sessions": made},
    )


def neutral_dialogues(*, users: int, sessions: int, seed: int) -> Iterator[list[dict[str, str]]]:
    """Dialogues of neutral users, ``[{"role", "text"}, …]`` each, to train a base model on.

    Their random streams have other names than those of study users, so no seed makes the two
    meet; they have neither personas nor a dialect.
    """
    for user in range(users):
        rng = Random(f"neutral/{seed}/{user}")
        persona = draw_persona(rng)
        for number in range(sessions):
            yield play_session(rng, number, persona)["messages"]


def population_dialect(seed: int) -> Dialect:
    """The wordings that all households of the population ``seed`` share."""
    return draw_dialect(Random(f"dialect/{seed}"))


def _character(persona: Persona) -> str:
    style = persona.style
    length = ("short replies", "replies of medium length", "talkative replies")[style.length]
    tone = "formal" if style.formal else "relaxed"
    called = "be called by name" if style.name_at != "nowhere" else "not be called by name"
    pastimes = ", ".join(phrases.PASTIMES[persona.job])
    return (
        f"{persona.name} is a {persona.job} who talks to the assistant in a {persona.voice} way "
        f"and likes to {pastimes}. {persona.name} prefers {length} in a {tone} tone and would "
        f"like to {called}."
    )


def _routine_json(routine: Routine) -> dict[str, Any]:
    triggers = {name: routine.triggers.get(name) for name in phrases.TRIGGERS}
    return {"triggers": triggers, "actions": routine.actions}
