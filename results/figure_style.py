"""One look for all figures: colors that color-blind people tell apart, and files that repeat.

Ink, paper and lines have fixed colors, so that the HTML report can swap them for the reader's
color scheme. The same numbers give the same SVG, byte for byte.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from results.contrasts import GATED, SWAPPED
from results.figure_fonts import told_in_the_note, unread, use_installed_fonts, with_signs
from results.files import write_atomic
from results.wording import arm_title

INK, MUTED, LINE, PAPER = "#1b1f24", "#5b6570", "#d3d9e0", "#ffffff"
# The palette of Okabe and Ito (2008), Color Universal Design.
ORANGE, SKY, GREEN, YELLOW = "#e69f00", "#56b4e9", "#009e73", "#f0e442"
BLUE, VERMILLION, PURPLE, GRAY = "#0072b2", "#d55e00", "#cc79a7", "#8c959f"
HELPED, TIED, HURT = BLUE, GRAY, VERMILLION
_ARMS = {
    "baseline": GRAY,
    "few_shot": GREEN,
    "prefix_all": ORANGE,
    "lora_all": SKY,
    "prefix_cluster": YELLOW,
    "lora_cluster": GREEN,
    "prefix_per_user": VERMILLION,
    "lora_per_user": BLUE,
    "prefix_cluster_user": PURPLE,
    "lora_cluster_user": GREEN,
}
_SPARE = (GREEN, PURPLE, YELLOW, ORANGE, SKY)
_RC: dict[Any, Any] = {
    "svg.hashsalt": "persona-sweep",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8.5,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.6,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.max_open_warning": 0,
}
DPI = 300
TITLE_CHARACTERS = 38
"""A panel of two beside each other holds so many bold characters."""
ROW_CHARACTERS = 44
"""A row's label of two lines leaves the axis half of the figure."""
NAME_CHARACTERS = 16
"""A label beside an axis holds so many of a user's id."""
MANY_PANELS = 8
"""Past this many small panels three stand beside each other."""
SHEET_INCHES = 12.0
"""A figure of full width that is no taller fills one sheet of paper, with text to be read."""
MANY_ARMS = 8
"""Past so many arms a panel is tall, and three of them stand beside each other."""
MANY_USERS = 2_000
"""Past this many points a figure's marks are pixels in the SVG, too."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawn figure: its files (SVG and PNG, also the copies in other folders) and caption.

    ``alt`` says what is to be seen, for readers who do not see it; ``note`` is the caption's end
    that reads signs for letters without a font.
    """

    name: str
    title: str
    paths: tuple[Path, ...]
    caption: str
    alt: str = ""
    note: str = ""

    @property
    def svg(self) -> Path:
        """The vector file of the first folder."""
        return next(path for path in self.paths if path.suffix == ".svg")

    @property
    def png(self) -> Path:
        """The pixel file of the first folder."""
        return next(path for path in self.paths if path.suffix == ".png")


@contextmanager
def house_style() -> Iterator[None]:
    """Everything that is drawn inside looks the same, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def panels(
    count: int, *, columns: int, width: float, height: float, share_y: bool = False
) -> tuple[Canvas, list[Axes]]:
    """A canvas with ``count`` axes in rows; ``height`` is that of one row, both in inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    canvas = Canvas(figsize=(width, height * rows), layout="constrained")
    FigureCanvasAgg(canvas)
    grid = canvas.subplots(rows, columns, squeeze=False, sharey=share_y)
    axes: list[Axes] = list(grid.flat)
    for spare in axes[count:]:
        spare.remove()
    return canvas, axes[:count]


def columns_for(count: int) -> int:
    """Columns of a page of small panels, so that many of them still fit a sheet of paper."""
    return 3 if count > MANY_PANELS else 2


def fitting_height(height: float, count: int, *, columns: int) -> float:
    """A row's height in inches, less where the rows would not fit a sheet; never under half."""
    return max(height / 2, min(height, SHEET_INCHES / -(-count // columns)))


def panel_title(axis: Axes, text: str, *, columns: int = 2) -> None:
    """A panel's title, broken into lines that do not reach into the panel beside it."""
    width = TITLE_CHARACTERS * 2 // columns
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, width)]
    axis.set_title("\n".join(lines))


def arm_color(arm: str) -> str:
    """The arm's color, also of its control and behind the gate; others get one by their name."""
    plain = arm.removesuffix(SWAPPED).removesuffix(GATED)
    return _ARMS.get(plain) or _SPARE[sum(plain.encode()) % len(_SPARE)]


def arm_labels(axis: Axes, arms: Sequence[str]) -> None:
    """Arms from top to bottom on the y axis."""
    axis.set_yticks(range(len(arms)), [arm_title(arm) for arm in arms])
    axis.set_ylim(len(arms) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)


def row_label(text: str) -> str:
    """A contrast beside its row: in two lines if it is long."""
    return textwrap.fill(text, ROW_CHARACTERS, break_on_hyphens=False)


def short_name(user: str) -> str:
    """A user's id as a label has room for it."""
    plain = "".join(c if c.isprintable() else "□" for c in user.removeprefix("user_"))
    return plain if len(plain) <= NAME_CHARACTERS else f"{plain[: NAME_CHARACTERS - 1]}…"


def user_name(user: str) -> str:
    """A user as a text names them: «user 9» of ``user_9``, other ids as they are."""
    short = short_name(user)
    return f"user {short}" if user.startswith("user_") else short


def zero_line(axis: Axes, *, vertical: bool = True) -> None:
    """The line of no lift."""
    draw = axis.axvline if vertical else axis.axhline
    draw(0, color=INK, linewidth=0.8, zorder=1)


def save(canvas: Canvas, folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``name.svg`` and ``name.png`` (300 dots an inch), both without a date.

    Letters that no installed font has are signs in the PNG, which ``glyph_note`` reads.
    """
    use_installed_fonts(canvas)
    signs = unread(canvas)
    with told_in_the_note(signs):
        svg = _svg(canvas)
    with_signs(canvas, signs)
    with told_in_the_note({}):
        png = _png(canvas)
    return write_atomic(folder / f"{name}.svg", svg), write_atomic(folder / f"{name}.png", png)


def _svg(canvas: Canvas) -> bytes:
    """The figure's vectors; drawn once, where ``savefig`` would draw it twice."""
    buffer = io.BytesIO()
    canvas.set_dpi(DPI)
    write: Any = FigureCanvasSVG(canvas).print_svg
    write(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _png(canvas: Canvas) -> bytes:
    """Its pixels, in the layout that its vectors have got."""
    canvas.set_layout_engine("none")
    canvas.set_dpi(DPI)
    buffer = io.BytesIO()
    write: Any = FigureCanvasAgg(canvas).print_png
    write(buffer, metadata={"Software": None})
    return buffer.getvalue()


def copied(path: Path, folder: Path, name: str) -> Path:
    """The same file in another folder, under a name of its own there."""
    return write_atomic(folder / f"{name}{path.suffix}", path.read_bytes())


def rows_by(table: pd.DataFrame, key: str) -> dict[str, dict[str, Any]]:
    """A table's rows by one column, in order."""
    return {str(row[key]): {str(k): v for k, v in row.items()} for row in table.to_dict("records")}
