"""Names in any script in figures: a font that has their letters, or a sign that the caption reads.

matplotlib draws text in the font of the house style. Where that lacks a letter, installed fonts are
asked; a letter that none has stands as ``[1]`` in the PNG, and the figure's note says for what. The
SVG holds text, so whoever shows it draws the name in a font of their own.
"""

from __future__ import annotations

import logging
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

NAMED = 12
"""A note names so many; the SVG has them all."""
_NO_LETTERS = re.compile(r"last ?resort|blank|notdef|fallback", re.IGNORECASE)
"""Fonts that have a box for everything, or nothing."""
_UNSEEN = ("Cc", "Cf", "Mn", "Zl", "Zp")
"""Categories of characters that leave no gap where a font lacks them."""


def use_installed_fonts(canvas: Canvas) -> None:
    """Give every text whose letters the house's font lacks others that have them."""
    for text in _texts(canvas):
        if missing := _missing(text):
            more = _families(missing, text.get_fontweight(), text.get_fontstyle())
            text.set_fontfamily([*text.get_fontfamily(), *more])


def unread(canvas: Canvas) -> dict[str, str]:
    """Parts of texts that no installed font can draw, and the sign for each: ``[1]``, ``[2]``, …"""
    runs = [run for text in _texts(canvas) for run in _runs(text.get_text(), _missing(text))]
    return {run: f"[{place}]" for place, run in enumerate(dict.fromkeys(runs), start=1)}


def glyph_note(canvas: Canvas) -> str:
    """What the signs of a figure stand for, for its caption; empty without any."""
    use_installed_fonts(canvas)
    signs = unread(canvas)
    if not signs:
        return ""
    told = ", ".join(f"{sign} is {run}" for run, sign in list(signs.items())[:NAMED])
    more = f" and {len(signs) - NAMED} more" if len(signs) > NAMED else ""
    return f" In the PNG, {told}{more}: no installed font has these letters; the SVG shows them."


def with_note(caption: str, note: str) -> str:
    """The caption with the note before the command at its end."""
    text, redraw, command = caption.rpartition(" Redraw: ")
    return f"{text}{note}{redraw}{command}"


@contextmanager
def told_in_the_note(signs: Mapping[str, str]) -> Iterator[None]:
    """Without matplotlib's warning of every letter, where the note names them; else with it."""
    with warnings.catch_warnings(), _any_weight():
        if signs:
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


@contextmanager
def _any_weight() -> Iterator[None]:
    """Without a line on every family that has no bold: its regular letters will do."""
    log = logging.getLogger(font_manager.__name__)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def with_signs(canvas: Canvas, signs: Mapping[str, str]) -> None:
    """Put the signs where the letters would be boxes; for the last use of a canvas."""
    if not signs:
        return
    longest_first = sorted(signs, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))

    def signed(text: str) -> str:
        return pattern.sub(lambda match: signs[match[0]], text)

    for axis in _axes(canvas):
        _relabel(axis, signed)
    for text in canvas.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(signed(text.get_text()))


def _relabel(axis: Axis, signed: Callable[[str], str]) -> None:
    """Ticks get their texts anew whenever they are drawn, so the axis must have the new ones."""
    labels = [label.get_text() for label in axis.get_majorticklabels()]
    if any(signed(label) != label for label in labels):
        axis.set_ticks(list(axis.get_majorticklocs()), labels=list(map(signed, labels)))


def _axes(canvas: Canvas) -> list[Axis]:
    return [axis for axes in canvas.axes for axis in (axes.xaxis, axes.yaxis)]


def _texts(canvas: Canvas) -> list[Text]:
    """Texts with letters beyond ASCII, ticks included."""
    for axis in _axes(canvas):
        axis.get_majorticklabels()
    found = [text for text in canvas.findobj(Text) if isinstance(text, Text)]
    return [text for text in found if not text.get_text().isascii()]


def _missing(text: Text) -> frozenset[str]:
    """Letters of a text that none of its fonts has."""
    weight, style = text.get_fontweight(), text.get_fontstyle()
    had = frozenset[int]().union(
        *(_letters(family, weight, style) for family in text.get_fontfamily())
    )
    return frozenset(
        sign
        for sign in text.get_text()
        if ord(sign) not in had and unicodedata.category(sign) not in _UNSEEN
    )


def _runs(text: str, missing: frozenset[str]) -> list[str]:
    """Longest parts of a text made of letters that are missing."""
    if not missing:
        return []
    return re.findall("[" + "".join(map(re.escape, sorted(missing))) + "]+", text)


@lru_cache(maxsize=256)
def _families(missing: frozenset[str], weight: str | int, style: str) -> tuple[str, ...]:
    """Installed families that have as many of the letters as can be had, few of them."""
    found: list[str] = []
    left = frozenset(map(ord, missing))
    names = sorted({font.name for font in font_manager.fontManager.ttflist})
    names = [name for name in names if not _NO_LETTERS.search(name)]
    while left and names:
        best = max(names, key=lambda name: _rank(name, left & _letters(name, weight, style)))
        had = left & _letters(best, weight, style)
        if not had:
            break
        found.append(best)
        left -= had
    return tuple(found)


def _rank(name: str, had: frozenset[int]) -> tuple[int, bool]:
    return len(had), "sans" in name.lower()


@lru_cache(maxsize=4096)
def _letters(family: str, weight: str | int, style: str) -> frozenset[int]:
    """Code points of the font that matplotlib takes for a family; none if it cannot read it."""
    wanted = FontProperties(family=family, weight=weight)
    wanted.set_style(style)  # type: ignore[arg-type]  # What a text has, a font may have.
    try:
        with _any_weight():
            path = font_manager.findfont(wanted, fallback_to_default=False)
        return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()
