"""Whose message is this: profile texts from training, queries from test, names masked in both.

A user's profile is made of at most eight messages of the user's own, drawn from the training
sessions (train and online) by a fixed seed. A query is the first message of the user in a test
session. Replies of the assistant are in neither. Cold-start users take no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.schema import UserData
from data.style import training_messages
from tasks.config import TaskError
from tasks.persona.masking import find_names, mask_names

PROFILE_MESSAGES = 8
PROFILE_SEED = 0
"""One seed for all cells: every representation sees the same messages."""


@dataclass(frozen=True, slots=True)
class Query:
    """One message to attribute. ``query_id`` is ``<user_key>/<session_id>``."""

    query_id: str
    user_key: str
    text: str


@dataclass(frozen=True, slots=True)
class PersonaTexts:
    """The texts of one ranking.

    Attributes:
        profiles: user key → masked training messages, at least one; these users are candidates.
        queries: of these users, in their order and in time order.
        left_out: user key → why the user is no candidate.
    """

    profiles: Mapping[str, tuple[str, ...]]
    queries: tuple[Query, ...]
    left_out: Mapping[str, str]

    def among(self, reasons: Mapping[str, str]) -> PersonaTexts:
        """The same without some users (key → reason): neither candidates nor with queries."""
        kept = {key: found for key, found in self.profiles.items() if key not in reasons}
        queries = tuple(query for query in self.queries if query.user_key in kept)
        return PersonaTexts(kept, queries, {**self.left_out, **reasons})

    @property
    def messages(self) -> list[str]:
        """All profile messages, users in order."""
        return [text for found in self.profiles.values() for text in found]


def persona_texts(users: Sequence[UserData]) -> PersonaTexts:
    """Profiles and queries of warm users.

    Raises:
        TaskError: a cold-start user is among them.
    """
    cold = [user.user_key for user in users if user.cold_start]
    if cold:
        raise TaskError(
            f"persona prediction ranks warm users; {len(cold)} cold-start users were given, "
            f"the first is {cold[0]}"
        )
    names = find_names(users)
    profiles, queries, left_out = {}, [], {}
    for user in users:
        own = training_messages(user, limit=PROFILE_MESSAGES, seed=PROFILE_SEED)
        texts = tuple(mask_names(text, names) for text in own if text.strip())
        if not texts:
            left_out[user.user_key] = "no message in the training sessions to make a profile of"
            continue
        profiles[user.user_key] = texts
        queries += _queries(user, names)
    return PersonaTexts(profiles, tuple(queries), left_out)


def _queries(user: UserData, names: frozenset[str]) -> list[Query]:
    """The first message of the user in each test session; sessions without one have no query."""
    found = []
    for session in user.of_split("test"):
        own = [message.text for message in session.messages if message.role == "user"]
        if own and own[0].strip():
            name = f"{user.user_key}/{session.session_id}"
            found.append(Query(name, user.user_key, mask_names(own[0], names)))
    return found
