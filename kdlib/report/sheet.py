"""Rows of pictures, and boxes painted into them, for the pages that train.

A room of its own, without the look of the result pages: what a page imports, its training depends
on, and a new colour in a figure must not train anything again.
"""

from collections.abc import Sequence

import cv2
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


def outlined(
    picture_HWC: np.ndarray,
    xyxy: np.ndarray,
    colours: Sequence[Sequence[float]],
    *,
    enlarge: int = 3,
    thick: int = 2,
) -> np.ndarray:
    """The picture, enlarged, with the outlines of boxes.

    Args:
        picture_HWC: RGB, uint8 or float 0..1.
        xyxy: (G, 4) corners in pixels of the picture.
        colours: of each box, R, G, B in 0..255.
        enlarge: factor of the sides.
        thick: pixels of a line, after enlarging.

    Returns:
        uint8, (enlarge H, enlarge W, 3).
    """
    if picture_HWC.dtype != np.uint8:
        picture_HWC = (255 * picture_HWC).round().astype(np.uint8)
    size = (enlarge * picture_HWC.shape[1], enlarge * picture_HWC.shape[0])
    canvas = cv2.resize(picture_HWC, size, interpolation=cv2.INTER_LINEAR)
    for (x1, y1, x2, y2), colour in zip(enlarge * np.asarray(xyxy), colours, strict=True):
        corners = (round(x1), round(y1)), (round(x2) - 1, round(y2) - 1)
        cv2.rectangle(canvas, *corners, [int(part) for part in colour], thick)
    return canvas
