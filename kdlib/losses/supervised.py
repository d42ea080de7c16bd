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
    normaliser: Tensor | None = None,
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
        normaliser: scalar to divide by in place of `labelled_weight`, over 0. With several
            processes or parts of a batch: `labelled_weight` summed over all, divided by their
            number where their gradients are averaged.

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
    options = (class_weights, ignore_index, normaliser)
    loss = _mean_ce(logits, labels_NHW, *options)
    if aux_logits is not None:
        loss = loss + aux_weight * _mean_ce(aux_logits, labels_NHW, *options)
    return loss


def labelled_weight(
    labels: Tensor, class_weights: Tensor | None = None, *, ignore_index: int = 255
) -> Tensor:
    """Scalar that `segmentation_ce` divides by, where it is over 0: the number of labelled pixels,
    or the sum of their classes' weights."""
    valid_NHW = labels != ignore_index
    if class_weights is None:
        return valid_NHW.sum()
    return (class_weights[labels.long().where(valid_NHW, 0)] * valid_NHW).sum()


def _mean_ce(
    logits_NCHW: Tensor,
    labels_NHW: Tensor,
    class_weights: Tensor | None,
    ignore_index: int,
    normaliser: Tensor | None,
) -> Tensor:
    dtype = torch.promote_types(logits_NCHW.dtype, torch.float32)
    logits_NCHW = bilinear(logits_NCHW.to(dtype), tuple(labels_NHW.shape[1:]))
    weights = None if class_weights is None else class_weights.to(dtype)
    norm = normaliser
    if norm is None:
        norm = labelled_weight(labels_NHW, weights, ignore_index=ignore_index)
    if logits_NCHW.is_cuda and torch.are_deterministic_algorithms_enabled():
        # CUDA's kernel for images adds in any order; the one for rows does not
        logits_NCHW = logits_NCHW.permute(0, 2, 3, 1).flatten(0, 2)
        labels_NHW = labels_NHW.flatten()
    total = F.cross_entropy(
        logits_NCHW, labels_NHW, weight=weights, ignore_index=ignore_index, reduction="sum"
    )
    # a sum over no pixel is 0 and so is its gradient; only the division would make NaN of it
    return total / torch.where(norm > 0, norm, 1).to(dtype)


def ohem_ce(
    logits: Tensor,
    labels: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    factor: int = 8,
    ignore_index: int = 255,
) -> Tensor:
    """Cross entropy of the hard pixels only: online hard example mining.

    The released code of structured distillation (fact sheet structured_kd, section 1.4, where no
    training script uses it). Hard is a pixel whose true class has a probability <= t, and t is
    found on samples of the whole batch: round(H / f) x round(W / f) points per image, corners
    aligned (halves of the division to the even number, as Python rounds), the probability of the
    sampled label interpolated linearly between pixels, the label that of the nearest pixel, halves
    up. With k = floor(min_kept / f^2):

    - k >= number of samples with a label: t = 1, every labelled pixel is kept;
    - otherwise t is the larger of `threshold` and the k-th smallest sampled probability, counted
      from 1. For k = 0 there is no such sample and t = `threshold`.

    Args:
        logits: (N, C, h, w), any size; resized bilinearly to the labels, corners aligned. Half
            types are computed in float32, float64 stays.
        labels: (N, H, W) integers, class indices or `ignore_index`.
        threshold: probability up to which a pixel is always hard.
        min_kept: pixels of the batch to keep at least, roughly: the rule above counts samples.
        factor: f, whole and positive; distance of the samples in pixels.
        ignore_index: label that counts nowhere.

    Returns:
        Scalar: mean over the kept pixels of the batch. The choice itself has no gradient. Where
        none is kept, as in a batch without labels, 0 with zero gradients.

    Raises:
        ValueError: labels that are not (N, H, W), a factor below 1 or a negative min_kept.
    """
    if labels.dim() != 3 or logits.dim() != 4 or labels.shape[0] != logits.shape[0]:
        raise ValueError(
            f"labels must be (N, H, W) for logits (N, C, h, w), not {tuple(labels.shape)} "
            f"for {tuple(logits.shape)}"
        )
    if factor < 1 or min_kept < 0:
        raise ValueError(
            f"factor must be 1 or more and min_kept not negative, not {factor} and {min_kept}"
        )
    dtype = torch.promote_types(logits.dtype, torch.float32)
    labels_NHW = labels.long()
    log_p_NCHW = bilinear(logits.to(dtype), tuple(labels.shape[1:])).log_softmax(1)
    with torch.no_grad():
        valid_NHW = labels_NHW != ignore_index
        target_N1HW = labels_NHW.where(valid_NHW, 0).unsqueeze(1)
        p_NHW = log_p_NCHW.gather(1, target_N1HW).squeeze(1).exp()
        limit = _ohem_limit(
            log_p_NCHW, labels_NHW, threshold, min_kept // factor**2, factor, ignore_index
        )
        kept_NHW = valid_NHW & (p_NHW <= limit)
        norm = kept_NHW.sum()
        labels_NHW = labels_NHW.where(kept_NHW, ignore_index)
    if log_p_NCHW.is_cuda and torch.are_deterministic_algorithms_enabled():
        # as in _mean_ce
        log_p_NCHW = log_p_NCHW.permute(0, 2, 3, 1).flatten(0, 2)
        labels_NHW = labels_NHW.flatten()
    total = F.nll_loss(log_p_NCHW, labels_NHW, ignore_index=ignore_index, reduction="sum")
    return total / torch.where(norm > 0, norm, 1).to(dtype)


def _ohem_limit(
    log_p_NCHW: Tensor,
    labels_NHW: Tensor,
    threshold: float,
    k: int,
    factor: int,
    ignore_index: int,
) -> Tensor:
    """The probability up to which pixels are hard, as a scalar that never leaves the device."""
    size = tuple(labels_NHW.shape[1:])
    (low_h, high_h, near_h, part_h), (low_w, high_w, near_w, part_w) = (
        _grid(side, round(side / factor), labels_NHW.device) for side in size
    )
    labels_Nhw = labels_NHW[:, near_h[:, None], near_w]
    valid_Nhw = labels_Nhw != ignore_index
    p_NP = log_p_NCHW.flatten(1)
    offset_Nhw = labels_Nhw.where(valid_Nhw, 0) * (size[0] * size[1])

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        index_Nhw = offset_Nhw + rows[:, None] * size[1] + columns
        return p_NP.gather(1, index_Nhw.flatten(1)).view(index_Nhw.shape).exp()

    part_h, part_w = part_h[:, None].to(p_NP.dtype), part_w.to(p_NP.dtype)
    upper = (1 - part_w) * at(low_h, low_w) + part_w * at(low_h, high_w)
    lower = (1 - part_w) * at(high_h, low_w) + part_w * at(high_h, high_w)
    sampled = ((1 - part_h) * upper + part_h * lower).where(valid_Nhw, torch.inf)
    # ignored samples come last; where k reaches them the limit is 1 anyway
    ordered = torch.cat([sampled.flatten().sort().values, sampled.new_ones(1)])
    limit = ordered.new_full((), threshold)
    if k > 0:
        limit = torch.maximum(limit, ordered[min(k, len(ordered)) - 1])
    return torch.where(valid_Nhw.sum() <= k, 1, limit)


def _grid(size: int, points: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points spread over 0 .. size - 1, ends included: neighbours, nearest, share of the upper."""
    numerator = torch.arange(points, device=device) * (size - 1)
    steps = max(points - 1, 1)
    lower = numerator // steps
    # floor(x + 1/2) in whole numbers, so that a half is a half
    nearest = (2 * numerator + steps) // (2 * steps)
    share = (numerator - lower * steps).double() / steps
    return lower, (lower + 1).clamp(max=size - 1), nearest, share
