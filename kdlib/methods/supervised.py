"""Learning from labels."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from kdlib.data.augment import Views
from kdlib.losses import supervised
from kdlib.methods.base import Alone
from kdlib.models.outputs import SegmentationOutput

AUXILIARY_WEIGHT = 0.4  # of PSPNet's auxiliary head, as in its paper and in the BDD100K model zoo


@dataclass(frozen=True)
class Supervised(Alone):
    """Cross entropy with the labels, on the auxiliary head too where there is one."""

    class_weights: torch.Tensor | None = None  # (classes,)
    needs_labels: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    needs_pool: ClassVar[bool] = False

    @property
    def weights(self) -> dict[str, float]:
        return {"cross_entropy": 1.0, "auxiliary": AUXILIARY_WEIGHT}

    def terms(
        self, views: Views, student: SegmentationOutput, teacher: SegmentationOutput | None = None
    ) -> dict[str, torch.Tensor]:
        terms = {"cross_entropy": self._loss(student.logits, views.labels)}
        if student.aux is not None:
            terms["auxiliary"] = self._loss(student.aux, views.labels)
        return terms

    def _loss(self, logits_NCHW: torch.Tensor, labels_NHW: torch.Tensor) -> torch.Tensor:
        weights = self.class_weights
        if weights is not None:
            weights = weights.to(logits_NCHW.device)
        return supervised.segmentation_ce(logits_NCHW, labels_NHW, class_weights=weights)


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
