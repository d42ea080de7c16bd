"""FCOS against labels: which cell learns which object, and the three losses.

Tian et al., "FCOS: fully convolutional one-stage object detection", ICCV 2019 (arXiv 1904.01355),
with the settings of the BDD100K model zoo (fact sheet function_matching 4.7): no centre sampling,
focal loss, IoU loss weighted by centerness.

Shape suffixes: N images, G labelled boxes, C classes, h x w cells of a level, L cells of all
levels, finest level first, each row by row.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.detection import DetectionOutput, Targets, area, centres

BACKGROUND = -1


class Assignment(NamedTuple):
    """What every cell shall say."""

    classes: Tensor  # (N, L) int64; BACKGROUND where the cell has no object
    box: Tensor  # (N, 4, L) distances left, top, right, bottom in pixels; 1 without an object
    centerness: Tensor  # (N, L), 0..1; 0 without an object


def flat(levels: Sequence[Tensor]) -> Tensor:
    """(N, K, L) of maps (N, K, h, w), one per level; half types become float32."""
    dtype = torch.promote_types(levels[0].dtype, torch.float32)
    return torch.cat([level.flatten(2).to(dtype) for level in levels], dim=2)


def paired_iou(first: Tensor, second: Tensor, *, generalised: bool = False) -> Tensor:
    """IoU, or generalised IoU, of boxes given as distances from a shared point inside both.

    Rezatofighi et al., "Generalized intersection over union", CVPR 2019, algorithm 1. Distances
    from one point need no corners: the shared box takes the smaller of each pair of distances,
    the enclosing box the larger.

    Args:
        first, second: (N, 4, L) distances left, top, right, bottom, > 0, any unit.
        generalised: take off the share of the enclosing box that neither box covers.

    Returns:
        (N, L) in 0..1; a generalised IoU lies above -1, thin boxes that cross come near it.
    """
    shared = _extent(torch.minimum(first, second))
    union = _extent(first) + _extent(second) - shared
    iou = shared / union
    if not generalised:
        return iou
    # GIoU = IoU - (|enclosing| - |union|) / |enclosing|
    return iou - 1 + union / _extent(torch.maximum(first, second))


def _extent(box: Tensor) -> Tensor:
    """(N, L) area of boxes given as distances (N, 4, L)."""
    left, top, right, bottom = box.unbind(1)
    return (left + right) * (top + bottom)


def ranges(strides: Sequence[int]) -> list[tuple[float, float]]:
    """Smallest and largest distance in pixels that each level learns.

    FCOS section 3.2: 64, 128, 256 and 512 pixels part the levels of stride 8, 16, 32, 64 and 128,
    that is eight strides of the finer level. The last level has no upper end.
    """
    ends = [8.0 * stride for stride in strides[:-1]]
    return list(zip([0.0, *ends], [*ends, torch.inf], strict=True))


@torch.no_grad()
def assign(
    sizes_hw: Sequence[tuple[int, int]],
    strides: Sequence[int],
    targets: Targets,
    *,
    radius: float | None = None,
) -> Assignment:
    """Give every cell the object that it shall find, or none.

    FCOS section 3.1 and 3.2. A cell takes an object if its centre lies strictly inside the box and
    the largest of its four distances lies in its level's range, both ends included as in the paper
    and the zoo (so an object whose distance is exactly an end is learned on two levels). Of several
    objects the one of the smallest area wins, the first of equal ones. Ignored regions and
    rows without a class are background: the zoo does not spare them.

    Args:
        sizes_hw: rows and columns of each level.
        strides: pixels a cell spans, per level.
        targets: labelled boxes in pixels of the images that the network saw.
        radius: also demand that the cell's centre lies less than so many strides from the box's
            centre, in x and in y (centre sampling; 1.5 is usual). None: the whole box.

    Returns:
        `Assignment`, in the dtype and on the device of the boxes.
    """
    boxes_NG4 = targets.xyxy
    if boxes_NG4.shape[1] == 0:
        boxes_NG4 = boxes_NG4.new_zeros(boxes_NG4.shape[0], 1, 4)
        targets = Targets(
            boxes_NG4,
            targets.classes.new_full(boxes_NG4.shape[:2], BACKGROUND),
            targets.ignored.new_ones(boxes_NG4.shape[:2]),
        )
    # an area that is never the smallest keeps a row out
    wanted_NG = ~targets.ignored & (targets.classes >= 0)
    area_NG = area(boxes_NG4).where(wanted_NG, torch.inf)
    levels = [
        _assign_level(size_hw, stride, low, high, targets, area_NG, radius)
        for size_hw, stride, (low, high) in zip(sizes_hw, strides, ranges(strides), strict=True)
    ]
    return Assignment(*(torch.cat(parts, dim=-1) for parts in zip(*levels, strict=True)))


def _assign_level(
    size_hw: tuple[int, int],
    stride: int,
    low: float,
    high: float,
    targets: Targets,
    area_NG: Tensor,
    radius: float | None,
) -> Assignment:
    """All conditions but one are those of a row and those of a column: only their meeting needs
    a tensor of every cell and box, and that one holds truth values."""
    start_NG2, end_NG2 = targets.xyxy.split(2, dim=-1)
    near, fits, reaches = [], [], []
    for axis, cells in ((0, size_hw[1]), (1, size_hw[0])):
        centre_c1 = ((torch.arange(cells, device=area_NG.device) + 0.5) * stride)[:, None]
        before_NcG = centre_c1 - start_NG2[:, None, :, axis]
        after_NcG = end_NG2[:, None, :, axis] - centre_c1
        near_NcG = torch.minimum(before_NcG, after_NcG)
        far_NcG = torch.maximum(before_NcG, after_NcG)
        if radius is not None:
            # the distance from the box's centre is (before - after) / 2
            from_centre_NcG = (before_NcG - after_NcG).abs() / 2
            near_NcG = torch.minimum(near_NcG, radius * stride - from_centre_NcG)
        near.append((before_NcG, after_NcG))
        fits.append((near_NcG > 0) & (far_NcG <= high))
        reaches.append(far_NcG >= low)
    takes_NhwG = fits[0][:, None] & fits[1][:, :, None]
    takes_NhwG &= reaches[0][:, None] | reaches[1][:, :, None]
    smallest_Nhw, which_Nhw = area_NG[:, None, None].where(takes_NhwG, torch.inf).min(dim=-1)

    found_NL = (smallest_Nhw < torch.inf).flatten(1)
    which_NL = which_Nhw.flatten(1)
    classes_NL = targets.classes.gather(1, which_NL).where(found_NL, BACKGROUND)
    box_NL4 = targets.xyxy.gather(1, which_NL[..., None].expand(-1, -1, 4))
    centre_L2 = centres(size_hw, stride, box_NL4.device)
    box_NL4 = torch.cat([centre_L2 - box_NL4[..., :2], box_NL4[..., 2:] - centre_L2], dim=-1)
    box_N4L = box_NL4.transpose(1, 2).where(found_NL[:, None], 1)
    return Assignment(classes_NL, box_N4L, centerness(box_N4L) * found_NL)


def centerness(box_N4L: Tensor) -> Tensor:
    """(N, L) nearness of a point to the middle of its box, from its distances; FCOS equation 3."""
    left, top, right, bottom = box_N4L.unbind(1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    along = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * along).sqrt()


def focal(
    logits_NCL: Tensor, classes_NL: Tensor, *, gamma: float = 2.0, alpha: float = 0.25
) -> Tensor:
    """Sum of the focal loss over all cells and classes, each class a binary question.

    Lin et al., "Focal loss for dense object detection", ICCV 2017, equation 5.

    Args:
        logits_NCL: of independent sigmoids.
        classes_NL: the true class; BACKGROUND, or any other negative number, for none.
        gamma: power of the factor that plays down easy cells, 1 or more (0 for none).
        alpha: weight of the true class, 1 - alpha of the others.
    """
    class_C1 = torch.arange(logits_NCL.shape[1], device=logits_NCL.device)[:, None]
    true_NCL = class_C1 == classes_NL[:, None]
    # with the sign of the true answer both cases are one: 1 - p_t = sigmoid(-z_t)
    signed_NCL = torch.where(true_NCL, logits_NCL, -logits_NCL)
    weight_NCL = torch.where(true_NCL, alpha, 1 - alpha).to(logits_NCL.dtype)
    # FL = -alpha_t (1 - p_t)^gamma log(p_t)
    return -(weight_NCL * torch.sigmoid(-signed_NCL) ** gamma * F.logsigmoid(signed_NCL)).sum()


def fcos(
    output: DetectionOutput,
    targets: Targets,
    *,
    radius: float | None = None,
    box: Literal["iou", "giou"] = "iou",
    gamma: float = 2.0,
    alpha: float = 0.25,
    share: Callable[..., Tensor] | None = None,
) -> dict[str, Tensor]:
    """FCOS's three losses.

    Args:
        output: of the network. Half types are computed in float32, float64 stays.
        targets: labelled boxes in pixels of the same images. Ignored rows count as background.
        radius: centre sampling, see `assign`.
        box: "iou" is -log IoU, the zoo's; "giou" is 1 - GIoU.
        gamma, alpha: of the focal loss.
        share: with several processes, what makes of a divisor of this process's images and the
            least of the whole batch's (`least`) the one that gives the zoo's loss, the whole
            batch's, as the mean over processes: `kdlib.methods.base.share`.

    Returns:
        Scalars by name, to be weighted by the caller (FCOS: one each). With P cells that have an
        object in the whole batch:

        - "classification": focal loss, summed over cells and classes, divided by max(P, 1);
        - "box": mean over those cells weighted by their true centerness;
        - "centerness": binary cross entropy, mean over those cells.

        Without any object the last two are 0 with zero gradients.

    Raises:
        ValueError: an unknown form of the box loss, or targets of another number of images.
    """
    if box not in ("iou", "giou"):
        raise ValueError(f"box must be 'iou' or 'giou', not {box!r}")
    images = output.classification[0].shape[0]
    if targets.xyxy.shape[0] != images:
        raise ValueError(f"targets are of {targets.xyxy.shape[0]} images, the output of {images}")
    sizes_hw = [tuple(level.shape[-2:]) for level in output.classification]
    truth = assign(sizes_hw, output.strides, targets, radius=radius)
    dtype = torch.promote_types(output.classification[0].dtype, torch.float32)
    found_NL = (truth.classes != BACKGROUND).to(dtype)
    centerness_NL = truth.centerness.to(dtype)
    positives, weight = found_NL.sum(), centerness_NL.sum()
    if share is None:
        positives = positives.clamp(min=1)
    else:
        tiny = torch.finfo(dtype).tiny
        positives, weight = share(positives, least=1), share(weight, least=tiny)

    iou_NL = paired_iou(flat(output.box), truth.box.to(dtype), generalised=box == "giou")
    # a box far off must not give an infinite loss; the zoo's bound
    loss_NL = 1 - iou_NL if box == "giou" else -iou_NL.clamp(min=1e-6).log()
    quality_NL = F.binary_cross_entropy_with_logits(
        flat(output.quality).squeeze(1), centerness_NL, reduction="none"
    )
    classification = focal(flat(output.classification), truth.classes, gamma=gamma, alpha=alpha)
    return {
        "classification": classification / positives,
        "box": (centerness_NL * loss_NL).sum() / torch.where(weight > 0, weight, 1),
        "centerness": (found_NL * quality_NL).sum() / positives,
    }
