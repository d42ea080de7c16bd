"""Average precision of boxes as the devkit of KITTI counts it.

The rules were read in the devkit (evaluate_object.cpp, image boxes) and written anew on arrays.
Not supported: orientation, boxes on the ground or in space.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from kdlib.detection import ANY_CLASS, Boxes, Detections
from kdlib.metrics.box_ap import Found, Truth, joined, mean_of, overlaps, picked

LEVELS = ("easy", "moderate", "hard")
MIN_HEIGHT = (40, 25, 25)  # of a detection, pixels, by level: evaluate_object.cpp
RECALL_STEPS = 40  # the KITTI devkit samples precision at recalls 0, 1/40 ... 1


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
    * Sides are x2 - x1 and y2 - y1, without a plus one, as the layout of KITTI gives the boxes.
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
    images = list(_by_image(flat, labelled, len(found)))
    kept = slice(None, None, 4) if points == 11 else slice(1, None)
    scores: dict[str, dict[str, float | None]] = {}
    for number, name in enumerate(classes):
        scores[name] = {}
        for level, title in enumerate(LEVELS):
            curve = _kitti_curve(images, number, level, iou[number])
            scores[name][title] = None if curve is None else float(curve[kept].mean())
    return {"map": mean_of(v for row in scores.values() for v in row.values()), "ap": scores}


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
        one = picked(found, slice(starts[k], starts[k + 1]))
        boxes = picked(truth, slice(firsts[k], firsts[k + 1]))
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
