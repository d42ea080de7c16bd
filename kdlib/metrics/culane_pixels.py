"""The pixels of a lane as CULane's official tool draws it, and how much two lanes share.

Fact sheet inter_region_affinity 4, "CULane". `kdlib.metrics.culane` counts with it, and says what a
lane and `size` are; `kdlib.metrics.lanes` has the public names of this room.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

Lanes = Sequence[np.ndarray]

STEPS = 50  # of the curve from one point to the next
FURTHEST = 2**20  # pixels; OpenCV's drawing keeps 16 bits for fractions


def culane_iou(
    predicted: Lanes, truth: Lanes, *, width: int = 30, size: tuple[int, int] = (1640, 590)
) -> np.ndarray:
    """(predicted, labelled) float64: intersection over union of the pixels of the drawn lanes.

    The points of `culane_curve` are rounded to whole pixels, halves to the even one, and joined by
    OpenCV's lines of the thickness `width`: round ends, 31 pixels across for a width of 30. What
    lies outside the picture does not count.

    A pair of which nothing lies in the picture has 0; the tool divides zero by zero there.
    Arguments and errors: see `kdlib.metrics.culane.culane_match`.
    """
    columns, rows = size
    if width < 1 or columns < 1 or rows < 1:
        raise ValueError(f"width {width} and size {size} must be at least one pixel")
    first = [_drawn(lane, "predicted", k, width, size) for k, lane in enumerate(predicted)]
    second = [_drawn(lane, "truth", k, width, size) for k, lane in enumerate(truth)]
    overlap = np.zeros((len(first), len(second)))
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            common = _common_pixels(one, other)
            if common:
                overlap[i, j] = common / (one.pixels + other.pixels - common)
    return overlap


def culane_curve(points: np.ndarray) -> np.ndarray:
    """The curve that the tool draws through the points of a lane.

    Natural cubic splines of x and y over the length of the chords, 50 steps from one point to the
    next. One or two points are returned as they are.

    A point equal to its predecessor is left out; the tool divides by zero there.

    Args:
        points: (P, 2), x and y in pixels, of any real type. The tool reads float32; so does this.

    Returns:
        float32 (50 (P - 1) + 1, 2).

    Raises:
        ValueError: not (P, 2), or values that are no pixels.
    """
    return _curve(_points(points, "points"))


class _Drawn(NamedTuple):
    """A lane drawn into the box about it, which alone is kept."""

    mask: np.ndarray  # (rows, columns) uint8, 0 or 1
    left: int
    top: int
    pixels: int


_NOTHING = _Drawn(np.zeros((0, 0), np.uint8), 0, 0, 0)


def _points(lane: np.ndarray, name: str) -> np.ndarray:
    """(P, 2) float32."""
    points = np.asarray(lane, np.float32)
    if points.size == 0:
        return np.zeros((0, 2), np.float32)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{name} must be points (P, 2), not {points.shape}")
    if not (np.abs(points) <= FURTHEST).all():  # false for nan
        raise ValueError(f"{name} has values that are no pixels: {points[0]} ... {points[-1]}")
    return points


def _drawn(lane: np.ndarray, side: str, number: int, width: int, size: tuple[int, int]) -> _Drawn:
    points = _points(lane, f"lane {number} of {side}")
    if len(points) < 2:
        return _NOTHING
    # the curve has many points in one pixel; a line drawn twice changes nothing
    pixels = _without_repeats(np.rint(_curve(points)).astype(np.int32))
    if len(pixels) == 1:
        pixels = pixels[[0, 0]]
    # A margin wider than half a line: nothing is cut at the box that the picture does not cut.
    margin = width // 2 + 3
    left, top = np.maximum(pixels.min(0) - margin, 0).tolist()
    right, bottom = np.minimum(pixels.max(0) + margin + 1, size).tolist()
    if right <= left or bottom <= top:
        return _NOTHING
    mask = np.zeros((bottom - top, right - left), np.uint8)
    cv2.polylines(mask, [pixels - np.array([left, top], np.int32)], False, 1, width)
    return _Drawn(mask, left, top, cv2.countNonZero(mask))


def _common_pixels(one: _Drawn, other: _Drawn) -> int:
    left, top = max(one.left, other.left), max(one.top, other.top)
    right = min(one.left + one.mask.shape[1], other.left + other.mask.shape[1])
    bottom = min(one.top + one.mask.shape[0], other.top + other.mask.shape[0])
    if right <= left or bottom <= top:
        return 0
    first, second = (
        side.mask[top - side.top : bottom - side.top, left - side.left : right - side.left]
        for side in (one, other)
    )
    return cv2.countNonZero(cv2.bitwise_and(first, second))


def _curve(points: np.ndarray) -> np.ndarray:
    if len(points) <= 2:
        return points
    points = _without_repeats(points)
    if len(points) <= 2:
        return points
    # Differences are float32 in the tool, everything else is float64.
    rise = np.diff(points, axis=0).astype(np.float64)
    gap = np.sqrt(rise[:, 0] ** 2 + rise[:, 1] ** 2)
    slope = rise / gap[:, None]
    bend = np.stack([_bends(gap.tolist(), column) for column in slope.T.tolist()], 1)

    h = gap[:, None]
    a = points[:-1].astype(np.float64)
    b = slope - (2 * h * bend[:-1] + h * bend[1:]) / 6
    c = bend[:-1] / 2
    d = (bend[1:] - bend[:-1]) / (6 * h)
    t = ((gap / STEPS)[:, None] * np.arange(STEPS))[:, :, None]
    curve = a[:, None] + b[:, None] * t + c[:, None] * (t * t) + d[:, None] * (t * t * t)
    return np.concatenate([curve.reshape(-1, 2).astype(np.float32), points[-1:]])


def _without_repeats(points: np.ndarray) -> np.ndarray:
    moved = points[1:] != points[:-1]
    return points[np.concatenate([[True], moved[:, 0] | moved[:, 1]])]


def _bends(gap: list[float], slope: list[float]) -> np.ndarray:
    """(P,) second derivatives at the points of a natural spline, 0 at both ends.

    For each inner point h0 m0 + 2 (h0 + h1) m1 + h1 m2 = 6 (slope1 - slope0), solved by one sweep
    forward and one back in the order of the tool, since a bit may decide which pixel is hit.
    """
    share, value = [0.0], [0.0]  # m of a point is value - share * m of the next
    for k in range(len(gap) - 1):
        pivot = 2 * (gap[k] + gap[k + 1]) - gap[k] * share[-1]
        share.append(gap[k + 1] / pivot)
        value.append((6 * (slope[k + 1] - slope[k]) - gap[k] * value[-1]) / pivot)
    bends = np.zeros(len(gap) + 1)
    for k in range(len(gap) - 1, 0, -1):
        bends[k] = value[k] - share[k] * bends[k + 1]
    return bends
