"""Lane lines as BDD100K stores them."""

import cv2
import numpy as np

from kdlib.simulate.lines import Lane

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


def polyline(points) -> np.ndarray:
    """The points (P, 2) of a line in 1/16 pixels, for OpenCV."""
    return np.rint(np.array(points) * 16).astype(np.int32)


def bdd_mask(lines: list[Lane], size: tuple[int, int]) -> np.ndarray:
    """Lane marking mask (H, W): category + 16 if dashed (+ 32 if vertical); 255 = background."""
    mask = np.full(size, BACKGROUND, np.uint8)
    for line in lines:
        value = CATEGORIES.index(line.category) + DASHED_BIT * line.dashed
        cv2.polylines(mask, [polyline(line.points)], False, value, max(size[0] // 144, 1), shift=4)
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
