"""Average precision of boxes as the devkit of PASCAL VOC counts it, and what KITTI's shares.

The rules were read in the devkit (VOCevaldet.m) and written anew on arrays. Scores are fractions
from 0 to 1, None where there is nothing to find. Boxes end outside, see `kdlib.detection`.
`kdlib.metrics.detection` has the public names of this room.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch

from kdlib.detection import ANY_CLASS, Boxes, Detections


class Found(NamedTuple):
    """The detections of all images, one after the other."""

    xyxy: np.ndarray  # (D, 4) float64
    scores: np.ndarray  # (D,) float64
    classes: np.ndarray  # (D,) int64
    image: np.ndarray  # (D,) int64, ascending


class Truth(NamedTuple):
    """The labelled boxes of all images, one after the other."""

    xyxy: np.ndarray  # (G, 4) float64
    classes: np.ndarray  # (G,) int64
    ignored: np.ndarray  # (G,) bool
    difficulty: np.ndarray  # (G,) int64
    image: np.ndarray  # (G,) int64, ascending


Side = TypeVar("Side", Found, Truth)


def joined(
    found: Sequence[Detections], truth: Sequence[Boxes], classes: Sequence[str]
) -> tuple[Found, Truth]:
    """Both sides as arrays: one copy from the device, whatever the number of images.

    Raises:
        ValueError: lengths, shapes or classes that do not fit, values that are not finite.
    """
    if len(found) != len(truth):
        raise ValueError(
            f"found has {len(found)} images and truth {len(truth)}: give both for the same images, "
            "with empty detections where nothing was found"
        )
    for number, (one, boxes) in enumerate(zip(found, truth, strict=True)):
        _check_lengths(number, "found", one.xyxy, one.scores, one.classes)
        _check_lengths(number, "truth", boxes.xyxy, *boxes[1:])
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    columns = zip(*(found or [empty]), strict=True)
    xyxy, scores, labels = (torch.cat(list(column)).detach().cpu() for column in columns)
    images = np.arange(len(found))
    flat = Found(
        xyxy.double().numpy(),
        scores.double().numpy(),
        labels.numpy().astype(np.int64),
        images.repeat([len(one.scores) for one in found]),
    )
    parts = zip(*truth, strict=True) if truth else ([np.zeros((0, 4))], *[[np.zeros(0)]] * 3)
    corners, kinds, ignored, difficulty = (np.concatenate(list(part)) for part in parts)
    labelled = Truth(
        corners.astype(np.float64),
        kinds.astype(np.int64),
        ignored.astype(bool),
        difficulty.astype(np.int64),
        images.repeat([len(boxes.classes) for boxes in truth]),
    )
    _check_values(flat, labelled, classes)
    return flat, labelled


def voc_ap(
    found: Sequence[Detections],
    truth: Sequence[Boxes],
    classes: Sequence[str],
    *,
    iou: float = 0.5,
    points: Literal["11", "area"] = "11",
) -> dict:
    """Average precision as the VOC devkit counts it (VOCevaldet.m).

    In the order of the scores over the whole split, a detection belongs to the box of its class
    that it overlaps most, taken or not. Overlap of at least `iou` (>=) with a free box is a hit,
    with a taken one an error, with an ignored one (VOC's *difficult*) nothing at all; less overlap
    is an error. The devkit's widths have a + 1 for its last pixel inside: that is the end outside.

    Args:
        found: detections of each image; equal scores count in the order given.
        truth: labels of each image; a region of ANY_CLASS is an ignored box of every class.
        classes: names, in the order of the class numbers.
        iou: least overlap of a hit.
        points: "11": mean of the greatest precision at recalls of at least 0, 0.1 ... 1 (VOC07);
            "area": area under the falling hull of the whole curve (VOC10 and later).

    Returns:
        {"map": mean over the classes with truth, "ap": {class: average precision}}. A class
        without truth has None and is left out of the mean (the devkit gives it 0).

    Raises:
        ValueError: see `joined`; `points` of another name.

    Deviation: recall is compared with 0.1 ... 1 in whole numbers. The devkit's 0.3 is the float
    0.30000000000000004, which a recall of 3/10 does not reach.
    """
    if points not in ("11", "area"):
        raise ValueError(f"points must be '11' or 'area', not {points!r}")
    flat, labelled = joined(found, truth, classes)
    scores: dict[str, float | None] = {}
    for number, name in enumerate(classes):
        boxes = picked(labelled, (labelled.classes == number) | (labelled.classes == ANY_CLASS))
        wanted = int((~boxes.ignored).sum())
        hit, counts = _voc_hits(picked(flat, flat.classes == number), boxes, iou)
        hits, total = np.cumsum(hit[counts]), np.arange(1, int(counts.sum()) + 1)
        curve = _eleven if points == "11" else _area
        scores[name] = curve(hits, hits / total, wanted) if wanted else None
    return {"map": mean_of(scores.values()), "ap": scores}


def picked(side: Side, index: np.ndarray | slice) -> Side:
    """The rows of `index`."""
    return type(side)(*(values[index] for values in side))


def mean_of(scores: Iterable[float | None]) -> float | None:
    """Mean of those that are not None; None where all are."""
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None


def overlaps(first: np.ndarray, second: np.ndarray, *, of_first: bool = False) -> np.ndarray:
    """(A, B) intersection over union of boxes (A, 4) and (B, 4), or over the first box's area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    sides = [(boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(-1) for boxes in (first, second)]
    whole = np.broadcast_to(sides[0][:, None], shared.shape)
    if not of_first:
        whole = whole + sides[1][None] - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def _voc_hits(found: Found, boxes: Truth, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """(D,) hits and (D,) whether it counts, by falling score."""
    nearest = np.full(len(found.scores), -1)
    images = np.intersect1d(found.image, boxes.image)
    edges = [np.searchsorted(side.image, [images, images + 1]).T for side in (found, boxes)]
    for (start, end), (first, last) in zip(*edges, strict=True):
        overlap = overlaps(found.xyxy[start:end], boxes.xyxy[first:last])
        best = overlap.argmax(1)  # the first of equals, as in the devkit
        enough = overlap.max(1) >= iou
        nearest[start:end] = np.where(enough, first + best, -1)
    order = np.argsort(-found.scores, kind="stable")
    nearest = nearest[order]
    taken, firsts = np.unique(nearest, return_index=True)
    hit = np.zeros(len(nearest), bool)
    hit[firsts[taken >= 0]] = True  # whoever comes later is a duplicate
    ignored = np.zeros(len(nearest), bool)
    ignored[nearest >= 0] = boxes.ignored[nearest[nearest >= 0]]
    return hit & ~ignored, ~ignored


def _eleven(hits: np.ndarray, precision: np.ndarray, wanted: int) -> float:
    """Mean of the greatest precision at recall >= 0, 0.1 ... 1."""
    greatest = [precision[10 * hits >= step * wanted].max(initial=0.0) for step in range(11)]
    return float(np.mean(greatest))


def _area(hits: np.ndarray, precision: np.ndarray, wanted: int) -> float:
    """Sum of recall's steps times the greatest precision from there on."""
    hull = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(hits, prepend=0) * hull).sum() / wanted)


def _check_lengths(number: int, side: str, xyxy, *others) -> None:
    lengths = {len(values) for values in (xyxy, *others)}
    if len(lengths) > 1 or xyxy.ndim != 2 or xyxy.shape[1] != 4:
        shapes = [tuple(values.shape) for values in (xyxy, *others)]
        raise ValueError(
            f"{side}, image {number}: boxes must be (n, 4) and the rest (n,), not {shapes}"
        )


def _check_values(found: Found, truth: Truth, classes: Sequence[str]) -> None:
    for side, values, least in (("found", found, 0), ("truth", truth, ANY_CLASS)):
        wrong = (values.classes < least) | (values.classes >= len(classes))
        if wrong.any():
            image, label = values.image[wrong.argmax()], values.classes[wrong.argmax()]
            raise ValueError(f"{side}, image {image}: class {label}, but there are {len(classes)}")
        wrong = ~np.isfinite(values.xyxy).all(1)
        if side == "found":
            wrong |= ~np.isfinite(values.scores)
        if wrong.any():
            image = values.image[wrong.argmax()]
            raise ValueError(
                f"{side}, image {image}: a box or a score is not finite; did the training diverge?"
            )
    wrong = (truth.classes == ANY_CLASS) & ~truth.ignored
    if wrong.any():
        raise ValueError(
            f"truth, image {truth.image[wrong.argmax()]}: a region of any class is not ignored; "
            "mark it so"
        )
