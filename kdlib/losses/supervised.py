"""Losses against labels.

Shape suffixes: N images, C classes, H rows, W columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.resize import bilinear


def segmentation_ce(
    logits: Tensor,
    labels: Tensor,
    *,
    aux_logits: Tensor | None = None,
    aux_weight: float = 0.4,
    class_weights: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Cross entropy of every labelled pixel, at the resolution of the labels.

    Logits are resized bilinearly to the labels, corners aligned, as PSPNet trains (and the
    structured distillation paper's released code: fact sheet structured_kd 1.4).

    Args:
        logits: (N, C, h, w), any size. Half types are computed in float32, float64 stays.
        labels: (N, H, W) integers, class indices or `ignore_index`.
        aux_logits: (N, C, h', w') of an auxiliary head, or None.
        aux_weight: factor of the auxiliary head's own mean.
        class_weights: (C,) or None. With weights the mean is weighted as PyTorch weights it.
        ignore_index: label that counts nowhere.

    Returns:
        Scalar: mean over N and the labelled pixels. A batch without any labelled pixel gives 0 with
        zero gradients, not NaN.

    Raises:
        ValueError: labels that are not (N, H, W), or class weights of another length than C.
    """
    if labels.dim() != 3 or logits.dim() != 4 or labels.shape[0] != logits.shape[0]:
        raise ValueError(
            f"labels must be (N, H, W) for logits (N, C, h, w), not {tuple(labels.shape)} "
            f"for {tuple(logits.shape)}"
        )
    if class_weights is not None and class_weights.shape != logits.shape[1:2]:
        raise ValueError(
            f"class_weights must hold {logits.shape[1]} values, not {tuple(class_weights.shape)}"
        )
    labels_NHW = labels.long()
    loss = _mean_ce(logits, labels_NHW, class_weights, ignore_index)
    if aux_logits is not None:
        loss = loss + aux_weight * _mean_ce(aux_logits, labels_NHW, class_weights, ignore_index)
    return loss


def _mean_ce(
    logits_NCHW: Tensor, labels_NHW: Tensor, class_weights: Tensor | None, ignore_index: int
) -> Tensor:
    dtype = torch.promote_types(logits_NCHW.dtype, torch.float32)
    logits_NCHW = bilinear(logits_NCHW.to(dtype), tuple(labels_NHW.shape[1:]))
    valid_NHW = labels_NHW != ignore_index
    weights = None
    if class_weights is None:
        norm = valid_NHW.sum()
    else:
        weights = class_weights.to(dtype)
        norm = (weights[labels_NHW.where(valid_NHW, 0)] * valid_NHW).sum()
    if logits_NCHW.is_cuda and torch.are_deterministic_algorithms_enabled():
        # CUDA's kernel for images adds in any order; the one for rows does not
        logits_NCHW = logits_NCHW.permute(0, 2, 3, 1).flatten(0, 2)
        labels_NHW = labels_NHW.flatten()
    total = F.cross_entropy(
        logits_NCHW, labels_NHW, weight=weights, ignore_index=ignore_index, reduction="sum"
    )
    # a sum over no pixel is 0 and so is its gradient; only the division would make NaN of it
    return total / torch.where(norm > 0, norm, 1).to(dtype)
