"""Learning to find boxes, from labels or from a teacher's dense answer."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from lightning.fabric import Fabric
from torch import distributed, nn

from kdlib.data.augment import Views
from kdlib.detection import DetectionOutput, Targets
from kdlib.losses import fcos, matching, squeezedet
from kdlib.methods.base import Alone, share
from kdlib.methods.matching import blended
from kdlib.models.outputs import ModelError
from kdlib.models.rcnn import TwoStageDetector, TwoStageOutput
from kdlib.models.shuffledet import AnchorOutput, ShuffleDet

FCOS_WEIGHTS = {"classification": 1.0, "box": 1.0, "centerness": 1.0}  # of either way of learning
TWO_STAGE_WEIGHTS = {"rpn_objectness": 1.0, "rpn_box": 1.0, "roi_class": 1.0, "roi_box": 1.0}
# SqueezeDet's factors are inside its terms: one of them weighs two parts of a term.
LABEL_WEIGHTS = FCOS_WEIGHTS | {"confidence": 1.0} | TWO_STAGE_WEIGHTS
Labelled = DetectionOutput | AnchorOutput | TwoStageOutput  # what has losses with labels


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
        student: Labelled,
        teacher: Labelled | None = None,
    ) -> dict[str, torch.Tensor]:
        return labelled_terms(student, views.labels)


@dataclass(frozen=True)
class DistilBoxes(Alone):
    """Match the teacher's scores at every cell of the labelled images, its boxes where it sees any.

    No labels, no threshold and no non-maximum suppression: see `kdlib.losses.matching.fcos`, also
    for `weighting`. Cells on padding are left out. In a process group the teacher's evidence is
    that of the whole batch; the region of "top" is each process's own, of its part of the batch.
    """

    temperature: float = 1.0
    weighting: Literal["foreground", "top", "difference"] = "foreground"
    weights: ClassVar[dict[str, float]] = FCOS_WEIGHTS
    needs_labels: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = True
    needs_pool: ClassVar[bool] = False

    def begin(
        self,
        fabric: Fabric,
        seed: int,
        steps: int,
        student: nn.Module | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        """Refuses detectors that answer with anchors or regions and not cell by cell."""
        networks = {"student": student, "teacher": getattr(teacher, "network", teacher)}
        for role, network in networks.items():
            if isinstance(network, TwoStageDetector | ShuffleDet):
                raise ModelError(
                    f"the {role}, a {type(network).__name__}, has no score of every cell to match: "
                    "take method.name imitation or supervised, or FCOS for student and teacher"
                )

    def terms(
        self, views: Views, student: DetectionOutput, teacher: DetectionOutput
    ) -> dict[str, torch.Tensor]:
        for role, output in (("student", student), ("teacher", teacher)):
            if not isinstance(output, DetectionOutput):
                raise ModelError(
                    f"the {role} answers with {type(output).__name__}: cells are matched where "
                    "both answer with DetectionOutput, as FCOS does"
                )
        sizes = [level.shape[-2:] for level in student.classification]
        valid = tuple(
            at_cells(views.valid, size, stride)
            for size, stride in zip(sizes, student.strides, strict=True)
        )
        options = {"temperature": self.temperature, "weighting": self.weighting, "valid": valid}
        if distributed.is_initialized():
            options["normaliser"] = share(matching.evidence(teacher, **options))
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


def at_cells(valid_NHW: torch.Tensor, size_hw: tuple[int, int], stride: int) -> torch.Tensor:
    """The valid mask on a level's cells: a cell counts where its centre does.

    The last cells can have their centre beyond the view, which then counts as its last pixel.
    """
    height, width = valid_NHW.shape[-2:]
    rows, columns = (
        torch.arange(cells, device=valid_NHW.device) * stride + stride // 2 for cells in size_hw
    )
    return valid_NHW[:, rows.clamp(max=height - 1)][:, :, columns.clamp(max=width - 1)]


def labelled_terms(output: Labelled, targets: Targets) -> dict[str, torch.Tensor]:
    """The losses that belong to the detector's kind of output.

    In a process group FCOS divides by what the whole batch has. SqueezeDet's and the two-stage
    losses are means of each process's own images, as where they come from. A two-stage detector
    computes its own while it samples boxes, in training mode.

    Raises:
        ModelError: a two-stage detector in evaluation mode, which has none.
    """
    if isinstance(output, TwoStageOutput):
        if output.losses is None:
            raise ModelError(
                "a two-stage detector has losses in training mode only: call train() and hand it "
                "the targets"
            )
        return dict(output.losses)
    if isinstance(output, AnchorOutput):
        return squeezedet.detection(output, targets)
    return fcos.fcos(output, targets, share=share if distributed.is_initialized() else None)
