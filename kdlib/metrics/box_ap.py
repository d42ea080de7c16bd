"""Average precision of boxes as the devkits of PASCAL VOC and of KITTI count it.

The rules were read in the devkits (VOCevaldet.m, evaluate_object.cpp) and written anew on arrays.
Scores are fractions from 0 to 1, None where there is nothing to find. Boxes end outside, see
`kdlib.detection`. `kdlib.metrics.detection` has these names too, with COCO's.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

from kdlib.detection import ANY_CLASS, Boxes, Detections

LEVELS = ("easy", "moderate", "hard")
MIN_HEIGHT = (40, 25, 25)  # of a detection, pixels, by level: evaluate_object.cpp
RECALL_STEPS = 40  # the KITTI devkit samples precision at recalls 0, 1/40 ... 1


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
        boxes = _of(labelled, (labelled.classes == number) | (labelled.classes == ANY_CLASS))
        wanted = int((~boxes.ignored).sum())
        hit, counts = _voc_hits(_of(flat, flat.classes == number), boxes, iou)
        hits, total = np.cumsum(hit[counts]), np.arange(1, int(counts.sum()) + 1)
        curve = _eleven if points == "11" else _area
        scores[name] = curve(hits, hits / total, wanted) if wanted else None
    return {"map": mean_of(scores.values()), "ap": scores}


def kitti_ap(
    found: Sequence[Detections],
    truth: Sequence[Boxes],
    classes: Sequence[str],
    *,
    iou: Sequence[float] = (0.7, 0.5, 0.5),
    points: Literal[11, 40] = 11,
) -> dict:
    """Average precision as KITTI's devkit counts it (evaluate_object.cpp; 2-D boxes).

    Fact sheet feature_imitation 5 and 6 report 11 points and the mean of the nine numbers.

    * A level wants the boxes of its difficulty and below. All other boxes of the class, and those
      marked ignored (the neighbours: vans for cars, sitting persons for pedestrians), take up a
      detection that overlaps them and count nowhere.
    * In the order of the labels, a box takes the free detection that overlaps it most, by more
      than the least overlap (>). Detections left over are errors, save those that lie by more than
      that share (0.7 for cars, not 0.5) of their own area in one region of ANY_CLASS (*DontCare*).
    * Detections lower than 40, 25, 25 pixels are no errors; they fill in for a box that no other
      detection takes, which then counts nowhere. The devkit asks height before class: so do low
      detections of any other class.
    * Precision is taken at the scores of up to 41 hits, the k-th where recall comes nearest k / 40,
      and made falling. 11 points: the mean over every fourth. 40: all but the first.

    A split with fewer than 41 boxes has fewer than 41 such scores, and the devkit fills up with
    precision 0: one box, found, gives 1/11. Compare small splits only with themselves.

    Args:
        found: detections of each image.
        truth: labels of each image; `difficulty` 0 easy ... 3 beyond hard.
        classes: names, in the order of the class numbers.
        iou: least overlap by class.
        points: 11 (the paper's tables) or 40 (the benchmark since 2019).

    Returns:
        {"map": mean of all that are not None, "ap": {class: {"easy", "moderate", "hard"}}}, with
        None where a level wants nothing (the devkit gives 0).

    Raises:
        ValueError: see `joined`; `iou` not one by class; another number of points.
    """
    if len(iou) != len(classes):
        raise ValueError(f"iou has {len(iou)} numbers for {len(classes)} classes: one by class")
    if points not in (11, 40):
        raise ValueError(f"points must be 11 or 40, not {points!r}")
    flat, labelled = joined(found, truth, classes)
    # The devkit measures x2 - x1 as the files name them: the one that the layout added goes again.
    inside = np.array([0.0, 0.0, 1.0, 1.0])
    flat, labelled = (side._replace(xyxy=side.xyxy - inside) for side in (flat, labelled))
    images = list(_by_image(flat, labelled, len(found)))
    kept = slice(None, None, 4) if points == 11 else slice(1, None)
    scores: dict[str, dict[str, float | None]] = {}
    for number, name in enumerate(classes):
        scores[name] = {}
        for level, title in enumerate(LEVELS):
            curve = _kitti_curve(images, number, level, iou[number])
            scores[name][title] = None if curve is None else float(curve[kept].mean())
    return {"map": mean_of(v for row in scores.values() for v in row.values()), "ap": scores}


def mean_of(scores) -> float | None:
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


# VOC


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


# KITTI


class _Image(NamedTuple):
    found: Found
    boxes: Truth
    spared: np.ndarray  # (D,) greatest share of a detection's area in one region of ANY_CLASS


class _Contest(NamedTuple):
    """Detections and boxes of one image that overlap enough for more than one outcome."""

    overlap: np.ndarray  # (G, D), 0 where not enough
    wanted: np.ndarray  # (G,) bool
    scores: np.ndarray  # (D,)
    low: np.ndarray  # (D,) bool: too low to count
    error: np.ndarray  # (D,) bool: an error where no box takes it


def _by_image(found: Found, truth: Truth, count: int) -> Iterator[_Image]:
    edges = np.arange(count + 1)
    starts, firsts = (np.searchsorted(side.image, edges) for side in (found, truth))
    for k in range(count):
        one = _of(found, slice(starts[k], starts[k + 1]))
        boxes = _of(truth, slice(firsts[k], firsts[k + 1]))
        regions = boxes.xyxy[boxes.classes == ANY_CLASS]
        spared = overlaps(one.xyxy, regions, of_first=True).max(1, initial=0.0)
        if len(one.scores) or len(boxes.classes):
            yield _Image(one, boxes, spared)


def _kitti_curve(
    images: Sequence[_Image], number: int, level: int, least: float
) -> np.ndarray | None:
    """(41,) falling precision at recalls 0, 1/40 ... 1; None where nothing is wanted."""
    contests: list[_Contest] = []
    lonely: list[np.ndarray] = []  # scores of errors that no box could take
    total = 0
    for found, boxes, spared in images:
        mine = boxes.classes == number
        wanted = (~boxes.ignored & (boxes.difficulty <= level))[mine]
        total += int(wanted.sum())
        low = found.xyxy[:, 3] - found.xyxy[:, 1] < MIN_HEIGHT[level]
        error = ~low & (found.classes == number) & (spared <= least)
        candidates = low | (found.classes == number)
        overlap = overlaps(boxes.xyxy[mine], found.xyxy)
        overlap = np.where(candidates & (overlap > least), overlap, 0.0)
        row, column = overlap.any(1), overlap.any(0)
        lonely.append(found.scores[error & ~column])
        if row.any():
            contests.append(
                _Contest(
                    overlap[row][:, column],
                    wanted[row],
                    found.scores[column],
                    low[column],
                    error[column],
                )
            )
    if not total:
        return None
    thresholds = _thresholds([score for one in contests for score in _hit_scores(one)], total)
    tp = np.zeros(len(thresholds), np.int64)
    alone = np.sort(np.concatenate(lonely))
    fp = len(alone) - np.searchsorted(alone, thresholds)
    for one in contests:
        hits, errors = _outcome(one, thresholds)
        tp, fp = tp + hits, fp + errors
    curve = np.zeros(RECALL_STEPS + 1)
    curve[: len(thresholds)] = tp / np.maximum(tp + fp, 1)
    return np.maximum.accumulate(curve[::-1])[::-1]


def _hit_scores(one: _Contest) -> list[float]:
    """Scores of the hits where each box takes its best scored detection."""
    free, scores = np.ones(len(one.scores), bool), []
    for overlap, wanted in zip(one.overlap, one.wanted, strict=True):
        candidates = free & (overlap > 0)
        if not candidates.any():
            continue
        best = np.where(candidates, one.scores, -np.inf).argmax()
        free[best] = False
        if wanted and not one.low[best]:
            scores.append(float(one.scores[best]))
    return scores


def _thresholds(scores: list[float], total: int) -> np.ndarray:
    """(T,) scores, at most 41: the k-th where the recall of the hits comes nearest k / 40."""
    scores, chosen, recall = sorted(scores, reverse=True), [], 0.0
    for k, score in enumerate(scores, start=1):
        last = k == len(scores)
        if not last and (k + 1) / total - recall < recall - k / total:
            continue  # the next hit comes nearer
        chosen.append(score)
        recall += 1 / RECALL_STEPS
    return np.array(chosen[: RECALL_STEPS + 1])


def _outcome(one: _Contest, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) hits and (T,) errors of one image, with the detections of each threshold and above."""
    free = one.scores >= thresholds[:, None]
    hits = np.zeros(len(thresholds), np.int64)
    rows = np.arange(len(thresholds))
    for overlap, wanted in zip(one.overlap, one.wanted, strict=True):
        candidates = free & (overlap > 0)
        high = candidates & ~one.low
        by_overlap = np.where(high, overlap, 0.0).argmax(1)
        found_high = high.any(1)
        best = np.where(found_high, by_overlap, candidates.argmax(1))  # else the first low one
        hits += wanted & found_high
        free[rows, best] &= ~candidates.any(1)
    return hits, (free & one.error).sum(1)


# both


def _of(side, index):
    return type(side)(*(values[index] for values in side))


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
