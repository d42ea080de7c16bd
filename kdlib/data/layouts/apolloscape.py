"""ApolloScape's lane markings as its archives unpack: stills of 2710x3384, 37 training classes.

    ColorImage_road0X/ColorImage/<record>/<camera>/<stamp>_Camera_<N>.jpg
    Labels_road0X/Label/<record>/<camera>/<stamp>_Camera_<N>_bin.png
    list/{train,val,test_img}.txt            not needed: an image, its label, four flags a line

Facts: inter_region_affinity fact sheet, sections 3, 4 and 6. Labels are pictures of 38 colours,
see `kdlib.data.layouts.apolloscape_colours`; they decode to classes 0..36, of which the last is
"noise" and "ignored" together. No pixel of a label is 255, which is for what an augmentation
fills. A folder of labels may also be named Labels, as the data set's description has it.

Roads 02 to 04 are labelled, as far as they are there. "test" is road05, in folders or flat; its
labels are not published. A still's id is <road>/<record>/<stamp>_Camera_<N>, of test
road05/<stamp>_Camera_<N>. Which stills are train and which val, records or lists tell: see
`kdlib.data.layouts.apolloscape_lists`.

`read_image` and `read_label` return the part below row 1700 of 2710, which networks are trained and
tested on; `read_whole` the whole picture. Simulated pictures may be smaller, see `top_of`.

Not supported: labels that were decoded to ids before.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from kdlib.data.layouts import apolloscape_colours, apolloscape_lists, audit
from kdlib.data.layouts.apolloscape_lists import IMAGE_CURE, LIST_CURE, LISTS, STAMP
from kdlib.data.layouts.audit import Finding, Inspection
from kdlib.data.layouts.box_files import NO_MASKS
from kdlib.data.layouts.files import decode_image, image_bytes, listed
from kdlib.data.layouts.sample import IGNORE as IGNORE
from kdlib.data.layouts.sample import LayoutError, Problem, Sample, Video

TASK = "segmentation"
CLASSES, PALETTE = apolloscape_colours.CLASSES, apolloscape_colours.PALETTE
CATEGORIES, EVALUATED = apolloscape_colours.CATEGORIES, apolloscape_colours.EVALUATED
CLASS_WEIGHTS = (0.05, *(1.0,) * 35, 0.05)  # of the cross entropy
LABELLED = ("road02", "road03", "road04")
ROADS = {"train": LABELLED, "val": LABELLED, "test": ("road05",)}
SPLITS = tuple(ROADS)
FULL = (2710, 3384)  # height, width of the official pictures
TOP = 1700  # rows cut at the top of a full-size picture
SIZE = None  # simulated pictures are smaller
COUNTS: dict[str, int] = {}  # the paper's 103653 / 10000 / 33790 are of a division not published
IMAGE_ENDING, LABEL_ENDING = ".jpg", "_bin.png"

LABEL_CURE = (
    "unpack the official Labels_road*.zip of that road again, unmodified (a resize must be by "
    "nearest neighbour)"
)

label_ids = apolloscape_colours.label_ids


def samples(root: Path, split: str, *, drives: tuple[str, ...] = ()) -> list[Sample]:
    """The stills of a split, sorted by id, with labels in train and val only.

    Args:
        drives: keep the ids that start with one of these ("road04/Record015"); empty = all.

    Raises:
        LayoutError: no such folder, an image or a label without its partner, a wrong name, or a
            listed still that is not there.
    """
    root = Path(root)
    images, labels, faults = _frames(root, split)
    for path, what, cure in faults:
        raise LayoutError(path, what, cure)
    return [
        Sample(id, images[id], labels.get(id))
        for id in apolloscape_lists.chosen(root, split, images)
        if not drives or id.startswith(tuple(drives))
    ]


def videos(root: Path, split: str) -> list[Video]:
    """No clips: records come as stills."""
    return []


def evaluation_ids(root: Path) -> set[str]:
    """The ids of the stills of val and test, as far as these are there.

    Raises:
        LayoutError: neither is there, so that nothing could be told apart.
    """
    root, ids = Path(root), set()
    for split in ("val", "test"):
        if any(_images(root, road).is_dir() for road in ROADS[split]):
            ids.update(apolloscape_lists.chosen(root, split, _frames(root, split)[0]))
    if not ids:
        what = "holds no validation or test stills, so they cannot be told apart"
        raise LayoutError(root, what, f"{IMAGE_CURE}, at least that of road04")
    return ids


def top_of(height: int) -> int:
    """How many rows are cut at the top of a picture of that height."""
    return round(height * TOP / FULL[0])


def read_whole(path: Path) -> np.ndarray:
    """uint8 HWC RGB, the whole picture. Raises LayoutError for a missing or damaged file."""
    return decode_image(path, image_bytes(path, IMAGE_CURE), IMAGE_CURE)


def read_image(path: Path) -> np.ndarray:
    """uint8 HWC RGB, the part below `top_of`. Raises LayoutError as `read_whole`."""
    image_HWC = read_whole(path)
    return image_HWC[top_of(image_HWC.shape[0]) :]


def read_label(path: Path) -> np.ndarray:
    """uint8 HW classes 0..36, the part below `top_of`.

    Raises:
        LayoutError: a damaged file, no colour label, or an unknown colour in that part.
    """
    mask = _mask(path)
    cut = None if mask is None else mask[top_of(mask.shape[0]) :]
    return apolloscape_colours.decode(path, cut, LABEL_CURE)


def problems(root: Path, *, full: bool = False, workers: int = 1) -> Iterator[Problem]:
    """Everything that is wrong with single files of the tree, file by file."""
    for _, finding in audit.run(inspections(root, full=full), workers):
        yield from finding.problems


def inspections(root: Path, *, full: bool = False) -> list[Inspection]:
    """What an audit looks at: every still of a split with its label; roads may be absent.

    `full` is for layouts with videos and changes nothing here.
    """
    root = Path(root)
    todo: list[Inspection] = []
    splits: dict[str, str] = {}
    told: set[Path] = set()
    for split in SPLITS:
        if not any(_images(root, road).is_dir() for road in ROADS[split]):
            continue
        images, labels, faults = _frames(root, split)
        todo += [audit.fault(split, *one) for one in faults if one[0] not in told]
        told |= {path for path, _, _ in faults}  # train and val share the roads
        try:
            chosen = apolloscape_lists.chosen(root, split, images)
        except LayoutError as error:
            one = error.problem
            todo.append(audit.fault(split, one.path, one.what, one.cure))
            continue
        for id in chosen:
            if (other := splits.setdefault(id, split)) != split:
                what = f"lists {id}, which is in {other} too"
                todo.append(audit.fault(split, root / LISTS[split], what, LIST_CURE))
            todo.append(Inspection(split, images[id], partial(_look, images[id], labels.get(id))))
    if not todo:
        cure = "give the folder that holds ColorImage_road02/ and Labels_road02/"
        todo.append(audit.fault(".", root, "holds nothing of ApolloScape", cure))
    return todo


def _look(image: Path, label: Path | None) -> Finding:
    """Without the image's size: there is no common one. A label of another size is named."""
    finding = audit.still(image, None, NO_MASKS, IMAGE_CURE)
    size_hw, finding = finding.size, replace(finding, size=None)
    if label is None:
        return finding
    # A label is a picture as well: Pillow's strict look at it comes first.
    faults = list(audit.still(label, None, NO_MASKS, LABEL_CURE).problems)
    pixels = None
    if not faults:
        try:
            label_HW = apolloscape_colours.decode(label, _mask(label), LABEL_CURE)
        except LayoutError as error:
            faults.append(error.problem)
        else:
            pixels = np.bincount(label_HW.ravel(), minlength=256)
            if size_hw not in (None, label_HW.shape):
                sizes = (f"{height}x{width}" for height, width in (label_HW.shape, size_hw))
                what = "is {}, but its image is {} (height x width)".format(*sizes)
                faults.append(Problem(label, what, LABEL_CURE))
    return replace(finding, problems=(*finding.problems, *faults), pixels=pixels)


def _mask(path: Path) -> np.ndarray | None:
    data = np.frombuffer(image_bytes(path, LABEL_CURE), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def _images(root: Path, road: str) -> Path:
    return root / f"ColorImage_{road}"


def _frames(
    root: Path, split: str
) -> tuple[dict[str, Path], dict[str, Path], list[tuple[Path, str, str]]]:
    """Images and labels by id of all roads that a split is on, and what is amiss with them."""
    if split not in SPLITS:
        raise LayoutError(root, f"has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    roads = [road for road in ROADS[split] if _images(root, road).is_dir()]
    if not roads:
        missing = " or ".join(f"ColorImage_{road}" for road in ROADS[split])
        raise LayoutError(root, f"has no folder {missing}", IMAGE_CURE)
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    faults: list[tuple[Path, str, str]] = []
    for road in roads:
        if split == "test":
            folders = [(path.parent, road) for path in _images(root, road).rglob("*.jpg")]
            _gather(sorted(set(folders)), IMAGE_ENDING, IMAGE_CURE, images, faults)
            continue
        inner = _images(root, road) / "ColorImage"
        _gather(_cameras(inner, road), IMAGE_ENDING, IMAGE_CURE, images, faults)
        places = [root / f"Labels_{road}" / name for name in ("Label", "Labels")]
        inner = next((path for path in places if path.is_dir()), places[0])
        if not inner.is_dir():
            what = f"is missing, but {_images(root, road)} is there"
            faults.append((inner, what, LABEL_CURE))
            continue
        _gather(_cameras(inner, road), LABEL_ENDING, LABEL_CURE, labels, faults)
        here = {id for id in images if id.startswith(f"{road}/")}
        for id in sorted(here - labels.keys()):
            faults.append((images[id], "has no label", f"{LABEL_CURE}, or remove the image"))
        for id in sorted(id for id in labels.keys() - here if id.startswith(f"{road}/")):
            faults.append((labels[id], "has no image", f"{IMAGE_CURE}, or remove the label"))
    return dict(sorted(images.items())), labels, faults


def _cameras(folder: Path, road: str) -> list[tuple[Path, str]]:
    """The folders of the cameras, each with the beginning of its ids: road and record."""
    return [
        (path, f"{road}/{path.parent.name}") for path in sorted(folder.glob("*/*")) if path.is_dir()
    ]


def _gather(
    folders: list[tuple[Path, str]],
    ending: str,
    cure: str,
    found: dict[str, Path],
    faults: list[tuple[Path, str, str]],
) -> None:
    """Adds the files of these folders to `found` by id, and what is amiss to `faults`."""
    for folder, start in folders:
        for path in listed(folder, (ending,), cure).values():
            id = f"{start}/{path.name[: -len(ending)]}"
            if STAMP.fullmatch(path.name[: -len(ending)]) is None:
                what = f"is not named <6 digits>_<9 digits>_Camera_<N>{ending}"
                faults.append((path, what, cure))
            elif id in found:
                faults.append((path, f"has the same id as {found[id]}", "keep one of the two"))
            else:
                found[id] = path
