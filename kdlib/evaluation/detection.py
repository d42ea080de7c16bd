"""Scores of a detector: average precision against the labels, and agreement with its teacher.

The distance that trains is the distance that is reported: agreement uses `losses.matching` itself.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from kdlib import progress
from kdlib.data import layouts
from kdlib.data.layouts.sample import Sample
from kdlib.data.loader import resize
from kdlib.detection import Boxes, DetectionOutput, Detections
from kdlib.evaluation.feeding import chunks, to_device
from kdlib.losses import matching
from kdlib.metrics import detection as metrics

TAUGHT = 0.3  # score from which a teacher's detection counts as truth, where agreement is measured


def headline(reader: ModuleType) -> str:
    """The score that tables and teachers go by."""
    return "map"


def evaluate(
    network: nn.Module,
    layout: str,
    samples: Sequence[Sample],
    size_hw: tuple[int, int],
    *,
    fabric: Fabric,
    teacher: nn.Module | None = None,
    batch: int = 8,
    title: str = "evaluation",
) -> dict[str, Any]:
    """Scores on labelled stills, in pixels of the stills as stored, by the layout's official rule.

    Images are resized to `size_hw` for the network, its boxes back to the still's size.

    Returns fractions: map, ap per class (None where the class does not occur) and what else the
    rule reports, such as BDD100K's mean without its very rare *train*; and agreement with `teacher`
    where one is given.
    """
    reader = layouts.get(layout)
    pair = Pair(network, teacher, reader, fabric)
    found, truth = [], []
    for some in progress.bar(list(chunks(samples, batch)), title=title):
        stored = [reader.read_image(sample.image) for sample in some]
        seen = pair.compare([resize(image, size_hw) for image in stored])
        sizes = [image.shape[:2] for image in stored]
        found += [_scaled(one, size_hw, size) for one, size in zip(seen, sizes, strict=True)]
        truth += [reader.read_boxes(sample) for sample in some]
    return _measured(found, truth, reader) | pair.agreement()


def _measured(
    found: Sequence[Detections], truth: Sequence[Boxes], reader: ModuleType
) -> dict[str, Any]:
    """The scores of the layout's official rule."""
    if reader.METRIC == "coco":
        left_out = getattr(reader, "RARE", ())
        return metrics.coco_map(found, truth, reader.CLASSES, leave_out=left_out)
    rule = metrics.voc_ap if reader.METRIC == "voc" else metrics.kitti_ap
    return rule(found, truth, reader.CLASSES)


class Pair:
    """Runs a detector, and its teacher if there is one, and gathers what each finds."""

    def __init__(
        self, network: nn.Module, teacher: nn.Module | None, reader: ModuleType, fabric: Fabric
    ):
        self.network, self.teacher, self.fabric = network.eval(), teacher, fabric
        self.classes = reader.CLASSES
        self.found: list[Detections] = []
        self.taught: list[Detections] = []
        # Distances between dense answers: sums over batches, and what to divide them by.
        self.divergence = self.images = 0
        self.shared = self.evidence = 0

    @torch.inference_mode()
    def compare(self, images: list[Any]) -> list[Detections]:
        """What the network finds, in pixels of the images it was shown."""
        tensor = to_device(images, self.fabric)
        with self.fabric.autocast():
            output = self.network(tensor)
        found = [_on_host(one) for one in self.network.detections(output, tensor.shape[-2:])]
        if self.teacher is None:
            return found
        with self.fabric.autocast():
            target = self.teacher(tensor)
        self.found += found
        taught = self.teacher.detections(target, tensor.shape[-2:])
        self.taught += [_on_host(one) for one in taught]
        if isinstance(output, DetectionOutput) and isinstance(target, DetectionOutput):
            evidence = matching.evidence(target).double()
            self.divergence += len(images) * matching.score_divergence(output, target).double()
            self.images += len(images)
            self.shared += evidence * matching.box_agreement(output, target).double()
            self.evidence += evidence
        return found

    def agreement(self) -> dict[str, dict[str, float]]:
        """{"agreement": map, and for dense detectors kl and box_iou}; nothing without a teacher.

        map is the COCO average precision with the teacher's detections of score TAUGHT and up as
        the truth; kl the binary divergence of the class scores, box_iou that of the boxes where the
        teacher sees objects.
        """
        if self.teacher is None:
            return {}
        scores = metrics.against_teacher(self.found, self.taught, self.classes, score=TAUGHT)
        found = {"map": scores["map"], "map_50": scores["map_50"]}
        if self.images:
            found["kl"] = float(self.divergence / self.images)
            found["box_iou"] = float(self.shared / self.evidence)
        return {"agreement": found}


def _scaled(found: Detections, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Detections:
    scale = found.xyxy.new_tensor([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]] * 2)
    return found._replace(xyxy=found.xyxy * scale)


def _on_host(found: Detections) -> Detections:
    return Detections(*(part.cpu() for part in found))
