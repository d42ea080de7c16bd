"""Average precision of pixels as the official script of LLAMAS counts it.

Fact sheet inter_region_affinity 4, "LLAMAS". The script compares each map with 101 thresholds;
here one histogram of a map tells the counts at all of them. Scores are fractions from 0 to 1,
float64. `kdlib.metrics.lanes` has the public names of this room.

The official numbers are made from stored images, so from the maps times 255 in whole numbers: give
uint8 maps for those. Maps of floats are compared with the thresholds as they are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

STEPS = 100  # thresholds 1.00, 0.99 ... 0.00
CHANNELS = ("background", "l1", "l0", "r0", "r1")


class LlamasScore(NamedTuple):
    """Average precision, and the pair of precision and recall with the greatest product."""

    auc: float
    precision: float
    recall: float
    threshold: float


def llamas_average_precision(probability: Tensor, label: Tensor) -> LlamasScore:
    """Average precision of one map of one image.

    A pixel is predicted where its probability is no less (>=) than the threshold. Precision is 0
    where nothing is predicted, recall 0 where nothing is labelled. From precision 1 at recall 0,
    the average sums each step of recall times the *previous* precision, thresholds falling.
    So a map that predicts nothing at 1.00 gets nothing for its first step.

    Args:
        probability: (H, W) of one channel for the whole image (see `with_top`), from 0 to 1 in
            floats, or 0 ... 255 in uint8 as the stored images have it.
        label: (H, W) bool, or integers that are not 0 where the pixel belongs to the channel.

    Returns:
        (auc, precision, recall, threshold), the last three those of the greatest product of
        precision and recall, the highest threshold of several; all 0 where every product is 0.

    Raises:
        ValueError: shapes that differ, or floats that are not from 0 to 1.
    """
    if probability.dim() != 2 or probability.shape != label.shape:
        raise ValueError(
            f"probability and label must have one shape (H, W), not {tuple(probability.shape)} "
            f"and {tuple(label.shape)}"
        )
    counts = _histogram(probability, label != 0)
    return LlamasScore(*_scores(counts.cpu()[None])[0].tolist())


def llamas_scores(probability_NCHW: Tensor, label_NHW: Tensor) -> Tensor:
    """`llamas_average_precision` of every image and channel of a batch.

    Args:
        probability_NCHW: as above; on any device.
        label_NHW: integers, the channel each pixel belongs to.

    Returns:
        (N, C, 4) float64 on the CPU: auc, precision, recall, threshold. Rows of several batches,
        joined by `torch.cat`, go into `llamas_map`.
    """
    n, c, h, w = probability_NCHW.shape
    if label_NHW.shape != (n, h, w):
        raise ValueError(f"label_NHW must be {(n, h, w)}, not {tuple(label_NHW.shape)}")
    counts = [
        _histogram(probability_NCHW[image, channel], label_NHW[image] == channel)
        for image in range(n)
        for channel in range(c)
    ]
    if not counts:
        return torch.zeros(n, c, 4, dtype=torch.float64)
    return _scores(torch.stack(counts).cpu()).view(n, c, 4)


def llamas_map(scores_NC4: Tensor, channels: Sequence[str] = CHANNELS) -> dict:
    """Means over the images, and over the lanes.

    Args:
        scores_NC4: from `llamas_scores`. An image without a lane counts 0 for it, as in the
            official script, so even the best network stays below 1 where lanes are missing.
        channels: names of the C channels; the first is the background.

    Returns:
        {"map": mean of the lanes' auc, background left out; "channels": {name: {"auc",
        "precision", "recall", "threshold"}}}. Only None where there is no image.
    """
    if scores_NC4.dim() != 3 or scores_NC4.shape[1:] != (len(channels), 4) or len(channels) < 2:
        raise ValueError(
            f"scores_NC4 must be (N, {len(channels)}, 4) for the channels {tuple(channels)}, not "
            f"{tuple(scores_NC4.shape)}"
        )
    if not len(scores_NC4):
        nothing = dict.fromkeys(LlamasScore._fields)
        return {"map": None, "channels": {name: dict(nothing) for name in channels}}
    means = scores_NC4.double().mean(0)
    rows = zip(channels, means.tolist(), strict=True)
    return {
        "map": float(means[1:, 0].mean()),
        "channels": {name: dict(zip(LlamasScore._fields, row, strict=True)) for name, row in rows},
    }


def with_top(probability_NCHW: Tensor, rows: int) -> Tensor:
    """Maps of the whole image from those of its lower part: background 1 above, lanes 0.

    Args:
        probability_NCHW: channel 0 the background; floats, or uint8 (then 255 above).
        rows: cut off at the top, 333 in LLAMAS.
    """
    whole = functional.pad(probability_NCHW, (0, 0, rows, 0))
    whole[:, 0, :rows] = 255 if probability_NCHW.dtype == torch.uint8 else 1
    return whole


def _histogram(probability: Tensor, label: Tensor) -> Tensor:
    """(2, 101): pixels outside and in the label, by the highest threshold k / 100 they meet."""
    label = label.flatten()
    if probability.dtype == torch.uint8:
        # v / 255 >= k / 100 in whole numbers, so exact
        index = probability.flatten().int().add_(label.int(), alpha=256)
        counts = torch.bincount(index, minlength=512).view(2, 256)
        level = torch.arange(256, device=counts.device) * STEPS // 255
        return counts.new_zeros(2, STEPS + 1).index_add_(1, level, counts)
    values = probability.detach().flatten()
    values = values if values.dtype == torch.float64 else values.float()
    lowest, highest = torch.aminmax(values)
    if not (float(lowest) >= -1e-4 and float(highest) <= 1 + 1e-4):  # false for nan
        raise ValueError(
            "probability has values that are not from 0 to 1: give probabilities, after the "
            "softmax, not logits"
        )
    # The nearest threshold, or where the value is below that, the one under it.
    values = values.clamp(0, 1)
    level = (values * STEPS).round_().int()
    level -= (values < _thresholds(values)[level]).int()
    index = level.add_(label.int(), alpha=STEPS + 1)
    return torch.bincount(index, minlength=2 * (STEPS + 1)).view(2, STEPS + 1)


def _thresholds(like: Tensor) -> Tensor:
    """(101,) k / 100 in the type of `like`, rounded up where float32 has no such value.

    A float32 is no less than k / 100 in float64 (so the official comparison) just if it is no less
    than the next float32 from k / 100 up.
    """
    exact = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
    rounded = exact.to(like.dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, 2))
    return torch.where(rounded.double() < exact, above, rounded).to(like.device)


def _scores(counts_M2T: Tensor) -> Tensor:
    """(M, 4) float64 from histograms (M, 2, 101)."""
    # pixels that meet each threshold, from 1.00 down
    counts = counts_M2T.flip(-1).cumsum(-1).double()
    wrong, right = counts.unbind(1)
    precision = right / (right + wrong).clamp(min=1)
    recall = right / right[:, -1:].clamp(min=1)
    previous = functional.pad(precision, (1, 0), value=1.0)[:, :-1]
    area = (recall.diff(dim=-1, prepend=recall.new_zeros(len(recall), 1)) * previous).sum(-1)

    product = precision * recall
    best = product.argmax(-1, keepdim=True)  # the first of several
    threshold = (STEPS - best).double() / STEPS
    columns = torch.cat([precision.gather(1, best), recall.gather(1, best), threshold], 1)
    columns = columns * (product.gather(1, best) > 0)
    return torch.cat([area[:, None], columns], 1)
