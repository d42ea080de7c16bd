"""Pictures and lane markers as LLAMAS stores them: strokes with their ends in pixels and metres.

World coordinates are the camera's: x to the right, y down, z ahead, so that the projection matrix
alone leads to pixels.
"""

from pathlib import Path

from kdlib.simulate.camera import View
from kdlib.simulate.files import write_json, write_png
from kdlib.simulate.ground import Line
from kdlib.simulate.kitti import coarse
from kdlib.simulate.lines import Place, strokes
from kdlib.simulate.render import OVER, Frame

FOLDERS = {"train": "train", "val": "valid"}
PER_RECORDING = 50
SIDES = {"l": (1, 0), "r": (0, 1)}  # the labelled lines: l1, l0, r0, r1


def name(seed: str) -> str:
    """Path of a frame below labels/ or color_images/, without its ending; seed is split/number."""
    split, number = seed.split("/")
    k = int(number)
    day = 1 + list(FOLDERS).index(split)
    recording = f"images-2000-01-{day:02d}-00-{k // PER_RECORDING:02d}-00_simulated_highway"
    return f"{FOLDERS[split]}/{recording}/{946684800 + 86400 * (day - 1) + k}_0000000000"


def files(root: Path, seed: str) -> list[Path]:
    """Picture and label of a frame."""
    path = name(seed)
    return [root / "color_images" / f"{path}_color_rect.png", root / "labels" / f"{path}.json"]


def write(paths: list[Path], seed: str, frame: Frame) -> None:
    """Write the `files` of a frame."""
    write_png(paths[0], coarse(frame.image))
    write_json(paths[1], label(frame, Path(name(seed)).name))


def label(frame: Frame, stamp: str) -> dict:
    """The label of a frame: the projection matrix, and the strokes of the four nearest lines."""
    painter = frame.painter
    matrix = projection(painter.view)
    # The last row and column that are painted are nearer to the next pixel, which there is none of.
    size = tuple(n * OVER - 1 for n in frame.label.shape)
    named = four_lines(list(painter.ground.lines), painter.view.u)
    lanes = []
    for lane_id, line in named.items():
        markers = [
            marker(f"{lane_id}-{k}", ends, matrix)
            for k, ends in enumerate(strokes(painter, line, size))
        ]
        if markers:
            lanes.append({"lane_id": lane_id, "markers": markers})
    return {"image_name": stamp, "projection_matrix": matrix, "lanes": lanes}


def four_lines(lines: list[Line], u: float) -> dict[str, Line]:
    """The lines l1, l0, r0, r1, as far as there are any, around offset u."""
    left = sorted((line for line in lines if line.offset < u), key=lambda line: -line.offset)
    right = sorted((line for line in lines if line.offset >= u), key=lambda line: line.offset)
    sides = {"l": left, "r": right}
    return {
        f"{side}{k}": sides[side][k]
        for side, order in SIDES.items()
        for k in order
        if k < len(sides[side])
    }


def projection(view: View) -> list[list[float]]:
    """The 3 x 3 matrix from camera coordinates to pixels of the picture, not of the larger one.

    The picture's columns are painted OVER to one; the middle of a pixel is at its whole number.
    """
    shift = (OVER - 1) / (2 * OVER)
    focal, tilt = view.focal / OVER, view.roll * view.focal / OVER
    return [
        [focal, tilt, view.cx / OVER - shift],
        [0.0 - tilt, focal, view.cy / OVER - shift],
        [0.0, 0.0, 1.0],
    ]


def marker(marker_id: str, ends: tuple[Place, Place], matrix: list[list[float]]) -> dict:
    """One stroke; every number is a string, and pixels are whole ones, as in the official files."""
    out: dict = {"lane_marker_id": marker_id}
    for end, (x, up, z) in zip(("start", "end"), ends, strict=True):
        column, row, _ = (a * x - b * up + c * z for a, b, c in matrix)
        out[f"pixel_{end}"] = {"x": str(round(column / z)), "y": str(round(row / z))}
        out[f"world_{end}"] = {"x": f"{x:.5f}", "y": f"{-up:.5f}", "z": f"{z:.5f}"}
    return out
