"""What a student learns from. One class per method; the training loop knows none of them.

A method says which data it takes, may change the views before both networks see them, and turns
(views, student output, teacher output) into a dict of named loss terms. `weights` holds the factor
of each term; the loop multiplies and adds, and logs each term before and after.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch

from kdlib.config import Method as Settings
from kdlib.data.augment import Views
from kdlib.losses import matching, supervised
from kdlib.models.outputs import SegmentationOutput
from kdlib.resize import to_grid

AUXILIARY_WEIGHT = 0.4  # of PSPNet's auxiliary head, as in its paper and in the BDD100K model zoo


class Method(Protocol):
    """The part that the training loop relies on."""

    needs_labels: bool  # the labelled images come with their labels
    needs_teacher: bool
    needs_pool: bool  # unlabelled frames join the labelled images

    @property
    def weights(self) -> dict[str, float]:
        """Factor of each term; a term without a weight is an error."""
        ...

    def prepare(self, views: Views, generator: torch.Generator) -> Views:
        """The views as both networks shall see them."""
        ...

    def terms(
        self, views: Views, student: SegmentationOutput, teacher: SegmentationOutput | None
    ) -> dict[str, torch.Tensor]:
        """Named scalar loss terms, unweighted."""
        ...


@dataclass(frozen=True)
class Supervised:
    """Cross entropy with the labels, on the auxiliary head too where there is one."""

    class_weights: torch.Tensor | None = None  # (classes,)
    needs_labels: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    needs_pool: ClassVar[bool] = False

    @property
    def weights(self) -> dict[str, float]:
        return {"cross_entropy": 1.0, "auxiliary": AUXILIARY_WEIGHT}

    def prepare(self, views: Views, generator: torch.Generator) -> Views:
        return views

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


@dataclass(frozen=True)
class Distil:
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

    def prepare(self, views: Views, generator: torch.Generator) -> Views:
        return views

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
            weight = self.class_weights.to(teacher_NCHW.device)[teacher_NCHW.argmax(dim=1)]
        return matching.segmentation(
            student_NCHW,
            teacher_NCHW,
            temperature=self.temperature,
            valid_NHW=at_stride(views.valid, teacher_NCHW.shape[-2:]),
            weight_NHW=weight,
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
        if not self.mixup:
            return views
        share = float(torch.rand(1, generator=generator))
        blend = share * views.images + (1 - share) * views.images.roll(1, dims=0)
        return replace(views, images=blend, valid=views.valid & views.valid.roll(1, dims=0))


def build(settings: Settings, class_weights: torch.Tensor | None) -> Method:
    """The method that the parameters name."""
    if settings.name == "supervised":
        return Supervised(class_weights)
    shared = {"temperature": settings.temperature, "class_weights": class_weights}
    if settings.name == "distil":
        return Distil(**shared, label_weight=settings.label_weight)
    return FunctionMatching(**shared, mixup=settings.mixup)


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


def at_stride(valid_NHW: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """The valid mask on the logits' grid: a cell counts where its centre pixel does."""
    height, width = valid_NHW.shape[-2:]
    rows = torch.arange(size_hw[0], device=valid_NHW.device)
    columns = torch.arange(size_hw[1], device=valid_NHW.device)
    rows = (rows * height + height // 2) // size_hw[0]
    columns = (columns * width + width // 2) // size_hw[1]
    return valid_NHW[:, rows][:, :, columns]
