"""The 38 lane markings of ApolloScape: names, ids, colours, which ones are evaluated; decoding.

The table is the data set's own, in its last published state (an earlier one gave ``a_n_lu`` the
colour of ``s_y_c`` and ``ds_y_dn`` another one). Its order makes the training classes: a marking's
place, but the last two, "noise" and "ignored", share class 36 (inter_region_affinity fact sheet,
section 3). Names: s solid, b broken, d double, w white, y yellow, n neither, c chevron or zebra,
a arrow.

Shape suffixes: H, W picture; C = 3 colours.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from kdlib.data.layouts.sample import LayoutError


class Marking(NamedTuple):
    """A row of the table: the id is what submissions hold, the colour is red, green, blue."""

    name: str
    id: int
    colour: tuple[int, int, int]
    group: str
    evaluated: bool


MARKINGS = tuple(
    Marking(*row)
    for row in (
        ("void", 0, (0, 0, 0), "void", True),
        ("s_w_d", 200, (70, 130, 180), "dividing", True),
        ("s_y_d", 204, (220, 20, 60), "dividing", True),
        ("ds_w_dn", 213, (128, 0, 128), "dividing", False),
        ("ds_y_dn", 209, (255, 0, 0), "dividing", True),
        ("sb_w_do", 206, (0, 0, 60), "dividing", False),
        ("sb_y_do", 207, (0, 60, 100), "dividing", False),
        ("b_w_g", 201, (0, 0, 142), "guiding", True),
        ("b_y_g", 203, (119, 11, 32), "guiding", True),
        ("db_w_g", 211, (244, 35, 232), "guiding", False),
        ("db_y_g", 208, (0, 0, 160), "guiding", False),
        ("db_w_s", 216, (153, 153, 153), "stopping", False),
        ("s_w_s", 217, (220, 220, 0), "stopping", True),
        ("ds_w_s", 215, (250, 170, 30), "stopping", False),
        ("s_w_c", 218, (102, 102, 156), "chevron", False),
        ("s_y_c", 219, (128, 0, 0), "chevron", False),
        ("s_w_p", 210, (128, 64, 128), "parking", True),
        ("s_n_p", 232, (238, 232, 170), "parking", False),
        ("c_wy_z", 214, (190, 153, 153), "zebra", True),
        ("a_w_u", 202, (0, 0, 230), "thru/turn", False),
        ("a_w_t", 220, (128, 128, 0), "thru/turn", True),
        ("a_w_tl", 221, (128, 78, 160), "thru/turn", True),
        ("a_w_tr", 222, (150, 100, 100), "thru/turn", True),
        ("a_w_tlr", 231, (255, 165, 0), "thru/turn", False),
        ("a_w_l", 224, (180, 165, 180), "thru/turn", True),
        ("a_w_r", 225, (107, 142, 35), "thru/turn", True),
        ("a_w_lr", 226, (201, 255, 229), "thru/turn", True),
        ("a_n_lu", 230, (0, 191, 255), "thru/turn", False),
        ("a_w_tu", 228, (51, 255, 51), "thru/turn", False),
        ("a_w_m", 229, (250, 128, 114), "thru/turn", False),
        ("a_y_t", 233, (127, 255, 0), "thru/turn", False),
        ("b_n_sr", 205, (255, 128, 0), "reduction", True),
        ("d_wy_za", 212, (0, 255, 255), "attention", False),
        ("r_wy_np", 227, (178, 132, 190), "no parking", True),
        ("vom_wy_n", 223, (128, 128, 64), "others", False),
        ("om_n_n", 250, (102, 0, 204), "others", True),
        ("noise", 249, (0, 153, 153), "ignored", False),
        ("ignored", 255, (255, 255, 255), "ignored", False),
    )
)
LAST = 36  # noise and ignored
CLASSES = (*(marking.name for marking in MARKINGS[:LAST]), "ignored")
PALETTE = tuple(marking.colour for marking in MARKINGS[: LAST + 1])
CATEGORIES = {
    group: tuple(k for k, marking in enumerate(MARKINGS[: LAST + 1]) if marking.group == group)
    for group in dict.fromkeys(marking.group for marking in MARKINGS)
}
# Class -> name of the 18 that the public table evaluates, void among them (section 4).
EVALUATED = {k: marking.name for k, marking in enumerate(MARKINGS) if marking.evaluated}
UNKNOWN = 254


def decode(path: Path, mask: np.ndarray | None, cure: str) -> np.ndarray:
    """A label as OpenCV reads it, HWC in blue, green, red -> uint8 HW of classes 0..36.

    Raises:
        LayoutError: not read at all, not three 8-bit channels, or a colour that no marking has.
    """
    if mask is None:
        raise LayoutError(path, "cannot be decoded", cure)
    if mask.ndim != 3 or mask.shape[2] != 3 or mask.dtype != np.uint8:
        channels, bits = 1 if mask.ndim == 2 else mask.shape[2], mask.dtype.itemsize * 8
        what = f"has {channels} channel(s) of {bits} bits, not the three of 8 of a colour label"
        raise LayoutError(path, what, cure)
    # Four bytes a pixel make one number; the fourth, which OpenCV fills with 255, is masked away.
    codes_HW = cv2.cvtColor(mask, cv2.COLOR_BGR2BGRA).view("<u4")[..., 0] & 0xFFFFFF
    label_HW = _table()[codes_HW]
    wrong = np.unique(codes_HW[label_HW == UNKNOWN])
    if wrong.size:
        shown = ", ".join(str((int(c) >> 16, int(c) >> 8 & 255, int(c) & 255)) for c in wrong[:4])
        more = f" and {wrong.size - 4} more" if wrong.size > 4 else ""
        what = f"holds the colour(s) {shown}{more} (red, green, blue), which no marking has"
        raise LayoutError(path, what, cure)
    return label_HW


def label_ids(prediction_HW: np.ndarray) -> np.ndarray:
    """Classes, integers 0..36 of any shape -> uint8 label ids, as the test server wants them.

    Class 36 becomes 249, "noise", as the lane authors submitted it.

    Raises:
        ValueError: other values.
    """
    prediction_HW = np.asarray(prediction_HW)
    known = (prediction_HW >= 0) & (prediction_HW <= LAST)
    if not known.all():
        wrong = np.unique(prediction_HW[~known])[:6].tolist()
        raise ValueError(f"predictions hold {wrong}: only classes 0..{LAST} have a label id")
    return np.array([marking.id for marking in MARKINGS[: LAST + 1]], np.uint8)[prediction_HW]


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """Class of each of the 2**24 colours, 16 MiB; red is the highest byte."""
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    for k, marking in enumerate(MARKINGS):
        red, green, blue = marking.colour
        table[red << 16 | green << 8 | blue] = min(k, LAST)
    return table
