"""Boxes and pictures as KITTI's 2-D object benchmark stores them.

What a label line says of size, place and turn in space is KITTI's word for unknown.
"""

import numpy as np

from kdlib.simulate.render import Box

# Buses and bicycles that nobody rides are Misc, trains and trams Tram. Lights and signs are not
# labelled in KITTI.
TYPES = {
    "pedestrian": "Pedestrian", "rider": "Cyclist", "car": "Car", "truck": "Truck", "bus": "Misc",
    "train": "Tram", "motorcycle": "Misc", "bicycle": "Misc",
}  # fmt: skip
VISIBLE = (0.8, 0.5, 0.2)  # share of the box that is seen: at least this for occlusion 0, 1, 2
TINY = 12  # pixels; lower things are labelled DontCare, as KITTI does with what is far away
UNKNOWN = "-1 -1 -1 -1000 -1000 -1000 -10"


def number(split: str, k: int) -> str:
    """The number of the k-th image of a split: every third image is one of val.

    It depends on nothing else, so a longer data set keeps the images of a shorter one.
    """
    return f"{k * 3 + 2 if split == 'val' else k + k // 2:06d}"


def coarse(image: np.ndarray) -> np.ndarray:
    """A picture with 32 levels a channel, whose PNG is little more than half as large."""
    return image & 0xF8 | 0x04


def labels(boxes: list[Box], size: tuple[int, int]) -> str:
    """The label file of a picture.

    A box encloses the whole object, hidden parts too, as far as it lies on the picture. Its ends
    are one past the last pixel, so that right minus left is the width, as the official evaluation
    has it.
    """
    things: dict[int, list[Box]] = {}
    for box in boxes:
        if box.category in TYPES:
            things.setdefault(box.thing, []).append(box)
    return "".join(_line(parts, size) + "\n" for parts in things.values())


def _line(parts: list[Box], size: tuple[int, int]) -> str:
    """One object, of one part or, where someone rides, of up to two."""
    height, width = size
    seen = _around([(box.x1, box.y1, box.x2 + 1, box.y2 + 1) for box in parts])
    # Whose other part is hidden wholly has no extent here; what is seen is inside in any case.
    whole = _around([seen, *((a, b, c + 1, d + 1) for a, b, c, d in (p.extent for p in parts))])
    x1, y1 = max(whole[0], 0), max(whole[1], 0)
    x2, y2 = min(whole[2], width), min(whole[3], height)
    box = f"{x1}.00 {y1}.00 {x2}.00 {y2}.00"
    if y2 - y1 < TINY:
        return f"DontCare -1 -1 -10 {box} {UNKNOWN}"
    kind = TYPES["rider" if any(box.ridden for box in parts) else parts[0].category]
    share = _area(seen) / _area((x1, y1, x2, y2))
    occlusion = next((k for k, least in enumerate(VISIBLE) if share >= least), 3)
    truncation = 1 - _area((x1, y1, x2, y2)) / _area(whole)
    return f"{kind} {truncation:.2f} {occlusion} -10 {box} {UNKNOWN}"


def _around(boxes: list[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
