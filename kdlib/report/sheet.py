"""Rows of pictures, for the pages that train.

A room of its own, without the look of the result pages: what a page imports, its training depends
on, and a new colour in a figure must not train anything again.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    captions: Sequence[str] = (),
    title: str = "",
    *,
    height: float = 1.4,
) -> Figure:
    """Rows of pictures under one title, `captions` over the first row; `height` of a row in inches.

    Pictures are HWC (uint8, or float 0..1); rows may have fewer pictures than the first.
    """
    inches = 0.35 + height * len(rows)
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=(10, inches), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        for axis, picture in zip(line, row, strict=False):
            axis.imshow(picture, interpolation="nearest")
    for axis, caption in zip(axes[0], captions, strict=False):
        axis.set_title(caption, fontsize=8, pad=3, loc="left")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout(pad=0.4, rect=(0, 0, 1, 1 - 0.2 / inches))
    return figure
