"""Pictures and markings as ApolloScape's lane segmentation stores them: colour-coded masks.

Only what is painted on the simulated roads has a class; everything else is void.
"""

from pathlib import Path

import numpy as np

from kdlib.simulate.classes import MARKS
from kdlib.simulate.files import write_jpeg, write_png
from kdlib.simulate.render import Frame

# Road and recording of each split; those of val are the ones of the released list of 1000 pictures.
PLACES = {"train": ("road02", "Record001"), "val": ("road04", "Record015")}
CAMERA = "Camera_5"
VOID = (0, 0, 0)

# By marking: ApolloScape's class and its colour (red, green, blue).
CLASSES = {
    "single white": ("s_w_d", (70, 130, 180)),
    "single yellow": ("s_y_d", (220, 20, 60)),
    "double white": ("ds_w_dn", (128, 0, 128)),
    "double yellow": ("ds_y_dn", (255, 0, 0)),
    "dashed white": ("b_w_g", (0, 0, 142)),
    "dashed yellow": ("b_y_g", (119, 11, 32)),
    "stop line": ("s_w_s", (220, 220, 0)),
    "crosswalk": ("c_wy_z", (190, 153, 153)),
    "through": ("a_w_t", (128, 128, 0)),
    "left": ("a_w_l", (180, 165, 180)),
    "right": ("a_w_r", (107, 142, 35)),
    "through left": ("a_w_tl", (128, 78, 160)),
    "through right": ("a_w_tr", (150, 100, 100)),
}


def files(root: Path, seed: str) -> list[Path]:
    """Picture and label; seed is split/number."""
    split, number = seed.split("/")
    road, record = PLACES[split]
    stem = f"000101_{int(number):09d}_{CAMERA}"
    return [
        root / f"ColorImage_{road}" / "ColorImage" / record / CAMERA / f"{stem}.jpg",
        root / f"Labels_{road}" / "Label" / record / CAMERA / f"{stem}_bin.png",
    ]


def write(paths: list[Path], frame: Frame) -> None:
    """Write the `files` of a frame."""
    write_jpeg(paths[0], frame.image)
    write_png(paths[1], colored(frame.marks))


def colored(marks: np.ndarray) -> np.ndarray:
    """The colour-coded mask (H, W, 3), blue first as OpenCV has it, of markings (H, W)."""
    table = np.array([VOID, *(CLASSES[kind][1] for kind in MARKS)], np.uint8)
    return np.ascontiguousarray(table[:, ::-1][marks])
