"""Careful readers of folders, images and masks, shared by the layouts.

Arrays carry shape suffixes: H height, W width, C = 3 colours in RGB order.
"""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from kdlib.data.layouts.sample import Coding, LayoutError

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
TAIL = 1024  # some cameras write a few bytes after the end marker


def listed(folder: Path, endings: Iterable[str], cure: str) -> dict[str, Path]:
    """Stem -> path of the files in `folder` with one of `endings`, sorted by stem.

    Raises:
        LayoutError: no such folder, or two files with one stem.
    """
    if not folder.is_dir():
        raise LayoutError(folder, "no such folder", cure)
    endings = tuple(endings)
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        # "._x" files are left by archivers on some systems and hold no image.
        if path.name.lower().endswith(endings) and not path.name.startswith("._"):
            if path.stem in found:
                other = found[path.stem].name
                raise LayoutError(path, f"has the same id as {other}", "keep one of the two")
            found[path.stem] = path
    return dict(sorted(found.items()))


def image_bytes(path: Path, cure: str) -> bytes:
    """The bytes of a JPEG or PNG file that is there, not empty and has its end.

    OpenCV decodes half a JPEG to a half-grey picture without an error, so the end marker is
    looked for here.

    Raises:
        LayoutError: missing, empty, neither JPEG nor PNG, or cut off.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise LayoutError(path, "is missing", cure) from None
    except OSError as error:
        raise LayoutError(path, f"cannot be read ({error.strerror or error})", cure) from None
    if not data:
        raise LayoutError(path, "is empty", cure)
    for start, end, name in ((JPEG_START, JPEG_END, "JPEG"), (PNG_START, PNG_END, "PNG")):
        if data.startswith(start):
            if end not in data[-TAIL:]:
                raise LayoutError(path, f"is truncated (a {name} without its end marker)", cure)
            return data
    raise LayoutError(path, "is neither JPEG nor PNG", cure)


def decode_image(path: Path, data: bytes, cure: str) -> np.ndarray:
    """Bytes of an image file -> uint8 HWC RGB, as stored (an EXIF turn is not applied: masks
    are drawn on the stored pixels).

    Raises:
        LayoutError: the decoder gives up.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image_HWC = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image_HWC is None:
        raise LayoutError(path, "cannot be decoded", cure)
    return cv2.cvtColor(image_HWC, cv2.COLOR_BGR2RGB)


def decode_label(path: Path, data: bytes, coding: Coding) -> np.ndarray:
    """Bytes of a mask file -> uint8 HW of class indices, 255 = ignore.

    Raises:
        LayoutError: not one 8-bit channel, or values that `coding` does not know or doubts.
    """
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if mask is None:
        raise LayoutError(path, "cannot be decoded", coding.mask_cure)
    if mask.ndim != 2:
        what = f"has {mask.shape[2]} channels: a colour map, not a mask of class indices"
        raise LayoutError(path, what, coding.mask_cure)
    if mask.dtype != np.uint8:
        what = f"has {mask.dtype.itemsize * 8} bits a pixel, not 8"
        raise LayoutError(path, what, coding.mask_cure)
    label_HW = cv2.LUT(mask, coding.table)
    wrong_HW = label_HW == 254
    if wrong_HW.any():
        raise LayoutError(path, _foreign(np.unique(mask[wrong_HW]), coding), coding.mask_cure)
    if coding.doubt is not None and (what := coding.doubt(mask)):
        raise LayoutError(path, what, coding.mask_cure)
    return label_HW


def _foreign(values: np.ndarray, coding: Coding) -> str:
    shown = ", ".join(str(value) for value in values[:6]) + (", ..." if len(values) > 6 else "")
    what = f"holds the value(s) {shown} where only {coding.known}"
    span, name = coding.foreign
    if all(int(value) in span for value in values):
        return f"{what}: these look like {name}"
    return what
