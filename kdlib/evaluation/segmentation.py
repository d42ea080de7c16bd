"""Scores of a segmentation network: against the labels, and against its teacher.

The distance that trains is the distance that is reported: agreement uses `losses.matching` itself.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from kdlib import progress, views
from kdlib.data import layouts
from kdlib.data.layouts.sample import Sample
from kdlib.data.loader import Source, resize
from kdlib.evaluation.feeding import chunks, to_device
from kdlib.losses import matching
from kdlib.metrics import lanes
from kdlib.metrics import segmentation as metrics
from kdlib.models.outputs import SegmentationOutput
from kdlib.resize import bilinear, to_grid


def headline(reader: ModuleType) -> str:
    """The score that tables and teachers go by."""
    return "miou"


def evaluate(
    network: nn.Module,
    layout: str,
    samples: Sequence[Sample],
    size_hw: tuple[int, int],
    *,
    fabric: Fabric,
    teacher: nn.Module | None = None,
    how: views.Views | None = None,
    batch: int = 8,
    title: str = "evaluation",
) -> dict[str, Any]:
    """Scores on labelled stills at the labels' own resolution: whole image, single scale.

    Images are shrunk to `size_hw` for the network; logits are upsampled to the label's size before
    the argmax. `how` asks for other views instead (tiles, mirror images, several scales).

    Returns fractions: miou (mean over classes that occur in truth or prediction), miou_official
    (BDD100K's rule: over classes that occur in the truth), miou_zero (structured distillation's
    rule: absent classes count as 0), category_miou where the layout has categories, miou36 and
    miou18 (ApolloScape's, see `metrics.lanes.apolloscape_means`), pixel_accuracy,
    iou per class (None where absent), and agreement with `teacher` where one is given; agreement
    is always that of whole images.
    """
    reader = layouts.get(layout)
    classes = len(reader.CLASSES)
    confusion = torch.zeros(classes, classes, dtype=torch.int64, device=fabric.device)
    pair = Pair(network, teacher, reader, fabric)
    for some in progress.bar(list(chunks(samples, batch)), title=title):
        images = [resize(reader.read_image(sample.image), size_hw) for sample in some]
        labels = [torch.from_numpy(reader.read_label(sample.label)) for sample in some]
        logits = pair.compare(images, [label.shape for label in labels])
        for one, image, label in zip(logits, images, labels, strict=True):
            if how is None:
                prediction = bilinear(one[None].float(), label.shape)[0].argmax(dim=0)
            else:
                prediction = pair.scores(image, label.shape, how)[0].argmax(dim=0)
            truth = label.to(fabric.device).long()
            confusion += metrics.confusion_matrix(prediction, truth, classes, ignore_index=255)
    return summary(confusion.cpu(), reader) | pair.agreement()


def class_counts(source: Source, classes: int) -> torch.Tensor:
    """Labelled pixels per class over a source with labels; (classes,) int64."""
    total = torch.zeros(classes, dtype=torch.int64)
    for index in range(len(source)):
        label = torch.from_numpy(source.read(index)[1]).flatten().long()
        total += torch.bincount(label[label != 255], minlength=classes)
    return total


def predict(network: nn.Module, image_HWC: Any, size_hw: tuple[int, int], fabric: Fabric) -> Any:
    """Class map (H, W) uint8 of one image at its own resolution."""
    network.eval()
    view = resize(image_HWC, size_hw)
    with torch.inference_mode(), fabric.autocast():
        logits = network(to_device([view], fabric)).logits
        return bilinear(logits.float(), image_HWC.shape[:2])[0].argmax(0).byte().cpu().numpy()


def summary(confusion: torch.Tensor, reader: ModuleType) -> dict[str, Any]:
    """All scores of one confusion matrix (rows = truth) over a layout's classes."""
    iou = metrics.iou(confusion)
    scores: dict[str, Any] = {
        "miou": float(metrics.mean_iou(confusion)),
        "miou_official": float(metrics.mean_iou(confusion, absent="bdd100k")),
        "miou_zero": float(metrics.mean_iou(confusion, absent="zero")),
        "pixel_accuracy": float(metrics.pixel_accuracy(confusion)),
        "iou": {
            name: None if value != value else value
            for name, value in zip(reader.CLASSES, iou.tolist(), strict=True)
        },
    }
    groups = getattr(reader, "CATEGORIES", None)
    if groups:
        scores["category_miou"] = float(metrics.mean_iou(metrics.grouped(confusion, groups)))
    evaluated = getattr(reader, "EVALUATED", None)
    if evaluated:
        # Classes that do not occur are left out, as in miou; a small split lacks most of them.
        means = lanes.apolloscape_means(confusion, evaluated, absent="skip")
        scores |= {"miou36": means["miou_36"], "miou18": means["miou_evaluated"]}
    return scores


class Pair:
    """Runs a network, and its teacher if there is one, and sums up where they agree."""

    def __init__(
        self, network: nn.Module, teacher: nn.Module | None, reader: ModuleType, fabric: Fabric
    ):
        self.network, self.teacher, self.fabric = network.eval(), teacher, fabric
        self.classes = classes = len(reader.CLASSES)
        # Rows = the teacher's argmax; KL in nats, mean over pixels, summed over images.
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64, device=fabric.device)
        self.kl = torch.zeros((), dtype=torch.float64, device=fabric.device)
        self.images = 0

    @torch.inference_mode()
    def compare(
        self, images: list[Any], sizes: list[tuple[int, int]] | None = None
    ) -> torch.Tensor:
        """Logits (N, C, h, w) of the network; see `outputs`."""
        return self.outputs(images, sizes).logits

    @torch.inference_mode()
    def outputs(
        self, images: list[Any], sizes: list[tuple[int, int]] | None = None
    ) -> SegmentationOutput:
        """The network's answer.

        Agreement is counted at `sizes` (None: those of the images), KL at the logits.
        """
        sizes = [image.shape[:2] for image in images] if sizes is None else sizes
        tensor = to_device(images, self.fabric)
        with self.fabric.autocast():
            output = self.network(tensor)
            logits = output.logits
            if self.teacher is None:
                return output
            target = self.teacher(tensor).logits
        coarse = to_grid(target, logits.shape[-2:])
        self.kl += len(images) * matching.segmentation(logits, coarse)
        self.images += len(images)
        for one, other, size in zip(logits, target, sizes, strict=True):
            seen = bilinear(one[None].float(), size).argmax(1)
            taught = bilinear(other[None].float(), size).argmax(1)
            self.confusion += metrics.confusion_matrix(seen, taught, self.classes, ignore_index=255)
        return output

    @torch.inference_mode()
    def scores(self, image: Any, size: tuple[int, int], how: views.Views) -> torch.Tensor:
        """Scores (1, C, H, W) of one image by the views asked for."""
        with self.fabric.autocast():
            tensor = to_device([image], self.fabric)
            return views.scores(lambda x: self.network(x).logits, tensor, size, how)

    def agreement(self) -> dict[str, dict[str, float]]:
        """{"agreement": pixel, miou, kl}, or nothing where there was no teacher."""
        if self.teacher is None:
            return {}
        scores = metrics.agreement(self.confusion.cpu())._asdict()
        return {"agreement": scores | {"kl": float(self.kl) / self.images}}
