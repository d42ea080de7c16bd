"""Tiny clips for tests, written with PyAV; no ffmpeg program is needed."""

import os
import signal
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# Display matrices of the track header: clockwise turns that a player applies.
TURNS = {
    90: (0, 1, 0, -1, 0, 0, 0, 0, 1),
    180: (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    270: (0, -1, 0, 1, 0, 0, 0, 0, 1),
}


def picture(number: int, height: int = 36, width: int = 64, *, seed: int = 0) -> np.ndarray:
    """Grey noise in blocks, a red corner at the top left, and a level that tells the number."""
    noise = np.random.default_rng((seed, number)).integers(0, 60, (height // 4, width // 4))
    image_HWC = np.repeat(np.kron(noise, np.ones((4, 4), int))[..., None], 3, axis=2)
    image_HWC = (image_HWC + 6 * (number % 30)).astype(np.uint8)
    image_HWC[: height // 4, : width // 4] = (220, 20, 20)
    return image_HWC


def write_clip(
    path: Path,
    images: list[np.ndarray],
    *,
    hertz: int = 10,
    times: list[float] | None = None,
    turn: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """H.264 in MP4 or MOV; `times` gives timestamps in seconds; `turn` patches the track header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=hertz)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12", "preset": "ultrafast", "g": "6"}
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            seconds = times[number] if times else number / hertz
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if turn:
        data = bytearray(path.read_bytes())
        start = data.index(b"tkhd") + 44
        units = [1 << 30 if place % 3 == 2 else 1 << 16 for place in range(9)]
        matrix = [value * unit for value, unit in zip(TURNS[turn], units, strict=True)]
        data[start : start + 36] = struct.pack(">9i", *matrix)
        path.write_bytes(data)
    return path


def moving(count: int, **options) -> list[np.ndarray]:
    """`count` pictures that all differ."""
    return [picture(number, **options) for number in range(count)]


def die(number: int, victim: int) -> int:
    """Returns `number`, or kills its own process where `number` is the victim."""
    if number == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return number
