"""Pascal VOC 2007 in its official layout, 20 classes.

    VOC2007/JPEGImages/<id>.jpg     VOC2007/Annotations/<id>.xml
    VOC2007/ImageSets/Main/{train,val,trainval,test}.txt        one id a line

The root is the folder VOC2007, or VOCdevkit around it. The archives trainval and test unpack into
the same folders.

A box names its first and last pixel and counts them from 1, so it runs from xmin - 1 to xmax and
from ymin - 1 to ymax here. Objects marked ``difficult`` are read as ignored: the official
evaluation counts them neither as found nor as missed. An object without that mark is not difficult.
Boxes of an object's parts are not read.

Not supported: segmentation, actions, and the years whose test annotations are not published.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from kdlib.data.layouts import audit, box_files
from kdlib.data.layouts.audit import Finding, Inspection
from kdlib.data.layouts.box_files import Row, Rows, gathered
from kdlib.data.layouts.files import decode_image, image_bytes, listed
from kdlib.data.layouts.sample import IGNORE as IGNORE
from kdlib.data.layouts.sample import LayoutError, Problem, Sample, Video
from kdlib.detection import Boxes

TASK = "detection"
METRIC = "voc"
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
PALETTE = (
    (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
    (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128),
    (192, 0, 128), (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0), (0, 192, 0),
    (128, 192, 0), (0, 64, 128),
)  # fmt: skip
SPLITS = ("train", "val", "trainval", "test")
SIZE = None  # no common one
COUNTS = {"train": 2501, "val": 2510, "test": 4952}

CURE = "unpack the official VOC2007 archives (trainval and test) again, unmodified"


def samples(root: Path, split: str, *, drives: tuple[str, ...] = ()) -> list[Sample]:
    """The stills that a split's list names, with their XML files, sorted by id.

    Args:
        drives: keep the ids that start with one of these; empty = all.

    Raises:
        LayoutError: no list, or a listed image or XML file that is not there.
    """
    found = _listed(_inner(root), split)
    for sample in found:
        for path in (sample.image, sample.label):
            if not path.is_file():
                raise LayoutError(path, f"is missing, but {split}.txt lists it", CURE)
    return [one for one in found if not drives or one.id.startswith(tuple(drives))]


def read_boxes(sample: Sample) -> Boxes:
    """The labelled boxes of a still; a file without objects is an image without objects.

    Raises:
        LayoutError: no whole XML, an unknown class, an object without its box, a mark that is
            neither 0 nor 1, or a box that is inverted or outside the image.
    """
    if sample.label is None:
        raise box_files.unlabelled(sample)
    return box_files.strict(sample, _rows(sample), CURE, CURE)


def videos(root: Path, split: str) -> list[Video]:
    """No clips: VOC holds stills only."""
    return []


def evaluation_ids(root: Path) -> set[str]:
    """The ids of the stills of test, VOC07's evaluation split; those of val are trained on.

    Raises:
        LayoutError: its list is not there.
    """
    return {sample.id for sample in _listed(_inner(root), "test")}


def read_image(path: Path) -> np.ndarray:
    """uint8 HWC RGB. Raises LayoutError for a missing or damaged file."""
    return decode_image(path, image_bytes(path, CURE), CURE)


def problems(root: Path, *, full: bool = False, workers: int = 1) -> Iterator[Problem]:
    """Everything that is wrong with single files of the tree, file by file."""
    for _, finding in audit.run(inspections(root, full=full), workers):
        yield from finding.problems


def inspections(root: Path, *, full: bool = False) -> list[Inspection]:
    """What an audit looks at: the listed stills with their boxes, and images that no list names.

    `full` is for layouts with videos and changes nothing here.
    """
    inner = _inner(root)
    todo: list[Inspection] = []
    known: set[str] = set()
    for split in ("train", "val", "test"):
        if split == "test" and not _list(inner, split).is_file():
            continue  # an archive of its own
        try:
            found = _listed(inner, split)
        except LayoutError as error:
            one = error.problem
            todo.append(audit.fault(split, one.path, one.what, one.cure))
            continue
        known |= {sample.id for sample in found}
        todo += [Inspection(split, sample.image, partial(_look, sample)) for sample in found]
    folder = inner / "JPEGImages"
    for id, path in listed(folder, (".jpg",), CURE).items() if folder.is_dir() else ():
        if id not in known:
            cure = "none needed where a list was shortened; else unpack ImageSets again"
            problem = Problem(path, "is in no list of ImageSets/Main", cure, "warning")
            todo.append(Inspection("JPEGImages", path, partial(Finding, (problem,))))
    return todo


def _look(sample: Sample) -> Finding:
    return replace(box_files.look(sample, _rows, CURE, CURE), size=None)


def _rows(sample: Sample) -> Rows:
    try:
        tree = ElementTree.parse(sample.label).getroot()
    except FileNotFoundError:
        raise LayoutError(sample.label, "is missing", CURE) from None
    except (ElementTree.ParseError, OSError, UnicodeError) as error:
        raise LayoutError(sample.label, f"is not whole XML ({error})", CURE) from None
    if tree.tag != "annotation":
        raise LayoutError(sample.label, f"is no annotation but <{tree.tag}>", CURE)
    boxes: list[Row] = []
    faults: list[str] = []
    for number, thing in enumerate(tree.iterfind("object"), start=1):
        name = (thing.findtext("name") or "").strip()
        if name not in CLASSES:
            faults.append(f"object {number}: unknown class {name!r}")
            continue
        try:
            sides = ("xmin", "ymin", "xmax", "ymax")
            x1, y1, x2, y2 = (float(thing.findtext(f"bndbox/{side}")) for side in sides)
        except (TypeError, ValueError):
            faults.append(f"object {number} has no box of four numbers")
            continue
        if x2 < x1 or y2 < y1:  # before a pixel is added: ends may be one before their starts
            faults.append(f"object {number}: a box ends before it starts")
            continue
        difficult = thing.findtext("difficult", "0").strip()
        if difficult not in ("0", "1"):
            faults.append(f"object {number}: difficult is {difficult!r}, neither 0 nor 1")
            continue
        boxes.append(Row((x1 - 1, y1 - 1, x2, y2), CLASSES.index(name), difficult == "1"))
    return gathered(boxes, faults)


def _listed(inner: Path, split: str) -> list[Sample]:
    if split not in SPLITS:
        raise LayoutError(inner, f"has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    path = _list(inner, split)
    try:
        ids = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        raise LayoutError(path, "is missing or no list of ids", CURE) from None
    if len(set(ids)) != len(ids):
        raise LayoutError(path, "lists an image twice", CURE)
    return [
        Sample(id, inner / "JPEGImages" / f"{id}.jpg", inner / "Annotations" / f"{id}.xml")
        for id in sorted(ids)
    ]


def _list(inner: Path, split: str) -> Path:
    return inner / "ImageSets/Main" / f"{split}.txt"


def _inner(root: Path) -> Path:
    inner = Path(root) / "VOC2007"
    return inner if inner.is_dir() else Path(root)
