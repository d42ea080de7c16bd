"""Learning from labels."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import distributed

from kdlib.data.augment import Views
from kdlib.losses import affinity, supervised
from kdlib.methods.base import TINY, Alone, share
from kdlib.models.outputs import SegmentationOutput

AUXILIARY_WEIGHT = 0.4  # of PSPNet's auxiliary head, as in its paper and in the BDD100K model zoo
EXISTENCE_WEIGHT = 0.1  # of a lane network's second head, as in the released CULane code
LABEL_WEIGHTS = {
    "cross_entropy": 1.0,
    "auxiliary": AUXILIARY_WEIGHT,
    "existence": EXISTENCE_WEIGHT,
}


@dataclass(frozen=True)
class Supervised(Alone):
    """Cross entropy with the labels, on the auxiliary head too where there is one.

    A network with an existence head learns as well which lanes there are: those whose class has a
    pixel in the view.
    """

    class_weights: torch.Tensor | None = None  # (classes,)
    needs_labels: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    needs_pool: ClassVar[bool] = False

    @property
    def weights(self) -> dict[str, float]:
        return LABEL_WEIGHTS

    def terms(
        self, views: Views, student: SegmentationOutput, teacher: SegmentationOutput | None = None
    ) -> dict[str, torch.Tensor]:
        terms = {"cross_entropy": self._loss(student.logits, views.labels)}
        if student.aux is not None:
            terms["auxiliary"] = self._loss(student.aux, views.labels)
        if student.existence is not None:
            lanes = existing(views.labels, student.existence.shape[1])
            terms["existence"] = affinity.existence_bce(student.existence, lanes)
        return terms

    def _loss(self, logits_NCHW: torch.Tensor, labels_NHW: torch.Tensor) -> torch.Tensor:
        weights = self.class_weights
        if weights is not None:
            weights = weights.to(logits_NCHW.device, non_blocking=True)
        normaliser = None
        if distributed.is_initialized():
            counted = supervised.labelled_weight(labels_NHW, weights)
            normaliser = share(counted, least=TINY)
        return supervised.segmentation_ce(
            logits_NCHW, labels_NHW, class_weights=weights, normaliser=normaliser
        )


def existing(labels_NHW: torch.Tensor, lanes: int) -> torch.Tensor:
    """Which of the classes 1..lanes have a pixel; (N, lanes) bool."""
    flat = labels_NHW.flatten(1)
    return torch.stack([(flat == lane).any(dim=1) for lane in range(1, lanes + 1)], dim=1)


def inverse_sqrt_weights(counts: torch.Tensor) -> torch.Tensor:
    """Class weights 1/sqrt(frequency), scaled to mean 1 over the pixels that were counted.

    counts: (classes,) labelled pixels per class. A class without pixels gets the largest weight
    that occurs. Raises ValueError where nothing was counted.
    """
    if not counts.sum():
        raise ValueError("class weights: no labelled pixel among the labelled images")
    frequency = counts.double() / counts.sum()
    seen = frequency > 0
    weights = torch.zeros_like(frequency)
    weights[seen] = frequency[seen].rsqrt()
    weights[~seen] = weights.max()
    return (weights / (weights * frequency).sum()).float()
