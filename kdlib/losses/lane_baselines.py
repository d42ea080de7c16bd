"""What inter-region affinity is compared with, or trained with: attention, soft targets, existence.

Fact sheet inter_region_affinity, sections 1.5 and 2. They are names of `kdlib.losses.affinity` too,
where callers find them.

No function stops the teacher's gradient: run the teacher without gradients, which also is quicker.

Shape suffixes: N images, C channels, H rows, W columns, P pixels, L lanes.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.losses import matching
from kdlib.losses.options import known
from kdlib.resize import to_grid

NORMALISATIONS = ("l2", "none", "softmax")
REDUCTIONS = ("sum", "mean")

_SLICE = 32  # channels squared at once


def attention_transfer(
    student_NCHW: Tensor,
    teacher_NCHW: Tensor,
    *,
    normalise: Literal["l2", "none", "softmax"] = "l2",
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Squared difference of attention maps: the squares of a feature, summed over channels.

    Fact sheet inter_region_affinity, section 1.5; Zagoruyko, Komodakis, "Paying more attention to
    attention", ICLR 2017, whose maps are divided by their norms ("l2"). "none" takes the map as it
    is, as the formula reads; "softmax" is the spatial softmax in the authors' lane networks.

    Args:
        student_NCHW: features; half types are computed in float32, float64 stays.
        teacher_NCHW: features of the same N, any channels. Where the sizes differ its map is
            brought to the student's (`kdlib.resize.to_grid`) before it is normalised; the paper is
            silent about it. Run the teacher without gradients.
        normalise: over all pixels of an image, see above. A map of zeros stays one under "l2".
        reduction: over the pixels: "sum" as printed, or "mean".

    Returns:
        Scalar: mean over N. 0 for an empty batch.

    Raises:
        ValueError: features that are not (N, C, H, W) of one N, unknown normalise or reduction.
    """
    known("normalise", normalise, NORMALISATIONS)
    known("reduction", reduction, REDUCTIONS)
    if (
        student_NCHW.dim() != 4
        or teacher_NCHW.dim() != 4
        or student_NCHW.shape[0] != teacher_NCHW.shape[0]
    ):
        raise ValueError(
            f"student and teacher features must be (N, C, H, W) with the same N, not "
            f"{tuple(student_NCHW.shape)} and {tuple(teacher_NCHW.shape)}"
        )
    n_images = student_NCHW.shape[0]
    if not n_images:
        return _attention(student_NCHW).sum()
    student_NHW, teacher_NHW = _attention(student_NCHW), _attention(teacher_NCHW)
    if student_NHW.shape != teacher_NHW.shape:
        teacher_NHW = to_grid(teacher_NHW[:, None], tuple(student_NHW.shape[1:])).squeeze(1)
    maps = [attention.flatten(1) for attention in (student_NHW, teacher_NHW)]
    if normalise == "l2":
        norms = [torch.linalg.vector_norm(each, dim=1, keepdim=True) for each in maps]
        maps = [each / norm.where(norm > 0, 1) for each, norm in zip(maps, norms, strict=True)]
    elif normalise == "softmax":
        maps = [each.softmax(1) for each in maps]
    squares_NP = (maps[0] - maps[1]).square()
    return squares_NP.sum() / n_images if reduction == "sum" else squares_NP.mean()


def _attention(features_NCHW: Tensor) -> Tensor:
    """(N, H, W): sum of squares over the channels."""
    features_NCHW = features_NCHW.to(torch.promote_types(features_NCHW.dtype, torch.float32))
    # in slices, so that the squares of 2048 channels never lie in memory at once
    return sum(part.square().sum(1) for part in features_NCHW.split(_SLICE, 1))


def soft_targets(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """The baseline KD: the teacher's class distribution, softened, at every pixel.

    Fact sheet inter_region_affinity, section 1.5 ("KD baseline"); `kdlib.losses.matching` without
    masks. The paper gives no temperature.

    Args:
        student, teacher: logits (N, C, H, W) of one shape.
        temperature: T > 0, divides both.

    Returns:
        Scalar in nats: T^2 KL(teacher || student), sum over classes, mean over N and pixels.

    Raises:
        ValueError: different shapes, a temperature that is not positive.
    """
    return matching.segmentation(student, teacher, temperature=temperature)


def existence_bce(logits_NL: Tensor, exists_NL: Tensor, *, released: bool = False) -> Tensor:
    """Binary cross entropy of "this lane is in the image".

    Fact sheet inter_region_affinity, sections 1.5 and 2. The released CULane code puts a sigmoid at
    the end of the network and then takes the loss that applies its own, so that its probabilities
    lie in 0.5 .. 0.73: `released=True` does the same.

    Args:
        logits_NL: before any sigmoid. Half types are computed in float32, float64 stays.
        exists_NL: bool, or 0 and 1.
        released: the form with two sigmoids.

    Returns:
        Scalar in nats: mean over N and L; 0 for an empty batch.

    Raises:
        ValueError: tensors of different shapes, or not (N, L).
    """
    if logits_NL.dim() != 2 or logits_NL.shape != exists_NL.shape:
        raise ValueError(
            f"logits and existence must both be (N, lanes), not {tuple(logits_NL.shape)} and "
            f"{tuple(exists_NL.shape)}"
        )
    dtype = torch.promote_types(logits_NL.dtype, torch.float32)
    logits_NL = logits_NL.to(dtype)
    if released:
        logits_NL = logits_NL.sigmoid()
    # a copy: the gradient keeps it, which tensors of inference mode refuse
    exists_NL = exists_NL.to(dtype, copy=True)
    total = F.binary_cross_entropy_with_logits(logits_NL, exists_NL, reduction="sum")
    return total / max(logits_NL.numel(), 1)
