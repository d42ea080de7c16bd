"""Fine-grained feature imitation: the loss over the cells worth imitating.

Wang, Yuan, Zhang, Feng, "Distilling object detectors with fine-grained feature imitation", CVPR
2019 (arXiv 1906.03609); fact sheet feature_imitation, sections 1 to 3.

A detector's errors lie near objects, so the student imitates the teacher's feature map there only:
in the cells some of whose anchors overlap an object nearly as well as the best anchor does. Which
cells these are, and the regions of the ablation, is chosen by `kdlib.losses.regions`, whose
functions are at hand here as well.

Shape suffixes: N images, C channels, H rows, W columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.losses.regions import (
    anchor_grid,
    box_region,
    full_region,
    imitation_mask,
    imitation_masks,
)

__all__ = [
    "anchor_grid",
    "box_region",
    "full_region",
    "imitation_loss",
    "imitation_mask",
    "imitation_masks",
    "vanilla",
]


def imitation_loss(
    adapted_NCHW: Tensor,
    teacher_NCHW: Tensor,
    mask_NHW: Tensor,
    *,
    cells: Tensor | None = None,
) -> Tensor:
    """Half the squared distance of the features, per imitating cell.

    Fact sheet feature_imitation, section 2. The mean is over the cells of the whole batch, not of
    means per image, and the channels are summed: a weight tuned elsewhere on a mean over channels
    has to be divided by C here.

    Args:
        adapted_NCHW: the student's features behind its adapter. Half types are computed in float32,
            float64 stays.
        teacher_NCHW: features of the same shape. Its gradient is not stopped here: run the teacher
            without gradients.
        mask_NHW: bool, or numbers of which 0 means no; the imitating cells.
        cells: scalar > 0 to divide by in place of N_p, where these are a part of the batch: the
            share of a process of the cells of all. None: N_p.

    Returns:
        Scalar: 1 / (2 N_p) * sum over the N_p cells and C of (adapted - teacher)^2. 0 with zero
        gradients where the region is empty (the released code gives NaN); features outside the
        region play no part, whatever they hold.

    Raises:
        ValueError: features of different shapes, or a mask of another size.
    """
    if adapted_NCHW.dim() != 4 or adapted_NCHW.shape != teacher_NCHW.shape:
        raise ValueError(
            f"adapted and teacher features must both be (N, C, H, W) of one size, not "
            f"{tuple(adapted_NCHW.shape)} and {tuple(teacher_NCHW.shape)}; the adapter brings the "
            "student's channels to the teacher's, a resize the sides"
        )
    size_NHW = (adapted_NCHW.shape[0], *adapted_NCHW.shape[2:])
    if tuple(mask_NHW.shape) != size_NHW:
        raise ValueError(
            f"mask_NHW must have the size {size_NHW} of the features, not {tuple(mask_NHW.shape)}"
        )
    dtype = torch.promote_types(
        torch.promote_types(adapted_NCHW.dtype, teacher_NCHW.dtype), torch.float32
    )
    mask_NHW = mask_NHW != 0
    difference_NCHW = adapted_NCHW.to(dtype) - teacher_NCHW.to(dtype)
    # chosen before it is squared: an infinity outside would leave NaN in the gradient
    difference_NCHW = difference_NCHW.where(mask_NHW[:, None], 0)
    # L = 1 / (2 N_p) sum I (f_adap(s) - t)^2
    total = difference_NCHW.square().sum()
    return total / ((2 * mask_NHW.sum()).clamp(min=1) if cells is None else 2 * cells)


def vanilla(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    classes_dim: int = -1,
    weight: Tensor | None = None,
    normaliser: Tensor | None = None,
) -> Tensor:
    """Distillation of the head's class scores: the paper's ablation D, filled in by us.

    The paper's temperature, weight and head are not known (fact sheet feature_imitation, section
    3). Our choice: Hinton's loss on the class logits of every anchor or region.

    Args:
        student: logits, any shape. Half types are computed in float32, float64 stays.
        teacher: logits of the same shape; run the teacher without gradients.
        temperature: T > 0, divides both logits.
        classes_dim: the dimension that a softmax makes a distribution of.
        weight: weights >= 0, the shape of the logits without `classes_dim`; such as the teacher's
            confidence that an anchor holds an object. None: all equal.
        normaliser: scalar over 0 to divide by in place of the sum of the weights; with several
            processes or parts of a batch that of all, divided by how many they are where their
            gradients are averaged. Without weights it is not used.

    Returns:
        Scalar in nats: T^2 KL(teacher || student), sum over classes, weighted mean over the rest.
        0 with zero gradients where all weights are 0.

    Raises:
        ValueError: shapes that do not agree, or a temperature that is not positive.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher scores must have one shape, not {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    student, teacher = student.to(dtype) / temperature, teacher.to(dtype) / temperature
    log_s, log_t = (z.log_softmax(classes_dim) for z in (student, teacher))
    # KL = sum_c p^t_c (log p^t_c - log p^s_c)
    kl = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(classes_dim)
    if weight is None:
        return temperature**2 * kl.sum() / max(kl.numel(), 1)
    if weight.shape != kl.shape:
        raise ValueError(f"weight must be {tuple(kl.shape)}, not {tuple(weight.shape)}")
    # a copy: the gradient keeps it, which tensors of inference mode refuse
    weight = weight.to(dtype, copy=True)
    total = weight.sum() if normaliser is None else normaliser
    return temperature**2 * (weight * kl).sum() / torch.where(total > 0, total, 1)
