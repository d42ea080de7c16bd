"""What object detection speaks of: labelled boxes, found boxes, and a network's dense answer.

A box is (x1, y1, x2, y2) in pixels, with the end outside: a box over the columns 0 to 9 runs from
0 to 10. Layouts whose files name the last pixel inside (BDD100K, VOC07) add the one when they read,
so that width = x2 - x1 everywhere behind them.

Shape suffixes: N images, G labelled boxes, D found boxes, C classes, h x w cells of a level.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ANY_CLASS = -1  # of a region that is ignored whatever is found there


class Boxes(NamedTuple):
    """The labelled boxes of one image, as arrays."""

    xyxy: np.ndarray  # (G, 4) float32, pixels of the image as stored
    classes: np.ndarray  # (G,) int64; ANY_CLASS for a region without a class
    ignored: np.ndarray  # (G,) bool: neither an object to be found nor an error where found
    difficulty: np.ndarray  # (G,) int64: KITTI's 0 easy, 1 moderate, 2 hard, 3 beyond; else 0


class Targets(NamedTuple):
    """The labelled boxes of a batch, as tensors; rows that fill up are empty ignored regions."""

    xyxy: Tensor  # (N, G, 4) float32, pixels of the view
    classes: Tensor  # (N, G) int64
    ignored: Tensor  # (N, G) bool


class Untouched:
    """Targets on their way into a network whose floating arguments are rounded to half types.

    Fabric does so with every tensor that it finds in tuples, dicts and dataclasses, and a box over
    the columns 803 to 805 is empty in bfloat16. It does not look into this class: keep it plain.
    """

    __slots__ = ("targets",)

    def __init__(self, targets: Targets):
        self.targets = targets


class Detections(NamedTuple):
    """The boxes found in one image, highest score first."""

    xyxy: Tensor  # (D, 4) float32
    scores: Tensor  # (D,) float32, 0..1
    classes: Tensor  # (D,) int64


class DetectionOutput(NamedTuple):
    """Output of a dense detector, one entry per level in each tuple, finest level first.

    Attributes:
        classification: (N, C, h, w) logits of independent sigmoids.
        box: (N, 4, h, w) distances left, top, right, bottom from the cell's centre, pixels, > 0.
        quality: (N, 1, h, w) logits of the box's quality (FCOS: centerness).
        strides: pixels a cell spans, per level.
        features: intermediate maps by name.
    """

    classification: tuple[Tensor, ...]
    box: tuple[Tensor, ...]
    quality: tuple[Tensor, ...]
    strides: tuple[int, ...]
    features: dict[str, Tensor]


def no_boxes() -> Boxes:
    """The labels of an image without objects."""
    none = np.zeros(0)
    return Boxes(
        np.zeros((0, 4), np.float32),
        none.astype(np.int64),
        none.astype(bool),
        none.astype(np.int64),
    )


def resized(boxes: Boxes, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Boxes:
    """The boxes of an image that was resized."""
    scale = np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]] * 2, np.float32)
    return boxes._replace(xyxy=boxes.xyxy * scale)


def collate(batch: Sequence[Boxes]) -> Targets:
    """The boxes of several images as one batch."""
    most = max((len(boxes.classes) for boxes in batch), default=0)
    xyxy = torch.zeros(len(batch), most, 4)
    classes = torch.full((len(batch), most), ANY_CLASS)
    ignored = torch.ones(len(batch), most, dtype=torch.bool)
    for row, boxes in enumerate(batch):
        count = len(boxes.classes)
        xyxy[row, :count] = torch.from_numpy(boxes.xyxy)
        classes[row, :count] = torch.from_numpy(boxes.classes)
        ignored[row, :count] = torch.from_numpy(boxes.ignored)
    return Targets(xyxy, classes, ignored)


def objects(targets: Targets) -> list[tuple[Tensor, Tensor]]:
    """Per image the boxes (G, 4) and classes (G,) that a detector shall find."""
    rows = zip(targets.xyxy, targets.classes, ~targets.ignored, strict=True)
    return [(xyxy[keep], classes[keep]) for xyxy, classes, keep in rows]


def centres(size_hw: tuple[int, int], stride: int, device: torch.device) -> Tensor:
    """(h * w, 2) x and y of the cells' centres, rows first."""
    rows = (torch.arange(size_hw[0], device=device) + 0.5) * stride
    columns = (torch.arange(size_hw[1], device=device) + 0.5) * stride
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1).flatten(0, 1)


def area(xyxy: Tensor) -> Tensor:
    """(...) area of boxes (..., 4); 0 where a box ends before it starts."""
    return (xyxy[..., 2:] - xyxy[..., :2]).clamp(min=0).prod(dim=-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """(A, B) intersection over union of boxes (A, 4) with boxes (B, 4); 0 where both are empty."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    union = area(first)[:, None] + area(second)[None] - shared
    return shared / torch.where(union > 0, union, 1)
