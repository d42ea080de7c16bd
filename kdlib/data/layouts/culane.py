"""CULane as its official archives unpack: 88880 / 9675 / 34680 stills of 590x1640, four lanes.

    driver_*_*frame/<clip>.MP4/<frame>.jpg                  with <frame>.lines.txt beside it
    laneseg_label_w16/driver_*_*frame/<clip>.MP4/<frame>.png
    list/train_gt.txt, val_gt.txt     "/image /mask e1 e2 e3 e4", the flags of lanes 1 to 4
    list/test.txt                     "/image"; a second column, as in the lane authors' lists, is
                                      a dummy and not looked at
    list/test_split/test{0..8}_*.txt  the nine scenarios of test

Facts: inter_region_affinity fact sheet, sections 3, 4 and 6. Masks hold 0 for background and 1..4
for the lanes from left to right, 16 pixels wide; a mask value of 255 is ignored. The official masks
cover train and val, so stills of test have no label here. A .lines.txt has one lane a line, x and y
in turn in pixels of the whole picture; stills of test have it too. Leading slashes of a list are
taken off. A still's id is its path without ending: driver_0_00frame/00000009.MP4/00000.

`read_image` and `read_label` return the part below row 240 of 590, which networks are trained and
tested on; `read_whole` the whole picture. Simulated trees hold smaller pictures (`top_of` scales)
and may lack lists of scenarios.

Not supported: masks of other widths, the probability maps of the official test code.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from kdlib.data.layouts import audit, culane_lists
from kdlib.data.layouts.audit import Finding, Inspection
from kdlib.data.layouts.culane_lists import LISTS
from kdlib.data.layouts.files import decode_image, decode_label, image_bytes
from kdlib.data.layouts.sample import IGNORE as IGNORE
from kdlib.data.layouts.sample import Coding, LayoutError, Problem, Sample, Video

TASK = "lanes"
METRIC = "culane"
CLASSES = ("background", "lane 1", "lane 2", "lane 3", "lane 4")
PALETTE = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 128, 255), (255, 255, 0))
CATEGORIES = {"background": (0,), "lanes": (1, 2, 3, 4)}
CLASS_WEIGHTS = (0.4, 1.0, 1.0, 1.0, 1.0)  # of the cross entropy
SPLITS, SCENARIOS = culane_lists.SPLITS, culane_lists.SCENARIOS
FULL = (590, 1640)  # height, width of the official pictures
TOP = 240  # rows cut at the top of a full-size picture
SIZE = None  # simulated pictures are smaller
COUNTS = {"train": 88880, "val": 9675, "test": 34680}

IMAGE_CURE = "unpack the official driver_*.tar.gz of that drive again, unmodified"
MASK_CURE = "unpack the official laneseg_label_w16.tar.gz again, unmodified"
LINES_CURE = "unpack the official annotations_new.tar.gz again, unmodified"
LIST_CURE = culane_lists.CURE
CODING = Coding(CLASSES, IGNORE, MASK_CURE, (range(0), ""))
UNNAMED = 'stills of test in no list of a scenario, scored as "unnamed"'
UNLISTED = "images in no list, as the frames of a simulated drive"
DISAGREE = "stills whose flags and mask tell of different lanes, kept as they are"


def samples(root: Path, split: str, *, drives: tuple[str, ...] = ()) -> list[Sample]:
    """The stills that a split's list names, sorted by id; those of test without masks.

    Args:
        drives: keep the ids that start with one of these; empty = all.

    Raises:
        LayoutError: no list, a wrong line in it, or a listed file that is not there.
    """
    found = [row.sample for row in culane_lists.rows(root, split)]
    for sample in found:
        for path, cure in ((sample.image, IMAGE_CURE), (sample.label, MASK_CURE)):
            if path is not None and not path.is_file():
                raise LayoutError(path, f"is missing, but {LISTS[split]} lists it", cure)
    return [one for one in found if not drives or one.id.startswith(tuple(drives))]


def videos(root: Path, split: str) -> list[Video]:
    """No clips: CULane's come as stills."""
    return []


def evaluation_ids(root: Path) -> set[str]:
    """The ids of the stills of val and test, as far as their lists are there.

    Raises:
        LayoutError: neither list is there, so that nothing could be told apart.
    """
    root = Path(root)
    there = [split for split in ("val", "test") if (root / LISTS[split]).is_file()]
    if not there:
        what = "has neither list/val_gt.txt nor list/test.txt, so its stills cannot be told apart"
        raise LayoutError(root, what, LIST_CURE)
    return {row.sample.id for split in there for row in culane_lists.rows(root, split)}


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
    """uint8 HW of 0 and 1..4, the part below `top_of`. Raises LayoutError for a wrong mask."""
    label_HW = decode_label(path, image_bytes(path, MASK_CURE), CODING)
    return label_HW[top_of(label_HW.shape[0]) :]


def read_lanes(sample: Sample) -> list[np.ndarray]:
    """The annotated lanes in the file's order: (P, 2) float64 x, y, pixels of the whole picture.

    A line without numbers is a lane without points, P = 0: the official evaluator counts it, and
    lanes of one point, although neither can be found (fact sheet section 4). No line, no lanes.

    Raises:
        LayoutError: no .lines.txt, or a line that is not finite numbers in pairs.
    """
    path = sample.image.with_suffix(".lines.txt")
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        raise LayoutError(path, "is missing", LINES_CURE) from None
    except (OSError, UnicodeDecodeError) as error:
        raise LayoutError(path, f"cannot be read ({error})", LINES_CURE) from None
    lanes = []
    for number, line in enumerate(lines, start=1):
        try:
            values = np.array([float(part) for part in line.split()], np.float64)
        except ValueError:
            raise LayoutError(path, f"line {number} holds no number", LINES_CURE) from None
        if len(values) % 2 or not np.isfinite(values).all():
            what = f"line {number} is not x and y in turn, {len(values)} values"
            raise LayoutError(path, what, LINES_CURE)
        lanes.append(values.reshape(-1, 2))
    return lanes


def scenario(sample: Sample) -> str:
    """The scenario of a still of test, one of `SCENARIOS`; "" where no list names it.

    Raises:
        LayoutError: a list holds a line that is no image.
    """
    root = _root(sample)
    for number, name in enumerate(SCENARIOS):
        if sample.id in culane_lists.named(culane_lists.scenario_list(root, number)):
            return name
    return ""


def problems(root: Path, *, full: bool = False, workers: int = 1) -> Iterator[Problem]:
    """Everything that is wrong with single files of the tree, file by file."""
    for _, finding in audit.run(inspections(root, full=full), workers):
        yield from finding.problems


def inspections(root: Path, *, full: bool = False) -> list[Inspection]:
    """What an audit looks at: the listed stills with masks and lines, and the scenarios.

    Images that no list names are counted. `full` is for layouts with videos: nothing changes here.
    """
    root = Path(root)
    todo: list[Inspection] = []
    splits: dict[str, str] = {}
    for split in SPLITS:
        try:
            rows = culane_lists.rows(root, split)
        except LayoutError as error:
            one = error.problem
            todo.append(audit.fault(split, one.path, one.what, one.cure))
            continue
        for row in rows:
            todo.append(Inspection(split, row.sample.image, partial(_look, row)))
            if (other := splits.setdefault(row.sample.id, split)) != split:
                what = f"lists {row.sample.id}, which {LISTS[other]} lists too"
                todo.append(audit.fault(split, root / LISTS[split], what, LIST_CURE))
    todo += _scenario_faults(root, splits)
    images = (path.relative_to(root).with_suffix("") for path in root.glob("driver_*/*/*.jpg"))
    unlisted = Counter(path.parts[0] for path in images if path.as_posix() not in splits)
    for drive, count in sorted(unlisted.items()):
        look = partial(Finding, notes=Counter({UNLISTED: count}))
        todo.append(Inspection("unlisted drives", root / drive, look))
    return todo


def _look(row: culane_lists.Row) -> Finding:
    """Without the image's size: there is no common one. A mask of another size is named."""
    finding = audit.still(row.sample.image, row.sample.label, CODING, IMAGE_CURE)
    found, notes = list(finding.problems), Counter()
    try:
        read_lanes(row.sample)
    except LayoutError as error:
        found.append(error.problem)
    if row.flags and finding.pixels is not None:
        notes[DISAGREE] += tuple((finding.pixels[1:5] > 0).astype(int)) != row.flags
    return replace(finding, problems=tuple(found), size=None, notes=+notes)


def _scenario_faults(root: Path, splits: dict[str, str]) -> list[Inspection]:
    todo: list[Inspection] = []
    owner: dict[str, str] = {}
    for number, name in enumerate(SCENARIOS):
        listing = culane_lists.scenario_list(root, number)
        try:
            ids = culane_lists.named(listing)
        except LayoutError as error:
            todo.append(audit.fault("test", listing, error.problem.what, LIST_CURE))
            continue
        for id in sorted(ids):
            if splits.get(id) != "test":
                what = f"lists {id}, which {LISTS['test']} does not"
                todo.append(audit.fault("test", listing, what, LIST_CURE))
            if (other := owner.setdefault(id, name)) != name:
                what = f"lists {id}, which belongs to the scenario {other!r} already"
                todo.append(audit.fault("test", listing, what, LIST_CURE))
    left = sum(split == "test" and id not in owner for id, split in splits.items())
    if left:
        look = partial(Finding, notes=Counter({UNNAMED: left}))
        todo.append(Inspection("scenarios", root / "list/test_split", look))
    return todo


def _root(sample: Sample) -> Path:
    return sample.image.parents[sample.id.count("/")]
