"""The lists of CULane: which stills a split has, the flags of their lanes, the scenarios of test.

    list/train_gt.txt, val_gt.txt     "/image /mask e1 e2 e3 e4", the flags of lanes 1 to 4
    list/test.txt                     "/image", and perhaps a dummy column, not looked at
    list/test_split/test{0..8}_*.txt  "/image" of the nine scenarios

Leading slashes are taken off. The id of a still is the path of its image without ending.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from kdlib.data.layouts.sample import LayoutError, Sample

SPLITS = ("train", "val", "test")
SCENARIOS = (
    "normal", "crowd", "hlight", "shadow", "noline", "arrow", "curve", "cross", "night",
)  # fmt: skip
LISTS = {"train": "list/train_gt.txt", "val": "list/val_gt.txt", "test": "list/test.txt"}
MASKS = "laneseg_label_w16"
CURE = "unpack the official list.tar.gz again, unmodified"


class Row(NamedTuple):
    """A line of a list: the still, and the flags of lanes 1 to 4 where the list has them."""

    sample: Sample
    flags: tuple[int, ...] | None


def rows(root: Path, split: str) -> list[Row]:
    """The lines of a split's list, sorted by id; stills of test get no label.

    Raises:
        LayoutError: no such split, no list, a wrong line, or a still named twice.
    """
    if split not in SPLITS:
        raise LayoutError(root, f"has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    listing = Path(root) / LISTS[split]
    found: dict[str, Row] = {}
    for number, parts in _lines(listing):
        id = _id(listing, number, parts[0])
        label, flags = None, None
        if split != "test":
            mask = f"{MASKS}/{id}.png"
            if len(parts) != 6 or parts[1].lstrip("/") != mask or set(parts[2:]) - {"0", "1"}:
                what = f"line {number} is not an image, its mask /{mask} and four flags 0 or 1"
                raise LayoutError(listing, what, CURE)
            label, flags = Path(root) / mask, tuple(int(flag) for flag in parts[2:])
        if id in found:
            raise LayoutError(listing, f"line {number} lists {id} again", CURE)
        found[id] = Row(Sample(id, Path(root) / f"{id}.jpg", label), flags)
    return [found[id] for id in sorted(found)]


def scenario_list(root: Path, number: int) -> Path:
    """Where the list of scenario `number` of `SCENARIOS` lies, be it there or not."""
    return Path(root) / "list/test_split" / f"test{number}_{SCENARIOS[number]}.txt"


def named(listing: Path) -> frozenset[str]:
    """The ids in the list of one scenario, none where it is absent; read once a state of it.

    Raises:
        LayoutError: a line that is no image.
    """
    try:
        stat = listing.stat()
    except OSError:
        return frozenset()
    return _named(listing, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=len(SCENARIOS))
def _named(listing: Path, size: int, time: int) -> frozenset[str]:
    return frozenset(_id(listing, number, parts[0]) for number, parts in _lines(listing))


def _lines(listing: Path) -> Iterator[tuple[int, list[str]]]:
    """The number and the columns of each line that has any."""
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise LayoutError(listing, "is missing or no text", CURE) from None
    for number, line in enumerate(lines, start=1):
        if parts := line.split():
            yield number, parts


def _id(listing: Path, number: int, image: str) -> str:
    path = Path(image.lstrip("/"))
    if path.suffix != ".jpg" or len(path.parts) != 3 or ".." in path.parts:
        what = f"line {number} does not start with /<drive>/<clip>/<frame>.jpg"
        raise LayoutError(listing, what, CURE)
    return path.with_suffix("").as_posix()
