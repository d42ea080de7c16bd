"""COCO's object detection in its official layout, 80 classes.

    annotations/instances_{train2017,val2017,...}.json     {train2017,val2017,...}/<number>.jpg

The splits "train" and "val" are those of 2017; "train2014" and "val2014" can be asked for by name.
The folders of images may also lie in ``images/``.

The JSON lists every image of its split, and an image without annotations shows no object: it is a
negative. A box is x, y, width, height in real-valued pixels, its end outside. Annotations with
``iscrowd`` are read as ignored. The 80 classes come in the order of the category ids, which have
gaps.

Not supported: masks, key points, panoptic labels, and the test images, whose labels are kept back.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from kdlib.data.layouts import audit, box_files
from kdlib.data.layouts.audit import Finding, Inspection
from kdlib.data.layouts.box_files import Row, Rows, gathered
from kdlib.data.layouts.files import decode_image, image_bytes
from kdlib.data.layouts.sample import IGNORE as IGNORE
from kdlib.data.layouts.sample import LayoutError, Problem, Sample, Video
from kdlib.detection import Boxes

TASK = "detection"
METRIC = "coco"
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
# The category ids of 1 to 90 that no class has.
GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
IDS = tuple(number for number in range(1, 91) if number not in GAPS)
# 80 colours far apart: each channel steps through its range at a pace of its own.
PALETTE = tuple(
    (40 + 53 * k % 211, 40 + 97 * k % 199, 40 + 151 * k % 193) for k in range(len(CLASSES))
)
FOLDERS = {"train": "train2017", "val": "val2017", "train2014": "train2014", "val2014": "val2014"}
SPLITS = tuple(FOLDERS)
SIZE = None  # no common one
COUNTS = {"train2017": 118287, "val2017": 5000, "train2014": 82783, "val2014": 40504}

CURE = "unpack the official images and annotations (instances) again, unmodified"


def samples(root: Path, split: str, *, drives: tuple[str, ...] = ()) -> list[Sample]:
    """The stills that the split's JSON lists, sorted by id; `label` is that JSON.

    Args:
        drives: keep the ids that start with one of these; empty = all.

    Raises:
        LayoutError: no such folder or JSON, broken JSON, or a listed image that is not there.
    """
    folder, labels = _places(root, split)
    content = _read(labels)
    if not folder.is_dir():
        raise LayoutError(folder, "no such folder", CURE)
    there = {path.name for path in folder.iterdir()}
    found = []
    for name in sorted(content):
        if name not in there:
            raise LayoutError(folder / name, f"is missing, but {labels.name} lists it", CURE)
        found.append(Sample(Path(name).stem, folder / name, labels))
    return [one for one in found if not drives or one.id.startswith(tuple(drives))]


def read_boxes(sample: Sample) -> Boxes:
    """The labelled boxes of a still.

    Raises:
        LayoutError: an unknown category, or a box that is inverted or outside the image.
    """
    if sample.label is None:
        raise box_files.unlabelled(sample)
    return box_files.strict(sample, _rows(sample), CURE, CURE)


def videos(root: Path, split: str) -> list[Video]:
    """No clips: COCO holds stills only."""
    return []


def evaluation_ids(root: Path) -> set[str]:
    """The ids of the stills of the val splits that are there.

    Raises:
        LayoutError: neither val2017 nor val2014 is there.
    """
    files = [_places(root, split)[1] for split in ("val", "val2014")]
    there = [path for path in files if path.is_file()] or files[:1]
    return {Path(name).stem for path in there for name in _read(path)}


def read_image(path: Path) -> np.ndarray:
    """uint8 HWC RGB; grey stills too. Raises LayoutError for a missing or damaged file."""
    return decode_image(path, image_bytes(path, CURE), CURE)


def problems(root: Path, *, full: bool = False, workers: int = 1) -> Iterator[Problem]:
    """Everything that is wrong with single files of the tree, file by file."""
    for _, finding in audit.run(inspections(root, full=full), workers):
        yield from finding.problems


def inspections(root: Path, *, full: bool = False) -> list[Inspection]:
    """What an audit looks at: every listed still with its boxes, and images that no JSON lists.

    `full` is for layouts with videos and changes nothing here.
    """
    todo: list[Inspection] = []
    for split, part in FOLDERS.items():
        folder, labels = _places(root, split)
        if not labels.is_file() and not folder.is_dir():
            continue
        try:
            content = _read(labels)
        except LayoutError as error:
            one = error.problem
            todo.append(audit.fault("annotations", one.path, one.what, one.cure))
            continue
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        for name in sorted(content.keys() | there):
            path = folder / name
            if name not in there:
                what = f"is missing, but {labels.name} lists it"
                todo.append(audit.fault(part, path, what, CURE))
            elif name in content:
                todo.append(Inspection(part, path, partial(_look, Sample(path.stem, path, labels))))
            elif not name.startswith("."):
                todo.append(audit.fault(part, path, f"is not listed in {labels.name}", CURE))
    if not todo:
        cure = "give the folder that holds annotations/ and the folders of images"
        todo.append(audit.fault(".", Path(root), "holds nothing of COCO", cure))
    return todo


def _look(sample: Sample) -> Finding:
    return replace(box_files.look(sample, _rows, CURE, CURE), size=None)


def _rows(sample: Sample) -> Rows:
    found = _read(sample.label)
    if sample.image.name not in found:
        raise LayoutError(sample.label, f"does not list {sample.image.name}", CURE)
    return found[sample.image.name]


@box_files.cached
def _read(path: Path) -> dict[str, Rows]:
    """Every image's boxes by its file name, parsed once a process."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LayoutError(path, "is missing", CURE) from None
    except ValueError as error:
        raise LayoutError(path, f"is not whole JSON ({error})", CURE) from None
    try:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        categories = {one["id"]: one["name"] for one in content["categories"]}
        annotations = [(one["image_id"], one) for one in content["annotations"]]
    except (KeyError, TypeError):
        what = "has no images, categories and annotations in the form of COCO's instances"
        raise LayoutError(path, what, CURE) from None
    if len(set(names.values())) != len(content["images"]):
        raise LayoutError(path, "lists an image twice", CURE)
    wrong = {id: name for id, name in categories.items() if _CLASSES_BY_ID.get(id) != name}
    if wrong:
        id, name = next(iter(wrong.items()))
        raise LayoutError(path, f"has a category {id} {name!r} that COCO does not have", CURE)
    boxes: dict[int, list[Row]] = {id: [] for id in names}
    faults: dict[int, list[str]] = {id: [] for id in names}
    for image, one in annotations:
        if not isinstance(image, int) or image not in names:
            raise LayoutError(path, f"has an annotation of image {image}, which it omits", CURE)
        number = one.get("id")
        category = one.get("category_id")
        if not isinstance(category, int) or category not in _CLASSES_BY_ID:
            faults[image].append(f"annotation {number}: unknown category {category!r}")
            continue
        try:
            x, y, width, height = (float(value) for value in one["bbox"])
        except (KeyError, TypeError, ValueError):
            faults[image].append(f"annotation {number} has no box of four numbers")
            continue
        row = Row(
            (x, y, x + width, y + height),
            IDS.index(category),
            bool(one.get("iscrowd")),
        )
        boxes[image].append(row)
    return {name: gathered(boxes[id], faults[id]) for id, name in names.items()}


_CLASSES_BY_ID = dict(zip(IDS, CLASSES, strict=True))


def _places(root: Path, split: str) -> tuple[Path, Path]:
    root = Path(root)
    if split not in SPLITS:
        raise LayoutError(root, f"has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    name = FOLDERS[split]
    inner = root / "images" / name
    return inner if inner.is_dir() else root / name, root / "annotations" / f"instances_{name}.json"
