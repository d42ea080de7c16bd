"""Learning to find boxes, from labels or from a teacher's dense answer (FCOS)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from kdlib.data.augment import Views
from kdlib.detection import DetectionOutput
from kdlib.losses import fcos, matching
from kdlib.methods.base import Alone
from kdlib.methods.matching import at_stride, blended

FCOS_WEIGHTS = {"classification": 1.0, "box": 1.0, "centerness": 1.0}  # of either way of learning


@dataclass(frozen=True)
class SupervisedBoxes(Alone):
    """FCOS's own losses with the labelled boxes."""

    weights: ClassVar[dict[str, float]] = FCOS_WEIGHTS
    needs_labels: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    needs_pool: ClassVar[bool] = False

    def terms(
        self, views: Views, student: DetectionOutput, teacher: DetectionOutput | None = None
    ) -> dict[str, torch.Tensor]:
        return fcos.fcos(student, views.labels)


@dataclass(frozen=True)
class DistilBoxes(Alone):
    """Match the teacher's scores at every cell of the labelled images, its boxes where it sees any.

    No labels, no threshold and no non-maximum suppression: see `kdlib.losses.matching.fcos`. Cells
    on padding are left out.
    """

    temperature: float = 1.0
    weights: ClassVar[dict[str, float]] = FCOS_WEIGHTS
    needs_labels: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = True
    needs_pool: ClassVar[bool] = False

    def terms(
        self, views: Views, student: DetectionOutput, teacher: DetectionOutput
    ) -> dict[str, torch.Tensor]:
        sizes = [level.shape[-2:] for level in student.classification]
        valid = tuple(at_stride(views.valid, size) for size in sizes)
        return matching.fcos(student, teacher, temperature=self.temperature, valid=valid)


@dataclass(frozen=True)
class FunctionMatchingBoxes(DistilBoxes):
    """The same on labelled images, without their labels, and on unlabelled frames.

    `mixup` as in `kdlib.methods.matching.FunctionMatching`: the teacher relabels the blend.
    """

    mixup: bool = False
    needs_pool: ClassVar[bool] = True

    def prepare(self, views: Views, generator: torch.Generator) -> Views:
        return blended(views, generator) if self.mixup else views
