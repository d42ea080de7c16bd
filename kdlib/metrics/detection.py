"""Detection scores: COCO's mean average precision, VOC's, KITTI's, and agreement with a teacher.

>>> import torch
>>> from kdlib.detection import Boxes, Detections
>>> truth = Boxes(
...     np.array([[0, 0, 10, 10]], np.float32), np.array([0]), np.array([False]), np.array([0])
... )
>>> found = Detections(
...     torch.tensor([[0.0, 0, 10, 8]]), torch.tensor([0.9]), torch.tensor([0])
... )
>>> scores = coco_map([found], [truth], ["car"])  # an overlap of 0.8: .50, .55 ... .80 hit
>>> round(scores["map"], 6), scores["map_50"], scores["map_75"]
(0.7, 1.0, 1.0)

COCO's protocol is the reference implementation's, through faster-coco-eval (in C++). Boxes end
outside, so BDD100K's plus one is in them already. Scores are fractions from 0 to 1, None where
there is nothing to find. Not supported: masks, key points, LVIS.
"""

from collections.abc import Sequence

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from kdlib.detection import ANY_CLASS, Boxes, Detections
from kdlib.metrics.box_ap import joined, mean_of, voc_ap
from kdlib.metrics.kitti import kitti_ap

__all__ = ["against_teacher", "coco_map", "kitti_ap", "voc_ap"]


def coco_map(
    found: Sequence[Detections],
    truth: Sequence[Boxes],
    classes: Sequence[str],
    *,
    leave_out: Sequence[str] = (),
    max_detections: Sequence[int] = (1, 10, 100),
) -> dict:
    """Mean average precision of COCO, as BDD100K's tool uses it (fact sheet function_matching 4.6).

    IoU .50, .55 ... .95, precision at 101 recalls, areas parted at 32^2 and 96^2 pixels of the
    boxes as given: give them at the size of the stored image. An ignored box is a crowd
    (fact sheet 4.4): any number of detections of its class that lie in it by more than the IoU's
    share of their own area count nowhere. A region of ANY_CLASS is a crowd of every class.

    Args:
        found: detections of each image. The limits are by image and class, highest scores first;
            an NMS that keeps 100 by image is stricter and belongs to the detector.
        truth: labels of each image, in the same order.
        classes: names, in the order of the class numbers.
        leave_out: names for a second mean without them; BDD100K has some 15 *train* in its
            validation split, which draw the mean down and make it jump (fact sheet 4.6).
        max_detections: limits of the recalls; the last one is that of every precision.

    Returns:
        "map", "map_50", "map_75": over all IoU, at .50, at .75. "map_small", "map_medium",
        "map_large": of the boxes of that area. "ar_1", "ar_10", "ar_100" (by `max_detections`):
        mean recall. "ap": {class: average precision over all IoU}. With `leave_out`
        ("train",) also "map_without_train"; several names are joined by "_".
        A class without truth is left out of every mean and has None, here as in BDD100K's tool,
        which prints -100 for it; detections of it cost nothing. A mean of nothing is None.

    Raises:
        ValueError: lengths, shapes or classes that do not fit, values that are not finite,
            `leave_out` that names no class, `max_detections` that do not rise.
    """
    unknown = set(leave_out) - set(classes)
    if unknown:
        raise ValueError(f"leave_out names {sorted(unknown)}, which are not in {list(classes)}")
    limits = list(max_detections)
    if not limits or limits[0] < 1 or limits != sorted(set(limits)):
        raise ValueError(f"max_detections must rise from 1 or more, not {limits}")
    precision, recall = _tables(found, truth, classes, limits)
    by_class = {name: _mean(precision[:, :, k, 0]) for k, name in enumerate(classes)}
    scores: dict = {
        "map": _mean(precision[:, :, :, 0]),
        "map_50": _mean(precision[0, :, :, 0]),
        "map_75": _mean(precision[5, :, :, 0]),
        "map_small": _mean(precision[:, :, :, 1]),
        "map_medium": _mean(precision[:, :, :, 2]),
        "map_large": _mean(precision[:, :, :, 3]),
    }
    scores |= {f"ar_{limit}": _mean(recall[..., k]) for k, limit in enumerate(limits)}
    scores["ap"] = by_class
    if leave_out:
        rest = [score for name, score in by_class.items() if name not in leave_out]
        scores[f"map_without_{'_'.join(leave_out)}"] = mean_of(rest)
    return scores


def against_teacher(
    found: Sequence[Detections],
    taught: Sequence[Detections],
    classes: Sequence[str],
    *,
    score: float,
    leave_out: Sequence[str] = (),
) -> dict:
    """Agreement of a student with its teacher, whose detections take the place of the truth.

    Args:
        found: the student's detections of each image, low scores included.
        taught: the teacher's detections of the same images.
        classes: names, in the order of the class numbers.
        score: least score (>=) of a teacher's detection that the student shall find.
        leave_out: see `coco_map`.

    Returns:
        What `coco_map` returns. A teacher has 1.0 against itself, save where one class has two of
        its boxes at the same place.
    """
    truth = []
    for one in taught:
        sure = (one.scores >= score).cpu()
        xyxy, classes_of = one.xyxy.detach().cpu()[sure], one.classes.cpu()[sure]
        count = len(classes_of)
        truth.append(
            Boxes(
                xyxy.float().numpy(),
                classes_of.numpy(),
                np.zeros(count, bool),
                np.zeros(count, np.int64),
            )
        )
    return coco_map(found, truth, classes, leave_out=leave_out)


def _tables(
    found: Sequence[Detections], truth: Sequence[Boxes], classes: Sequence[str], limits: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (IoU, recall, class, area) at the last limit, and recall (IoU, class, limit).

    -1 stands for a class without truth.
    """
    flat, labelled = joined(found, truth, classes)
    known = {
        "images": [{"id": number} for number in range(len(truth))],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes)],
    }
    kinds = labelled.classes[:, None]
    rows, kinds = np.nonzero((kinds == np.arange(len(classes))) | (kinds == ANY_CLASS))
    labels = _rows(
        labelled.image[rows], kinds, labelled.xyxy[rows], "iscrowd", labelled.ignored[rows] * 1
    )
    answers = _rows(flat.image, flat.classes, flat.xyxy, "score", flat.scores)
    # loadRes would give every detection a polygon as well
    run = COCOeval_faster(
        COCO({**known, "annotations": labels}), COCO({**known, "annotations": answers}), "bbox"
    )
    run.params.maxDets = limits
    run.evaluate()
    run.accumulate()
    return run.eval["precision"][..., -1], run.eval["recall"][:, :, 0]


def _rows(image, kinds, xyxy, name: str, values) -> list[dict]:
    """COCO's annotations; an identity of 0 would read as "not matched", so they start at 1."""
    sides = xyxy[:, 2:] - xyxy[:, :2]
    columns = {
        "image_id": image.tolist(),
        "category_id": kinds.tolist(),
        "bbox": np.concatenate([xyxy[:, :2], sides], axis=1).tolist(),
        "area": sides.prod(1).tolist(),
        "id": range(1, len(xyxy) + 1),
        name: values.tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _mean(table: np.ndarray) -> float | None:
    """Mean of the entries that are known; -1 stands for those that are not."""
    known = table[table > -1]
    return float(known.mean()) if known.size else None
