"""Figures inside the HTML report: SVG that follows the reader's color scheme, else pixels."""

from __future__ import annotations

import base64
import html
import re

from results.figure_style import BLUE, INK, LINE, MUTED, PAPER, SKY, VERMILLION, Figure

MAX_SVG_BYTES = 400_000
_COLORS = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--rule)", PAPER: "var(--paper)"}
# The palette's dark tones are too dark on a dark page; there the page gives lighter ones.
_COLORS |= {BLUE: "var(--blue)", SKY: "var(--sky)", VERMILLION: "var(--vermillion)"}
_REFERENCES = re.compile(r'(\bid="|url\(#|xlink:href="#)([^")]+)')
_FONT = re.compile(r"font: ([^;\"]*?)'DejaVu Sans( Mono)?'[^;\"]*")


def inline_figure(figure: Figure) -> str:
    """The figure's markup: an ``svg`` element, or an ``img`` with a data address if it is large.

    Ids get the figure's name in front, because all figures share one document. The fixed ink,
    paper and line colors become the page's own.
    """
    raw = figure.svg.read_bytes()
    alt = html.escape(figure.alt or figure.title, quote=True)
    if len(raw) > MAX_SVG_BYTES:
        data = base64.b64encode(figure.png.read_bytes()).decode()
        return f'<img class="pixels" alt="{alt}" src="data:image/png;base64,{data}">'
    text = raw.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = _REFERENCES.sub(rf"\g<1>{figure.name}-\g<2>", text)
    for fixed, of_page in _COLORS.items():
        text = text.replace(fixed, of_page)
    text = _FONT.sub(_page_font, text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)


def _page_font(match: re.Match[str]) -> str:
    family = "var(--mono)" if match[2] else "var(--sans)"
    return f"font: {match[1]}{family}"
