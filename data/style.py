"""How text sounds: sentiment, formality; and a user's style from training sessions.

Lexical heuristics for English: transparent, fast, the same on every machine. They rank and compare
(a reply's distance to a user's style); their absolute values mean little. Text mostly in another
script is neutral to them; preparation warns of users who do not write English. Words that name
settings of devices or the weather (warm, bright, dim, cold, …) carry no sentiment here: in a smart
home they are orders.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data.schema import Session, Style, UserData
from data.words import clean_word_count, mostly_latin

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_LETTERS = {n: " " for n in range(128) if not (chr(n).isalpha() or chr(n) == "'")}
"""Of ASCII, all but letters and apostrophes becomes a space."""
_SENTENCE_END = re.compile(r"[.!?…؟।॥۔።]+(?:\s|$)|[。！？｡]+")
_INFORMAL_SIGNS = re.compile(r"[!~]|[:;]-?[()DP]|[\u2600-\u27bf\U0001f300-\U0001faff]")


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


POSITIVE = _set_of(
    """amazing appreciate awesome beautiful best better brilliant calm charming cheerful
    comfortable comfy congratulations cozy delicious delight delighted delightful easy elegant
    enjoy enjoyable enjoyed enjoying enjoys excellent excited exciting fabulous fantastic fine
    fun funny generous gentle glad good gorgeous grateful great happily happiness happy harmony
    helpful hope hopeful ideal impressive incredible inspiring inviting joy joyful kindly love
    loved lovely loves loving lucky magical marvelous meaningful nice peaceful perfect perfectly
    pleasant pleased pleasure positive proud refreshing relax relaxed relaxing safe satisfied
    serene smile soothing splendid success successful super superb supportive sweet thank
    thankful thanks thrilled vibrant welcome well wonderful worthwhile yay"""
)
NEGATIVE = _set_of(
    """afraid alone angry annoyed annoying anxious ashamed awful bad boring bothering broken
    confused confusing cry crying damage damn danger dangerous depressed depressing desperate
    difficult disappointed disappointing disaster dislike dreadful dreary dull exhausted
    exhausting fail failed failure fear fed frightened frustrated frustrating grim guilty harsh
    hate hated hates horrible hurt hurts ill impossible inadequate irritated irritating jealous
    lonely lose loss lost mad mess messy miserable mistake nasty nervous noisy pain painful
    panic poor pressure problem problems regret rude sad sadly sadness scared scary sick sorry
    stress stressed stressful stuck stuffy stupid suffer suffering tense terrible tired tough
    trouble ugly unable uncomfortable unfortunately unhappy unpleasant upset weak worried worry
    worrying worse worst wrong"""
)
_POLAR = POSITIVE | NEGATIVE
NEGATIONS = _set_of(
    """no not never none nobody nothing neither nor without hardly barely cannot can't don't doesn't
    didn't isn't aren't wasn't weren't won't wouldn't shouldn't couldn't haven't hasn't hadn't ain't
    dont cant wont isnt"""
)
INTENSIFIERS = _set_of(
    "very really so extremely absolutely totally incredibly super truly deeply too quite"
)
SLANG = _set_of(
    """ain't awesome bro bruh btw buddy chill cmon cool dude gonna gotta guys gimme haha hey hiya
    hmm kinda lemme lol lots nah nope ok okay omg pls sorta stuff super thx tons u ur wanna
    whatcha whoa wow ya yay yeah yep yo yup"""
)
POLITE = _set_of(
    """accordingly additionally appreciate assist assistance certainly consequently could currently
    ensure furthermore grateful however inform kindly ma'am madam may moreover please pleased
    pleasure provide recommend regarding regards request require respectfully shall sincerely sir
    therefore thus understood would"""
)
NEGATION_REACH_WORDS = 3


def words_of(text: str) -> list[str]:
    """Words in lower case without punctuation and digits; a contraction is one word."""
    text = text.lower().replace("’", "'")
    if not text.isascii():
        return _WORD.findall(text)
    pieces = text.translate(_LETTERS).split()
    if "'" not in text:
        return pieces
    return [
        word for piece in pieces for word in (_WORD.findall(piece) if "'" in piece else (piece,))
    ]


def sentiment(text: str) -> float:
    """Polarity in [-1, 1]; 0 for neutral or empty text, and for text mostly not in Latin script.

    Each word of the lists counts +1 or −1, 1.5 times after an intensifier, and with the sign
    turned and halved within three words after a negation («not good» is −0.5). The sum x becomes
    x / (1 + |x|), so that one strong word is clear and many never leave the interval.
    """
    return _sentiment(_known_words(text))


def _sentiment(words: Sequence[str]) -> float:
    if _POLAR.isdisjoint(words):
        return 0.0
    total = 0.0
    for place, word in enumerate(words):
        if word in _POLAR:
            polarity = 1.0 if word in POSITIVE else -1.0
            weight = 1.5 if place and words[place - 1] in INTENSIFIERS else 1.0
            before = words[max(0, place - NEGATION_REACH_WORDS) : place]
            total += polarity * weight * (1.0 if NEGATIONS.isdisjoint(before) else -0.5)
    return total / (1 + abs(total))


def formality(text: str) -> float:
    """Formality in [0, 1]; 0.5 for text without words, or mostly not in Latin script.

    A logistic curve over: mean word length and words per sentence (longer is more formal), shares
    of contractions and slang (less), of politeness markers (more), informal signs (``!``,
    smileys, emoji; less) and a first letter in lower case (less). The weights are set by hand so
    that everyday sentences spread around 0.5.
    """
    return _formality(text, _known_words(text))


def _known_words(text: str) -> list[str]:
    """The words of a text whose script the lists know; none of another."""
    return words_of(text) if mostly_latin(text) else []


def _formality(text: str, words: Sequence[str]) -> float:
    if not words:
        return 0.5
    n = len(words)
    marked = 2 * _count(POLITE, words) - 2 * _count(SLANG, words)
    marked -= sum("'" in word for word in words) if "'" in text or "’" in text else 0
    # The signs' pattern tries every character: look first whether there can be any.
    informal = not text.isascii() or "!" in text or "~" in text or ":" in text or ";" in text
    score = (
        0.5 * (sum(map(len, words)) / n - 4.3)
        + 0.05 * (min(n / max(1, len(_SENTENCE_END.findall(text))), 30.0) - 10.0)
        + 4.0 * marked / n
        - 0.5 * (min(len(_INFORMAL_SIGNS.findall(text)), 3) if informal else 0)
        - 0.7 * next((sign for sign in text if sign.isalpha()), "").islower()
    )
    return 1 / (1 + math.exp(-score))


def _count(known: frozenset[str], words: Sequence[str]) -> int:
    return 0 if known.isdisjoint(words) else sum(map(known.__contains__, words))


def training_sessions(sessions: Sequence[Session]) -> list[Session]:
    """The sessions that style may know: train and online."""
    return [session for session in sessions if session.split in ("train", "online")]


def style_of(sessions: Sequence[Session]) -> Style:
    """A user's style from all messages of the training sessions; other sessions are ignored.

    Without training sessions: lengths and sentiment 0, formality 0.5.
    """
    own: list[str] = []
    replies: list[str] = []
    for session in training_sessions(sessions):
        for message in session.messages:
            (own if message.role == "user" else replies).append(message.text)
    words = [_known_words(text) for text in replies]
    return Style(
        reply_words=_mean(list(map(clean_word_count, replies)), empty=0.0),
        verbosity=_mean(list(map(clean_word_count, own)), empty=0.0),
        sentiment=_mean([_sentiment(found) for found in words], empty=0.0),
        formality=_mean(list(map(_formality, replies, words)), empty=0.5),
    )


def _mean(values: Sequence[float], *, empty: float) -> float:
    return math.fsum(values) / len(values) if values else empty


def training_messages(user: UserData, *, limit: int = 8, seed: int = 0) -> tuple[str, ...]:
    """At most ``limit`` of the user's own training messages, fixed by the seed, in time order."""
    texts = [
        message.text
        for session in training_sessions(user.sessions)
        for message in session.messages
        if message.role == "user"
    ]
    start = int.from_bytes(hashlib.sha256(f"{seed}:{user.user_key}".encode()).digest()[:8], "big")
    chosen = np.random.default_rng(start).permutation(len(texts))[:limit]
    return tuple(texts[place] for place in sorted(chosen.tolist()))


def mean_embeddings(
    users: Sequence[UserData],
    encode: Callable[[list[str]], NDArray[np.float32]],
    *,
    limit: int = 8,
    seed: int = 0,
) -> Mapping[str, NDArray[np.float32]]:
    """Mean embedding [dimensions] per user key, from one call of ``encode`` (texts → [n, d]).

    Users without training messages are left out.
    """
    texts = {user.user_key: training_messages(user, limit=limit, seed=seed) for user in users}
    flat = [text for found in texts.values() for text in found]
    if not flat:
        return {}
    rows = iter(np.asarray(encode(flat)))
    return {
        key: np.mean([next(rows) for _ in found], axis=0) for key, found in texts.items() if found
    }
