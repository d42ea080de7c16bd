"""LLAMAS as its official archives unpack: 58269 / 20844 / 20929 stills of 717x1276, four lanes.

    labels/{train,valid}/<recording>/<stamp>.json
    color_images/{train,valid,test}/<recording>/<stamp>_color_rect.png
    grayscale_images/{train,valid,test}/<recording>/<stamp>_gray_rect.png

Facts: inter_region_affinity fact sheet, sections 3, 4 and 6. The archives hold no masks: labels are
drawn from the JSON files, see `kdlib.data.layouts.llamas_lines` for the rules. Classes 1 to 4 are
the lines l1, l0, r0, r1; lines farther out are background. Colour pictures are read where
color_images holds the split, else grey ones, as RGB. The split "val" is the folder valid (both
names do); the labels of test are not published. A still's id is <recording>/<stamp>.

`read_image` and `read_label` return the part below row 333 of 717, which networks are trained and
tested on; `read_whole` and `read_whole_label` the whole picture. Simulated pictures may be smaller:
the projection and the pixels of a label belong to the size of its own picture, so nothing is scaled
but the cut, see `top_of`.

Not supported: the lane authors' own PNG labels, whose tool was not published.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from kdlib.data.layouts import audit, llamas_lines
from kdlib.data.layouts.audit import Finding, Inspection
from kdlib.data.layouts.box_files import NO_MASKS, image_size
from kdlib.data.layouts.files import decode_image, image_bytes, listed
from kdlib.data.layouts.llamas_lines import NAMES
from kdlib.data.layouts.sample import IGNORE as IGNORE
from kdlib.data.layouts.sample import LayoutError, Problem, Sample, Video

TASK = "lanes"
METRIC = "llamas"
CLASSES = ("background", *NAMES)
PALETTE = ((0, 0, 0), (255, 0, 0), (34, 140, 24), (0, 0, 255), (255, 255, 0))
CATEGORIES = {"background": (0,), "lanes": (1, 2, 3, 4)}
CLASS_WEIGHTS = (0.4, 1.0, 1.0, 1.0, 1.0)  # of the cross entropy
FOLDERS = {"train": "train", "val": "valid", "test": "test"}
SPLITS = tuple(FOLDERS)
FULL = (717, 1276)  # height, width of the official pictures
TOP = 333  # rows cut at the top of a full-size picture
SIZE = None  # simulated pictures are smaller
COUNTS = {
    "color_images/train": 58269,
    "color_images/valid": 20844,
    "color_images/test": 20929,
    "grayscale_images/train": 58269,
    "grayscale_images/valid": 20844,
    "grayscale_images/test": 20929,
}
KINDS = {"color_images": "_color_rect.png", "grayscale_images": "_gray_rect.png"}

IMAGE_CURE = "unpack the official color_images.zip or grayscale_images.zip again, unmodified"
LABEL_CURE = llamas_lines.CURE
DROPPED = "lanes under 20 pixels high or of fewer than two markers, dropped"
FARTHER = "lanes farther out than l1 and r1, drawn as background"


def samples(root: Path, split: str, *, drives: tuple[str, ...] = ()) -> list[Sample]:
    """The stills of a split, sorted by id, with JSON labels in train and val only.

    Args:
        drives: keep the ids that start with one of these; empty = all.

    Raises:
        LayoutError: no such folder, or an image or a label without its partner.
    """
    root, part, images, labels = _found(root, split)
    for path, what, cure in _unpaired(root, part, images, labels):
        raise LayoutError(path, what, cure)
    return [
        Sample(id, path, None if labels is None else labels[id])
        for id, path in images.items()
        if not drives or id.startswith(tuple(drives))
    ]


def videos(root: Path, split: str) -> list[Video]:
    """No clips: recordings come as stills."""
    return []


def evaluation_ids(root: Path) -> set[str]:
    """The ids of the stills of val and test, as far as these are there.

    Raises:
        LayoutError: neither is there, so that nothing could be told apart.
    """
    there = [split for split in ("val", "test") if _part(Path(root), split).is_dir()]
    if not there:
        what = "holds no validation or test stills, so they cannot be told apart"
        raise LayoutError(Path(root), what, IMAGE_CURE)
    return {id for split in there for id in _found(root, split)[2]}


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


def read_whole_label(where: Sample | Path) -> np.ndarray:
    """uint8 HW of 0 and 1..4, the official drawing of the WHOLE picture from a JSON label.

    The rows above `top_of` are as drawn, not blanked: where no marker reaches them they are
    background, as in a padded prediction.

    Args:
        where: a still or the path of its label.

    Raises:
        LayoutError: a wrong label, see `llamas_lines.read`, a still without one, or no picture that
            tells its size.
    """
    path = _label(where) if isinstance(where, Sample) else where
    label = llamas_lines.read(path)
    size_hw = image_size(_image(Path(path)), IMAGE_CURE)
    llamas_lines.check_rows(path, label, size_hw)
    return llamas_lines.draw(label, size_hw)


def read_label(path: Path) -> np.ndarray:
    """`read_whole_label`, the part below `top_of`."""
    mask_HW = read_whole_label(path)
    return mask_HW[top_of(mask_HW.shape[0]) :]


def read_lanes(sample: Sample) -> list[np.ndarray]:
    """The curves of l1, l0, r0, r1 as far as they are there, in this order.

    Each is (P, 2) float64 x, y, pixels of the whole picture, a point a row, from the top, without
    gaps between markers, prolonged to the edge of the picture (`llamas_lines`).

    Raises:
        LayoutError: no label, or a wrong one.
    """
    path, size_hw = _label(sample), image_size(sample.image, IMAGE_CURE)
    label = llamas_lines.read(path)
    llamas_lines.check_rows(path, label, size_hw)
    return llamas_lines.curves(label, size_hw)


def problems(root: Path, *, full: bool = False, workers: int = 1) -> Iterator[Problem]:
    """Everything that is wrong with single files of the tree, file by file."""
    for _, finding in audit.run(inspections(root, full=full), workers):
        yield from finding.problems


def inspections(root: Path, *, full: bool = False) -> list[Inspection]:
    """What an audit looks at: every still with its label; splits that are absent are left out.

    `full` is for layouts with videos and changes nothing here.
    """
    root = Path(root)
    todo: list[Inspection] = []
    for split, folder in FOLDERS.items():
        if not (part := _part(root, split)).is_dir():
            if (root / "labels" / folder).is_dir():
                what = f"is missing, but {root / 'labels' / folder} is there"
                todo.append(audit.fault(f"color_images/{folder}", part, what, IMAGE_CURE))
            continue
        name = part.relative_to(root).as_posix()
        try:
            _, _, images, labels = _found(root, split)
        except LayoutError as error:
            one = error.problem
            todo.append(audit.fault(name, one.path, one.what, one.cure))
            continue
        todo += [audit.fault(name, *one) for one in _unpaired(root, part, images, labels)]
        for id, path in images.items():
            label = (labels or {}).get(id)
            todo.append(Inspection(name, path, partial(_look, Sample(id, path, label))))
    if not todo:
        cure = "give the folder that holds color_images/ and labels/"
        todo.append(audit.fault(".", root, "holds nothing of LLAMAS", cure))
    return todo


def _look(sample: Sample) -> Finding:
    """Without the image's size: there is no common one."""
    finding = audit.still(sample.image, None, NO_MASKS, IMAGE_CURE)
    size_hw, finding = finding.size, replace(finding, size=None)
    if sample.label is None:
        return finding
    try:
        label = llamas_lines.read(sample.label)
        if size_hw is None:
            return finding
        llamas_lines.check_rows(sample.label, label, size_hw)
    except LayoutError as error:
        return replace(finding, problems=(*finding.problems, error.problem))
    pixels = np.bincount(llamas_lines.draw(label, size_hw).ravel(), minlength=256)
    farther = sum(lane.name not in NAMES for lane in label.lanes)
    return replace(
        finding, pixels=pixels, notes=+Counter({DROPPED: label.dropped, FARTHER: farther})
    )


def _label(sample: Sample) -> Path:
    if sample.label is None:
        cure = "ask for stills of train and val only"
        raise LayoutError(sample.image, "has no label, as all of test", cure)
    return sample.label


def _image(label: Path) -> Path:
    """The picture of a label; the colour one where neither is there, for the error to name."""
    root, split, recording = label.parents[3], label.parts[-3], label.parts[-2]
    places = [
        root / kind / split / recording / f"{label.stem}{ending}" for kind, ending in KINDS.items()
    ]
    return next((path for path in places if path.is_file()), places[0])


def _part(root: Path, split: str) -> Path:
    """The folder of a split's pictures: grey ones only where there are no coloured ones."""
    colour, grey = (root / kind / FOLDERS[split] for kind in KINDS)
    return grey if grey.is_dir() and not colour.is_dir() else colour


def _found(root: Path, split: str) -> tuple[Path, Path, dict[str, Path], dict[str, Path] | None]:
    """The root, the folder of the pictures, the pictures by id, and the labels by id or None."""
    root = Path(root)
    split = {folder: name for name, folder in FOLDERS.items()}.get(split, split)
    if split not in FOLDERS:
        raise LayoutError(root, f"has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    part = _part(root, split)
    images = _stills(part, KINDS[part.parent.name], IMAGE_CURE)
    if split == "test":
        return root, part, images, None
    return root, part, images, _stills(root / "labels" / part.name, ".json", LABEL_CURE)


def _stills(folder: Path, ending: str, cure: str) -> dict[str, Path]:
    """Id -> path of the files with that ending in the folders of the recordings, sorted by id."""
    if not folder.is_dir():
        raise LayoutError(folder, "no such folder", cure)
    found: dict[str, Path] = {}
    for recording in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in listed(recording, (ending,), cure).values():
            found[f"{recording.name}/{path.name[: -len(ending)]}"] = path
    return dict(sorted(found.items()))


def _unpaired(
    root: Path, part: Path, images: dict[str, Path], labels: dict[str, Path] | None
) -> list[tuple[Path, str, str]]:
    if labels is None:
        return []
    found: list[tuple[Path, str, str]] = []
    for id in sorted(images.keys() - labels.keys()):
        path = root / "labels" / part.name / f"{id}.json"
        found.append((path, f"is missing: image {images[id]} has no label", LABEL_CURE))
    for id in sorted(labels.keys() - images.keys()):
        path = part / f"{id}{KINDS[part.parent.name]}"
        found.append((path, f"is missing: label {labels[id]} has no image", IMAGE_CURE))
    return found
