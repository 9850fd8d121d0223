"""How figures look, and how they are saved: column width, colours, deterministic files.

Colours are those of Okabe and Ito (2008), which people with colour blindness tell
apart; markers, dashes and hatches differ too, so that figures can be read in grey.
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blt_jax.data.whole_file import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_WIDTH = 3.3  # inches
PAGE_WIDTH = 6.9
DPI = 200
BLACK, GREY, FAINT = "#000000", "#767676", "#d9d9d9"


class Look(NamedTuple):
    """One series: colour, marker, dashes of its line and hatch of its bars."""

    colour: str
    marker: str
    dashes: str
    hatch: str


SHOT_LOOKS = {
    "many": Look("#0072B2", "o", "-", ""),
    "medium": Look("#E69F00", "s", "-", "///"),
    "few": Look("#D55E00", "^", "-", "..."),
    "overall": Look(BLACK, "D", "--", "xx"),
}
_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    BLACK,
)
_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "p", "h", "d")
_DASHES = ("-", "--", ":", "-.")
_HATCHES = (
    "",
    "////",
    "....",
    r"\\\\",
    "xxxx",
    "----",
    "++++",
    "oo",
    "||||",
    "//",
    "..",
    "xx",
)

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 7.5,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.title_fontsize": 7,
    "legend.handlelength": 1.7,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.0,
    "legend.borderaxespad": 0.2,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.unicode_minus": True,
    "svg.fonttype": "none",  # words stay words
    "svg.hashsalt": "blt_jax",  # the same names of its parts every time
}


@dataclass(frozen=True)
class Drawing:
    """A figure, what its caption says, and the numbers drawn, ready for JSON."""

    figure: "Figure"
    caption: str
    numbers: dict[str, Any]


def look(number: int) -> Look:
    """How the number-th of several series looks; the first 12 differ in grey too."""
    return Look(
        _COLOURS[number % len(_COLOURS)],
        _MARKERS[number % len(_MARKERS)],
        _DASHES[number // len(_COLOURS) % len(_DASHES)],
        _HATCHES[number % len(_HATCHES)],
    )


def load_matplotlib() -> Any:
    """The package; raises ValueError, saying how to install it, where it is missing."""
    try:
        import matplotlib
    except ImportError:
        raise ValueError(
            "figures need matplotlib; install it with: pip install 'blt-jax[figures]'"
        ) from None
    return matplotlib


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib with our settings and nobody else's, within the block.

    Raises ValueError, in one line, where matplotlib is not installed.
    """
    matplotlib = load_matplotlib()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float, height: float
) -> "tuple[Figure, list[Axes]]":
    """An empty figure of that size in inches, and its axes row by row."""
    from matplotlib.figure import Figure  # not pyplot: nothing global, no window

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def add_legend(figure: "Figure", axes: "Axes", *, title: str | None = None) -> None:
    """A legend of the axes' series above them; the figure grows by its lines.

    As many columns as the width has room for, filled evenly.
    """
    from matplotlib.textpath import TextPath

    handles, labels = axes.get_legend_handles_labels()
    size = 7.0
    widths = [TextPath((0, 0), text, size=size).get_extents().width for text in labels]
    room = 72 * figure.get_figwidth() - 8
    for columns in range(len(labels), 0, -1):
        lines = -(-len(labels) // columns)
        starts = range(0, len(labels), lines)  # columns are filled from the top
        widest = [max(widths[start : start + lines]) for start in starts]
        if sum(widest) + 3.3 * size * len(widest) <= room:
            break
    figure.set_figheight(figure.get_figheight() + 0.15 * (lines + bool(title)))
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(widest), title=title
    )


def save_drawing(folder: str | Path, name: str, drawing: Drawing) -> list[Path]:
    """Write NAME.png, NAME.svg and NAME.json (caption and numbers); the same bytes
    for the same numbers and matplotlib. Returns their paths.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "svg", "json")]
    nobody: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
    }
    with style():
        for path, kind in zip(paths, nobody, strict=False):
            content = io.BytesIO()
            drawing.figure.savefig(content, format=kind, dpi=DPI, metadata=nobody[kind])
            write_whole(path, content.getvalue())
    numbers = {"caption": drawing.caption, **drawing.numbers}
    write_whole(paths[2], json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    return paths
