"""Boxes in Scalabel's JSON, as BDD100K's det_20 has them (function_matching fact sheet 4.4, 4.5).

A file is a list of frames, or an object that holds one under "frames". A frame has a name and
labels; its ``labels`` may be absent, null or empty, and then it shows no object.

Boxes include their last pixel, so 1 is added to x2 and y2. Older names stand for newer ones
(`ALIASES`). Categories that are like a class but are not it (`IGNORED_AS`), and labels with the
attribute ``crowd`` or ``ignored``, are neither objects nor errors where found.
"""

import json
from collections import Counter
from pathlib import Path

from kdlib.data.layouts.audit import Finding
from kdlib.data.layouts.box_files import BOXLESS, Row, Rows, cached, gathered
from kdlib.data.layouts.files import listed
from kdlib.data.layouts.sample import LayoutError, Problem

CLASSES = (
    "pedestrian",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
    "traffic light",
    "traffic sign",
)  # the official order: COCO category ids 1 to 10
ALIASES = {
    "person": "pedestrian",
    "bike": "bicycle",
    "motor": "motorcycle",
    "caravan": "car",
    "van": "car",
}
IGNORED_AS = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}
CATEGORIES = frozenset((*CLASSES, *ALIASES, *IGNORED_AS))
JSON_CURE = "unpack the official det_20 label archive again"
IMAGE_CURE = "unpack the official image archive (100k images) again, unmodified"


def read(path: Path) -> list[dict]:
    """The frames of a file. Raises LayoutError for broken JSON or anything but named frames."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LayoutError(path, "is missing", JSON_CURE) from None
    except ValueError as error:
        raise LayoutError(path, f"is not whole JSON ({error})", JSON_CURE) from None
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list) or not all(
        isinstance(frame, dict) and isinstance(frame.get("name"), str) for frame in frames
    ):
        raise LayoutError(path, "is no list of Scalabel frames, each with a name", JSON_CURE)
    return frames


@cached
def rows(path: Path) -> dict[str, Rows]:
    """Every frame's boxes by the frame's name, parsed once a process.

    Raises:
        LayoutError: broken JSON, or a frame that is named twice.
    """
    found: dict[str, Rows] = {}
    for frame in read(path):
        if frame["name"] in found:
            raise LayoutError(path, f"describes {frame['name']} twice", JSON_CURE)
        found[frame["name"]] = _frame(frame)
    return found


def look(path: Path, folder: Path) -> Finding:
    """The audit of a file beside a segmentation set: its form, and whether its images are there."""
    try:
        frames = read(path)
    except LayoutError as error:
        return Finding((error.problem,))
    there = set(listed(folder, (".jpg",), IMAGE_CURE)) if folder.is_dir() else None
    found: list[Problem] = []
    for frame in frames:
        name = frame["name"]
        if there is not None and Path(name).stem not in there:
            found.append(missing(path, folder / name))
        for what in _frame(frame).faults:
            found.append(Problem(path, f"frame {name}: {what}", JSON_CURE))
    return Finding(tuple(found))


def missing(path: Path, image: Path) -> Problem:
    """That an image is not there which a file describes."""
    return Problem(image, f"is missing, but {path.name} describes it", IMAGE_CURE)


def _frame(frame: dict) -> Rows:
    boxes: list[Row] = []
    faults: list[str] = []
    notes: Counter[str] = Counter()
    labels = [] if frame.get("labels") is None else frame["labels"]
    if not isinstance(labels, list) or not all(isinstance(one, dict) for one in labels):
        return Rows(faults=("its labels are no list of objects",))
    for label in labels:
        category = label.get("category")
        if not isinstance(category, str) or category not in CATEGORIES:
            faults.append(f"unknown category {category!r}")
            continue
        box = label.get("box2d")
        if box is None:
            notes[BOXLESS] += 1
            continue
        try:
            x1, y1, x2, y2 = (float(box[side]) for side in ("x1", "y1", "x2", "y2"))
        except (KeyError, TypeError, ValueError):
            faults.append(f"a box is not four numbers x1, y1, x2, y2 ({box})")
            continue
        if x2 < x1 or y2 < y1:
            faults.append("a box ends before it starts")
            continue
        attributes = {} if label.get("attributes") is None else label["attributes"]
        if not isinstance(attributes, dict):
            faults.append(f"the attributes are no names with values ({attributes})")
            continue
        ignored = category in IGNORED_AS or any(attributes.get(k) for k in ("crowd", "ignored"))
        name = IGNORED_AS.get(category, ALIASES.get(category, category))
        boxes.append(Row((x1, y1, x2 + 1, y2 + 1), CLASSES.index(name), bool(ignored)))
    return gathered(boxes, faults, notes)
