"""SqueezeDet's losses: every labelled box trains one anchor, and every anchor its confidence.

Wu et al., "SqueezeDet: unified, small, low power fully convolutional neural networks for real-time
object detection for autonomous driving", CVPRW 2017; with the coefficients and normalisers of the
TensorFlow code of fine-grained feature imitation (fact sheet feature_imitation, section 4).

Boxes end outside. The network's output is read by its fields: classes (N, K, C, h, w), confidence
(N, K, h, w), deltas (N, K, 4, h, w), anchors (A, 4) and boxes() (N, A, 4).

Shape suffixes: N images, G labelled boxes, C classes, K anchors of a cell, h x w cells,
A = h w K anchors in the order rows, columns, anchors.
"""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kdlib.detection import Targets, area, iou

SMALLEST = 1 / 16  # pixels
# Images that share normalisers: the released code trains 32 images as four clones of 8, each with
# normalisers of its own, and takes the mean.
CLONE = 8


class AnchorOutput(Protocol):
    """What the losses read of a network's output."""

    classes: Tensor
    confidence: Tensor
    deltas: Tensor
    anchors: Tensor

    def boxes(self) -> Tensor: ...


class Assignment(NamedTuple):
    """Which anchor each labelled box trains."""

    anchor: Tensor  # (N, G) int64; 0 where there is none
    found: Tensor  # (N, G) bool: the row is an object and has an anchor


@torch.no_grad()
def assign(anchors_A4: Tensor, targets: Targets) -> Assignment:
    """Give every object, in the order of the labels, its best anchor that is still free.

    Best is the highest IoU; where no free anchor overlaps the object, the nearest one by the
    squared distance of centre and sides. Ignored regions take no anchor, and an object that comes
    when all are taken gets none.

    Args:
        anchors_A4: x1, y1, x2, y2, pixels.
        targets: of the batch.
    """
    xyxy_NG4 = targets.xyxy.to(torch.promote_types(targets.xyxy.dtype, anchors_A4.dtype))
    anchors_A4 = anchors_A4.to(xyxy_NG4.dtype)
    n_images, n_boxes = targets.classes.shape
    n_anchors = len(anchors_A4)
    index_A = torch.arange(n_anchors, device=anchors_A4.device)
    taken_NA = torch.zeros(n_images, n_anchors, dtype=torch.bool, device=anchors_A4.device)
    chosen, found = [], []
    for g in range(n_boxes):
        overlap_NA = iou(xyxy_NG4[:, g], anchors_A4)
        apart_NA = (_centred(xyxy_NG4[:, g, None]) - _centred(anchors_A4)).square().sum(2)
        # one ranking: every overlap lies above every distance
        rank_NA = overlap_NA.where(overlap_NA > 0, -apart_NA).masked_fill(taken_NA, -torch.inf)
        best_N, anchor_N = rank_NA.max(1)
        found_N = ~targets.ignored[:, g] & (best_N > -torch.inf)
        taken_NA |= (index_A == anchor_N[:, None]) & found_N[:, None]
        chosen.append(anchor_N.where(found_N, 0))
        found.append(found_N)
    if not chosen:
        return Assignment(targets.classes.clone(), targets.ignored.clone())
    return Assignment(torch.stack(chosen, 1), torch.stack(found, 1))


def detection(
    output: AnchorOutput,
    targets: Targets,
    *,
    class_weight: float = 1.0,
    positive_weight: float = 75.0,
    negative_weight: float = 100.0,
    box_weight: float = 5.0,
) -> dict[str, Tensor]:
    """The terms of SqueezeDet's loss, weighted; their sum is the loss.

    With the O objects of the N images that have an anchor each (`assign`), their classes one-hot q,
    class probabilities p, confidences s, IoU u of the predicted box, box deltas d and those of
    their labels d*:

        classification = class_weight / O * sum over O and C of -q log p - (1 - q) log(1 - p)
        confidence = 1 / N * (positive_weight / O * sum over O of (u - s)^2
                              + negative_weight / (A - O) * sum over the other anchors of s^2)
        box = box_weight / O * sum over O and the four deltas of (d - d*)^2

    The normalisers are the released ones, oddities kept: O counts all N images also where A counts
    the anchors of one, and the confidence is averaged over images on top, so that the objects'
    confidence weighs less against the rest where there are more images. N is therefore at most
    `CLONE`, as released: a larger batch is dealt out in turn to as few equal shares as that takes,
    and each term is the mean of theirs. Processes deal a batch out in the same way, so that 32
    images have the same loss in one process, in two and in four. u has no gradient. Ignored
    regions are not exempt: an anchor there is an "other" one.

    Deviations: logarithms are taken of the logits instead of p + 1e-16, and a denominator below 1
    counts as 1, so that a batch without objects has terms of 0 with zero gradients (the released
    code gives NaN) beside the confidence of its anchors.

    Args:
        output: of the network. Half types are computed in float32, float64 stays.
        targets: of the batch, in pixels of the same images; classes 0 ... C - 1 where not ignored.
        class_weight, positive_weight, negative_weight, box_weight: the coefficients.

    Returns:
        Scalars "classification", "confidence" and "box".

    Raises:
        ValueError: an output and targets of different batch sizes.
    """
    if len(output.classes) != len(targets.classes):
        raise ValueError(
            f"the output has {len(output.classes)} images, the targets {len(targets.classes)}"
        )
    dtype = torch.promote_types(output.classes.dtype, torch.float32)
    classes_NAC = output.classes.to(dtype).permute(0, 3, 4, 1, 2).flatten(1, 3)
    confidence_NA = output.confidence.to(dtype).permute(0, 2, 3, 1).flatten(1).sigmoid()
    deltas_NA4 = output.deltas.to(dtype).permute(0, 3, 4, 1, 2).flatten(1, 3)
    n_images, n_anchors = confidence_NA.shape

    anchor_NG, found_NG = assign(output.anchors, targets)
    weight_NG = found_NG.to(dtype)
    class_NG = targets.classes.where(found_NG, 0)
    surprise_NG = _class_term(_rows(classes_NAC, anchor_NG), class_NG)

    labels_NG4 = _encoded(targets.xyxy.to(dtype), output.anchors.to(dtype)[anchor_NG])
    # rows without an object may hold anything
    off_NG4 = (_rows(deltas_NA4, anchor_NG) - labels_NG4).where(found_NG[..., None], 0)

    with torch.no_grad():
        boxes_NG4 = _rows(output.boxes().to(dtype), anchor_NG)
        overlap_NG = _paired_iou(boxes_NG4, targets.xyxy.to(dtype))
        # rows without an object write into a column that is cut off
        column_NG = anchor_NG.where(found_NG, n_anchors)
        others_NA = confidence_NA.new_ones(n_images, n_anchors + 1)
        others_NA = others_NA.scatter(1, column_NG, torch.zeros_like(weight_NG))[:, :-1]
    positive_NG = _rows(confidence_NA[..., None], anchor_NG)[..., 0] - overlap_NG

    shares = max(1, math.ceil(n_images / CLONE))
    classification, confidence, box = [], [], []
    for share in range(shares):
        own = slice(share, None, shares)
        objects = weight_NG[own].sum()
        per_object = 1 / objects.clamp(min=1)
        surprise = (weight_NG[own] * surprise_NG[own]).sum()
        classification.append(class_weight * per_object * surprise)
        positive = (weight_NG[own] * positive_NG[own].square()).sum() * per_object
        negative = (others_NA[own] * confidence_NA[own].square()).sum()
        negative = negative / (n_anchors - objects).clamp(min=1)
        both = positive_weight * positive + negative_weight * negative
        confidence.append(both / max(len(weight_NG[own]), 1))
        box.append(box_weight * per_object * off_NG4[own].square().sum())
    terms = {"classification": classification, "confidence": confidence, "box": box}
    return {name: sum(parts) / shares for name, parts in terms.items()}


def _class_term(logits_NGC: Tensor, class_NG: Tensor) -> Tensor:
    """(N, G) sum over C of -q log p - (1 - q) log(1 - p), p the softmax and q one-hot."""
    n_classes = logits_NGC.shape[-1]
    own_C = torch.arange(n_classes, device=logits_NGC.device)
    own_NGC = class_NG[..., None] == own_C
    log_p_NGC = logits_NGC.log_softmax(2)
    if n_classes == 1:
        return -log_p_NGC[..., 0]
    # 1 - p_c is the probability of all other classes together
    others_NGCC = logits_NGC[..., None, :].masked_fill(own_C[:, None] == own_C, -torch.inf)
    log_not_NGC = others_NGCC.logsumexp(3) - logits_NGC.logsumexp(2, keepdim=True)
    return -log_p_NGC.where(own_NGC, log_not_NGC).sum(2)


def _rows(values_NAX: Tensor, anchor_NG: Tensor) -> Tensor:
    """(N, G, X) the values of the chosen anchors."""
    return values_NAX.gather(1, anchor_NG[..., None].expand(-1, -1, values_NAX.shape[2]))


def _centred(xyxy: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height."""
    low, high = xyxy[..., :2], xyxy[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def _encoded(xyxy: Tensor, anchors: Tensor) -> Tensor:
    """(..., 4) deltas of boxes as seen from anchors.

    Sides below `SMALLEST` count as that: the logarithm of an empty box is infinite.
    """
    box, anchor = _centred(xyxy), _centred(anchors)
    shift = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:]
    growth = (box[..., 2:].clamp(min=SMALLEST) / anchor[..., 2:]).log()
    return torch.cat([shift, growth], dim=-1)


def _paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """(...) IoU of each box with its partner; 0 where both are empty."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    union = area(first) + area(second) - shared
    return shared / torch.where(union > 0, union, 1)
