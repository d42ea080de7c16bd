"""Looks at one file after the other and tells what is wrong; the layouts say which files.

Pillow decodes every image a second time here, because it reports damage that OpenCV paints over.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from PIL import Image

from kdlib.data.layouts.files import decode_image, decode_label, image_bytes
from kdlib.data.layouts.sample import Coding, LayoutError, Problem

VIDEO_CURE = "download or copy the clip again, or remove it: frame extraction skips it"


@dataclass(frozen=True)
class Finding:
    """What one look showed.

    Attributes:
        size: height and width of the image.
        pixels: pixels by class, (256,) with 255 = ignore; boxes by class in a detection layout.
        notes: how often something occurred that is no fault but changes what is counted.
    """

    problems: tuple[Problem, ...] = ()
    size: tuple[int, int] | None = None
    pixels: np.ndarray | None = None
    notes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Inspection:
    """One file to look at; `part` is the folder or file of the layout that it counts for."""

    part: str
    path: Path
    look: Callable[[], Finding]


def fault(part: str, path: Path, what: str, cure: str) -> Inspection:
    """A problem that is known without a look."""
    return Inspection(part, path, lambda: Finding((Problem(path, what, cure),)))


def run(inspections: Sequence[Inspection], workers: int) -> Iterator[tuple[Inspection, Finding]]:
    """Every inspection with its finding, in order. Threads do: the decoders let go of the GIL."""
    if workers <= 1:
        yield from ((inspection, inspection.look()) for inspection in inspections)
        return
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(inspections), 256):  # no queue of 100,000 futures
            part = inspections[start : start + 256]
            yield from zip(part, pool.map(lambda inspection: inspection.look(), part), strict=True)


def still(image: Path, mask: Path | None, coding: Coding, image_cure: str) -> Finding:
    """Decodes an image wholly, and its mask; the mask must have the image's size."""
    found: list[Problem] = []
    size, pixels, label_HW = None, None, None
    try:
        data = image_bytes(image, image_cure)
        _strict(image, data, image_cure)
        size = decode_image(image, data, image_cure).shape[:2]
    except LayoutError as error:
        found.append(error.problem)
    if mask is not None:
        try:
            data = image_bytes(mask, coding.mask_cure)
            _strict(mask, data, coding.mask_cure)
            label_HW = decode_label(mask, data, coding)
            pixels = np.bincount(label_HW.ravel(), minlength=256)
        except LayoutError as error:
            found.append(error.problem)
    if size is not None and label_HW is not None and label_HW.shape != size:
        what = f"is {_by(label_HW.shape)}, but its image is {_by(size)} (height x width)"
        found.append(Problem(mask, what, coding.mask_cure))
    return Finding(tuple(found), size, pixels)


def clip(path: Path, *, full: bool) -> Finding:
    """Opens a clip and decodes its first frame and its end; all of it where `full`."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return Finding((Problem(path, "holds no video", VIDEO_CURE),))
            stream = container.streams.video[0]
            first = next(container.decode(stream), None)
            if first is None:
                return Finding((Problem(path, "holds no frame", VIDEO_CURE),))
            length = stream.duration
            if not full and length:
                container.seek((stream.start_time or 0) + length, stream=stream, backward=True)
            end, corrupt = 0, first.is_corrupt
            for frame in container.decode(stream):
                corrupt = corrupt or frame.is_corrupt
                end = max(end, frame.pts or 0)
            short = length and (length - (end - (stream.start_time or 0))) * stream.time_base > 1
    except (av.FFmpegError, OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        return Finding((Problem(path, f"cannot be decoded ({text})", VIDEO_CURE),))
    if corrupt:
        return Finding((Problem(path, "holds damaged frames", VIDEO_CURE),))
    if short:
        return Finding((Problem(path, "is truncated: it ends before its header says", VIDEO_CURE),))
    return Finding()


def sizes(
    seen: Sequence[tuple[Path, tuple[int, int]]], expected: tuple[int, int] | None, cure: str
) -> list[Problem]:
    """The images without the expected size; None expects the size that most images have."""
    if not seen:
        return []
    counts: dict[tuple[int, int], int] = {}
    for _, size in seen:
        counts[size] = counts.get(size, 0) + 1
    wanted = expected or max(sorted(counts), key=counts.__getitem__)
    why = "expected" if expected else f"the size of {counts[wanted]} of {len(seen)} images"
    return [
        Problem(path, f"is {_by(size)}, not {_by(wanted)} (height x width; {why})", cure)
        for path, size in seen
        if size != wanted
    ]


def _by(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]}"


def _strict(path: Path, data: bytes, cure: str) -> None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise LayoutError(path, f"is damaged ({error})", cure) from None
