"""From probability maps to lanes, as CULane's official post-processing does.

Fact sheet inter_region_affinity 4, "Probability map to lanes": a map is stored in whole numbers,
smoothed, and read at 18 rows. No curve is fitted here; `kdlib.metrics.culane` draws one.
`kdlib.metrics.lanes` has the public names of this room.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

ROWS = 18  # read from the bottom up
SPACING, HEIGHT = 20, 590  # pixels from row to row, and of the picture, in CULane


def lanes_from_probabilities(
    probability_CHW: Tensor | np.ndarray,
    existence: Tensor | np.ndarray | Sequence[float] | None = None,
    *,
    size: tuple[int, int] = (1640, 590),
    top: int = 240,
    threshold: float = 0.3,
    blur: int = 9,
) -> list[np.ndarray]:
    """The lanes of one picture from the answer of a network.

    The map (h, w) of a lane shows the rows `top` ... H - 1 of a picture of `size` (W, H). It is
    multiplied by 255, cut to whole numbers, and replaced by its mean over `blur` x `blur` pixels
    (`cv2.blur`, rounded to whole numbers). Then, for i = 1 ... 18 and s = 20 H / 590, rows and
    columns of the map counted from 1, halves rounded up,

        row = round(h - (i - 1) s h / (H - top)),    column = the first of the greatest values,
        x = round(column W / w) - 1,                 y = round(H - (i - 1) s) - 1,

    is a point of the lane where value / 255 > `threshold` and row is 1 or more. A lane has two
    points or more, and a probability of existence above 0.5.

    With the defaults and a map of 208 x 976 this is the official rule to the digit: rows 208, 196,
    184 ... 6, y = 589, 569, 549 ... 249. The released Python port differs: it reads one row higher,
    takes the first lane whether it exists or not, and writes x one higher.

    Args:
        probability_CHW: after the softmax, channel 0 the background, one channel for each lane.
            A map smaller than the network's input should be enlarged first.
        existence: (C - 1,) probabilities, after the sigmoid. None: every lane exists.
        size: (width, height) of the whole picture.
        top: rows of the picture above the map.
        threshold: least probability, to be exceeded.
        blur: side of the window. 9 belongs to a lane about 10 pixels wide in a map 976 wide; on a
            map of another width, the odd number nearest to 9 w / 976 keeps the proportion.

    Returns:
        Lanes float64 (P, 2), x and y in pixels of the whole picture from the bottom up, in order
        of the channels. Lanes that are not found are left out.

    Raises:
        ValueError: shapes that do not fit, values that are no probabilities, an even `blur`, a
            `top` outside the picture.
    """
    probability = _probabilities(probability_CHW, "probability_CHW")
    if probability.ndim != 3 or len(probability) < 2:
        raise ValueError(
            f"probability_CHW must be (1 + lanes, h, w), not {probability.shape}: one picture, "
            "with its background"
        )
    lanes, h, w = probability[1:].shape
    columns, rows = size
    if not 0 <= top < rows or columns < 1:
        raise ValueError(f"top {top} must be a row of a picture of size (width, height) {size}")
    if blur < 1 or blur % 2 == 0:
        raise ValueError(f"blur must be odd, 1 or more, not {blur}")
    present = np.ones(lanes, bool)
    if existence is not None:
        chances = _probabilities(existence, "existence")
        if chances.shape != (lanes,):
            raise ValueError(f"existence must be ({lanes},), not {chances.shape}")
        present = chances > 0.5

    spacing = SPACING * rows / HEIGHT
    distance = [k * spacing for k in range(ROWS)]
    row = np.array([_round(h - d / (rows - top) * h) for d in distance])
    y = np.array([_round(rows - d) - 1 for d in distance])
    row, y = row[row >= 1], y[row >= 1]

    found = []
    for lane in np.flatnonzero(present) + 1:
        one = probability[lane]
        stored = cv2.blur((one * 255).astype(np.uint8), (blur, blur))[row - 1]
        column = stored.argmax(1)
        kept = stored.max(1) / 255 > threshold
        if kept.sum() >= 2:
            x = [_round((int(k) + 1) * columns / w) - 1 for k in column[kept]]
            found.append(np.stack([x, y[kept]], 1).astype(np.float64))
    return found


def _round(value: float) -> int:
    """To the nearest whole number, halves up, as MATLAB rounds what is not negative."""
    return math.floor(value + 0.5)


def _probabilities(values: Tensor | np.ndarray | Sequence[float], name: str) -> np.ndarray:
    """A float32 or float64 array of values from 0 to 1, or beside them by less than 1e-4."""
    if isinstance(values, Tensor):
        values = values.detach()
        values = (values if values.dtype == torch.float64 else values.float()).cpu().numpy()
    array = np.asarray(values)
    array = array if array.dtype == np.float64 else array.astype(np.float32)
    if array.size and not (array.min() > -1e-4 and array.max() < 1 + 1e-4):  # false for nan
        raise ValueError(
            f"{name} has values that are not from 0 to 1: give probabilities, after softmax or "
            "sigmoid, not logits"
        )
    return array
