"""Figures on disk: every drawing of the set into its folders, with its caption.

Plotting never computes: every number comes from the analysis. Figures without data are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure as Canvas

from results.analysis import Analysis
from results.document import markdown_inline
from results.figure_examples import leading_arm, typical_users
from results.figure_fonts import glyph_note, with_note
from results.figure_set import FIGURES, FINAL, Drawing
from results.figure_style import Figure, copied, house_style, save
from results.files import write_atomic
from results.pairing import CollectedTables

__all__ = [
    "FIGURES",
    "Drawing",
    "Figure",
    "draw_figures",
    "leading_arm",
    "typical_users",
    "write_captions",
]

CAPTIONS_FILE = "captions.md"


def draw_figures(
    workspace: Path,
    collected: CollectedTables,
    analysis: Analysis,
    *,
    only: frozenset[str] | None = None,
    command: str = "python -m orchestrator report",
) -> list[Figure]:
    """Draw the set into ``results/figures/``; a figure of several folders is drawn once.

    Args:
        workspace: The study's folder.
        collected: The collector's tables.
        analysis: The study's numbers.
        only: Names to draw; all of ``FIGURES`` otherwise.
        command: What redraws the figures, for the captions.

    Returns:
        The figures that have data, in the set's order.
    """
    root = workspace / "results" / "figures"
    found = []
    with house_style():
        for name, drawing in FIGURES.items():
            if only is not None and name not in only:
                continue
            folders = [root / folder for folder in drawing.folders]
            figure = drawn(
                drawing, analysis, collected, name=name, folders=folders, command=command
            )
            found += [figure] if figure is not None else []
    return found


def drawn(
    drawing: Drawing,
    analysis: Analysis,
    collected: CollectedTables,
    *,
    name: str,
    folders: Sequence[Path],
    command: str,
) -> Figure | None:
    """One figure, saved under a name into each of the folders; None where it has no data."""
    canvas = drawing.draw(analysis, collected)
    if canvas is None:
        return None
    note = glyph_note(canvas)
    return Figure(
        name=name,
        title=drawing.title,
        paths=_write(canvas, folders, name),
        caption=with_note(_caption(drawing, analysis, collected, command=command), note),
        alt=f"{drawing.title}. {drawing.text}",
        note=note,
    )


def _write(canvas: Canvas, folders: Sequence[Path], name: str) -> tuple[Path, ...]:
    """Save into the first folder and copy to the others."""
    paths = list(save(canvas, folders[0], name))
    for folder in folders[1:]:
        paths += [copied(path, folder, name) for path in paths[:2]]
    return tuple(paths)


def _caption(
    drawing: Drawing, analysis: Analysis, collected: CollectedTables, *, command: str
) -> str:
    """What is shown, n, the interval's kind, and the command that redraws it."""
    detail = drawing.detail(analysis) if drawing.detail is not None else ""
    told = " ".join(filter(None, (f"{drawing.title}.", drawing.text, detail)))
    size = drawing.size(analysis, collected)
    return f"{told} n = {size}. Interval: {drawing.interval}. Redraw: {command}"


def write_captions(workspace: Path, figures: Sequence[Figure]) -> Path:
    """Write ``captions.md`` beside the final figures: what each file there shows."""
    folder = workspace / "results" / "figures" / FINAL
    told = {
        path.stem: figure.caption
        for figure in figures
        for path in figure.paths
        if path.parent == folder
    }
    parts = [f"## {name}\n\n{markdown_inline(told[name])}\n" for name in sorted(told)]
    return write_atomic(folder / CAPTIONS_FILE, "\n".join(["# Figures\n", *parts]).encode())
