"""The boxes of BDD100K in their official layout: the 100k stills with det_20.

    images/100k/{train,val,test}/<id>.jpg     labels/det_20/det_{train,val}.json

The JSON says which stills are labelled (function_matching fact sheet 4.5): a frame whose labels are
null or empty is an image without objects, while an image that the JSON does not list is unlabelled
and never a negative. `kdlib.data.layouts.scalabel` says how categories and boxes are read.

Not supported: the deprecated label files of 2018, tracking, and lanes or areas among the labels.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from kdlib.data.layouts import audit, bdd100k, box_files, scalabel
from kdlib.data.layouts.audit import Inspection
from kdlib.data.layouts.files import decode_image, image_bytes, listed
from kdlib.data.layouts.sample import IGNORE as IGNORE
from kdlib.data.layouts.sample import LayoutError, Problem, Sample, Video
from kdlib.detection import Boxes

TASK = "detection"
METRIC = "coco"
CLASSES = scalabel.CLASSES
PALETTE = (
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
    (250, 170, 30),
    (220, 220, 0),
)
RARE = ("train",)  # some 15 boxes in val: a second mean goes without (fact sheet 4.6)
SPLITS = bdd100k.SPLITS
LABELLED_SPLITS = ("train", "val")  # the labels of test are not published
SIZE = bdd100k.SIZE
COUNTS = {part: count for part, count in bdd100k.COUNTS.items() if part.startswith("images/100k")}

IMAGE_CURE = scalabel.IMAGE_CURE


def samples(root: Path, split: str, *, drives: tuple[str, ...] = ()) -> list[Sample]:
    """The stills that the split's JSON lists, sorted by id; `label` is that JSON.

    Of test, which has no JSON, all stills, with `label` None. `drives`: keep the ids that start
    with one of these; empty = all.

    Raises:
        LayoutError: no such folder or JSON, broken JSON, a frame named twice or without its image.
    """
    if split not in LABELLED_SPLITS:
        return unlisted(root, split, drives=drives)
    folder, labels = _places(root, split)
    there = listed(folder, (".jpg",), IMAGE_CURE)
    found: dict[str, Sample] = {}
    for id, name in _described(labels).items():
        if id not in there:
            one = scalabel.missing(labels, folder / name)
            raise LayoutError(one.path, one.what, one.cure)
        found[id] = Sample(id, there[id], labels)
    return [found[id] for id in sorted(found) if not drives or id.startswith(tuple(drives))]


def unlisted(root: Path, split: str, *, drives: tuple[str, ...] = ()) -> list[Sample]:
    """The stills that no JSON lists, sorted by id, with `label` None; otherwise as `samples`.

    They are unlabelled: a run takes them with `unlisted: true` in a subset of `data.unlabelled`.
    """
    folder, labels = _places(root, split)
    there = listed(folder, (".jpg",), IMAGE_CURE)
    described = _described(labels) if split in LABELLED_SPLITS else {}
    left = sorted(there.keys() - described.keys())
    kept = [id for id in left if not drives or id.startswith(tuple(drives))]
    return [Sample(id, there[id], None) for id in kept]


def read_boxes(sample: Sample) -> Boxes:
    """The labelled boxes of a still.

    Raises:
        LayoutError: the still is unlabelled, an unknown category, or a box that is inverted or
            outside the image.
    """
    if sample.label is None:
        raise box_files.unlabelled(sample)
    return box_files.strict(sample, _rows(sample), IMAGE_CURE, scalabel.JSON_CURE)


def videos(root: Path, split: str) -> list[Video]:
    """The clips of a split, sorted by id."""
    return bdd100k.videos(root, split)


def evaluation_ids(root: Path) -> set[str]:
    """The ids of all stills of validation and test, see `bdd100k.evaluation_ids`."""
    return bdd100k.evaluation_ids(root)


def read_image(path: Path) -> np.ndarray:
    """uint8 HWC RGB, as stored. Raises LayoutError for a missing or damaged file."""
    return decode_image(path, image_bytes(path, IMAGE_CURE), IMAGE_CURE)


def problems(root: Path, *, full: bool = False, workers: int = 1) -> Iterator[Problem]:
    """Everything that is wrong with single files of the tree, file by file."""
    for _, finding in audit.run(inspections(root, full=full), workers):
        yield from finding.problems


def inspections(root: Path, *, full: bool = False) -> list[Inspection]:
    """What an audit looks at: every image of 100k with its boxes, and images that are missing.

    `full` is for layouts with videos and changes nothing here.
    """
    todo: list[Inspection] = []
    for split in SPLITS:
        folder, labels = _places(root, split)
        if folder.is_dir() or labels.is_file():
            todo += _inspections(split, folder, labels)
    if not todo:
        inner = Path(root) / "bdd100k"
        outer = "give the folder that holds images/100k and labels/det_20"
        cure = f"give {inner}" if inner.is_dir() else outer
        todo.append(audit.fault(".", Path(root), "holds no boxes of BDD100K", cure))
    return todo


def _inspections(split: str, folder: Path, labels: Path) -> list[Inspection]:
    part, todo = f"images/100k/{split}", []
    described: dict[str, str] = {}
    if split in LABELLED_SPLITS:
        try:
            described = _described(labels)
        except LayoutError as error:
            one = error.problem
            todo.append(audit.fault("labels/det_20", one.path, one.what, one.cure))
    there = listed(folder, (".jpg",), IMAGE_CURE) if folder.is_dir() else {}
    for id in sorted(described.keys() - there.keys()):
        one = scalabel.missing(labels, folder / described[id])
        todo.append(audit.fault("labels/det_20", one.path, one.what, one.cure))
    for id, path in there.items():
        sample = Sample(id, path, labels if id in described else None)
        look = partial(box_files.look, sample, _rows, IMAGE_CURE, scalabel.JSON_CURE)
        todo.append(Inspection(part, path, look))
    return todo


def _described(labels: Path) -> dict[str, str]:
    """Names of the frames by id, in the file's order."""
    names: dict[str, str] = {}
    for name in scalabel.rows(labels):
        other = names.setdefault(Path(name).stem, name)
        if other != name:
            what = f"describes one image as {other} and as {name}"
            raise LayoutError(labels, what, scalabel.JSON_CURE)
    return names


def _rows(sample: Sample) -> box_files.Rows:
    found = scalabel.rows(sample.label)
    name = sample.image.name
    if name not in found:
        raise LayoutError(sample.label, f"does not describe {name}", scalabel.JSON_CURE)
    return found[name]


def _places(root: Path, split: str) -> tuple[Path, Path]:
    root = Path(root)
    if split not in SPLITS:
        raise LayoutError(root, f"has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    return root / "images/100k" / split, root / "labels/det_20" / f"det_{split}.json"
