"""Segmentation scores, all from one confusion matrix.

`confusion_matrix` of every batch, added up over the split (and over processes), then one score:

>>> truth = torch.tensor([[0, 0, 1], [1, 255, 1]])
>>> answer = torch.tensor([[0, 1, 1], [1, 0, 1]])
>>> confusion = confusion_matrix(answer, truth, 2, ignore_index=255)
>>> confusion.tolist()
[[1, 1], [0, 3]]
>>> float(mean_iou(confusion))
0.625

Scores are fractions from 0 to 1, float64. Rows of the matrix are the truth, columns the prediction.
Not supported: per-image averaging, boundary scores.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Absent = Literal["skip", "zero", "bdd100k"]


def confusion_matrix(
    prediction: Tensor, label: Tensor, num_classes: int, *, ignore_index: int | None
) -> Tensor:
    """Count pixels by true and predicted class.

    Args:
        prediction: integers of any shape, 0 ... num_classes - 1 wherever the label counts.
        label: integers of the same shape, 0 ... num_classes - 1 or `ignore_index`.
        num_classes: number of classes K.
        ignore_index: label of the pixels that count nowhere; None: every pixel counts.

    Returns:
        (K, K) int64 on the device of the inputs, rows = truth. One `bincount`; on CUDA that waits
        for the device, as checking the values does.

    Raises:
        ValueError: shapes that differ, types that are not integer, or values out of range.
    """
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction and label must have one shape, not {tuple(prediction.shape)} and "
            f"{tuple(label.shape)}"
        )
    for name, tensor in (("prediction", prediction), ("label", label)):
        if tensor.is_floating_point() or tensor.is_complex():
            raise ValueError(f"{name} must hold integers, not {tensor.dtype}")
    prediction, label = prediction.flatten().long(), label.flatten().long()

    # one more row and column take what is out of range, one more cell what is ignored
    k = num_classes
    row = label.where((label >= 0) & (label < k), k)
    column = prediction.where((prediction >= 0) & (prediction < k), k)
    index = row * (k + 1) + column
    if ignore_index is not None:
        index = index.where(label != ignore_index, (k + 1) ** 2)
    counts = torch.bincount(index, minlength=(k + 1) ** 2 + 1)[:-1].view(k + 1, k + 1)

    wrong_labels, wrong_predictions = int(counts[k].sum()), int(counts[:k, k].sum())
    if wrong_labels:
        raise ValueError(
            f"{wrong_labels} labels are neither 0 ... {k - 1} nor the ignored value "
            f"{ignore_index}: the labels are coded otherwise, or num_classes is wrong"
        )
    if wrong_predictions:
        raise ValueError(
            f"{wrong_predictions} predictions are not in 0 ... {k - 1}: the network has more "
            "classes than the data, or its answer was not an argmax over classes"
        )
    return counts[:k, :k].contiguous()


def iou(confusion: Tensor) -> Tensor:
    """(K,) TP / (TP + FP + FN), intersection over union by class; nan where the union is empty."""
    confusion = _square(confusion)
    hits = confusion.diagonal().double()
    union = (confusion.sum(0) + confusion.sum(1)).double() - hits
    return hits / union  # 0 / 0 is nan


def mean_iou(confusion: Tensor, *, absent: Absent = "skip") -> Tensor:
    """Mean of `iou` over classes; the rules differ only in classes that do not occur.

    Args:
        confusion: (K, K) counts, rows = truth.
        absent: "skip": classes with an empty union are left out (torchmetrics' macro average).
            "zero": they count as 0 (structured distillation's released code).
            "bdd100k": the official rule of BDD100K: only classes that occur in the truth are
            averaged, so a class that is predicted but never true is left out, not counted as 0.
            (The official tool also lets predictions out of range count as misses; here
            `confusion_matrix` refuses them, because no argmax makes them.)

    Returns:
        Scalar; nan where no class is left to average.
    """
    scores = iou(confusion)
    if absent == "skip":
        return scores.nanmean()
    if absent == "zero":
        return scores.nan_to_num(0.0).mean()
    if absent == "bdd100k":
        return scores.nan_to_num(0.0)[confusion.sum(1) > 0].mean()
    raise ValueError(f"absent must be 'skip', 'zero' or 'bdd100k', not {absent!r}")


def pixel_accuracy(confusion: Tensor) -> Tensor:
    """Scalar: share of the counted pixels that are right; nan where none was counted."""
    confusion = _square(confusion)
    return confusion.diagonal().sum().double() / confusion.sum().double()


def grouped(confusion: Tensor, groups: Mapping[str, Sequence[int]]) -> Tensor:
    """(G, G) counts with the classes of each group merged, groups in the order of the mapping.

    A mistake within a group becomes a hit. Every class must be in exactly one group (ValueError).
    """
    confusion = _square(confusion)
    k = len(confusion)
    members = sorted(index for indices in groups.values() for index in indices)
    if members != list(range(k)):
        raise ValueError(f"each of the {k} classes must be in one group, the groups hold {members}")
    group_of = torch.empty(k, dtype=torch.int64)
    for number, indices in enumerate(groups.values()):
        group_of[list(indices)] = number
    group_of = group_of.to(confusion.device)
    merged = confusion.new_zeros(len(groups), k).index_add_(0, group_of, confusion)
    return confusion.new_zeros(len(groups), len(groups)).index_add_(1, group_of, merged)


def category_iou(confusion: Tensor, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """IoU of each group of classes by name (Cityscapes has 7), rows and columns merged first."""
    return dict(zip(groups, iou(grouped(confusion, groups)).tolist(), strict=True))


class Agreement(NamedTuple):
    """How far two networks give the same answer, as fractions from 0 to 1."""

    pixel: float
    miou: float


def agreement(confusion: Tensor) -> Agreement:
    """Agreement of a student with its teacher, whose argmax takes the place of the truth.

    Args:
        confusion: (K, K) counts of the student's answers (columns) by the teacher's (rows), from
            `confusion_matrix(student, teacher, K, ignore_index=None)`.

    Returns:
        The share of pixels with one answer, and the mean IoU over classes that either one names.
        Agreement by KL is the training loss itself: `kdlib.losses.matching.segmentation`.
    """
    return Agreement(float(pixel_accuracy(confusion)), float(mean_iou(confusion, absent="skip")))


def _square(confusion: Tensor) -> Tensor:
    if confusion.dim() != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"a confusion matrix is (K, K), not {tuple(confusion.shape)}")
    return confusion
