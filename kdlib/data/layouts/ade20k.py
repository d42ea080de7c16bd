"""ADE20K as the SceneParsing150 challenge packs it: 20210 / 2000 stills of any size, 150 classes.

    images/{training,validation}/ADE_{train,val}_<number>.jpg
    annotations/{training,validation}/ADE_{train,val}_<number>.png
    objectInfo150.txt                                        the classes, in their order

The root is the folder ADEChallengeData2016, or the one around it. Masks hold 0 for pixels that do
not count and 1..150 for the classes, decoded to 255 and 0..149. The splits are "train" and "val";
the official names "training" and "validation" mean the same.

Every image has a size of its own, and some are grey or CMYK JPEGs: all are read as RGB.

Not supported: the full data set (thousands of classes, parts, instances), the challenge's test
images.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from kdlib.data.layouts import audit
from kdlib.data.layouts.audit import Finding, Inspection
from kdlib.data.layouts.files import decode_image, decode_label, image_bytes, listed
from kdlib.data.layouts.sample import IGNORE as IGNORE
from kdlib.data.layouts.sample import Coding, LayoutError, Problem, Sample, Video

TASK = "segmentation"
# The first name of each line of objectInfo150.txt.
CLASSES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass",
    "cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain",
    "chair", "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug",
    "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub",
    "railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter",
    "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs",
    "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge",
    "bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench",
    "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning",
    "streetlight", "booth", "television", "airplane", "dirt track", "apparel", "pole", "land",
    "bannister", "escalator", "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship",
    "fountain", "conveyer belt", "canopy", "washer", "plaything", "swimming pool", "stool",
    "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven", "ball", "food",
    "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher",
    "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan",
    "fan", "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator",
    "glass", "clock", "flag",
)  # fmt: skip
# The benchmark's own halves: 35 classes that fill an area, 115 that are things.
STUFF = (
    0, 1, 2, 3, 5, 6, 9, 11, 13, 16, 21, 25, 26, 28, 29, 46, 48, 51, 52, 54,
    59, 60, 61, 68, 79, 84, 91, 94, 96, 101, 105, 109, 113, 128, 140,
)  # fmt: skip
CATEGORIES = {
    "stuff": STUFF,
    "objects": tuple(index for index in range(len(CLASSES)) if index not in STUFF),
}


def _colour(number: int) -> tuple[int, int, int]:
    """The rule of Pascal VOC's colour map: bits 0, 3, 6 of the number are the top bits of red, its
    bits 1, 4, 7 those of green, 2, 5, 8 those of blue, each channel filled from the top.
    """
    red, green, blue = (
        sum((number >> (3 * place + channel) & 1) << (7 - place) for place in range(3))
        for channel in range(3)
    )
    return red, green, blue


PALETTE = tuple(_colour(value) for value in range(1, len(CLASSES) + 1))
FOLDERS = {"train": "training", "val": "validation"}
SPLITS = tuple(FOLDERS)
SIZE = None  # no common one
COUNTS = {"images/training": 20210, "images/validation": 2000}
INFO = "objectInfo150.txt"

CURE = "unpack the official ADEChallengeData2016.zip again, unmodified"
CODING = Coding(
    CLASSES,
    0,
    CURE,
    (range(255, 256), "masks whose classes were moved to 0..149"),
    tuple(range(1, len(CLASSES) + 1)),
)


def samples(root: Path, split: str, *, drives: tuple[str, ...] = ()) -> list[Sample]:
    """The stills of a split with their masks, sorted by id.

    Args:
        drives: keep the ids that start with one of these; empty = all.

    Raises:
        LayoutError: no such folder, or an image or a mask without its partner.
    """
    images, masks = _folders(root, split)
    found, labels = listed(images, (".jpg",), CURE), listed(masks, (".png",), CURE)
    for path, what, cure in _unpaired(images, masks, found, labels):
        raise LayoutError(path, what, cure)
    return [
        Sample(id, path, labels[id])
        for id, path in found.items()
        if not drives or id.startswith(tuple(drives))
    ]


def videos(root: Path, split: str) -> list[Video]:
    """No clips: ADE20K holds stills only."""
    return []


def evaluation_ids(root: Path) -> set[str]:
    """The ids of the stills of val. Raises LayoutError where its images are not there."""
    return set(listed(_folders(root, "val")[0], (".jpg",), CURE))


def read_image(path: Path) -> np.ndarray:
    """uint8 HWC RGB, grey and CMYK files too. Raises LayoutError for a damaged file."""
    return decode_image(path, image_bytes(path, CURE), CURE)


def read_label(path: Path) -> np.ndarray:
    """uint8 HW classes 0..149, 255 = ignore. Raises LayoutError for a wrong mask."""
    return decode_label(path, image_bytes(path, CURE), CODING)


def problems(root: Path, *, full: bool = False, workers: int = 1) -> Iterator[Problem]:
    """Everything that is wrong with single files of the tree, file by file."""
    for _, finding in audit.run(inspections(root, full=full), workers):
        yield from finding.problems


def inspections(root: Path, *, full: bool = False) -> list[Inspection]:
    """What an audit of the tree looks at; a split that is not there at all is left out.

    `full` is for layouts with videos and changes nothing here.
    """
    todo: list[Inspection] = []
    for split in SPLITS:
        todo += _split_inspections(root, split)
    if not todo:
        cure = "give the folder ADEChallengeData2016, which holds images/ and annotations/"
        return [audit.fault(".", Path(root), "holds nothing of ADE20K", cure)]
    info = _tree(root) / INFO
    if info.is_file():
        todo.append(Inspection(INFO, info, partial(_info, info)))
    return todo


def _split_inspections(root: Path, split: str) -> list[Inspection]:
    images, masks = _folders(root, split)
    part, mask_part = f"images/{images.name}", f"annotations/{masks.name}"
    if not images.is_dir():
        if masks.is_dir():
            return [audit.fault(part, images, f"is missing, but {masks} is there", CURE)]
        return []
    found = listed(images, (".jpg",), CURE)
    todo: list[Inspection] = []
    if masks.is_dir():
        labels = listed(masks, (".png",), CURE)
        todo += [audit.fault(mask_part, *one) for one in _unpaired(images, masks, found, labels)]
    else:
        labels = {}
        todo.append(audit.fault(mask_part, masks, f"is missing, but {images} is there", CURE))
    for id, path in found.items():
        todo.append(Inspection(part, path, partial(_still, path, labels.get(id))))
    return todo


def _still(image: Path, mask: Path | None) -> Finding:
    """Without the image's size, which is its own affair; a mask of another size is still named."""
    return replace(audit.still(image, mask, CODING, CURE), size=None)


def _info(path: Path) -> Finding:
    """Whether the list that came with the data names the classes as `CLASSES` does."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t") for line in lines[1:] if line.strip()]
        names = {int(row[0]): row[-1].split(",")[0].strip() for row in rows}
    except (ValueError, OSError) as error:
        return Finding((Problem(path, f"cannot be read as the list of classes ({error})", CURE),))
    found = []
    for number, name in enumerate(CLASSES, start=1):
        if names.pop(number, None) != name:
            found.append(Problem(path, f"class {number} is not {name!r} there", CURE))
    if names:
        found.append(Problem(path, f"names {len(names)} more classes than 150", CURE))
    return Finding(tuple(found))


def _unpaired(
    images: Path, masks: Path, found: dict[str, Path], labels: dict[str, Path]
) -> list[tuple[Path, str, str]]:
    amiss: list[tuple[Path, str, str]] = []
    for id in sorted(found.keys() - labels.keys()):
        amiss.append((masks / f"{id}.png", f"is missing: image {found[id]} has no mask", CURE))
    for id in sorted(labels.keys() - found.keys()):
        amiss.append((images / f"{id}.jpg", f"is missing: mask {labels[id]} has no image", CURE))
    return amiss


def _tree(root: Path) -> Path:
    inner = Path(root) / "ADEChallengeData2016"
    return inner if inner.is_dir() else Path(root)


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """The folders of the images and of the masks."""
    name = FOLDERS.get(split, split)
    if name not in FOLDERS.values():
        raise LayoutError(Path(root), f"has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    return _tree(root) / "images" / name, _tree(root) / "annotations" / name
