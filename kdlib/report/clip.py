"""A short clip as an animated picture, which a rendered page shows without a player."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from kdlib import files

LINE = 18  # pixels of the line with a picture's name
PAPER, INK = (255, 255, 255), (34, 34, 34)
COLOURS = 64  # of the animated picture; lanes keep theirs, the street loses shades


def stacked(pictures: Mapping[str, np.ndarray], width: int) -> np.ndarray:
    """Pictures of one size below each other, each under its name; uint8 HWC, RGB.

    pictures: name -> uint8 HWC; width: in pixels, to which they shrink. Raises ValueError where
    sizes differ.
    """
    sizes = {picture.shape for picture in pictures.values()}
    if len(sizes) != 1:
        raise ValueError(f"clip: pictures of one size are needed, not {sorted(sizes)}")
    parts = []
    for name, picture in pictures.items():
        height = round(picture.shape[0] * width / picture.shape[1])
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        line = np.full((LINE, width, 3), PAPER, np.uint8)
        place = (2, LINE - 5)
        cv2.putText(line, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
        parts += [line, small]
    return np.concatenate(parts)


def save(frames: Sequence[np.ndarray], path: Path, *, rate: float) -> Path:
    """Write frames, uint8 HWC, as an endless GIF at `rate` frames a second; the path.

    The same frames give the same bytes. Raises ValueError without frames.
    """
    if not frames:
        raise ValueError(f"{path}: a clip needs at least one frame")
    palette = Image.fromarray(np.concatenate(frames)).quantize(COLOURS)
    shots = [Image.fromarray(one).quantize(palette=palette, dither=0) for one in frames]
    content = io.BytesIO()
    shots[0].save(
        content, "GIF", save_all=True, append_images=shots[1:], duration=1000 / rate, loop=0
    )
    files.write(path, content.getvalue())
    return path
