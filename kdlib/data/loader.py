"""Batches by step number: what step t sees depends on the run's seed and on t, on nothing else.

That makes a resumed run identical to an uninterrupted one, and lets several processes each take
their share of the same global batch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from kdlib.config import ConfigError, Subset
from kdlib.data import layouts
from kdlib.data.layouts.sample import Sample
from kdlib.data.shards import Shards
from kdlib.detection import Boxes, Targets, collate, resized
from kdlib.runtime import generator

MEMORY = 2 << 30  # bytes of decoded images that a process keeps
Label = np.ndarray | Boxes  # a mask (H, W) uint8 with 255 = ignore, or boxes in pixels of the image


class Source(Protocol):
    """Something that holds images, by number."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[np.ndarray, Label | None]:
        """Image (H, W, 3) uint8 RGB, and its mask, its boxes or None."""
        ...


class DataError(RuntimeError):
    """Data that a run asks for and that is not there."""


def select(layout: str, root: Path, subset: Subset, seed: int) -> list[Sample]:
    """The stills that a subset names, drawn by `seed` where the subset says so; sorted by id.

    Raises DataError when the subset asks for more stills than there are, and ConfigError when it
    asks for those that labels do not list, of a layout that does not tell them apart.
    """
    reader = layouts.get(layout)
    if subset.unlisted and not hasattr(reader, "unlisted"):
        able = [name for name, module in layouts.LAYOUTS.items() if hasattr(module, "unlisted")]
        raise ConfigError(f"data.unlabelled.unlisted: {layout} has none, only {', '.join(able)}")
    offered = reader.unlisted if subset.unlisted else reader.samples
    found = offered(root, subset.split, drives=subset.drives)
    there = len(found)
    first, end = subset.take or (0, there)
    found = found[first:end]
    if end > there or subset.draw > len(found) or not found:
        raise DataError(
            f"{root}: split {subset.split!r} offers {there} stills to {subset}. "
            "Check the root and the subset in params.yaml."
        )
    if subset.draw:
        order = torch.randperm(len(found), generator=generator(seed, "draw", subset.split))
        found = [found[i] for i in sorted(order[: subset.draw].tolist())]
    return found


class Stills:
    """Stills of a layout, resized to `size_hw` (area average; masks by nearest neighbour)."""

    def __init__(
        self, layout: str, samples: Sequence[Sample], size_hw: tuple[int, int], *, labels: bool
    ):
        self.layout, self.samples, self.size_hw, self.labels = layout, samples, size_hw, labels

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> tuple[np.ndarray, Label | None]:
        sample, reader = self.samples[index], layouts.get(self.layout)
        stored = reader.read_image(sample.image)
        image = resize(stored, self.size_hw)
        if not self.labels:
            return image, None
        if sample.label is None:
            raise DataError(f"{sample.image}: has no label file, but the run trains on its label.")
        if reader.TASK == "detection":
            return image, resized(reader.read_boxes(sample), stored.shape[:2], self.size_hw)
        label = reader.read_label(sample.label)
        height, width = self.size_hw
        return image, cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


class ClippedFrames:
    """The first `count` unlabelled frames of a shard folder (0 = all)."""

    def __init__(self, folder: Path, which: str, size_hw: tuple[int, int], *, count: int = 0):
        self.shards, self.size_hw = Shards(folder, set=which), size_hw
        if count > len(self.shards):
            raise DataError(
                f"{folder}: {count} frames asked for, {len(self.shards)} there. "
                "Clip more videos or lower data.pool in params.yaml."
            )
        self.count = count or len(self.shards)

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[np.ndarray, None]:
        return resize(self.shards.read(index), self.size_hw), None


class Joined:
    """Several sources one after the other."""

    def __init__(self, *sources: Source):
        self.sources = sources
        self.ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, index: int) -> tuple[np.ndarray, Label | None]:
        which = int(np.searchsorted(self.ends, index, side="right"))
        before = int(self.ends[which - 1]) if which else 0
        return self.sources[which].read(index - before)


class Remembered:
    """A source whose decoded images stay in memory while they fit into `budget` bytes."""

    def __init__(self, source: Source, budget: int = MEMORY):
        self.source, self.left, self.seen = source, budget, {}

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> tuple[np.ndarray, Label | None]:
        if index in self.seen:
            return self.seen[index]
        item = self.source.read(index)
        image, label = item
        parts = label if isinstance(label, Boxes) else () if label is None else (label,)
        size = image.nbytes + sum(part.nbytes for part in parts)
        if size <= self.left:
            self.left -= size
            self.seen[index] = item
        return item


class Batches(Dataset):
    """Item t is this process's share of the batch of step t.

    Each epoch is a permutation of the source; a batch may span two epochs. Process r of `world`
    takes the items r, r + world, ... of the global batch.
    """

    def __init__(self, source: Source, batch: int, seed: int, *, rank: int = 0, world: int = 1):
        if batch % world:
            raise DataError(f"schedule.batch {batch} does not divide by {world} processes")
        self.source, self.batch, self.seed = source, batch, seed
        self.rank, self.world = rank, world
        self.epoch, self.order = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor | Targets | None]:
        """Images (n, 3, H, W) uint8, and labels: masks (n, H, W) uint8, or boxes.

        None where no image has a label. Beside masks, an image without one gets a mask of 255;
        beside boxes there is no such stand-in, and the labels are None as soon as one is missing.
        """
        start = step * self.batch
        places = range(start + self.rank, start + self.batch, self.world)
        items = [self.source.read(self._index(place)) for place in places]
        images = torch.from_numpy(np.stack([image for image, _ in items])).permute(0, 3, 1, 2)
        labels = [label for _, label in items]
        if all(label is None for label in labels):
            return images, None
        if any(isinstance(label, Boxes) for label in labels):
            return images, None if any(label is None for label in labels) else collate(labels)
        unknown = np.full(images.shape[-2:], layouts.IGNORE, np.uint8)  # an image without a label
        labels = [unknown if label is None else label for label in labels]
        return images, torch.from_numpy(np.stack(labels))

    def _index(self, place: int) -> int:
        epoch, offset = divmod(place, len(self.source))
        if epoch != self.epoch:
            numbers = generator(self.seed, "epoch", epoch)
            self.order = torch.randperm(len(self.source), generator=numbers).numpy()
            self.epoch = epoch
        return int(self.order[offset])


def stream(batches: Batches, first: int, last: int, *, workers: int, pin: bool) -> DataLoader:
    """The batches of steps first .. last - 1 in order, read ahead by worker processes."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, last),
        num_workers=min(workers, max(last - first, 0)),
        pin_memory=pin,
        prefetch_factor=4 if workers and last > first else None,
    )


def resize(image_HWC: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The image at `size_hw`; averages areas when it shrinks, so that nothing aliases."""
    if image_HWC.shape[:2] == tuple(size_hw):
        return image_HWC
    shrinks = size_hw[0] < image_HWC.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image_HWC, (size_hw[1], size_hw[0]), interpolation=how)
