"""Learning from a teacher's answers, pixel by pixel, on labelled and on unlabelled images."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import distributed

from kdlib.config import ConfigError
from kdlib.data.augment import Views
from kdlib.losses import matching
from kdlib.methods.base import TINY, Alone, share
from kdlib.methods.supervised import AUXILIARY_WEIGHT, Supervised
from kdlib.models.outputs import SegmentationOutput
from kdlib.resize import to_grid


@dataclass(frozen=True)
class Distil(Alone):
    """Match the teacher's class probabilities at every pixel of the labelled images.

    The loss uses no labels unless `label_weight` asks for them. Pixels that the annotators ignored
    are matched like any other; padding is not. With `class_weights` a pixel counts by the weight of
    the class that the teacher sees there. Both are compared on the student's grid.
    """

    temperature: float = 1.0
    label_weight: float = 0.0
    class_weights: torch.Tensor | None = None  # (classes,)
    needs_teacher: ClassVar[bool] = True
    needs_pool: ClassVar[bool] = False

    @property
    def needs_labels(self) -> bool:
        return self.label_weight > 0

    @property
    def weights(self) -> dict[str, float]:
        weights = {"matching": 1.0, "auxiliary": AUXILIARY_WEIGHT}
        return weights | ({"cross_entropy": self.label_weight} if self.needs_labels else {})

    def terms(
        self, views: Views, student: SegmentationOutput, teacher: SegmentationOutput
    ) -> dict[str, torch.Tensor]:
        terms = {"matching": self._match(student.logits, teacher.logits, views)}
        if student.aux is not None:
            terms["auxiliary"] = self._match(student.aux, teacher.logits, views)
        if self.needs_labels:
            labels = Supervised(self.class_weights)
            terms["cross_entropy"] = labels.terms(views, student)["cross_entropy"]
        return terms

    def _match(
        self, student_NCHW: torch.Tensor, teacher_NCHW: torch.Tensor, views: Views
    ) -> torch.Tensor:
        teacher_NCHW = to_grid(teacher_NCHW, student_NCHW.shape[-2:])
        weight = None
        if self.class_weights is not None:
            weights = self.class_weights.to(teacher_NCHW.device, non_blocking=True)
            weight = weights[teacher_NCHW.argmax(dim=1)]
        valid, normaliser = at_stride(views.valid, teacher_NCHW.shape[-2:]), None
        if distributed.is_initialized():
            counted = valid.sum() if weight is None else (weight * valid).sum()
            normaliser = share(counted, least=TINY)
        return matching.segmentation(
            student_NCHW,
            teacher_NCHW,
            temperature=self.temperature,
            valid_NHW=valid,
            weight_NHW=weight,
            normaliser=normaliser,
        )


@dataclass(frozen=True)
class FunctionMatching(Distil):
    """Match the teacher on labelled images, without their labels, and on unlabelled frames.

    `mixup` blends each image with its neighbour in the batch (rolled by one, one ratio per step,
    uniform in 0..1), as in Beyer et al. 2022, section 3; the teacher sees the blend too.
    """

    mixup: bool = False
    needs_pool: ClassVar[bool] = True

    def prepare(self, views: Views, generator: torch.Generator) -> Views:
        return blended(views, generator) if self.mixup else views


def blended(views: Views, generator: torch.Generator) -> Views:
    """Each image blended with its neighbour in the batch, in one random proportion.

    In a process group the neighbours are those of each process's share of the batch. Raises
    ConfigError where that is one image, which would be blended with itself.
    """
    if len(views.images) < 2:
        raise ConfigError(
            "method.mixup: needs two images a process; fewer processes, or more batch"
        )
    share = float(torch.rand(1, generator=generator))
    blend = share * views.images + (1 - share) * views.images.roll(1, dims=0)
    return replace(views, images=blend, valid=views.valid & views.valid.roll(1, dims=0))


def at_stride(valid_NHW: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """The valid mask on the logits' grid over the view: a cell counts where its centre does."""
    height, width = valid_NHW.shape[-2:]
    rows = torch.arange(size_hw[0], device=valid_NHW.device)
    columns = torch.arange(size_hw[1], device=valid_NHW.device)
    rows = (rows * height + height // 2) // size_hw[0]
    columns = (columns * width + width // 2) // size_hw[1]
    return valid_NHW[:, rows][:, :, columns]
