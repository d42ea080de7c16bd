"""Careful reading of label files with boxes, shared by the detection layouts.

A reader first turns a file into rows, of which some may be wrong; `strict` refuses a still with a
wrong row, `look` reports every one of them. What is right but worth knowing, such as objects of
classes that do not take part, is counted in `Rows.notes` and summed up by the audit.

- A box that ends before it starts, is not finite, or lies wholly outside its image is an error.
- A box that reaches over the edge is kept as the file has it: no official tool clips labels.
- A box without area cannot be found by any detector. It is kept as ignored, and noted.
- Training logs once a process what was noted, such as boxes without area or objects of classes that
  do not take part; not `OVER`, which changes nothing.

Shape suffix G: boxes of one image.
"""

import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from kdlib.data.layouts import audit
from kdlib.data.layouts.audit import Finding
from kdlib.data.layouts.sample import IGNORE, Coding, LayoutError, Problem, Sample
from kdlib.detection import Boxes, no_boxes

T = TypeVar("T")
log = logging.getLogger(__name__)

NO_MASKS = Coding((), IGNORE, "", (range(0), ""))
OVER = "boxes that reach over the edge of their image, kept as they are"
EMPTY = "boxes without area, kept as ignored"
BOXLESS = "labels without a box, left out"
SLACK = 1.0  # pixels over the edge that rounding explains


class Row(NamedTuple):
    """One labelled box as `kdlib.detection.Boxes` wants it: pixels, end outside."""

    xyxy: tuple[float, float, float, float]
    class_: int
    ignored: bool = False
    difficulty: int = 0


@dataclass(frozen=True)
class Rows:
    """What a label file says of one image: its boxes, what is wrong, what else is worth a count."""

    boxes: Boxes = field(default_factory=no_boxes)
    faults: tuple[str, ...] = ()
    notes: Counter[str] = field(default_factory=Counter)


def gathered(rows: Sequence[Row], faults: Sequence[str] = (), notes: Counter | None = None) -> Rows:
    """The rows of one image as arrays, which take a tenth of the memory."""
    boxes = Boxes(
        np.array([row.xyxy for row in rows], np.float32).reshape(-1, 4),
        np.array([row.class_ for row in rows], np.int64),
        np.array([row.ignored for row in rows], bool),
        np.array([row.difficulty for row in rows], np.int64),
    )
    return Rows(boxes, tuple(faults), Counter(notes))


def cached(parse: Callable[[Path], T]) -> Callable[[Path], T]:
    """`parse`, run once a process for each state of a file (its path, size and time of change).

    The two files used last are kept: the splits of a training.
    """
    kept: dict[tuple[str, int, int], T] = {}
    lock = threading.Lock()

    def get(path: Path) -> T:
        try:
            stat = Path(path).stat()
        except OSError:
            return parse(path)  # which says what is wrong
        key = (str(path), stat.st_size, stat.st_mtime_ns)
        with lock:  # threads that ask for the same file wait for the one that reads it
            if key not in kept:
                value = parse(path)
                while len(kept) >= 2:
                    del kept[next(iter(kept))]
                kept[key] = value
            return kept[key]

    return get


def image_size(path: Path, cure: str) -> tuple[int, int]:
    """Height and width of an image by its header. Raises LayoutError where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except FileNotFoundError:
        raise LayoutError(path, "is missing", cure) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise LayoutError(path, f"is damaged ({error})", cure) from None


def checked(rows: Rows, size_hw: tuple[int, int]) -> Rows:
    """The rows with their geometry looked at: further faults and notes, empty boxes ignored."""
    height, width = size_hw
    xyxy = rows.boxes.xyxy
    x1, y1, x2, y2 = xyxy.T
    infinite = ~np.isfinite(xyxy).all(axis=1)
    inverted = (x2 < x1) | (y2 < y1)
    outside = (x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0)
    over = (np.minimum(x1, y1) < -SLACK) | (x2 > width + SLACK) | (y2 > height + SLACK)
    empty = (x1 == x2) | (y1 == y2)
    faults = list(rows.faults)
    for wrong, what in (
        (infinite, "a box holds a number that is not finite"),
        (inverted & ~infinite, "a box ends before it starts"),
        (outside & ~inverted & ~infinite, f"a box lies outside the {height}x{width} image"),
    ):
        for box in xyxy[wrong]:
            faults.append(f"{what} ({', '.join(f'{value:g}' for value in box)})")
    notes = rows.notes + Counter({OVER: int(over.sum()), EMPTY: int(empty.sum())})
    boxes = rows.boxes._replace(ignored=rows.boxes.ignored | empty)
    return Rows(boxes, tuple(faults), notes)


def strict(sample: Sample, rows: Rows, image_cure: str, label_cure: str) -> Boxes:
    """The boxes of one still.

    Raises:
        LayoutError: a wrong row, or an image that is missing or not an image.
    """
    rows = checked(rows, image_size(sample.image, image_cure))
    if rows.faults:
        raise LayoutError(sample.label, f"image {sample.id}: {rows.faults[0]}", label_cure)
    for what in rows.notes:
        if what != OVER:
            _tell(sample.label.parent, what)
    return Boxes(*(values.copy() for values in rows.boxes))  # the cache keeps its own


@functools.cache
def _tell(folder: Path, what: str) -> None:
    log.warning("%s: %s; `kdlib data check` counts them", folder, what)


def unlabelled(sample: Sample) -> LayoutError:
    """The error of asking an unlabelled still for its boxes: it is not an image without objects."""
    cure = "leave it out, or use it as unlabelled data"
    return LayoutError(sample.image, "has no labels, which is not the same as no objects", cure)


def look(
    sample: Sample, read: Callable[[Sample], Rows], image_cure: str, label_cure: str
) -> Finding:
    """Decodes a still wholly and checks its boxes; unlabelled stills are only decoded.

    The finding counts boxes by class where that of a segmentation layout counts pixels.
    """
    finding = audit.still(sample.image, None, NO_MASKS, image_cure)
    if sample.label is None:
        return replace(finding, notes=Counter({"stills without labels": 1}))
    try:
        rows = read(sample)
    except LayoutError as error:
        return replace(finding, problems=(*finding.problems, error.problem))
    if finding.size is not None:
        rows = checked(rows, finding.size)
    faults = tuple(
        Problem(sample.label, f"image {sample.id}: {what}", label_cure) for what in rows.faults
    )
    slots = np.where(rows.boxes.ignored, IGNORE, rows.boxes.classes)
    counts = np.bincount(slots, minlength=256)
    return Finding((*finding.problems, *faults), finding.size, counts, rows.notes)
