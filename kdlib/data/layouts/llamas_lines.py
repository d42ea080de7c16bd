"""What a label file of LLAMAS means: cleaned lanes, the mask drawn of them, a curve for each.

A file holds a ``projection_matrix`` (3x3, of a camera whose z axis points ahead) and ``lanes``; a
lane has a ``lane_id`` (l0 is next to the camera on the left, l1 beyond it; r0, r1 on the right) and
``markers``, the dashes or pieces of its line: ``world_start`` and ``world_end`` (x, y, z, metres)
and ``pixel_start`` and ``pixel_end`` (x, y). Numbers may be text. Rules: inter_region_affinity fact
sheet, sections 4 and 6, and the label scripts that the data set's authors published.

- Lanes are cleaned first: one of under 20 pixels, between the lowest and the highest start of its
  markers, or of fewer than two markers is dropped; then each side's names, sorted as text, are
  numbered from 0 again. Two lanes of one name share the higher number.
- The mask is drawn from world coordinates: each marker is a quadrilateral between its two projected
  ends, at an end of depth z as wide as 0.1 m are there, focal length x 0.1 / z pixels, its corners
  rounded to whole pixels, filled twice with smoothed edges. Only pixels of exactly a lane's colour
  count; what smoothing has mixed is background. A marker of no height in pixels is not drawn. Lanes
  are drawn in the file's order, each over those before it, in the official colours, since these
  decide which mixed pixels come out exact.
- Nothing is drawn between two markers: the official mask of a dashed line is dashed.
- A curve has an x for every row, from pixel coordinates: the line is followed along each marker
  over two pixels high, the x of one row are averaged, and rows between markers interpolated. The
  marker nearest to the camera is first prolonged to the lower or side edge of the picture.

Shape suffixes: H, W picture, M markers, P points, E = 2 ends (start, end).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kdlib.data.layouts.sample import LayoutError

NAMES = ("l1", "l0", "r0", "r1")  # classes 1 to 4
# Blue, green, red, as the official scripts colour lanes.
COLOURS = {
    "l6": (75, 25, 230), "l5": (75, 180, 60), "l4": (200, 130, 0), "l3": (48, 130, 245),
    "l2": (180, 30, 145), "l1": (0, 0, 255), "l0": (24, 140, 34), "r0": (255, 0, 0),
    "r1": (0, 255, 255), "r2": (40, 110, 170), "r3": (200, 250, 255), "r4": (255, 190, 230),
    "r5": (0, 0, 128), "r6": (195, 255, 170), "r7": (0, 128, 128), "r8": (195, 255, 170),
}  # fmt: skip
FARTHER = (255, 255, 255)  # beyond l6 and r8, for which the official scripts have no colour
MARKER_WIDTH = 0.1  # metres
MIN_HEIGHT, MIN_MARKERS = 20, 2
CURE = "unpack the official labels.zip again, unmodified"


@dataclass(frozen=True)
class Lane:
    """The markers of one lane, their starts and ends.

    Attributes:
        pixels: int64 (M, E, 2), x and y.
        world: float64 (M, E, 3), x, y and z in metres.
    """

    name: str
    pixels: np.ndarray
    world: np.ndarray


@dataclass(frozen=True)
class Label:
    """A cleaned label file; `dropped` counts the lanes that cleaning took away."""

    projection: np.ndarray
    lanes: tuple[Lane, ...]
    dropped: int


def read(path: Path) -> Label:
    """A label file, cleaned.

    Raises:
        LayoutError: missing, no JSON, a field that is missing or of the wrong kind, a lane that is
            neither left nor right, or a marker that is not in front of the camera.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LayoutError(path, "is missing", CURE) from None
    except (OSError, ValueError) as error:
        raise LayoutError(path, f"is not whole JSON ({error})", CURE) from None
    if not isinstance(content, dict) or not isinstance(content.get("lanes"), list):
        raise LayoutError(path, "holds no list of lanes", CURE)
    try:
        projection = np.array(content.get("projection_matrix"), np.float64)
    except (TypeError, ValueError):
        projection = np.empty(0)
    if projection.shape != (3, 3) or not np.isfinite(projection).all():
        raise LayoutError(path, "holds no projection_matrix of 3x3 numbers", CURE)
    if projection[2].tolist() != [0, 0, 1]:
        raise LayoutError(path, "has a projection_matrix whose last row is not 0 0 1", CURE)
    lanes = [_lane(path, number, lane) for number, lane in enumerate(content["lanes"], start=1)]
    kept = [lane for lane in lanes if _counts(lane)]
    renamed = _renamed([lane.name for lane in kept])
    cleaned = (Lane(renamed[lane.name], lane.pixels, lane.world) for lane in kept)
    return Label(projection, tuple(cleaned), len(lanes) - len(kept))


def check_rows(path: Path, label: Label, size_hw: tuple[int, int]) -> None:
    """Whether the markers' rows lie in a picture of that size.

    Raises:
        LayoutError: they do not: the picture was resized and its label was not.
    """
    for lane in label.lanes:
        rows = lane.pixels[..., 1]
        if rows.min() < 0 or rows.max() >= size_hw[0]:
            row = rows.min() if rows.min() < 0 else rows.max()
            what = f"has a marker of {lane.name} in row {row}, but its image {size_hw[0]} rows"
            raise LayoutError(path, what, f"{CURE}, and the images in their own size")


def draw(label: Label, size_hw: tuple[int, int]) -> np.ndarray:
    """uint8 HW of 0 = background and 1..4 = `NAMES`: the official mask."""
    canvas_HW3 = np.zeros((*size_hw, 3), np.uint8)
    for lane in label.lanes:
        for marker_E3 in lane.world:
            corners = _corners(marker_E3, label.projection)
            if corners[0, 1] != corners[3, 1]:
                for _ in range(2):
                    colour = COLOURS.get(lane.name, FARTHER)
                    cv2.fillConvexPoly(canvas_HW3, corners, colour, cv2.LINE_AA)
    # As one number a pixel, a colour is compared ten times as fast as by its channels.
    codes_HW = cv2.cvtColor(canvas_HW3, cv2.COLOR_BGR2BGRA).view("<u4")[..., 0] & 0xFFFFFF
    mask_HW = np.zeros(size_hw, np.uint8)
    for index, name in enumerate(NAMES, start=1):
        blue, green, red = COLOURS[name]
        mask_HW[codes_HW == (blue | green << 8 | red << 16)] = index
    return mask_HW


def curves(label: Label, size_hw: tuple[int, int]) -> list[np.ndarray]:
    """(P, 2) float64 x, y for each of l1, l0, r0, r1 that is there, a point a row, top first."""
    found: dict[str, np.ndarray] = {}
    for lane in label.lanes:
        curve_P2 = _curve(lane, size_hw)
        if lane.name in NAMES and len(curve_P2) > 1:
            found[lane.name] = curve_P2
    return [found[name] for name in NAMES if name in found]


def _lane(path: Path, number: int, lane: Any) -> Lane:
    name = lane.get("lane_id") if isinstance(lane, dict) else None
    if not isinstance(name, str) or name[:1] not in ("l", "r"):
        what = f"lane {number} has no lane_id that starts with l or r"
        raise LayoutError(path, what, CURE)
    markers = lane.get("markers")
    if not isinstance(markers, list):
        raise LayoutError(path, f"lane {name} has no list of markers", CURE)
    pixels, world = [], []
    for count, marker in enumerate(markers, start=1):
        try:
            pixels.append(
                [[int(marker[key][axis]) for axis in "xy"] for key in ("pixel_start", "pixel_end")]
            )
            world.append(
                [
                    [float(marker[key][axis]) for axis in "xyz"]
                    for key in ("world_start", "world_end")
                ]
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            what = (
                f"marker {count} of lane {name} lacks a number of pixel_start, pixel_end (whole), "
                "world_start or world_end"
            )
            raise LayoutError(path, what, CURE) from None
    pixels_ME2 = np.array(pixels, np.int64).reshape(-1, 2, 2)
    world_ME3 = np.array(world, np.float64).reshape(-1, 2, 3)
    if not np.isfinite(world_ME3).all() or (world_ME3[..., 2] <= 0).any():
        raise LayoutError(path, f"lane {name} has a marker that is not ahead of the camera", CURE)
    return Lane(name, pixels_ME2, world_ME3)


def _counts(lane: Lane) -> bool:
    if len(lane.pixels) < MIN_MARKERS:
        return False
    return bool(np.ptp(lane.pixels[:, 0, 1]) >= MIN_HEIGHT)


def _renamed(names: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    counts = {"l": 0, "r": 0}
    for name in sorted(names):
        side = name[0]
        found[name] = f"{side}{counts[side]}"
        counts[side] += 1
    return found


def _corners(marker_E3: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """int32 (4, 2) x, y: left and right of the start, right and left of the end."""
    corners = np.zeros((4, 2), np.float32)
    for point, (first, second) in zip(marker_E3, ((0, 1), (3, 2)), strict=True):
        x, y, depth = projection @ point
        half = projection[0, 0] * MARKER_WIDTH / point[2] / 2
        corners[first] = x / depth - half, y / depth
        corners[second] = x / depth + half, y / depth
    return np.round(corners).astype(np.int32)


def _curve(lane: Lane, size_hw: tuple[int, int]) -> np.ndarray:
    sums, counts = np.zeros(size_hw[0]), np.zeros(size_hw[0])
    for (x, y), (end_x, end_y) in (*_prolonged(lane, size_hw), *lane.pixels):
        rows, columns = [y], [x]
        if y - end_y > 2:
            steps = np.arange(y - end_y + 1)
            rows = np.append(rows, y - steps)
            columns = np.append(columns, np.rint(x + (end_x - x) / (y - end_y) * steps))
        np.add.at(sums, rows, columns)
        np.add.at(counts, rows, 1)
    known = np.flatnonzero(counts)
    y_P = np.arange(known[0], known[-1] + 1)
    x_P = np.interp(y_P, known, sums[known] / counts[known])
    return np.stack((x_P, y_P), axis=1)[x_P >= 0]


def _prolonged(lane: Lane, size_hw: tuple[int, int]) -> list[np.ndarray]:
    """The nearest marker prolonged to the edge, as pixels of one marker more; or nothing.

    Upright and level markers are not prolonged: the official script takes them for faulty ones.
    """
    height, width = size_hw
    sloping = (lane.pixels[:, 0] != lane.pixels[:, 1]).all(axis=1)
    if not sloping.any():
        return []
    depths = np.where(sloping, lane.world[:, 0, 2], np.inf)
    (x, y), (end_x, end_y) = (map(int, end) for end in lane.pixels[int(depths.argmin())])
    x_per_row, y_per_column = (end_x - x) / (end_y - y), (end_y - y) / (end_x - x)
    bottom_x = x + (height - 1 - y) * x_per_row
    if bottom_x < 0:
        edge = 0, y - x * y_per_column
    elif bottom_x > width:
        edge = width, y + (width - x) * y_per_column
    else:
        edge = bottom_x, height - 1
    if not 0 <= round(edge[1]) < height:
        return []
    return [np.array([[round(edge[0]), round(edge[1])], [x, y]], np.int64)]
