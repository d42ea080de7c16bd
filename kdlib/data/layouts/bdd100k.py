"""BDD100K in its official layout (10k semantic segmentation, 100k stills with boxes, videos).

    images/10k/{train,val,test}/<id>.jpg      labels/sem_seg/masks/{train,val}/<id>.png
    images/100k/{train,val,test}/<id>.jpg     labels/det_20/det_{train,val}.json
    videos/{train,val,test}/<id>.mov

Masks are 8-bit one-channel PNGs of train ids 0..18, 255 = ignore. ``labels/sem_seg/colormaps`` is
never read: the toolkit's colour tables contradict each other on wall and fence.

``images/10k`` is not a subset of ``images/100k``, and stills of the evaluation splits may be cut
from clips of the *training* videos: see `evaluation_ids`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from kdlib.data.layouts import audit, scalabel
from kdlib.data.layouts.audit import Inspection
from kdlib.data.layouts.files import decode_image, decode_label, image_bytes, listed
from kdlib.data.layouts.sample import IGNORE, Coding, LayoutError, Problem, Sample, Video

TASK = "segmentation"
CLASSES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
PALETTE = (
    (128, 64, 128),
    (244, 35, 232),
    (70, 70, 70),
    (102, 102, 156),
    (190, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
)
CATEGORIES = {
    "flat": (0, 1),
    "construction": (2, 3, 4),
    "object": (5, 6, 7),
    "nature": (8, 9),
    "sky": (10,),
    "human": (11, 12),
    "vehicle": (13, 14, 15, 16, 17, 18),
}
SPLITS = ("train", "val", "test")
MASK_SPLITS = ("train", "val")  # the masks of test are not published
SIZE = (720, 1280)  # height, width of the official images
COUNTS = {
    "images/10k/train": 7000,
    "images/10k/val": 1000,
    "images/10k/test": 2000,
    "images/100k/train": 70000,
    "images/100k/val": 10000,
    "images/100k/test": 20000,
    "videos/train": 70000,
    "videos/val": 10000,
    "videos/test": 20000,
}

IMAGE_CURE = "unpack the official image archive (10k or 100k images) again, unmodified"
MASK_CURE = "unpack the official sem_seg label archive again and use labels/sem_seg/masks"
VIDEO_CURE = "unpack the official video archives so that the clips lie in videos/<split>/"
CODING = Coding(CLASSES, IGNORE, MASK_CURE, (range(19, 34), "label ids instead of train ids"))


def samples(root: Path, split: str, *, drives: tuple[str, ...] = ()) -> list[Sample]:
    """The stills of the 10k set with their masks, sorted by id; the test split has no masks.

    Args:
        drives: keep the ids that start with one of these; empty = all.

    Raises:
        LayoutError: no such folder, or an image or a mask without its partner.
    """
    _known(root, split)
    images = listed(_images(root, "10k", split), (".jpg",), IMAGE_CURE)
    if split not in MASK_SPLITS:
        masks: dict[str, Path] = {}
    else:
        masks = listed(_masks(root, split), (".png",), MASK_CURE)
        for path, what, cure in _unpaired(root, split, images, masks):
            raise LayoutError(path, what, cure)
    return [
        Sample(id, path, masks.get(id))
        for id, path in images.items()
        if not drives or id.startswith(tuple(drives))
    ]


def videos(root: Path, split: str) -> list[Video]:
    """The clips of a split, sorted by id."""
    _known(root, split)
    found = listed(Path(root) / "videos" / split, (".mov", ".mp4"), VIDEO_CURE)
    return [Video(id, path) for id, path in found.items()]


def evaluation_ids(root: Path) -> set[str]:
    """The ids of all stills of validation and test: 10k, 100k, masks, and ``det_val.json``.

    A clip of any split whose id is among them must not become an unlabelled training clip.

    Raises:
        LayoutError: no evaluation split is there at all, so that nothing could be told apart.
    """
    root = Path(root)
    ids: set[str] = set()
    for split in ("val", "test"):
        for folder, ending in (
            (_images(root, "10k", split), ".jpg"),
            (_images(root, "100k", split), ".jpg"),
            (_masks(root, split), ".png"),
        ):
            if folder.is_dir():
                ids.update(listed(folder, (ending,), IMAGE_CURE))
    boxes = root / "labels" / "det_20" / "det_val.json"
    if boxes.is_file():
        ids.update(Path(frame["name"]).stem for frame in scalabel.read(boxes))
    if not ids:
        raise LayoutError(
            root,
            "holds no validation or test stills, so evaluation clips cannot be told apart",
            f"{IMAGE_CURE}, at least the val splits",
        )
    return ids


def read_image(path: Path) -> np.ndarray:
    """uint8 HWC RGB, as stored. Raises LayoutError for a missing or damaged file."""
    return decode_image(path, image_bytes(path, IMAGE_CURE), IMAGE_CURE)


def read_label(path: Path) -> np.ndarray:
    """uint8 HW train ids, 255 = ignore. Raises LayoutError for a damaged or wrongly coded mask."""
    return decode_label(path, image_bytes(path, MASK_CURE), CODING)


def problems(root: Path, *, full: bool = False, workers: int = 1) -> Iterator[Problem]:
    """Everything that is wrong with single files of the tree, file by file."""
    for _, finding in audit.run(inspections(root, full=full), workers):
        yield from finding.problems


def inspections(root: Path, *, full: bool = False) -> list[Inspection]:
    """What an audit of the tree looks at; parts of BDD100K that are not there are left out."""
    root = Path(root)
    todo: list[Inspection] = []
    for split in SPLITS:
        todo += _still_inspections(root, split)
    for split in SPLITS:
        folder, part = _images(root, "100k", split), f"images/100k/{split}"
        if folder.is_dir():
            for path in listed(folder, (".jpg",), IMAGE_CURE).values():
                look = partial(audit.still, path, None, CODING, IMAGE_CURE)
                todo.append(Inspection(part, path, look))
    for split in MASK_SPLITS:
        path = root / "labels" / "det_20" / f"det_{split}.json"
        if path.is_file():
            look = partial(scalabel.look, path, _images(root, "100k", split))
            todo.append(Inspection("labels/det_20", path, look))
    for split in SPLITS:
        if (root / "videos" / split).is_dir():
            for video in videos(root, split):
                look = partial(audit.clip, video.path, full=full)
                todo.append(Inspection(f"videos/{split}", video.path, look))
    if not todo:
        inner = root / "bdd100k"
        outer = "give the folder that holds images/ and labels/"
        cure = f"give {inner}" if inner.is_dir() else outer
        todo.append(audit.fault(".", root, "holds nothing of BDD100K", cure))
    return todo


def _still_inspections(root: Path, split: str) -> list[Inspection]:
    part = f"images/10k/{split}"
    image_folder, mask_folder = _images(root, "10k", split), _masks(root, split)
    labelled = split in MASK_SPLITS
    if not image_folder.is_dir():
        if mask_folder.is_dir():
            what = f"is missing, but {mask_folder} is there"
            return [audit.fault(part, image_folder, what, IMAGE_CURE)]
        return []
    images = listed(image_folder, (".jpg",), IMAGE_CURE)
    masks: dict[str, Path] = {}
    todo: list[Inspection] = []
    if labelled and not mask_folder.is_dir():
        what = f"is missing, but {image_folder} is there"
        todo.append(audit.fault(part, mask_folder, what, MASK_CURE))
    elif labelled:
        masks = listed(mask_folder, (".png",), MASK_CURE)
        faults = _unpaired(root, split, images, masks)
        todo += [audit.fault("labels/sem_seg/masks", *one) for one in faults]
    for id, path in images.items():
        look = partial(audit.still, path, masks.get(id), CODING, IMAGE_CURE)
        todo.append(Inspection(part, path, look))
    return todo


def _unpaired(
    root: Path, split: str, images: dict[str, Path], masks: dict[str, Path]
) -> list[tuple[Path, str, str]]:
    found: list[tuple[Path, str, str]] = []
    for id in sorted(images.keys() - masks.keys()):
        what = f"is missing: image {images[id]} has no mask"
        found.append((_masks(root, split) / f"{id}.png", what, MASK_CURE))
    for id in sorted(masks.keys() - images.keys()):
        what = f"is missing: mask {masks[id]} has no image"
        found.append((_images(root, "10k", split) / f"{id}.jpg", what, IMAGE_CURE))
    return found


def _images(root: Path, size: str, split: str) -> Path:
    return Path(root) / "images" / size / split


def _masks(root: Path, split: str) -> Path:
    return Path(root) / "labels" / "sem_seg" / "masks" / split


def _known(root: Path, split: str) -> None:
    if split not in SPLITS:
        raise LayoutError(Path(root), f"has no split {split!r}", f"use one of {', '.join(SPLITS)}")
