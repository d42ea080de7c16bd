"""KITTI's 2-D object benchmark in its official layout, three classes.

    training/image_2/<number>.png     training/label_2/<number>.txt
    testing/image_2/<number>.png      ImageSets/{train,val}.txt        one number a line

The official training folder is one split, "trainval". The usual halves of 3,712 and 3,769 images,
which share no drive (feature_imitation fact sheet 5), come as two lists that are not part of the
official archives: put them in place as ``ImageSets/train.txt`` and ``ImageSets/val.txt``.

A line of a label file holds 15 fields: type, truncation 0..1, occlusion 0..3 (both -1 where they
are not given), observation angle, box (left, top, right, bottom), then size, place and turn in
space, which are not read.

- ``Van`` is read as an ignored car and ``Person_sitting`` as an ignored pedestrian, ``DontCare`` as
  an ignored region of any class. ``Truck``, ``Tram`` and ``Misc`` are neither objects nor ignored,
  as in the official evaluation: a car that is found there is an error. An audit counts them, and
  training logs once that they were met.
- Difficulty is the first of 0 easy, 1 moderate, 2 hard whose limits an object keeps (`LIMITS`: at
  least so high, at most so occluded and truncated), 3 where it keeps none. The official evaluation
  ignores, at each level, the objects beyond it.
- Boxes are kept as the file has them, without a plus one: the official evaluation takes right minus
  left as the width of its real-valued coordinates. So a box that touches the right edge of a
  1242 pixels wide image ends at 1241.

Not supported: the benchmark's three-dimensional boxes, raw drives, and stereo pairs (image_3).
"""

from collections import Counter
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
from kdlib.detection import ANY_CLASS, Boxes

TASK = "detection"
METRIC = "kitti"
CLASSES = ("Car", "Pedestrian", "Cyclist")
PALETTE = ((0, 0, 142), (220, 20, 60), (119, 11, 32))
SPLITS = ("train", "val", "trainval", "test")
SIZE = None  # about 375x1242; the drives differ by some pixels
COUNTS = {"training/image_2": 7481, "testing/image_2": 7518}

IGNORED_AS = {"Van": 0, "Person_sitting": 1, "DontCare": ANY_CLASS}
LEFT_OUT = ("Truck", "Tram", "Misc")
FIELDS = 15
OCCLUSIONS = (-1, 0, 1, 2, 3)
# Height in pixels at least, occlusion and truncation at most: easy, moderate, hard.
LIMITS = ((40.0, 0, 0.15), (25.0, 1, 0.30), (25.0, 2, 0.50))

IMAGE_CURE = "unpack data_object_image_2.zip again, unmodified"
LABEL_CURE = "unpack data_object_label_2.zip again, unmodified"


def samples(root: Path, split: str, *, drives: tuple[str, ...] = ()) -> list[Sample]:
    """The images of a split with their label files, sorted by number; test has no labels.

    Args:
        drives: keep the numbers that start with one of these; empty = all.

    Raises:
        LayoutError: no such folder or list, or an image or a label file without its partner.
    """
    images, labels = _places(root, split)
    there = listed(images, (".png",), IMAGE_CURE)
    texts = {} if labels is None else listed(labels, (".txt",), LABEL_CURE)
    if split == "trainval":
        for path, what, cure in _unpaired(images, labels, there, texts):
            raise LayoutError(path, what, cure)
    found = []
    for id in there if split in ("trainval", "test") else _numbers(root, split):
        if labels is not None:
            for path, known, cure in (
                (images / f"{id}.png", there, IMAGE_CURE),
                (labels / f"{id}.txt", texts, LABEL_CURE),
            ):
                if id not in known:
                    raise LayoutError(path, f"is missing, but split {split!r} has it", cure)
        if not drives or id.startswith(tuple(drives)):
            found.append(Sample(id, there[id], texts.get(id)))
    return found


def read_boxes(sample: Sample) -> Boxes:
    """The labelled boxes of an image, with KITTI's difficulty; an empty file shows no object.

    Raises:
        LayoutError: no label file, a line that is not 15 fields, a truncation or an occlusion that
            KITTI does not have, an unknown type, or a box that is inverted or outside the image.
    """
    if sample.label is None:
        raise box_files.unlabelled(sample)
    return box_files.strict(sample, _rows(sample), IMAGE_CURE, LABEL_CURE)


def difficulty(height: float, occlusion: int, truncation: float) -> int:
    """0 easy, 1 moderate, 2 hard, 3 beyond: the first level whose limits an object keeps."""
    for level, (low, occluded, truncated) in enumerate(LIMITS):
        if height >= low and occlusion <= occluded and truncation <= truncated:
            return level
    return len(LIMITS)


def videos(root: Path, split: str) -> list[Video]:
    """No clips: the object benchmark holds stills only."""
    return []


def evaluation_ids(root: Path) -> set[str]:
    """The numbers of the images of val. Raises LayoutError where its list is not there."""
    return set(_numbers(root, "val"))


def read_image(path: Path) -> np.ndarray:
    """uint8 HWC RGB, as stored. Raises LayoutError for a missing or damaged file."""
    return decode_image(path, image_bytes(path, IMAGE_CURE), IMAGE_CURE)


def problems(root: Path, *, full: bool = False, workers: int = 1) -> Iterator[Problem]:
    """Everything that is wrong with single files of the tree, file by file."""
    for _, finding in audit.run(inspections(root, full=full), workers):
        yield from finding.problems


def inspections(root: Path, *, full: bool = False) -> list[Inspection]:
    """What an audit looks at: every image with its label file, and the lists.

    `full` is for layouts with videos and changes nothing here.
    """
    root = Path(root)
    todo: list[Inspection] = []
    for split, folder in (("trainval", "training"), ("test", "testing")):
        images, labels = _places(root, split)
        if not images.is_dir() and (labels is None or not labels.is_dir()):
            continue
        there = listed(images, (".png",), IMAGE_CURE) if images.is_dir() else {}
        texts: dict[str, Path] = {}
        if labels is not None:
            texts = listed(labels, (".txt",), LABEL_CURE) if labels.is_dir() else {}
            faults = _unpaired(images, labels, there, texts)
            todo += [audit.fault(f"{folder}/label_2", *one) for one in faults]
        for id, path in there.items():
            look = partial(_look, Sample(id, path, texts.get(id)))
            todo.append(Inspection(f"{folder}/image_2", path, look))
    if not todo:
        cure = "give the folder that holds training/image_2 and training/label_2"
        return [audit.fault(".", root, "holds nothing of KITTI's object benchmark", cure)]
    for split in ("train", "val"):
        if _list(root, split).is_file():
            todo.append(Inspection("ImageSets", _list(root, split), partial(_lists, root, split)))
    return todo


def _look(sample: Sample) -> Finding:
    # Sizes differ by drive, so they are not compared.
    return replace(box_files.look(sample, _rows, IMAGE_CURE, LABEL_CURE), size=None)


def _lists(root: Path, split: str) -> Finding:
    try:
        samples(root, split)
        if split == "val" and _list(root, "train").is_file():
            both = sorted(set(_numbers(root, "train")) & set(_numbers(root, "val")))
            if both:
                what = f"lists {both[0]}, which train.txt lists too ({len(both)} such)"
                raise LayoutError(_list(root, "val"), what, "give each image to one split")
    except LayoutError as error:
        return Finding((error.problem,))
    return Finding()


def _rows(sample: Sample) -> Rows:
    try:
        lines = sample.label.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        raise LayoutError(sample.label, "is missing", LABEL_CURE) from None
    except (OSError, UnicodeDecodeError) as error:
        raise LayoutError(sample.label, f"cannot be read ({error})", LABEL_CURE) from None
    boxes: list[Row] = []
    faults: list[str] = []
    notes: Counter[str] = Counter()
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        kind = words[0]
        try:
            numbers = [float(word) for word in words[1:]]
            truncation, occlusion = numbers[:2]
            x1, y1, x2, y2 = numbers[3:7]
        except ValueError:
            words = words[:1]
        if len(words) != FIELDS:
            faults.append(f"line {number} is not a type and {FIELDS - 1} numbers")
        elif not (truncation == -1 or 0 <= truncation <= 1):
            faults.append(f"line {number}: truncation {words[1]} is neither -1 nor from 0 to 1")
        elif occlusion not in OCCLUSIONS:
            faults.append(f"line {number}: occlusion {words[2]} is none of -1, 0, 1, 2 and 3")
        elif kind in LEFT_OUT:
            notes[f"boxes of {kind}, left out"] += 1
        elif kind in IGNORED_AS:
            boxes.append(Row((x1, y1, x2, y2), IGNORED_AS[kind], ignored=True))
        elif kind in CLASSES:
            level = difficulty(y2 - y1, int(occlusion), truncation)
            boxes.append(Row((x1, y1, x2, y2), CLASSES.index(kind), False, level))
        else:
            faults.append(f"line {number}: unknown type {kind!r}")
    return gathered(boxes, faults, notes)


def _numbers(root: Path, split: str) -> list[str]:
    path = _list(root, split)
    try:
        numbers = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        cure = f"put the list of the {split} half there, one number a line, or use 'trainval'"
        raise LayoutError(path, "is missing or no list of numbers", cure) from None
    if len(set(numbers)) != len(numbers):
        raise LayoutError(path, "lists an image twice", "give each number once")
    return sorted(numbers)


def _unpaired(
    images: Path, labels: Path, there: dict[str, Path], texts: dict[str, Path]
) -> list[tuple[Path, str, str]]:
    found = []
    for id in sorted(there.keys() - texts.keys()):
        what = f"is missing: image {there[id]} has no label file"
        found.append((labels / f"{id}.txt", what, LABEL_CURE))
    for id in sorted(texts.keys() - there.keys()):
        what = f"is missing: label file {texts[id]} has no image"
        found.append((images / f"{id}.png", what, IMAGE_CURE))
    return found


def _list(root: Path, split: str) -> Path:
    return Path(root) / "ImageSets" / f"{split}.txt"


def _places(root: Path, split: str) -> tuple[Path, Path | None]:
    root = Path(root)
    if split not in SPLITS:
        raise LayoutError(root, f"has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    if split == "test":
        return root / "testing/image_2", None
    return root / "training/image_2", root / "training/label_2"
