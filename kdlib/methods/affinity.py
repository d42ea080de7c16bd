"""Learning how a teacher relates the regions of a scene: IntRA-KD and its baselines."""

import torch

from kdlib import config
from kdlib.data.augment import Views
from kdlib.data.layouts import IGNORE
from kdlib.losses import affinity
from kdlib.methods.base import Alone
from kdlib.methods.supervised import LABEL_WEIGHTS, Supervised
from kdlib.models.outputs import ModelError, SegmentationOutput
from kdlib.resize import to_grid


class Affinity(Alone):
    """The labels' losses, and any of: inter-region affinity, attention transfer, soft targets.

    Hou et al., "Inter-region affinity distillation for road marking segmentation", CVPR 2020; fact
    sheet inter_region_affinity, section 1. Affinity and attention together are the paper's method;
    attention alone and soft targets alone are its baselines. No term: the student alone.

    A region is a class's mask in the view, dilated by a square of `settings.kernel` pixels a side;
    each network sees it at the size of its own feature, for sizes and channels need not agree.
    The terms of the levels are added up. Padding belongs to no region. Deviations: none of the
    paper's own code was released, so batch reduction (a mean) and the treatment of absent classes
    are ours.
    """

    needs_labels = True
    needs_pool = False

    def __init__(
        self,
        settings: config.Affinity,
        classes: int,
        class_weights: torch.Tensor | None = None,
    ):
        self.settings, self.classes = settings, classes
        self.labels = Supervised(class_weights)
        self.needs_teacher = bool(settings.terms)

    @property
    def weights(self) -> dict[str, float]:
        chosen = self.settings
        return LABEL_WEIGHTS | {
            "affinity": chosen.affinity_weight,
            "attention": chosen.attention_weight,
            "soft_targets": chosen.soft_weight,
        }

    def terms(
        self, views: Views, student: SegmentationOutput, teacher: SegmentationOutput | None
    ) -> dict[str, torch.Tensor]:
        terms = self.labels.terms(views, student)
        if "affinity" in self.settings.terms:
            pairs = self._pairs(student, teacher)
            # once for a size, which features often share
            sizes = {tuple(each.shape[-2:]) for pair in pairs for each in pair}
            areas = {size: self._areas(views.labels, size) for size in sizes}
            terms["affinity"] = sum(self._relate(areas, *pair) for pair in pairs)
        if "attention" in self.settings.terms:
            terms["attention"] = sum(
                affinity.attention_transfer(*pair) for pair in self._pairs(student, teacher)
            )
        if "soft-targets" in self.settings.terms:
            logits = to_grid(teacher.logits, student.logits.shape[-2:])
            terms["soft_targets"] = affinity.soft_targets(
                student.logits, logits, temperature=self.settings.temperature
            )
        return terms

    def _relate(
        self,
        areas: dict[tuple[int, ...], torch.Tensor],
        student_NCHW: torch.Tensor,
        teacher_NCHW: torch.Tensor,
    ) -> torch.Tensor:
        own, other = (areas[tuple(each.shape[-2:])] for each in (student_NCHW, teacher_NCHW))
        return affinity.affinity_loss(
            student_NCHW,
            teacher_NCHW,
            own,
            other,
            skewness=self.settings.skewness,
            nodes=self.settings.nodes,
        )

    def _areas(self, labels_NHW: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        return affinity.areas_of_interest(
            labels_NHW,
            self.classes,
            kernel=self.settings.kernel,
            size=size,
            ignore_index=IGNORE,
        )

    def _pairs(
        self, student: SegmentationOutput, teacher: SegmentationOutput
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The two networks' features of each level. Raises ModelError where one has none."""
        for output in (student, teacher):
            missing = {*self.settings.levels} - {*output.features}
            if missing:
                raise ModelError(
                    f"no feature {sorted(missing)} among {sorted(output.features)}: inter-region "
                    "affinity runs on erfnet, enet and context-resnet"
                )
        return [(student.features[name], teacher.features[name]) for name in self.settings.levels]
