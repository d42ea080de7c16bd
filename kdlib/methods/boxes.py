"""Learning to find boxes, from labels or from a teacher's dense answer."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import distributed

from kdlib.data.augment import Views
from kdlib.detection import DetectionOutput, Targets
from kdlib.losses import fcos, matching, squeezedet
from kdlib.methods.base import Alone
from kdlib.methods.matching import at_stride, blended
from kdlib.models.shuffledet import AnchorOutput

FCOS_WEIGHTS = {"classification": 1.0, "box": 1.0, "centerness": 1.0}  # of either way of learning
# SqueezeDet's factors are inside its terms: one of them weighs two parts of a term.
LABEL_WEIGHTS = FCOS_WEIGHTS | {"confidence": 1.0}


@dataclass(frozen=True)
class SupervisedBoxes(Alone):
    """The detector's own losses with the labelled boxes."""

    weights: ClassVar[dict[str, float]] = LABEL_WEIGHTS
    needs_labels: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    needs_pool: ClassVar[bool] = False

    def terms(
        self,
        views: Views,
        student: DetectionOutput | AnchorOutput,
        teacher: DetectionOutput | AnchorOutput | None = None,
    ) -> dict[str, torch.Tensor]:
        return labelled_terms(student, views.labels)


@dataclass(frozen=True)
class DistilBoxes(Alone):
    """Match the teacher's scores at every cell of the labelled images, its boxes where it sees any.

    No labels, no threshold and no non-maximum suppression: see `kdlib.losses.matching.fcos`. Cells
    on padding are left out. In a process group the teacher's evidence is that of the whole batch.
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
        options = {"temperature": self.temperature, "valid": valid}
        if distributed.is_initialized():
            options["normaliser"] = _share(matching.evidence(teacher, **options))
        return matching.fcos(student, teacher, **options)


@dataclass(frozen=True)
class FunctionMatchingBoxes(DistilBoxes):
    """The same on labelled images, without their labels, and on unlabelled frames.

    `mixup` as in `kdlib.methods.matching.FunctionMatching`: the teacher relabels the blend.
    """

    mixup: bool = False
    needs_pool: ClassVar[bool] = True

    def prepare(self, views: Views, generator: torch.Generator) -> Views:
        return blended(views, generator) if self.mixup else views


def _share(evidence: torch.Tensor) -> torch.Tensor:
    """What each process divides by, so that the mean over processes is the whole batch's loss."""
    total = evidence.detach().clone()
    distributed.all_reduce(total)
    return total.clamp(min=1) / distributed.get_world_size()


def labelled_terms(
    output: DetectionOutput | AnchorOutput, targets: Targets
) -> dict[str, torch.Tensor]:
    """The losses that belong to the detector's kind of output."""
    if isinstance(output, AnchorOutput):
        return squeezedet.detection(output, targets)
    return fcos.fcos(output, targets)
