"""The lists of ApolloScape's lane markings, and what tells the splits apart where they are absent.

    list/{train,val,test_img}.txt     an image, its label, four flags a line; the image is looked at

"val" is Record015 and Record017 of road04, from which the lane authors' list takes its 1000 stills;
"train" is the rest. Where list/train.txt or list/val.txt is there, it says which stills instead,
and records of a val list are left out of train. What stands before ColorImage_road in the paths of
a list is stripped.
"""

import re
from pathlib import Path

from kdlib.data.layouts.sample import LayoutError

VAL_RECORDS = frozenset({"road04/Record015", "road04/Record017"})
LISTS = {"train": "list/train.txt", "val": "list/val.txt", "test": "list/test_img.txt"}
STAMP = re.compile(r"\d{6}_\d{9}_Camera_\d")
PLACE = re.compile(
    r"(?:.*/)?ColorImage_(?P<road>road\d+)/(?:ColorImage/(?P<record>[^/]+)/[^/]+/)?"
    rf"(?P<stamp>{STAMP.pattern})\.jpg"
)

IMAGE_CURE = "unpack the official ColorImage_road*.zip of that road again, unmodified"
LIST_CURE = "copy the list again, or remove it: the records then tell the splits"


def chosen(root: Path, split: str, images: dict[str, Path]) -> list[str]:
    """The ids of a split, sorted: those of its list, or those that the records tell."""
    ids = _listed(root, split)
    if ids is not None:
        for id in ids:
            if id not in images:
                raise LayoutError(root / LISTS[split], f"lists {id}, which is missing", IMAGE_CURE)
        return sorted(ids)
    if split == "test":
        return sorted(images)
    listed_val = _listed(root, "val")
    held = VAL_RECORDS if listed_val is None else {id.rpartition("/")[0] for id in listed_val}
    return sorted(id for id in images if (id.rpartition("/")[0] in held) == (split == "val"))


def _listed(root: Path, split: str) -> set[str] | None:
    """The ids of a split's list; None where it has none."""
    listing = root / LISTS[split]
    if not listing.is_file():
        return None
    ids: set[str] = set()
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LayoutError(listing, f"cannot be read ({error})", LIST_CURE) from None
    for number, line in enumerate(lines, start=1):
        place = PLACE.match(line.strip())
        if place is None:
            if line.strip():
                what = f"line {number} does not start with an image under ColorImage_road0X"
                raise LayoutError(listing, what, LIST_CURE)
            continue
        record = None if split == "test" else place["record"]
        ids.add("/".join(part for part in (place["road"], record, place["stamp"]) if part))
    return ids
