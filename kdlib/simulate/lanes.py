"""Lane lines as BDD100K and CULane store them."""

from itertools import pairwise

import cv2
import numpy as np

from kdlib.simulate.render import Lane

# Train ids of BDD100K's lane marking categories (its toolkit's label.py).
CATEGORIES = (
    "crosswalk",
    "double other",
    "double white",
    "double yellow",
    "road curb",
    "single other",
    "single white",
    "single yellow",
)
DASHED_BIT = 1 << 4
BACKGROUND = 255


def _polyline(points, scale: int = 16) -> np.ndarray:
    return np.rint(np.array(points) * scale).astype(np.int32)


def bdd_mask(lines: list[Lane], size: tuple[int, int]) -> np.ndarray:
    """Lane marking mask (H, W): category + 16 if dashed (+ 32 if vertical); 255 = background."""
    mask = np.full(size, BACKGROUND, np.uint8)
    for line in lines:
        value = CATEGORIES.index(line.category) + DASHED_BIT * line.dashed
        cv2.polylines(mask, [_polyline(line.points)], False, value, max(size[0] // 144, 1), shift=4)
    return mask


def bdd_labels(name: str, lines: list[Lane]) -> dict:
    """One frame of lane markings in Scalabel's form, as open polylines."""
    labels = [
        {
            "id": f"{name}-lane-{k}",
            "category": line.category,
            "attributes": {
                "laneDirection": "parallel",
                "laneStyle": "dashed" if line.dashed else "solid",
            },
            "poly2d": [
                {
                    "vertices": [list(p) for p in line.points],
                    "types": "L" * len(line.points),
                    "closed": False,
                }
            ],
        }
        for k, line in enumerate(lines)
    ]
    return {"name": f"{name}.jpg", "labels": labels}


def culane_name(seed: str) -> str:
    """Path of a frame inside a CULane tree, without its ending; each clip has one frame."""
    number = int(seed.rsplit("/", 1)[1])
    return f"driver_{number % 3}_00frame/{number:08d}.MP4/00000"


def four_lanes(lines: list[Lane], size: tuple[int, int]) -> list[list[tuple[float, int]]]:
    """CULane's four places: second left, left, right, second right of the camera.

    Each is a list of (x, y), from the bottom up, one every 5 rows; empty where there is no line.
    """
    left = sorted((line for line in lines if line.offset < 0), key=lambda line: -line.offset)
    right = sorted((line for line in lines if line.offset >= 0), key=lambda line: line.offset)
    places = [*reversed([*left, None, None][:2]), *[*right, None, None][:2]]
    return [sample_rows(line.points, size) if line else [] for line in places]


def sample_rows(points, size: tuple[int, int]) -> list[tuple[float, int]]:
    """x of a polyline (far to near) at every fifth row, from the bottom up, inside the picture."""
    out = []
    for y in range(size[0] - size[0] % 5, 0, -5):
        for (x0, y0), (x1, y1) in pairwise(points):
            if y0 < y <= y1:
                x = x0 + (x1 - x0) * (y - y0) / (y1 - y0)
                if 0 <= x < size[1]:
                    out.append((round(x, 2), y))
                break
    return out if len(out) >= 2 else []


def culane_lines(places: list[list[tuple[float, int]]]) -> str:
    """The text of a .lines.txt: one line per lane, x and y in turn."""
    return "".join(" ".join(f"{x} {y}" for x, y in lane) + "\n" for lane in places if lane)


def culane_mask(places: list[list[tuple[float, int]]], size: tuple[int, int]) -> np.ndarray:
    """Segmentation of the lanes: 0 background, 1..4 by place; 16 pixels wide at 590 rows."""
    mask = np.zeros(size, np.uint8)
    for value, lane in enumerate(places, 1):
        if lane:
            cv2.polylines(
                mask, [_polyline(lane)], False, value, max(size[0] * 16 // 590, 1), shift=4
            )
    return mask


def culane_lists(rows: list[dict]) -> tuple[str, str]:
    """The texts of list/<split>.txt and list/<split>_gt.txt."""
    plain = "".join(f"/{row['name']}.jpg\n" for row in rows)
    full = "".join(
        f"/{row['name']}.jpg /laneseg_label_w16/{row['name']}.png "
        f"{' '.join(map(str, row['exists']))}\n"
        for row in rows
    )
    return plain, full
