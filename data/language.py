"""Whether a user writes English, as some measures suppose: told in a warning, not acted on.

Told by the script and by the share of English function words; both are crude and meant for whole
users, not for single messages. Sentiment, formality, actions and the masking of names know English
alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from data.schema import Session
from data.words import mostly_latin, split_words

_WORDS = "the and you that with my your this please what how to it for have can are not"
FUNCTION_WORDS = frozenset(_WORDS.split())
"""Frequent in English; in other languages in Latin script few of them are words at all."""
ENGLISH_SHARE = 0.08
"""From this share of function words on it counts as English: there it is some 20 %, else some 3."""
ENOUGH_WORDS = 50
"""Of fewer words nothing is said but their script."""
MESSAGES = 40


def seems_english(texts: Iterable[str]) -> bool:
    """Whether messages look like English; too few words in Latin script are taken for it."""
    joined = " ".join(texts)
    if not mostly_latin(joined):
        return False
    words = split_words(joined)
    known = sum(map(FUNCTION_WORDS.__contains__, words))
    return len(words) < ENOUGH_WORDS or known >= ENGLISH_SHARE * len(words)


def user_seems_english(sessions: Sequence[Session]) -> bool:
    """The same of a user's first messages, replies among them."""
    texts = (message.text for session in sessions for message in session.messages)
    return seems_english(islice(texts, MESSAGES))


def language_warnings(english: Mapping[str, bool]) -> list[str]:
    """A line where users do not seem to write English, with what then says nothing of them."""
    foreign = [user for user, found in english.items() if not found]
    if not foreign:
        return []
    return [
        f"{len(foreign)} of {len(english)} users do not seem to write English ({foreign[0]} is "
        "one): sentiment and formality distances, actions and the masking of names in persona "
        "prediction know English alone, and say nothing about them"
    ]
