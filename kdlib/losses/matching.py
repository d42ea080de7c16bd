"""Function matching: the distance between two networks' outputs on the same pixels.

Yashima, "Effectiveness of function matching in driving scene recognition", AVVision at ECCV 2022
(arXiv 2208.09694), built on Beyer et al., "Knowledge distillation: a good teacher is patient and
consistent", CVPR 2022 (arXiv 2106.05237). The driving paper's loss formula, weights and temperature
are not known (fact sheet function_matching, section 0): what is computed here is Beyer et al.'s
loss, taken at every pixel; for detectors the fact sheet's own choice (section 2.3).

Shape suffixes: N images, C classes, H rows, W columns; L cells of all levels of a detector.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.detection import DetectionOutput
from kdlib.losses.fcos import flat, paired_iou


def segmentation(
    student_NCHW: Tensor,
    teacher_NCHW: Tensor,
    *,
    temperature: float = 1.0,
    valid_NHW: Tensor | None = None,
    weight_NHW: Tensor | None = None,
    normaliser: Tensor | None = None,
) -> Tensor:
    """KL divergence of the student's class distribution from the teacher's, per pixel.

    Fact sheet function_matching, section 2.2. The same function is the training loss and the mean
    KL that evaluation reports. Labels play no part: pixels that the ground truth ignores are
    matched as well, only padding belongs outside `valid_NHW`.

    Args:
        student_NCHW: logits. Half types are computed in float32, float64 stays.
        teacher_NCHW: logits of the same shape. Its gradient is not stopped here: run the teacher
            without gradients.
        temperature: T > 0, divides both logits.
        valid_NHW: bool, or 0 and 1; True where a pixel counts. None: everywhere.
        weight_NHW: weights >= 0 of the pixels, for a weighted mean. None: all equal.
        normaliser: scalar over 0 to divide by in place of the number of valid pixels, or of the sum
            of their weights. With several processes or parts of a batch: that number of all,
            divided by how many they are where their gradients are averaged.

    Returns:
        Scalar in nats: T^2 KL(teacher || student), sum over classes, mean over N and the valid
        pixels (so it depends neither on the batch size nor on the resolution). 0 with zero
        gradients where no pixel is valid.

    Raises:
        ValueError: tensors whose sizes do not agree, or a temperature that is not positive.
    """
    if student_NCHW.dim() != 4 or student_NCHW.shape != teacher_NCHW.shape:
        raise ValueError(
            f"student and teacher logits must both be (N, C, H, W) of one size, not "
            f"{tuple(student_NCHW.shape)} and {tuple(teacher_NCHW.shape)}; resize one of them"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    pixels = (student_NCHW.shape[0], *student_NCHW.shape[2:])
    for name, mask in (("valid_NHW", valid_NHW), ("weight_NHW", weight_NHW)):
        if mask is not None and tuple(mask.shape) != pixels:
            raise ValueError(
                f"{name} must have the size {pixels} of the logits, not {tuple(mask.shape)}"
            )

    dtype = torch.promote_types(
        torch.promote_types(student_NCHW.dtype, teacher_NCHW.dtype), torch.float32
    )
    # p = softmax(z / T)
    log_s_NCHW = _over_temperature(student_NCHW.to(dtype), temperature).log_softmax(1)
    log_t_NCHW = _over_temperature(teacher_NCHW.to(dtype), temperature).log_softmax(1)
    # KL_u = sum_c p^t_uc (log p^t_uc - log p^s_uc)
    kl_NHW = F.kl_div(log_s_NCHW, log_t_NCHW, reduction="none", log_target=True).sum(1)

    # L = T^2 / |Omega| * sum over u in Omega of KL_u, or the weighted mean
    if valid_NHW is None and weight_NHW is None and normaliser is None:
        return temperature**2 * (kl_NHW.mean() if kl_NHW.numel() else kl_NHW.sum())
    if weight_NHW is None:
        weight_NHW = kl_NHW.new_ones(()) if valid_NHW is None else valid_NHW.to(dtype)
    elif valid_NHW is None:
        weight_NHW = weight_NHW.to(dtype)
    else:
        weight_NHW = weight_NHW.to(dtype) * valid_NHW.to(dtype)
    norm = weight_NHW.sum() if normaliser is None else normaliser
    return temperature**2 * (weight_NHW * kl_NHW).sum() / torch.where(norm > 0, norm, 1)


def _over_temperature(logits: Tensor, temperature: float) -> Tensor:
    # at T = 1, the usual case, a division would only copy
    return logits if temperature == 1 else logits / temperature


def fcos(
    student: DetectionOutput,
    teacher: DetectionOutput,
    *,
    temperature: float = 1.0,
    weighting: Literal["foreground", "top", "difference"] = "foreground",
    top: float = 0.01,
    valid: Sequence[Tensor] | None = None,
    normaliser: Tensor | None = None,
) -> dict[str, Tensor]:
    """Distance of one FCOS from another on the same images, without labels.

    Fact sheet function_matching, section 2.3. With the teacher's and the student's probabilities
    p = sigmoid(z / T) and q = sigmoid(o), the distances b, the teacher's evidence of foreground
    w_i = max_c p^t_ic of every cell i (of this p, so T softens it too) and Z = max(sum_i w_i, 1):

    - "classification": T^2 / Z * sum_ic KL(p^t || p^s), the two-way divergence of each sigmoid;
    - "box": 1 / Z * sum_i w_i (1 - GIoU(b^s, b^t));
    - "centerness": 1 / Z * sum_i w_i BCE(q^s, q^t). As a cross entropy it ends at the teacher's
      entropy and not at 0.

    A detector's boxes and centerness are trained where objects are: elsewhere the teacher's are
    arbitrary, and w keeps them out.

    Two published neighbours, for comparison (table of section 2.3); both scaled by T^2 as well:

    - "top", Dense Teacher (Zhou et al., ECCV 2022): the region is the share `top` of the cells of
      the batch with the largest w. Classification: |p^t - p^s|^2 BCE(p^s, p^t) in the region,
      (p^s)^2 BCE(p^s, 0) outside, divided by max(sum of w over the region, 1). Box and centerness:
      means over the region. The classification does not vanish for equal networks.
    - "difference", BCKD (Yang et al., ICCV 2023): |p^t - p^s| BCE(p^s, p^t) everywhere; boxes
      weighted by max_c |p^t - p^s|, without a gradient through the weight; both divided by Z,
      where BCKD divides by the number of labelled cells. It has no centerness: ours takes w.

    Args:
        student, teacher: outputs with equal levels. Half types are computed in float32, float64
            stays. The teacher's gradient is not stopped here: run it without gradients.
        temperature: T > 0, divides both class logits.
        weighting: which cells count how much, see above.
        top: share of the cells in the region, 0..1; one cell at least. The cells that `valid`
            leaves out count in the share and are never in the region.
        valid: (N, h, w) bool per level; True where a cell counts (not padding). None: everywhere.
        normaliser: scalar to divide by in place of Z (with "top" in place of the classification's
            divisor). With several processes or parts of a batch: `evidence` summed over all,
            divided by their number where their gradients are averaged, at least 1.

    Returns:
        Scalars by name, to be weighted by the caller; divided as above.

    Raises:
        ValueError: outputs of different sizes, masks of another size, a temperature that is not
        positive, a share outside 0..1 or an unknown weighting.
    """
    if weighting not in ("foreground", "top", "difference"):
        raise ValueError(
            f"weighting must be 'foreground', 'top' or 'difference', not {weighting!r}"
        )
    if not 0 < top <= 1:
        raise ValueError(f"top must be above 0 and at most 1, not {top}")
    _same_levels(student, teacher)
    z_s_NCL, z_t_NCL = (_class_logits(output, temperature) for output in (student, teacher))
    p_t_NCL = z_t_NCL.sigmoid()
    valid_NL = _flat_masks(teacher, valid)
    w_NL = _counted(p_t_NCL.amax(1), valid_NL)
    z = w_NL.sum().clamp(min=1) if normaliser is None else normaliser

    giou_NL = paired_iou(flat(student.box), flat(teacher.box), generalised=True)
    quality_NL = F.binary_cross_entropy_with_logits(
        flat(student.quality).squeeze(1),
        flat(teacher.quality).squeeze(1).sigmoid(),
        reduction="none",
    )
    if weighting == "foreground":
        classes = _counted(_binary_kl(z_s_NCL, z_t_NCL, p_t_NCL).sum(1), valid_NL).sum() / z
        box, quality = ((w_NL * x).sum() / z for x in (1 - giou_NL, quality_NL))
    elif weighting == "difference":
        gap_NCL = (p_t_NCL - z_s_NCL.sigmoid()).abs()
        bce_NCL = F.binary_cross_entropy_with_logits(z_s_NCL, p_t_NCL, reduction="none")
        classes = _counted((gap_NCL * bce_NCL).sum(1), valid_NL).sum() / z
        weight_NL = _counted(gap_NCL.detach().amax(1), valid_NL)
        box, quality = (weight_NL * (1 - giou_NL)).sum() / z, (w_NL * quality_NL).sum() / z
    else:
        region_NL = _counted(_largest(w_NL, top), valid_NL)
        if normaliser is None:
            z = (region_NL * w_NL).sum().clamp(min=1)
        # outside the region the target is 0, and |0 - p^s|^2 BCE(p^s, 0) is the same expression
        target_NCL = region_NL[:, None] * p_t_NCL
        gap_NCL = (target_NCL - z_s_NCL.sigmoid()) ** 2
        bce_NCL = F.binary_cross_entropy_with_logits(z_s_NCL, target_NCL, reduction="none")
        classes = _counted((gap_NCL * bce_NCL).sum(1), valid_NL).sum() / z
        cells = region_NL.sum().clamp(min=1)
        box, quality = ((region_NL * x).sum() / cells for x in (1 - giou_NL, quality_NL))
    return {"classification": temperature**2 * classes, "box": box, "centerness": quality}


def evidence(
    teacher: DetectionOutput,
    *,
    temperature: float = 1.0,
    weighting: Literal["foreground", "top", "difference"] = "foreground",
    top: float = 0.01,
    valid: Sequence[Tensor] | None = None,
) -> Tensor:
    """Scalar: the teacher's evidence of foreground, sum over N and the cells of max_c p^t.

    What `fcos` divides by (if it is at least 1), of the region only where the weighting is "top";
    and the weight of a batch's `box_agreement` in the mean over several.
    """
    p_t_NCL = _class_logits(teacher, temperature).sigmoid()
    valid_NL = _flat_masks(teacher, valid)
    w_NL = _counted(p_t_NCL.amax(1), valid_NL)
    if weighting == "top":
        w_NL = w_NL * _counted(_largest(w_NL, top), valid_NL)
    return w_NL.sum()


def score_divergence(
    student: DetectionOutput, teacher: DetectionOutput, *, valid: Sequence[Tensor] | None = None
) -> Tensor:
    """Scalar in nats: the two-way KL of `fcos` at T = 1, sum over classes, mean over N and the
    valid cells. 0 for equal scores, and where no cell is valid."""
    _same_levels(student, teacher)
    z_s_NCL, z_t_NCL = (_class_logits(output, 1.0) for output in (student, teacher))
    valid_NL = _flat_masks(teacher, valid)
    kl_NL = _counted(_binary_kl(z_s_NCL, z_t_NCL, z_t_NCL.sigmoid()).sum(1), valid_NL)
    if valid_NL is None:
        return kl_NL.mean()
    return kl_NL.sum() / valid_NL.sum().clamp(min=1)


def box_agreement(
    student: DetectionOutput, teacher: DetectionOutput, *, valid: Sequence[Tensor] | None = None
) -> Tensor:
    """Scalar, 0..1: IoU of the two networks' boxes of each cell, mean weighted by the teacher's
    evidence of foreground max_c p^t (T = 1). 0 where no cell is valid."""
    _same_levels(student, teacher)
    w_NL = _counted(_class_logits(teacher, 1.0).sigmoid().amax(1), _flat_masks(teacher, valid))
    norm = w_NL.sum()
    iou_NL = paired_iou(flat(student.box), flat(teacher.box))
    return (w_NL * iou_NL).sum() / torch.where(norm > 0, norm, 1)


def _class_logits(output: DetectionOutput, temperature: float) -> Tensor:
    """(N, C, L) class logits over T."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    return _over_temperature(flat(output.classification), temperature)


def _binary_kl(z_s: Tensor, z_t: Tensor, p_t: Tensor) -> Tensor:
    """p log(p / r) + (1 - p) log((1 - p) / (1 - r)) of teacher's p and student's r: the cross
    entropy less the teacher's own entropy, by the same arithmetic, so that equals give 0."""
    cross = F.binary_cross_entropy_with_logits(z_s, p_t, reduction="none")
    return cross - F.binary_cross_entropy_with_logits(z_t, p_t, reduction="none")


def _largest(w_NL: Tensor, share: float) -> Tensor:
    """(N, L) of 0 and 1: the given share of all cells with the largest w, one at least."""
    flat_M = w_NL.flatten()
    best = flat_M.topk(min(max(1, int(share * flat_M.numel())), flat_M.numel())).indices
    return torch.zeros_like(flat_M).scatter(0, best, 1).view_as(w_NL)


def _counted(x_NL: Tensor, valid_NL: Tensor | None) -> Tensor:
    """The values, 0 where a cell does not count."""
    return x_NL if valid_NL is None else x_NL.where(valid_NL, 0)


def _flat_masks(output: DetectionOutput, valid: Sequence[Tensor] | None) -> Tensor | None:
    """(N, L) bool of the masks of all levels."""
    if valid is None:
        return None
    expected = [(level.shape[0], *level.shape[2:]) for level in output.classification]
    if [tuple(mask.shape) for mask in valid] != expected:
        raise ValueError(
            f"valid must hold one (N, h, w) mask per level, {expected}, "
            f"not {[tuple(mask.shape) for mask in valid]}"
        )
    return torch.cat([mask.flatten(1) for mask in valid], dim=1).bool()


def _same_levels(student: DetectionOutput, teacher: DetectionOutput) -> None:
    for name in ("classification", "box", "quality"):
        sizes = [[tuple(x.shape) for x in getattr(output, name)] for output in (student, teacher)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"student and teacher must have the same levels and classes; {name} has the sizes "
                f"{sizes[0]} and {sizes[1]}"
            )
    if tuple(student.strides) != tuple(teacher.strides):
        raise ValueError(
            f"student and teacher must have the same strides, not {student.strides} and "
            f"{teacher.strides}"
        )
