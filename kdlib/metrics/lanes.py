"""Scores of lanes and lane markings: CULane's F1, LLAMAS' average precision, ApolloScape's means.

One file for each benchmark, the public names all here. Fact sheet inter_region_affinity 4 has the
rules; each was read in the official code and written anew.
"""

from collections.abc import Collection
from typing import Literal

from torch import Tensor

from kdlib.metrics.culane import Counts, culane_hits, culane_match, culane_scores
from kdlib.metrics.culane_maps import lanes_from_probabilities
from kdlib.metrics.culane_pixels import culane_curve, culane_iou
from kdlib.metrics.llamas import (
    LlamasScore,
    llamas_average_precision,
    llamas_map,
    llamas_scores,
    with_top,
)
from kdlib.metrics.segmentation import iou

__all__ = [
    "Counts",
    "LlamasScore",
    "apolloscape_means",
    "culane_curve",
    "culane_hits",
    "culane_iou",
    "culane_match",
    "culane_scores",
    "lanes_from_probabilities",
    "llamas_average_precision",
    "llamas_map",
    "llamas_scores",
    "with_top",
]

APOLLOSCAPE_CLASSES = 37  # 0 void, 1 ... 35 markings, 36 noise and what is ignored


def apolloscape_means(
    confusion: Tensor, evaluated: Collection[int], *, absent: Literal["zero", "skip"] = "zero"
) -> dict[str, float | None]:
    """The means of IoU that are in use for ApolloScape's lane markings.

    Args:
        confusion: (37, 37) counts by training id, rows = truth, of the whole split.
        evaluated: training ids that the public table of labels does not ignore, 18 in all.
        absent: classes that neither occur nor are predicted count as 0 in the first two means, as
            in the authors' validation, or are left out. A small split lacks many classes.

    Returns:
        "miou_37": mean over all training ids, the authors' own validation.
        "miou_36": the same IoU without class 36 (noise and what is ignored). The paper speaks of
            36 classes on the test server; which they are is not known.
        "miou_evaluated": the official script, which is that of Cityscapes: pixels whose truth is
            not `evaluated` count nowhere, a pixel that counts and is given another class is a
            miss, and absent classes are left out of the mean.
        None where no class is left.

    Raises:
        ValueError: another shape or rule, `evaluated` empty or not training ids.
    """
    k = APOLLOSCAPE_CLASSES
    if confusion.shape != (k, k):
        raise ValueError(f"confusion must be ({k}, {k}) training ids, not {tuple(confusion.shape)}")
    if absent not in ("zero", "skip"):
        raise ValueError(f"absent must be 'zero' or 'skip', not {absent!r}")
    kept = sorted(set(evaluated))
    if not kept or kept[0] < 0 or kept[-1] >= k:
        raise ValueError(f"evaluated must name training ids 0 ... {k - 1}, not {kept}")
    counted = confusion.new_zeros(k, k)
    counted[kept] = confusion[kept]
    scores = iou(confusion)
    if absent == "zero":
        scores = scores.nan_to_num(0.0)
    means = {
        "miou_37": scores.nanmean(),
        "miou_36": scores[:-1].nanmean(),
        "miou_evaluated": iou(counted)[kept].nanmean(),
    }
    return {name: None if mean.isnan() else float(mean) for name, mean in means.items()}
