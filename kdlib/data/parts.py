"""Whole files or none: atomic writes, and the part file that holds the frames of one clip.

A part is the clip's JPEGs one after the other, then a JSON index, then the length of the index as
eight bytes. It appears under its name only when it is whole, so a killed run leaves no half of one.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from kdlib.data.decode import Clip, Frame, Sampling, read_clip

FOOTER = 8


@dataclass(frozen=True)
class Part:
    """The index of a part file; see `kdlib.data.decode.Clip` for the counts."""

    path: Path
    frames: tuple[Frame, ...]
    decoded: int
    duplicates: int
    expected: int
    broken: str

    def jpeg(self, frame: Frame) -> bytes:
        """The bytes of one frame."""
        with self.path.open("rb") as file:
            file.seek(frame.offset)
            return file.read(frame.bytes)


@contextmanager
def whole_file(path: Path, *, sync: bool = False) -> Iterator[BinaryIO]:
    """Opens a file for writing that gets its name only after the block ended without an error.

    Raises:
        OSError: a full disk or quota is told as such, with the cure.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = (
                f"disk full while writing {path}. Finished clips and shards are kept: "
                "free space and run the same command again"
            )
            raise OSError(error.errno, what) from error
        raise


def move(source: Path, target: Path) -> None:
    """Moves a whole file, also to another file system, where it is copied first."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with source.open("rb") as old, whole_file(target, sync=True) as new:
            shutil.copyfileobj(old, new, 1 << 20)
        source.unlink()


def decode_to_part(video: Path, part: Path, sampling: Sampling) -> tuple[int, int]:
    """Decodes a clip into its part file; returns frames decoded and frames kept."""
    clip = read_clip(video, sampling)
    write_part(part, clip)
    return clip.decoded, len(clip.frames)


def write_part(path: Path, clip: Clip) -> None:
    """Writes a part file; see the module's docstring for its form."""
    index = {
        "frames": [list(asdict(frame).values()) for frame in clip.frames],
        "decoded": clip.decoded,
        "duplicates": clip.duplicates,
        "expected": clip.expected,
        "broken": clip.broken,
    }
    text = json.dumps(index).encode()
    with whole_file(path) as file:
        file.write(clip.jpegs)
        file.write(text)
        file.write(len(text).to_bytes(FOOTER, "little"))


def read_part(path: Path) -> Part | None:
    """The index of a part file, or None where there is no whole part (it is then made again)."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - FOOTER))
            length = int.from_bytes(file.read(FOOTER), "little")
            if length <= 0 or length > end - FOOTER:
                return None
            file.seek(end - FOOTER - length)
            index = json.loads(file.read(length))
    except (FileNotFoundError, ValueError):
        return None
    frames = tuple(Frame(*row) for row in index.pop("frames"))
    return Part(path, frames, **index)
