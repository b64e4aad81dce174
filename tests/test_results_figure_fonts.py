"""Names in scripts that the house's font lacks: another font, or a sign that the note reads."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from results import figure_fonts
from results.figure_fonts import glyph_note, unread, use_installed_fonts, with_note
from results.figure_style import house_style, panels, save

pytestmark = pytest.mark.filterwarnings("error")
# Kaithi and Chakma stand for scripts that no machine here has a font for.
WORD, OTHER = "\U00011083\U00011084", "\U00011103"


def drawn(title: str, labels: list[str]):
    canvas, (axis,) = panels(1, columns=1, width=3, height=2)
    axis.barh(range(len(labels)), range(1, len(labels) + 1), label="legend " + title)
    axis.set_yticks(range(len(labels)), labels)
    axis.set_title(title, fontweight="bold")
    axis.legend()
    return canvas


@pytest.fixture
def no_font() -> Iterator[None]:
    """Only the fonts that come with matplotlib are installed."""
    kept = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.ttflist = [f for f in kept if "mpl-data" in f.fname]
    for cache in (figure_fonts._families, figure_fonts._letters):
        cache.cache_clear()
    yield
    font_manager.fontManager.ttflist = kept
    for cache in (figure_fonts._families, figure_fonts._letters):
        cache.cache_clear()


@pytest.mark.usefixtures("no_font")
def test_letters_without_a_font_are_signs_in_the_png_and_text_in_the_svg(tmp_path: Path, caplog):
    with house_style(), caplog.at_level(logging.WARNING):
        canvas = drawn(f"{WORD} − é", [f"{WORD}1", "plain", OTHER])
        note = glyph_note(canvas)
        svg, png = save(canvas, tmp_path, "figure")
        labels = [label.get_text() for label in canvas.axes[0].get_yticklabels()]
    signs = {note[note.index(run) - 7 : note.index(run) - 4]: run for run in (WORD, OTHER)}
    assert signs.keys() == {"[1]", "[2]"}
    of = {run: sign for sign, run in signs.items()}
    assert canvas.axes[0].get_title(loc="left") == f"{of[WORD]} − é"
    assert labels == [f"{of[WORD]}1", "plain", of[OTHER]]
    assert f"{WORD}1" in svg.read_text(encoding="utf-8")
    assert png.stat().st_size
    assert not caplog.records


@pytest.mark.usefixtures("no_font")
def test_an_installed_font_that_has_the_letters_draws_them(tmp_path: Path, caplog):
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "a", "b"])
    font.setupCharacterMap({ord(WORD[0]): "a", ord(WORD[1]): "b"})
    pen = TTGlyphPen(None)
    for place in ((0, 0), (0, 700), (500, 700)):
        (pen.moveTo if place == (0, 0) else pen.lineTo)(place)
    pen.closePath()
    font.setupGlyf(dict.fromkeys((".notdef", "a", "b"), pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys((".notdef", "a", "b"), (600, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Old Letters", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "old.ttf")
    font_manager.fontManager.addfont(tmp_path / "old.ttf")
    with house_style(), caplog.at_level(logging.WARNING):
        canvas = drawn(WORD, ["plain", OTHER])
        note = glyph_note(canvas)
        assert list(unread(canvas)) == [OTHER]
        save(canvas, tmp_path, "figure")
    assert OTHER in note
    assert WORD not in note
    assert canvas.axes[0].get_title(loc="left") == WORD
    assert not caplog.records


def test_text_that_the_house_s_font_has_is_left_alone(tmp_path: Path):
    with house_style():
        canvas = drawn("Überblick − Свет … Ελλάδα", ["a", "é"])
        before = canvas.axes[0].title.get_fontfamily()
        use_installed_fonts(canvas)
        assert canvas.axes[0].title.get_fontfamily() == before
        assert glyph_note(canvas) == ""


def test_the_note_stands_before_the_command_of_a_caption():
    assert with_note("n = 3. Redraw: x", " Note.") == "n = 3. Note. Redraw: x"
    assert with_note("n = 3. Redraw: x", "") == "n = 3. Redraw: x"
