"""Stills with lanes or classes painted into them: what is labelled, and what a network finds.

A room of its own, as `sheet` is: pages that train import it, and their training depends on it.
Lanes are judged by CULane's rule; of other data sets the classes of the pixels are shown.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import cv2
import numpy as np
from lightning.fabric import Fabric
from torch import nn

from kdlib.data.layouts.sample import Sample
from kdlib.evaluation.lanes import predict_lanes
from kdlib.metrics.lanes import culane_curve, culane_hits

TINTS = {  # of lanes in pictures
    "labelled": (255, 255, 255),
    "found, counts": (0, 220, 60),
    "found, does not count": (255, 40, 60),
}


class Judged(NamedTuple):
    """A still, cut at the top, and its lanes in pixels of the official whole picture.

    picture: uint8 HWC, RGB. hits: bool for each found lane, whether it counts.
    """

    picture: np.ndarray
    labelled: list[np.ndarray]
    found: list[np.ndarray]
    hits: np.ndarray

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many lanes are labelled, are found, and are found and count."""
        return len(self.labelled), len(self.found), int(self.hits.sum())


def judge(
    network: nn.Module, reader: ModuleType, sample: Sample, size_hw: tuple[int, int], fabric: Fabric
) -> Judged:
    """The lanes that a network finds in a still, which it sees at `size_hw`, beside the labelled.

    reader: a layout with lanes whose ``METRIC`` is "culane".
    """
    picture_HWC = reader.read_image(sample.image)
    factor = reader.FULL[1] / picture_HWC.shape[1]
    labelled = [factor * lane for lane in reader.read_lanes(sample)]
    found = predict_lanes(network, picture_HWC, size_hw, fabric)
    return Judged(picture_HWC, labelled, found, culane_hits(found, labelled))


def paint_lanes(
    still: Judged, reader: ModuleType, *, enlarge: int, thin: int, thick: int
) -> np.ndarray:
    """The still, its sides times `enlarge`, with labelled lanes `thin` pixels wide, then found ones
    `thick`, in `TINTS`; uint8 HWC.
    """
    canvas_HWC = cv2.resize(
        still.picture, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_LINEAR
    )
    top, width = reader.top_of(reader.FULL[0]), reader.FULL[1]
    strokes = [(lane, "labelled", thin) for lane in still.labelled]
    for lane, hit in zip(still.found, still.hits, strict=True):
        strokes.append((lane, "found, counts" if hit else "found, does not count", thick))
    for lane, kind, thickness in strokes:
        line_P2 = (culane_curve(lane) - [0, top]) * canvas_HWC.shape[1] / width
        points = [np.rint(line_P2).astype(np.int32)]
        cv2.polylines(canvas_HWC, points, False, TINTS[kind], thickness)
    return canvas_HWC


def paint_classes(
    picture_HWC: np.ndarray, label_HW: np.ndarray, palette: Sequence[Sequence[int]]
) -> np.ndarray:
    """The picture with its pixels in the colours of their classes, uint8; the background, class 0,
    and ignored pixels, 255, as they are.
    """
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    painted_HW1 = (label_HW % 255 > 0)[..., None]
    return np.where(painted_HW1, colours[label_HW], picture_HWC).astype(np.uint8)
