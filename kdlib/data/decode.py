"""One clip, decoded once from start to end, becomes a list of JPEG frames (PyAV, one thread).

Random access costs about twenty times as much per frame as reading on, so nothing here seeks.

Arrays carry shape suffixes: H height, W width, C = 3 colours, in OpenCV's BGR order in this module.

Not supported: mirrored display matrices (the turn is honoured, the mirror is not), interlaced video
(fields stay woven), HDR tone mapping.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

THUMBNAIL_WH = (32, 18)


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip are taken and how they are stored.

    Args:
        stride: take every k-th frame; exactly one of stride and rate is given.
        rate: take that many frames a second: the first frame in each slot of 1/rate s, by
            timestamps counted from the clip's first frame, so variable frame rates are handled.
        size: stored height and width in pixels; None = as decoded. Where the frame's aspect
            differs, its centre is cut to the aspect first, so that nothing is stretched.
        quality: JPEG quality, 1..100.
        duplicate_threshold: grey levels (0..255). A taken frame is dropped where the mean absolute
            difference of its 32x18 luma thumbnail from that of the last *kept* frame is smaller;
            measuring from the last kept frame lets a slow drift add up. 0 keeps all.
    """

    stride: int | None = None
    rate: float | None = None
    size: tuple[int, int] | None = None
    quality: int = 90
    duplicate_threshold: float = 0.0

    def __post_init__(self):
        if (self.stride is None) == (self.rate is None):
            raise ValueError("give exactly one of stride (every k-th frame) and rate (Hz)")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"stride is {self.stride}; it must be 1 or more")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"rate is {self.rate} Hz; it must be above 0")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size is {self.size}; height and width must be 1 or more")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}; it must lie in 1..100")
        if self.duplicate_threshold < 0:
            raise ValueError(f"duplicate_threshold is {self.duplicate_threshold}; 0 keeps all")


@dataclass(frozen=True, slots=True)
class Frame:
    """A stored frame: number in its clip, seconds from the clip's start, size, place, hash."""

    frame: int
    time_s: float
    height: int
    width: int
    offset: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Clip:
    """What decoding a clip gave: JPEGs one after the other, their table, and what went missing.

    ``expected`` is the number of frames that the sampling would take by the clip's header (0 where
    the header does not tell). ``broken`` says why decoding stopped early, or is empty.
    """

    jpegs: bytes
    frames: tuple[Frame, ...]
    decoded: int
    duplicates: int
    expected: int
    broken: str


def read_clip(path: Path, sampling: Sampling) -> Clip:
    """Decodes a clip from start to end.

    A clip that breaks in the middle keeps the frames before the break: a frame that the decoder
    flags as corrupt, or an error, ends the clip, and everything before it is whole.
    """
    jpegs, frames = bytearray(), []
    decoded = duplicates = expected = 0
    broken, last_HW = "", None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return Clip(b"", (), 0, 0, 0, "holds no video")
            stream = container.streams.video[0]
            expected, promised = expected_frames(stream, sampling), stream.frames
            for number, time_s, taken, frame in _taken(container, sampling):
                decoded = number + 1
                if not taken:
                    continue
                thumbnail_HW = _thumbnail(frame)
                if last_HW is not None:
                    change = float(np.abs(thumbnail_HW - last_HW).mean())
                    if change < sampling.duplicate_threshold:
                        duplicates += 1
                        continue
                last_HW = thumbnail_HW
                image_HWC = _picture(frame, sampling.size)
                options = [cv2.IMWRITE_JPEG_QUALITY, sampling.quality]
                data = cv2.imencode(".jpg", image_HWC, options)[1].tobytes()
                height, width = image_HWC.shape[:2]
                digest = hashlib.sha256(data).hexdigest()
                frames.append(Frame(number, time_s, height, width, len(jpegs), len(data), digest))
                jpegs += data
            # Headers are a few frames off in sound clips; a tenth less is a clip cut short.
            if decoded < 0.9 * promised:
                broken = f"ends after {decoded} of {promised} frames"
    except (av.FFmpegError, OSError, ValueError, cv2.error) as error:
        broken = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if not broken and not decoded:
        broken = "holds no frame"
    return Clip(bytes(jpegs), tuple(frames), decoded, duplicates, expected, broken)


def header_frames(path: Path, sampling: Sampling) -> int:
    """How many frames the sampling would take by the clip's header; 0 where it cannot be read."""
    try:
        with av.open(str(path)) as container:
            return expected_frames(container.streams.video[0], sampling)
    except (av.FFmpegError, OSError, ValueError, IndexError):
        return 0


def expected_frames(stream: av.VideoStream, sampling: Sampling) -> int:
    """The frames that the sampling takes of a stream, by its header."""
    if sampling.stride is not None:
        return math.ceil(stream.frames / sampling.stride)
    seconds = stream.duration * stream.time_base if stream.duration else 0
    return math.ceil(float(seconds) * sampling.rate)


def _taken(
    container: av.container.InputContainer, sampling: Sampling
) -> Iterator[tuple[int, float, bool, av.VideoFrame]]:
    """Every decoded frame: number, seconds from the first, whether the sampling takes it."""
    stream = container.streams.video[0]
    # One process a core is the parallel unit; threads inside a decoder only add waiting.
    stream.codec_context.thread_count = 1
    rate = None if sampling.rate is None else Fraction(sampling.rate).limit_denominator(1_000_000)
    tick = stream.time_base
    first, slot = None, -1
    for number, frame in enumerate(container.decode(stream)):
        if frame.is_corrupt:
            raise ValueError(f"frame {number} is damaged")
        if frame.pts is None:
            if rate is not None and not stream.average_rate:
                raise ValueError("has neither timestamps nor a frame rate; sample it by stride")
            time = Fraction(number) / (stream.average_rate or 30)
        else:
            first = frame.pts if first is None else first
            time = (frame.pts - first) * tick
        if rate is None:
            taken = number % sampling.stride == 0
        else:
            now = math.floor(time * rate)  # exact: fractions do not drift over a long clip
            taken, slot = now > slot, max(slot, now)
        yield number, round(float(time), 6), taken, frame


def _thumbnail(frame: av.VideoFrame) -> np.ndarray:
    """The luma of a frame, 18 x 32, averaged over areas (the turn does not matter here)."""
    if frame.format.name in ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "nv12"):
        plane = frame.planes[0]
        luma_HW = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        luma_HW = luma_HW[: frame.height, : frame.width]
    else:
        luma_HW = frame.to_ndarray(format="gray")
    return cv2.resize(luma_HW, THUMBNAIL_WH, interpolation=cv2.INTER_AREA).astype(np.int16)


def _picture(frame: av.VideoFrame, size: tuple[int, int] | None) -> np.ndarray:
    """The frame as it is meant to be seen: colours by its own matrix, turned, resized."""
    image_HWC = frame.to_ndarray(format="bgr24")
    # The display matrix turns counter-clockwise by `rotation` degrees; a broken one reads as -2^31.
    turns = round(frame.rotation / 90) % 4 if abs(frame.rotation) <= 180 else 0
    if turns:
        image_HWC = np.rot90(image_HWC, turns)
    if size is not None and image_HWC.shape[:2] != tuple(size):
        image_HWC = _fit(image_HWC, *size)
    return np.ascontiguousarray(image_HWC)


def _fit(image_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut centrally to the aspect of height x width, then averaged over areas."""
    old_height, old_width = image_HWC.shape[:2]
    keep_height = min(old_height, round(old_width * height / width))
    keep_width = min(old_width, round(old_height * width / height))
    top, left = (old_height - keep_height) // 2, (old_width - keep_width) // 2
    cut_HWC = image_HWC[top : top + keep_height, left : left + keep_width]
    shrinks = height < keep_height
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(cut_HWC), (width, height), interpolation=how)
