"""Frames from shards by number: the manifest says where each JPEG lies, one range read fetches it.

The shards may lie in a folder or behind any URL that fsspec knows (``s3://...``, ``gs://...``,
``http://...``); see `kdlib.data.frames` for how they are made.
"""

import csv
import io
import os
from array import array
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np

from kdlib.data.manifest import COLUMNS, key_of

CURE = "run `dvc repro funmatch-frames`, or extract or copy the folder again"


class ShardError(RuntimeError):
    """A shard folder cannot be read; the text names the file, the cause and the cure."""

    def __init__(self, path: object, what: str):
        super().__init__(f"{path}: {what}. Cure: {CURE}.")
        self.path, self.what = path, what

    def __reduce__(self):
        return type(self), (self.path, self.what)


class Shards:
    """The frames of one set of a shard folder, in the manifest's order, which is interleaved.

    Takes 24 bytes of memory a frame. No file stays open between reads, so an instance may be
    pickled and may cross a fork.

    Args:
        folder: folder or URL with manifest.csv and the tars.
        set: "pool" or "heldout".

    Raises:
        ShardError: no manifest, a manifest cut short, no such set, or a tar missing or too short
            (tars behind a URL are only looked at when they are read).
    """

    def __init__(self, folder: str | os.PathLike, set: str = "pool"):
        self.folder, self.set = str(folder).rstrip("/"), set
        self.remote = "://" in self.folder
        self._fs: tuple[int, Any] | None = None
        shard, clip, frame, size = array("i"), array("i"), array("i"), array("i")
        offset = array("q")
        shards: dict[str, int] = {}
        clips: dict[str, int] = {}
        sets: dict[str, int] = {}
        for row in self._rows():
            sets[row[0]] = sets.get(row[0], 0) + 1
            if row[0] == set:
                shard.append(shards.setdefault(row[1], len(shards)))
                clip.append(clips.setdefault(row[3], len(clips)))
                frame.append(int(row[4]))
                offset.append(int(row[8]))
                size.append(int(row[9]))
        if not shard:
            there = ", ".join(f"{name} ({count})" for name, count in sets.items()) or "no frames"
            raise ShardError(self._path("manifest.csv"), f"has no set {set!r}; it has {there}")
        self._shard, self._clip = np.frombuffer(shard, np.int32), np.frombuffer(clip, np.int32)
        self._frame, self._size = np.frombuffer(frame, np.int32), np.frombuffer(size, np.int32)
        self._offset = np.frombuffer(offset, np.int64)
        self._shards, self._clips = tuple(shards), tuple(clips)
        self._check_tars()

    @property
    def clips(self) -> tuple[str, ...]:
        """The ids of the clips that the frames come from, sorted."""
        return tuple(sorted(self._clips))

    def __len__(self) -> int:
        return len(self._shard)

    def key(self, index: int) -> str:
        """The WebDataset key of a frame: clip id and frame number."""
        return key_of(self.clip(index), int(self._frame[index]))

    def clip(self, index: int) -> str:
        """The id of the clip that a frame comes from."""
        return self._clips[self._clip[index]]

    def jpeg(self, index: int) -> bytes:
        """The JPEG bytes of a frame."""
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        path = self._path(self._shards[self._shard[index]])
        start, size = int(self._offset[index]), int(self._size[index])
        try:
            data = self._fetch(path, start, size)
        except FileNotFoundError:
            raise ShardError(path, "is missing") from None
        if len(data) != size:
            raise ShardError(path, f"is truncated: {len(data)} of {size} bytes at {start}")
        if not (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):
            raise ShardError(path, f"holds no JPEG at {start}: it is not the manifest's tar")
        return data

    def read(self, index: int) -> np.ndarray:
        """Frame `index` as uint8 HWC RGB."""
        data = np.frombuffer(self.jpeg(index), np.uint8)
        image_HWC = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image_HWC is None:
            path = self._path(self._shards[self._shard[index]])
            raise ShardError(path, f"frame {self.key(index)} cannot be decoded")
        return cv2.cvtColor(image_HWC, cv2.COLOR_BGR2RGB)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_fs": None}

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def _rows(self):
        path = self._path("manifest.csv")
        try:
            with fsspec.open(path, "rb") as raw:
                file = io.TextIOWrapper(raw, encoding="utf-8", newline="")
                rows = csv.reader(file)
                if tuple(next(rows, ())) != COLUMNS:
                    raise ShardError(path, f"does not start with the columns {', '.join(COLUMNS)}")
                for row in rows:
                    if len(row) != len(COLUMNS) or len(row[-1]) != 64:
                        raise ShardError(path, f"line {rows.line_num} is cut short")
                    yield row
        except FileNotFoundError:
            raise ShardError(path, "is missing") from None

    def _check_tars(self) -> None:
        if self.remote:
            return
        ends = np.zeros(len(self._shards), np.int64)
        np.maximum.at(ends, self._shard, self._offset + self._size)
        for name, end in zip(self._shards, ends, strict=True):
            path = Path(self._path(name))
            if not path.is_file():
                raise ShardError(path, "is missing")
            if path.stat().st_size < end:
                raise ShardError(
                    path, f"is truncated: {path.stat().st_size} of {end} bytes or more"
                )

    def _fetch(self, path: str, start: int, size: int) -> bytes:
        if self.remote:
            return self._filesystem().cat_file(path, start=start, end=start + size)
        file = os.open(path, os.O_RDONLY)
        try:
            return os.pread(file, size, start)
        finally:
            os.close(file)

    def _filesystem(self) -> Any:
        # A connection does not survive a fork: each process opens its own.
        if self._fs is None or self._fs[0] != os.getpid():
            self._fs = (os.getpid(), fsspec.core.url_to_fs(self.folder)[0])
        return self._fs[1]
