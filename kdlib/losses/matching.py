"""Function matching: the distance between two networks' outputs on the same pixels.

Yashima, "Function matching for driving-scene recognition", AVVision at ECCV 2022 (arXiv
2208.09694), built on Beyer et al., "Knowledge distillation: a good teacher is patient and
consistent", CVPR 2022 (arXiv 2106.05237). The driving paper's loss formula, weights and temperature
are not known (fact sheet function_matching, section 0): what is computed here is Beyer et al.'s
loss, taken at every pixel.

Shape suffixes: N images, C classes, H rows, W columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def segmentation(
    student_NCHW: Tensor,
    teacher_NCHW: Tensor,
    *,
    temperature: float = 1.0,
    valid_NHW: Tensor | None = None,
    weight_NHW: Tensor | None = None,
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
    if valid_NHW is None and weight_NHW is None:
        return temperature**2 * (kl_NHW.mean() if kl_NHW.numel() else kl_NHW.sum())
    if weight_NHW is None:
        weight_NHW = valid_NHW.to(dtype)
    elif valid_NHW is None:
        weight_NHW = weight_NHW.to(dtype)
    else:
        weight_NHW = weight_NHW.to(dtype) * valid_NHW.to(dtype)
    norm = weight_NHW.sum()
    return temperature**2 * (weight_NHW * kl_NHW).sum() / torch.where(norm > 0, norm, 1)


def _over_temperature(logits: Tensor, temperature: float) -> Tensor:
    # at T = 1, the usual case, a division would only copy
    return logits if temperature == 1 else logits / temperature
