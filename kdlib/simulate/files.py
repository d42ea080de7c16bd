"""Writing pictures, masks and videos so that the same content gives the same bytes."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

JPEG_QUALITY = 86
PNG_LEVEL = 9
VIDEO = {
    "crf": "29",
    "preset": "veryfast",
    "threads": "1",
    "x264-params": "cpu-independent=1:threads=1:lookahead-threads=1:keyint=20:log-level=none",
}


def clip_id(seed: str) -> str:
    """The id of a clip, formed like BDD100K's: two groups of eight hexadecimal digits."""
    digest = hashlib.sha256(seed.encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:16]}"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    os.replace(part, path)


def write_json(path: Path, value: object) -> None:
    """Write JSON with a fixed layout."""
    write_bytes(path, (json.dumps(value, separators=(",", ":"), sort_keys=True) + "\n").encode())


def write_jpeg(path: Path, image: np.ndarray, quality: int = JPEG_QUALITY) -> None:
    """Write a (H, W, 3) blue-green-red picture."""
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise OSError(f"{path}: OpenCV could not encode this picture; check its size and type")
    write_bytes(path, data.tobytes())


def write_png(path: Path, mask: np.ndarray) -> None:
    """Write a (H, W) 8-bit mask, or a (H, W, 3) blue-green-red picture."""
    ok, data = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])
    if not ok:
        raise OSError(f"{path}: OpenCV could not encode this array; check its size and type")
    write_bytes(path, data.tobytes())


def write_video(path: Path, images: Iterable[np.ndarray], rate: Fraction) -> int:
    """Write a H.264 video in a QuickTime container and return the number of its frames.

    The colour conversion is OpenCV's (whole numbers) instead of swscale's, x264 runs on one thread
    without instructions that depend on the processor, and the container carries no times or names.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    count, stream = 0, None
    with av.open(str(part), "w", format="mov", options={"fflags": "+bitexact"}) as container:
        for image in images:
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options=dict(VIDEO))
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.flags |= 1 << 23  # AV_CODEC_FLAG_BITEXACT
            planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = count, 1 / rate
            container.mux(stream.encode(frame))
            count += 1
        if stream is not None:
            container.mux(stream.encode())
    os.replace(part, path)
    return count


def files_below(root: Path) -> Iterator[Path]:
    """All files of a tree, sorted, without half-written and hidden ones."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(root).parts):
            yield path


def remove_parts(root: Path) -> None:
    """Remove what a killed run left half-written."""
    for path in root.rglob(".*.part"):
        path.unlink(missing_ok=True)
