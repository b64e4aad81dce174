"""Names out of messages, so that a user is known by style and topic and not by being called Anna.

Which words are names is learned from the training sessions of all users, replies included: that is
where an assistant calls people by name, invented or not. A capitalized word is a name if

- it stands in a *self-introduction* (``I'm Anna``, ``my name is Anna``, ``It's Anna.``, ``Anna
  here``, ``call me Anna``), after a *title* (``Mr. Brown``) or in a *signature* (``– Anna``), or
- it is *called* (``Done, Anna.``, ``Hi Anna!``) in at least half of the places where it does not
  merely open a sentence (a word before a comma there, ``Certainly, …``, says nothing),

and is neither of the calendar, nor an acronym, nor a word that also occurs in lower case («Hope»
and «hope»). Names of all users are masked in everybody's messages, wherever they stand. A
self-introduction is masked in the message itself even if the name is a common word, and so are
e-mail addresses and ``@handles``. Rather one word too many than a name left in: a place called in
the vocative may go, too. The patterns know English; calling by name is found in any language that
sets it off by a comma. Scripts without capitals (Chinese, Arabic, Hindi, Thai, …) have no names
to this rule: none is masked there, and preparation warns of users who do not write English.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from data.schema import UserData
from data.style import training_sessions

MASK = "[NAME]"
CALLED_SHARE = 0.5
"""Of a word's places inside sentences, the share in which it is called, from which it is a name."""

# Marks that have no letter of their own with what they stand on (Ṣẹ́gun) stay with it.
_MARKED = r"(?:[\u0300-\u036f]+[^\W\d_]*)*"
_WORD = rf"[^\W\d_]+{_MARKED}(?:[-'’][^\W\d_]{{2,}}{_MARKED})*"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NOT_NAMES = _words(
    """monday tuesday wednesday thursday friday saturday sunday january february march april may
    june july august september october november december christmas easter halloween thanksgiving
    english german french spanish italian american british i you he she it we they who that this
    there what the my your ok okay sir madam ma'am yes no
    please thanks thank hello hi hey alright sure absolutely certainly everyone everybody all
    morning evening afternoon night today tomorrow tonight mr mrs ms dr good welcome here
    not just so also"""
)
_INTRODUCED = re.compile(
    r"\b(?:(?P<named>my\s+name(?:\s+is|['’]s))|call\s+me|i\s+am|i['’]m|this\s+is|it\s+is|it['’]s)\s+"
    rf"(?P<name>{_WORD}(?:\s+{_WORD}){{0,2}})",
    re.IGNORECASE,
)
# «Anna speaking», but not «Generally speaking, …».
_HERE = re.compile(
    rf"(?:^|[.!?]\s+)(?P<name>{_WORD}(?:\s+{_WORD}){{0,2}})\s+"
    r"(?:here|speaking(?!,)|(?<!ly\s)speaking)\b"
)
_SIGNED = re.compile(rf"(?:^|\s)[-–—]\s?(?P<name>{_WORD})\s*[.!]?\s*$")
_TITLED = re.compile(rf"\b(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof)\b\.?\s+(?P<name>{_WORD})")
_STRICT = (_INTRODUCED, _HERE, _SIGNED, _TITLED)
_CALLED = (
    re.compile(rf",\s+(?P<name>{_WORD})(?=\s*[.!?,;:…]|\s*$)"),
    re.compile(
        r"\b(?:hi|hello|hey|dear|welcome|welcome\s+back|thanks|thank\s+you|bye|goodbye|"
        rf"good\s+(?:morning|afternoon|evening|night|day)),?\s+(?P<name>{_WORD})"
        r"(?=\s*[.!?,;:…]|\s*$)",
        re.IGNORECASE,
    ),
)
_ADDRESS = re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]*\w|(?<![\w@])@\w{2,}")
_ANY_WORD = re.compile(_WORD)
_BEFORE_SENTENCE = re.compile(r"^|[.!?…:]\s+|[\n\"“(]\s*")
_REPEATED = re.compile(rf"{re.escape(MASK)}(?:\s+{re.escape(MASK)})+")


def find_names(users: Sequence[UserData]) -> frozenset[str]:
    """Names that occur in the training sessions of these users, as they are written."""
    texts = [
        message.text
        for user in users
        for session in training_sessions(user.sessions)
        for message in session.messages
    ]
    return names_in(texts)


def names_in(texts: Iterable[str]) -> frozenset[str]:
    """Names by the rule of this module, from any texts."""
    introduced: set[str] = set()
    called: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    lower: set[str] = set()
    for text in texts:
        introduced.update(text[a:b] for a, b in _introductions(text))
        # Two patterns may see one place: «Hi Anna,» is called once.
        places = {match.span("name") for rule in _CALLED for match in rule.finditer(text)}
        called.update(text[a:b] for a, b in places if _like_a_name(text[a:b]))
        opening = {match.end() for match in _BEFORE_SENTENCE.finditer(text)}
        for match in _ANY_WORD.finditer(text):
            word = match[0]
            if word.islower():
                lower.add(word)
            elif match.span() in places or match.start() not in opening:
                inside[word] += 1
    often = {word for word, times in called.items() if times >= CALLED_SHARE * inside[word]}
    # «my name is anna»: writing a name small does not make it a common word.
    small = {word for word in introduced if word.islower()}
    found = introduced | often | {word.capitalize() for word in small}
    return frozenset(word for word in found if word.lower() not in lower - small)


def mask_names(text: str, names: frozenset[str]) -> str:
    """The text with every name, self-introduction and address as ``[NAME]``."""
    text = _ADDRESS.sub(MASK, text)
    for begin, end in sorted(set(_introductions(text)), reverse=True):
        text = text[:begin] + MASK + text[end:]
    masked = _ANY_WORD.sub(lambda match: _masked_word(match[0], names), text)
    # The mask's own letters are a word to the pattern above and stay as they are.
    return _REPEATED.sub(MASK, masked)


def _masked_word(word: str, names: frozenset[str]) -> str:
    if word in names:
        return MASK
    parts = re.split(r"([-'’])", word, maxsplit=1)
    return MASK + "".join(parts[1:]) if len(parts) > 1 and parts[0] in names else word


def _introductions(text: str) -> Iterator[tuple[int, int]]:
    """Places of names that a text introduces, word by word."""
    for rule in _STRICT:
        for match in rule.finditer(text):
            named = rule is _INTRODUCED and match["named"] is not None
            places = list(_leading_names(text, *match.span("name"), small_too=named))
            # «Anna Smith here», but not «I've always been here».
            if rule is not _HERE or len(places) == len(match["name"].split()):
                yield from places


def _leading_names(
    text: str, begin: int, end: int, *, small_too: bool
) -> Iterator[tuple[int, int]]:
    """The first words of a stretch that look like names; ``my name is anna`` may be small."""
    for place, match in enumerate(_ANY_WORD.finditer(text, begin, end)):
        word = match[0]
        small = small_too and place == 0 and word.lower() not in _NOT_NAMES
        if not (small or _like_a_name(word)):
            return
        yield match.span()


def _like_a_name(word: str) -> bool:
    """Capitalized, no acronym, and nothing that calendars, greetings or forms of address hold.

    A contraction is judged by its first part: «I've» and «They'll» are no names.
    """
    head = re.split("['’]", word.lower(), maxsplit=1)[0]
    known = {head, word.lower()} & _NOT_NAMES
    return word[0].isupper() and len(word) > 1 and not word.isupper() and not known
