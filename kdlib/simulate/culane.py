"""Pictures and lane lines as CULane stores them.

Lines are named in pixels of the whole picture, from the bottom up, at rows that are 10 apart on the
official 590 rows; on a smaller picture rows, widths and thresholds shrink with it.
"""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from kdlib.simulate.classes import ARROWS, FIRST_MARK, IGNORE, MARKS, ROAD
from kdlib.simulate.files import write_bytes, write_jpeg, write_json, write_png
from kdlib.simulate.lanes import polyline
from kdlib.simulate.lines import Lane
from kdlib.simulate.render import Frame
from kdlib.simulate.world import Clip

SCENARIOS = (
    "normal", "crowd", "hlight", "shadow", "noline", "arrow", "curve", "cross", "night",
)  # fmt: skip
# No driver is in two splits, as there. Behind his number: which of the video's frames are kept.
DRIVERS = {
    "train": "driver_0_30frame",
    "val": "driver_1_30frame",
    "test": "driver_2_30frame",
    "drive": "driver_3_06frame",
}
ROWS, STEP, WIDE = 590, 10, 16  # an official picture; between points of a line; width in the mask
RATE = 30  # frames a second of the videos that the frames are numbered in
BEGINS = 16.0  # metres; in a crossroads, with no line nearer than this, none is labelled
VEHICLES = ("car", "truck", "bus", "train")
CROWDED, CROWD = 0.22, 6  # vehicles fill this share of the picture, and are this many at least
SHADED = 0.25  # share of the road that lies in shade
BENT = 0.12  # sine of the turn of the road within AHEAD metres
AHEAD = 40.0
ARROW = 2e-3  # share of the picture that arrows fill


def name(seed: str, frame: int = 0) -> str:
    """Path of a frame inside a CULane tree, without its ending; seed is split/number."""
    split, number = seed.split("/")
    return f"{DRIVERS[split]}/{int(number):08d}.MP4/{frame:05d}"


def files(root: Path, seed: str) -> list[Path]:
    """Picture, mask and lines of a still."""
    path = root / name(seed)
    mask = root / "laneseg_label_w16" / f"{name(seed)}.png"
    return [path.with_suffix(".jpg"), mask, path.with_suffix(".lines.txt")]


def write(paths: list[Path], seed: str, clip: Clip, frame: Frame) -> None:
    """Write the `files` of a still, and the part of the lists that it makes."""
    four = places(frame.lanes, frame.label.shape)
    write_jpeg(paths[0], frame.image)
    write_png(paths[1], mask(four, frame.label.shape))
    write_bytes(paths[2], lines(four).encode())
    row = {
        "name": name(seed),
        "split": seed.split("/")[0],
        "exists": [int(bool(lane)) for lane in four],
        "scenario": scenario(clip, frame, four),
    }
    write_json(paths[3], row)


def drive_files(root: Path, seed: str, frames: int, rate: float) -> list[Path]:
    """Pictures and lines of a drive that is in no list; frames are numbered as in its video."""
    stems = [root / name(seed, round(k * RATE / rate)) for k in range(frames)]
    return [stem.with_suffix(ending) for stem in stems for ending in (".lines.txt", ".jpg")]


def write_drive(paths: list[Path], frames: Iterable[Frame]) -> None:
    """Write the `drive_files`."""
    for text, picture, frame in zip(paths[::2], paths[1::2], frames, strict=True):
        four = places(frame.lanes, frame.label.shape)
        write_bytes(text, lines(four).encode())
        write_jpeg(picture, frame.image)


def places(found: list[Lane], size: tuple[int, int]) -> list[list[tuple[float, int]]]:
    """CULane's four places: second left, left, right, second right of the camera.

    Each is a list of (x, y), from the bottom up; empty where there is no line, and in the middle of
    a crossroads.
    """
    if all(line.near > BEGINS for line in found):
        return [[], [], [], []]
    left = sorted((line for line in found if line.offset < 0), key=lambda line: -line.offset)
    right = sorted((line for line in found if line.offset >= 0), key=lambda line: line.offset)
    four = [*reversed([*left, None, None][:2]), *[*right, None, None][:2]]
    return [sample_rows(line.points, size) if line else [] for line in four]


def sample_rows(points, size: tuple[int, int]) -> list[tuple[float, int]]:
    """x of a polyline (far to near) at the labelled rows, from the bottom up, in the picture."""
    out, step = [], max(size[0] * STEP // ROWS, 1)
    for y in range(size[0] - size[0] % step, 0, -step):
        for (x0, y0), (x1, y1) in pairwise(points):
            if y0 < y <= y1:
                x = x0 + (x1 - x0) * (y - y0) / (y1 - y0)
                if 0 <= x < size[1]:
                    out.append((round(x, 2), y))
                break
    return out if len(out) >= 2 else []


def lines(four: list[list[tuple[float, int]]]) -> str:
    """The text of a .lines.txt: one line per lane, x and y in turn."""
    return "".join(" ".join(f"{x} {y}" for x, y in lane) + "\n" for lane in four if lane)


def mask(four: list[list[tuple[float, int]]], size: tuple[int, int]) -> np.ndarray:
    """Segmentation of the lanes (H, W): 0 background, 1..4 by place."""
    out, wide = np.zeros(size, np.uint8), max(size[0] * WIDE // ROWS, 1)
    for value, lane in enumerate(four, 1):
        if lane:
            cv2.polylines(out, [polyline(lane)], False, value, wide, shift=4)
    return out


def scenario(clip: Clip, frame: Frame, four: list[list[tuple[float, int]]]) -> str:
    """Which of the nine a still belongs to. Dazzling light is not simulated: none is `hlight`."""
    if not any(four):
        return "cross"
    if clip.time == "night":
        return "night"
    if clip.worn:
        return "noline"
    height, width = frame.label.shape
    vehicles = [box for box in frame.boxes if box.category in VEHICLES]
    filled = sum((box.x2 - box.x1 + 1) * (box.y2 - box.y1 + 1) for box in vehicles)
    arrow = np.isin(frame.marks, [MARKS.index(kind) + 1 for kind in ARROWS]).sum()
    if arrow >= ARROW * height * width:
        return "arrow"
    if bend(clip, frame) >= BENT:
        return "curve"
    if shade(frame) >= SHADED:
        return "shadow"
    if len(vehicles) >= CROWD and filled >= CROWDED * height * width:
        return "crowd"
    return "normal"


def bend(clip: Clip, frame: Frame) -> float:
    """Sine of the angle between the road here and AHEAD metres on."""
    s = frame.painter.view.s
    *_, ax, az = clip.road.at(s)
    *_, bx, bz = clip.road.at(s + AHEAD)
    return abs(ax * bz - az * bx)


def shade(frame: Frame) -> float:
    """The share of the road's pixels that lie in shade."""
    canvas = frame.painter.canvas
    if canvas.shadow is None:
        return 0.0
    top, dark = canvas.shadow
    codes = canvas.pixels[top:, :, 3]
    road = (codes == ROAD) | ((codes >= FIRST_MARK) & (codes < IGNORE))
    return int((road & dark).sum()) / max(int(road.sum()), 1)


def lists(rows: list[dict]) -> dict[str, str]:
    """Texts of the files of list/, by their names; rows are what `write` left as parts."""
    rows = sorted(rows, key=lambda row: row["name"])
    texts = {}
    for split in ("train", "val", "test"):
        own = [row for row in rows if row["split"] == split]
        texts[f"{split}.txt"] = "".join(f"/{row['name']}.jpg\n" for row in own)
        if split != "test":
            texts[f"{split}_gt.txt"] = "".join(map(_listed, own))
    for k, kind in enumerate(SCENARIOS):
        own = [row for row in rows if row["split"] == "test" and row["scenario"] == kind]
        # These lists alone go without the leading slash, as the official ones.
        texts[f"test_split/test{k}_{kind}.txt"] = "".join(f"{row['name']}.jpg\n" for row in own)
    return texts


def _listed(row: dict) -> str:
    exists = " ".join(map(str, row["exists"]))
    return f"/{row['name']}.jpg /laneseg_label_w16/{row['name']}.png {exists}\n"
