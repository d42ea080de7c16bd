"""What each cell of the map costs in feature imitation, before the student has learnt anything.

Fact sheet feature_imitation, section 2. The adapter's first weights are near zero, so a cell costs
half the squared length of the teacher's feature there.

Shape suffixes: N images, H and W rows and columns of the map.
"""

import numpy as np
import seaborn as sns
from matplotlib.colors import LogNorm

from kdlib.report import look
from kdlib.report.look import Picture, style

DEAREST = 0.01  # share of the cells that the finding speaks of


def cost_finding(cost_NHW: np.ndarray, region_NHW: np.ndarray) -> str:
    """Where the loss of the whole map lies, and what a cell inside the region costs beside others.

    cost_NHW: half the squared length of the teacher's features. region_NHW: bool, the cells of
    letter I.
    """
    total = float(cost_NHW.sum())
    if not total:
        return "The teacher's features are 0 everywhere"
    count = max(1, round(DEAREST * cost_NHW.size))
    share = 100 * float(np.sort(cost_NHW, axis=None)[-count:].sum()) / total
    text = f"The dearest {100 * DEAREST:g} % of the cells are {share:.0f} % of the whole map's loss"
    if region_NHW.any() and not region_NHW.all():
        inside, outside = cost_NHW[region_NHW].mean(), cost_NHW[~region_NHW].mean()
        text += f"; a cell costs {_text(inside)} in the region, {_text(outside)} beyond it"
    return text


def _text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def cost_figure(cost_NHW: np.ndarray, region_NHW: np.ndarray) -> Picture:
    """Mean cost of each cell, how often it lies in the region, and the cost row by row.

    The title is `cost_finding`.
    """
    mean_HW, often_HW = cost_NHW.mean(0), 100 * region_NHW.mean(0)
    rows, columns = mean_HW.shape
    least = max(float(mean_HW.max()) * 1e-6, 1e-12)
    with style():
        figure = look.figure(11.5, 3.1)
        axes = figure.subplots(1, 3, width_ratios=[1.0, 1.0, 0.6])
        shown = (
            (mean_HW.clip(least), "Cost of a cell (logarithmic)", {"norm": LogNorm()}),
            (often_HW, "Share of the stills in which it is in the region, %", {"vmin": 0}),
        )
        for axis, (values, title, how) in zip(axes, shown, strict=False):
            drawn = axis.imshow(values, cmap="viridis", aspect="auto", **how)
            figure.colorbar(drawn, ax=axis, orientation="horizontal", aspect=40)
            axis.set(title=title, xticks=[], yticks=range(rows), ylabel="row of cells")
            axis.grid(False)
        axes[2].barh(range(rows), mean_HW.mean(1).clip(least), color=look.COLOURS["f"])
        axes[2].set(xscale="log", yticks=range(rows), xlabel="mean cost of a cell")
        axes[2].invert_yaxis()
        axes[2].set_title("Row by row")
        axes[2].grid(axis="x")
        sns.despine(ax=axes[2])
        note = f"{len(cost_NHW)} stills, maps of {rows} x {columns} cells; row 0 is the top."
        look.title(figure, cost_finding(cost_NHW, region_NHW), note)
    return figure
