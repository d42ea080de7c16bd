"""Cityscapes as its official archives unpack: 2975 / 500 / 1525 stills of 1024x2048, 19 classes.

    leftImg8bit/{train,val,test}/<city>/<city>_<seq>_<frame>_leftImg8bit.png
    gtFine/{train,val,test}/<city>/<city>_<seq>_<frame>_gtFine_labelIds.png
    leftImg8bit/train_extra/<city>/...            19998 stills, no fine labels
    leftImg8bit_sequence/train/<city>/...         the 30 frames around each training still

Masks hold label ids 0..33, and 255 where an older tool wrote -1 (license plate) into 8 bits; the
19 ids that count are decoded to train ids 0..18, all others to 255. `label_ids` is the way back,
for a submission: the server wants label ids.

The masks of test that the archive holds show no class (they are withheld), so test has no labels
here. Two more splits hold stills without labels, for distillation: "train_extra" and
"train_sequence". Sequences of val and test show the evaluated scenes and are no split; their ids
are in `evaluation_ids`. A still's id is <city>_<seq>_<frame>.

Not supported: coarse labels, instances, 16-bit images, stereo.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from kdlib.data.layouts import audit, bdd100k
from kdlib.data.layouts.audit import Inspection
from kdlib.data.layouts.files import decode_image, decode_label, image_bytes, listed
from kdlib.data.layouts.sample import IGNORE as IGNORE
from kdlib.data.layouts.sample import Coding, LayoutError, Problem, Sample, Video

# BDD100K took over the 19 train classes, their order, colours and categories.
TASK = "segmentation"
CLASSES, PALETTE, CATEGORIES = bdd100k.CLASSES, bdd100k.PALETTE, bdd100k.CATEGORIES
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
VOID_IDS = (*(id for id in range(34) if id not in LABEL_IDS), 255)
SPLITS = ("train", "val", "test")
UNLABELLED = ("train_extra", "train_sequence")
MASK_SPLITS = ("train", "val")
SIZE = (1024, 2048)  # height, width
FOLDERS = {
    "train": "leftImg8bit/train",
    "val": "leftImg8bit/val",
    "test": "leftImg8bit/test",
    "train_extra": "leftImg8bit/train_extra",
    "train_sequence": "leftImg8bit_sequence/train",
}
EVALUATION_SEQUENCES = ("leftImg8bit_sequence/val", "leftImg8bit_sequence/test")
COUNTS = {
    "leftImg8bit/train": 2975,
    "leftImg8bit/val": 500,
    "leftImg8bit/test": 1525,
    "leftImg8bit/train_extra": 19998,
    "leftImg8bit_sequence/train": 89250,
    "leftImg8bit_sequence/val": 15000,
    "leftImg8bit_sequence/test": 45750,
}
IMAGE_ENDING, MASK_ENDING = "_leftImg8bit.png", "_gtFine_labelIds.png"
NAME = re.compile(r"(?P<city>.+)_\d{6}_\d{6}")

IMAGE_CURE = "unpack the official archive of that folder (leftImg8bit_*.zip) again, unmodified"
MASK_CURE = "unpack the official gtFine_trainvaltest.zip again and use *_gtFine_labelIds.png"


def _train_ids(mask_HW: np.ndarray) -> str:
    """A mask of train ids decodes without a fault, to wrong classes; found by what it lacks.

    Official masks never hold 255, and a mask of label ids with neither vegetation, sky nor any
    vehicle, but with license plates and "unlabeled", shows no street.
    """
    if not (mask_HW == 255).any():
        return ""
    rest = mask_HW[mask_HW != 255]
    if rest.size and rest.max() < len(CLASSES) and rest.min() == 0:
        return "holds 0..18 and 255 only: train ids, not label ids"
    return ""


NO_CODING = (range(0), "")  # values above 33 betray none; train ids are below
CODING = Coding(CLASSES, VOID_IDS, MASK_CURE, NO_CODING, LABEL_IDS, _train_ids)


def samples(root: Path, split: str, *, drives: tuple[str, ...] = ()) -> list[Sample]:
    """The stills of a split, sorted by id, with masks in train and val only.

    Args:
        split: one of `SPLITS` or of `UNLABELLED`.
        drives: keep these cities ("aachen"), or parts of them ("hamburg_000000"); empty = all.

    Raises:
        LayoutError: no such folder, a file in the wrong place, or an image or a mask without its
            partner.
    """
    if split not in FOLDERS:
        known = ", ".join(FOLDERS)
        raise LayoutError(Path(root), f"has no split {split!r}", f"use one of {known}")
    images, faults = _stills(Path(root) / FOLDERS[split], IMAGE_ENDING, IMAGE_CURE)
    masks: dict[str, Path] = {}
    if split in MASK_SPLITS:
        masks, more = _stills(Path(root) / "gtFine" / split, MASK_ENDING, MASK_CURE)
        faults += [*more, *_unpaired(Path(root), split, images, masks)]
    for path, what, cure in faults:
        raise LayoutError(path, what, cure)
    return [
        Sample(id, path, masks.get(id))
        for id, path in images.items()
        if not drives or f"{id}_".startswith(tuple(f"{drive}_" for drive in drives))
    ]


def videos(root: Path, split: str) -> list[Video]:
    """No clips: sequences come as stills, see the split "train_sequence"."""
    return []


def evaluation_ids(root: Path) -> set[str]:
    """The ids of all stills of val and test: images, masks, and frames of their sequences.

    Raises:
        LayoutError: none of these folders is there, so that nothing could be told apart.
    """
    root = Path(root)
    folders = [
        *((root / FOLDERS[split], IMAGE_ENDING) for split in ("val", "test")),
        *((root / "gtFine" / split, MASK_ENDING) for split in ("val", "test")),
        *((root / folder, IMAGE_ENDING) for folder in EVALUATION_SEQUENCES),
    ]
    ids: set[str] = set()
    for folder, ending in folders:
        if folder.is_dir():
            ids.update(_stills(folder, ending, IMAGE_CURE)[0])
    if not ids:
        what = "holds no validation or test stills, so they cannot be told apart"
        raise LayoutError(root, what, f"{IMAGE_CURE}, at least leftImg8bit/val")
    return ids


def read_image(path: Path) -> np.ndarray:
    """uint8 HWC RGB, as stored. Raises LayoutError for a missing or damaged file."""
    return decode_image(path, image_bytes(path, IMAGE_CURE), IMAGE_CURE)


def read_label(path: Path) -> np.ndarray:
    """uint8 HW train ids, 255 = ignore. Raises LayoutError for a damaged or wrongly coded mask."""
    return decode_label(path, image_bytes(path, MASK_CURE), CODING)


def label_ids(prediction_HW: np.ndarray) -> np.ndarray:
    """Train ids, integers 0..18 of any shape -> uint8 label ids, as the test server wants them.

    255 becomes 0 ("unlabeled"), as in the official table.

    Raises:
        ValueError: other values.
    """
    prediction_HW = np.asarray(prediction_HW)
    known = ((prediction_HW >= 0) & (prediction_HW < len(CLASSES))) | (prediction_HW == IGNORE)
    if not known.all():
        wrong = np.unique(prediction_HW[~known])[:6].tolist()
        raise ValueError(f"predictions hold {wrong}: only train ids 0..18 and 255 have a label id")
    table = np.zeros(256, np.uint8)
    table[: len(CLASSES)] = LABEL_IDS
    return table[prediction_HW]


def problems(root: Path, *, full: bool = False, workers: int = 1) -> Iterator[Problem]:
    """Everything that is wrong with single files of the tree, file by file."""
    for _, finding in audit.run(inspections(root, full=full), workers):
        yield from finding.problems


def inspections(root: Path, *, full: bool = False) -> list[Inspection]:
    """What an audit of the tree looks at; parts of Cityscapes that are not there are left out.

    `full` is for layouts with videos and changes nothing here.
    """
    root = Path(root)
    todo: list[Inspection] = []
    for split in SPLITS:
        todo += _split_inspections(root, split)
    for part in (*(FOLDERS[split] for split in UNLABELLED), *EVALUATION_SEQUENCES):
        if (root / part).is_dir():
            todo += _still_inspections(root, part, {})
    if not todo:
        cure = "give the folder that holds leftImg8bit/ and gtFine/"
        todo.append(audit.fault(".", root, "holds nothing of Cityscapes", cure))
    return todo


def _split_inspections(root: Path, split: str) -> list[Inspection]:
    part, mask_part = FOLDERS[split], f"gtFine/{split}"
    labelled = split in MASK_SPLITS
    if not (root / part).is_dir():
        if labelled and (root / mask_part).is_dir():
            what = f"is missing, but {root / mask_part} is there"
            return [audit.fault(part, root / part, what, IMAGE_CURE)]
        return []
    if not labelled:
        return _still_inspections(root, part, {})
    if not (root / mask_part).is_dir():
        what = f"is missing, but {root / part} is there"
        fault = audit.fault(mask_part, root / mask_part, what, MASK_CURE)
        return [fault, *_still_inspections(root, part, {})]
    masks, faults = _stills(root / mask_part, MASK_ENDING, MASK_CURE)
    images, _ = _stills(root / part, IMAGE_ENDING, IMAGE_CURE)
    faults += _unpaired(root, split, images, masks)
    return [
        *(audit.fault(mask_part, *one) for one in faults),
        *_still_inspections(root, part, masks),
    ]


def _still_inspections(root: Path, part: str, masks: dict[str, Path]) -> list[Inspection]:
    images, faults = _stills(root / part, IMAGE_ENDING, IMAGE_CURE)
    todo = [audit.fault(part, *one) for one in faults]
    for id, path in images.items():
        look = partial(audit.still, path, masks.get(id), CODING, IMAGE_CURE)
        todo.append(Inspection(part, path, look))
    return todo


def _stills(
    folder: Path, ending: str, cure: str
) -> tuple[dict[str, Path], list[tuple[Path, str, str]]]:
    """Id -> path of the files with that ending in the folders of the cities; and what is amiss.

    Raises:
        LayoutError: no such folder.
    """
    if not folder.is_dir():
        raise LayoutError(folder, "no such folder", cure)
    found: dict[str, Path] = {}
    faults: list[tuple[Path, str, str]] = []
    for city in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in listed(city, (ending.lower(),), cure).values():
            id = path.name[: -len(ending)]
            name = NAME.fullmatch(id)
            if name is None:
                what = f"is not named {city.name}_<sequence>_<frame>{ending}, six digits each"
                faults.append((path, what, cure))
            elif name["city"] != city.name:
                faults.append((path, f"lies in the folder of another city, {city.name}", cure))
            else:
                found[id] = path
    return dict(sorted(found.items())), faults


def _unpaired(
    root: Path, split: str, images: dict[str, Path], masks: dict[str, Path]
) -> list[tuple[Path, str, str]]:
    found: list[tuple[Path, str, str]] = []
    for id in sorted(images.keys() - masks.keys()):
        path = root / "gtFine" / split / _city(id) / f"{id}{MASK_ENDING}"
        found.append((path, f"is missing: image {images[id]} has no mask", MASK_CURE))
    for id in sorted(masks.keys() - images.keys()):
        path = root / FOLDERS[split] / _city(id) / f"{id}{IMAGE_ENDING}"
        found.append((path, f"is missing: mask {masks[id]} has no image", IMAGE_CURE))
    return found


def _city(id: str) -> str:
    return NAME.fullmatch(id)["city"]
