"""The look of the figures: colours, marks, titles, and files with the same bytes each time.

Colours are told apart by colour-blind readers, markers differ as well. Small points are seeds, a
marker with a bar is their mean and standard deviation.
"""

import io
import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import ScaledTranslation

from kdlib import files
from kdlib.report.arms import SHORT, Spread, common_seeds

INK, QUIET, FAINT = "#222222", "#6E6E6E", "#E4E4E4"
COLOURS = {  # after Okabe and Ito; two more after Tol
    "teacher": INK,
    "start": "#B5B5B5",
    "supervised": "#CC79A7",
    "distil": "#E69F00",
    "matching": "#0072B2",
    "baseline": "#CC79A7",
    "pi": "#E69F00",
    "pi-pa": "#009E73",
    "pi-pa-ho": "#0072B2",
    "i": "#0072B2",
    "f": "#E69F00",
    "g": "#009E73",
    "d": "#D55E00",
    "id": "#56B4E9",
    "kd": "#E69F00",
    "at": "#56B4E9",
    "skd": "#009E73",
    "intra": "#0072B2",
    "intra-std": "#999933",
    "intra-affinity": "#D55E00",
    "intra-high": "#009E73",
    "intra-middle": "#E69F00",
    "intra-weight1": "#CC79A7",
    "intra-weight10": "#882255",
}
MARKERS = {"teacher": "D", "start": "v", "supervised": "s", "distil": "^", "matching": "o"}
MARKERS |= {"baseline": "s", "pi": "^", "pi-pa": "P", "pi-pa-ho": "o"}
MARKERS |= {"i": "o", "f": "^", "g": "P", "d": "v", "id": "D"}
MARKERS |= {"kd": "^", "at": "v", "skd": "P", "intra": "o"}
MARKERS |= {"intra-std": "p", "intra-affinity": "D", "intra-high": "P", "intra-middle": "^"}
MARKERS |= {"intra-weight1": "X", "intra-weight10": "*"}
# Where a line of a title must not end.
CLOSE = ("(1) ", "(2) ", "(3) ", "(one ", "(two ", "no verdict", " ±", "± ", " %", " points")
CLOSE += (" =", "= ", " (tie")
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters everywhere
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.ymargin": 0.09,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "kdlib",
    "svg.fonttype": "path",
}


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures here, without touching the caller's settings."""
    with sns.axes_style("ticks"), mpl.rc_context(STYLE):
        yield


class Picture(Figure):
    """A figure that a notebook shows by itself: no pyplot, so no state and nothing to close.

    nothing: it has nothing to tell; `save` then leaves no file.
    """

    nothing = False

    def _repr_png_(self) -> bytes:
        return _encode(self, "png", 100)


def save(figure: Figure, path: Path | str, *, dpi: int = 144) -> Path:
    """Write a figure as PNG or SVG, by the suffix: atomic, without dates, same bytes each time.

    Of a picture that has nothing to tell an older file is removed.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"{path}: a figure is saved as .png or .svg")
    if getattr(figure, "nothing", False):
        path.unlink(missing_ok=True)
        return path
    files.write(path, _encode(figure, path.suffix[1:], dpi))
    return path


def _encode(figure: Figure, kind: str, dpi: int) -> bytes:
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata[kind])
    return buffer.getvalue()


def figure(width: float, height: float) -> Picture:
    """An empty figure; inches."""
    figure = Picture(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.08)
    return figure


def legend_above(axis: Axes, handles: list, ncols: int) -> None:
    """A legend between title and axes, where it hides no mark."""
    place = dict(loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.2)
    axis.legend(
        handles=handles, ncols=ncols, fontsize=9, columnspacing=1.4, handletextpad=0.4, **place
    )


def mark(
    axis: Axes, x: float, values: pd.Series, name: str, filled: bool = True, jitter: float = 0.1
) -> None:
    """Seeds as small points, to their right the mean with the standard deviation."""
    values = values.dropna()
    if not len(values):
        axis.text(
            x, 0.04, "not run", transform=axis.get_xaxis_transform(), ha="center", color=QUIET
        ).set_fontsize(8)
        return
    spread = Spread.of(values)
    colour = COLOURS[name]
    if len(values) > 1:
        offsets = np.linspace(-1, 0, len(values)) * jitter - jitter
        axis.plot(x + offsets, values, ".", color=colour, ms=6.5, alpha=0.6, mew=0, zorder=2)
    bar = 0 if math.isnan(spread.sd) else spread.sd
    axis.errorbar(
        x,
        spread.mean,
        yerr=bar or None,
        fmt=MARKERS[name],
        ms=9,
        color=colour,
        mfc=colour if filled else "white",
        mec=colour,
        mew=1.6,
        elinewidth=1.6,
        capsize=3,
        zorder=3,
    )


def line(axis: Axes, rows: pd.DataFrame, column: str, arm: str, shift: float = 1.0) -> None:
    """A curve over `nominal` points: x from the records, seeds a little to the left.

    The line joins means over the seeds that all its points have. shift: factor of x, so that curves
    with common places do not hide one another.
    """
    rows = rows.dropna(subset=[column])
    if rows.empty:
        return
    means = rows.groupby("nominal").agg(
        x=("x", "mean"), mean=(column, "mean"), sd=(column, "std"), n=(column, "count")
    )
    colour = COLOURS[arm]
    left = ScaledTranslation(-5.5 / 72, 0, axis.get_figure().dpi_scale_trans)
    seeds = dict(color=colour, ms=6, alpha=0.5, mew=0, zorder=2, transform=axis.transData + left)
    axis.plot(shift * rows["x"], rows[column], ".", **seeds)
    shared = rows[rows["seed"].isin(common_seeds(rows, "nominal"))].groupby("nominal")
    axis.plot(shift * shared["x"].mean(), shared[column].mean(), color=colour, lw=1.6, zorder=2.5)
    axis.errorbar(
        shift * means["x"],
        means["mean"],
        yerr=means["sd"].fillna(0) if (means["n"] > 1).any() else None,
        fmt=MARKERS[arm],
        color=colour,
        ms=6.5,
        elinewidth=1.4,
        capsize=3,
        zorder=3,
        label=SHORT[arm],
    )


def reference(
    axis: Axes,
    values: pd.Series,
    label: str,
    colour: str,
    low: bool = False,
    beside: bool = False,
) -> None:
    """A horizontal line with the standard deviation as a band.

    Its label stands over its left end, or `low` below it, or `beside` the axes, where no mark is.
    """
    spread = Spread.of(values)
    if not spread.n:
        return
    axis.axhline(spread.mean, color=colour, lw=1.3, ls=":" if low else "--", zorder=1)
    if spread.sd > 0:
        low_edge, high_edge = spread.mean - spread.sd, spread.mean + spread.sd
        axis.axhspan(low_edge, high_edge, color=colour, alpha=0.07, lw=0, zorder=0)
    place = dict(xytext=(2, -3 if low else 3), va="top" if low else "bottom")
    place = dict(xytext=(4, 0), va="center") if beside else place
    axis.annotate(
        label,
        (1 if beside else 0, spread.mean),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color=colour,
        fontsize=8.5,
        **place,
    )


def handle(arm: str, label: str = "") -> mpl.lines.Line2D:
    """Legend entry of an arm, or of another row with its label."""
    label = label or SHORT.get(arm, "start of the students")
    return mpl.lines.Line2D([], [], marker=MARKERS[arm], ls="", color=COLOURS[arm], label=label)


def empty(axis: Axes, filled: bool) -> None:
    """Say "not run" where there is nothing to draw."""
    if not filled:
        axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center", color=QUIET)


def title(figure: Figure, finding: str, note: str) -> None:
    """The finding in bold over the figure, wrapped to its width; below it a quiet line."""
    width = figure.get_figwidth()
    text = textwrap.fill(no_break(finding), int(width * 8.4))
    figure.suptitle(text, x=0.012, ha="left", weight="bold", fontsize=13)
    if note:
        figure.supxlabel(note, x=0.012, ha="left", fontsize=8, color=QUIET)


def no_break(text: str) -> str:
    """The text with spaces inside of numbers and names made unbreakable."""
    for close in CLOSE:
        text = text.replace(close, close.replace(" ", "\N{NO-BREAK SPACE}"))
    return text


def beside(side: str) -> dict:
    """Settings of a number that stands beside its mark; side: where its text ends or begins."""
    halo = [withStroke(linewidth=2.5, foreground="white")]  # it may stand on a line
    return dict(textcoords="offset points", ha=side, va="center", fontsize=9, path_effects=halo)
