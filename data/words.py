"""What a word is, in every script: the one rule by which texts are compared and measured.

ASCII text is split as Google's ``rouge-score`` splits it: lower case, runs of ``[a-z0-9]``. Any
other text is split so that the same sentence gives the same words however it is typed:

- Letters, digits and the marks on them are words, in all scripts; signs, punctuation, apostrophes
  and emoji separate. Case and width do not count (Unicode NFKC and case folding), and the four
  forms of the Turkish i are one letter, as capitals do not tell them apart.
- In scripts that write no spaces between words (``UNSPACED``) every letter with its marks is a
  word. Hangul has spaces; Tibetan separates its syllables by a sign.
- Digits count by their value (``٢١`` is ``21``). Characters that are not seen (joiners, soft
  hyphens), the Arabic tatweel and the vowel points of Arabic, Hebrew and Syriac do not count. A
  zero-width space separates: it is a border of words where there are no spaces.
"""

from __future__ import annotations

import re
import unicodedata

import regex

UNSPACED = (
    *("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Thai", "Lao", "Khmer", "Myanmar"),
    *("Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Javanese", "Balinese"),
)
"""Scripts whose words are not told apart by spaces, by their names in Unicode."""
HAN_LETTERS, SYLLABLE_LETTERS = 3, 2
"""How many letters of an alphabet a Han character and a sign for a syllable stand for."""

# Of the modifier letters two are typed as apostrophes: пʼять is п’ять, Hawaiʻi is Hawai'i.
_LETTER = r"[[\p{L}\p{N}]--[\u02bb\u02bc]]"
_MARK = r"[\p{Mn}\p{Mc}]"
_SIGN = "[[" + "".join(rf"\p{{scx={script}}}" for script in UNSPACED) + f"]&&{_LETTER}]"
_ASCII_WORD = re.compile("[a-z0-9]+")
_WORD = regex.compile(rf"(?V1){_SIGN}{_MARK}*|[{_LETTER}--{_SIGN}][[{_LETTER}{_MARK}]--{_SIGN}]*")
_UNSPACED = regex.compile(rf"(?V1){_SIGN}{_MARK}*")
_LETTERED = regex.compile(rf"(?V1){_LETTER}")
# Compatibility forms may hold letters (™, ℃) or digits (², ½): no part of the word beside them.
_APART = regex.compile(r"[\p{So}\p{Sc}\p{No}]")
# Unicode's fixed position classes 10 to 36 are the points of Hebrew, Arabic and Syriac.
_POINTS = "".join(
    chr(code)
    for code in (*range(0x0590, 0x0900), 0xFB1E)
    if 10 <= unicodedata.combining(chr(code)) <= 36
)
_UNSEEN = regex.compile(rf"(?V1)[[\p{{Default_Ignorable_Code_Point}}\u0640{_POINTS}]--\u200b]")
# Without one of these, the other signs (dashes, quotes, emoji) separate as in ASCII.
_OTHER = regex.compile(r"(?V1)[[\p{L}\p{M}\p{N}\p{Default_Ignorable_Code_Point}]--[\x00-\x7f]]")
_OTHER_DIGIT = regex.compile(r"(?V1)[\p{Nd}--[0-9]]")
_HAN = regex.compile(r"\p{Han}")
_SYLLABLE = regex.compile(r"[\p{Hiragana}\p{Katakana}\p{Hangul}\p{Yi}]")
_LATIN = regex.compile(r"\p{Latin}")
_ANY_LETTER = regex.compile(r"\p{L}")


def split_words(text: str) -> list[str]:
    """The words of a text in order, in a form in which equal words are equal texts."""
    if text.isascii() or (unicodedata.is_normalized("NFKC", text) and not _OTHER.search(text)):
        return _ASCII_WORD.findall(text.lower())
    found: list[str] = _WORD.findall(_folded(text))
    return found


def _folded(text: str) -> str:
    """The text with everything equal that is the same word in another spelling."""
    text = unicodedata.normalize("NFKC", _APART.sub(r" \g<0> ", text)).casefold()
    text = _UNSEEN.sub("", text).replace("ı", "i").replace("i\u0307", "i")
    text = unicodedata.normalize("NFKC", text)
    return _OTHER_DIGIT.sub(lambda match: str(unicodedata.decimal(match[0])), text)


def unspaced_end(text: str, limit: int) -> int:
    """Where the last letter of a script without spaces ends, with its marks, up to ``limit``.

    −1 without one, or where it lies before the last space.
    """
    if text.isascii():
        return -1
    begin = text.rfind(" ", 0, limit + 1) + 1
    ends = [match.end() for match in _UNSPACED.finditer(text, begin, limit + 100)]
    return max((end for end in ends if end <= limit), default=-1)


def has_words(text: str) -> bool:
    """Whether there is any word: without one, nothing can be compared."""
    return bool(split_words(text))


def is_unspaced(word: str) -> bool:
    """Whether a word of ``split_words`` is a letter of a script without spaces."""
    return _UNSPACED.match(word) is not None


def word_count(text: str) -> int:
    """A text's length in words: pieces between white space.

    Each letter of a script without spaces is a word of its own; punctuation beside it is none.
    """
    signs = 0 if text.isascii() else len(_UNSPACED.findall(text))
    if not signs:
        return len(text.split())
    pieces = _UNSPACED.sub(" ", text).split()
    return signs + sum(_LETTERED.search(piece) is not None for piece in pieces)


def clean_word_count(text: str) -> int:
    """``word_count`` of a cleaned message, whose words stand one space apart; much faster."""
    if text.isascii() or not _UNSPACED.search(text):
        return text.count(" ") + 1 if text else 0
    return word_count(text)


def length_in_letters(text: str) -> int:
    """A text's length in characters, fair over scripts: how long it would be in an alphabet.

    A Han character counts as three letters, a kana or a syllable of Hangul or Yi as two. So long
    are translations of everyday sentences, roughly.
    """
    if text.isascii():
        return len(text)
    more = (HAN_LETTERS - 1) * len(_HAN.findall(text))
    return len(text) + more + (SYLLABLE_LETTERS - 1) * len(_SYLLABLE.findall(text))


def mostly_latin(text: str) -> bool:
    """Whether at least half of a text's letters are Latin; True without letters."""
    if text.isascii():
        return True
    return 2 * len(_LATIN.findall(text)) >= len(_ANY_LETTER.findall(text))
