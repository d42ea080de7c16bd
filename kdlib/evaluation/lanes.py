"""Scores of a lane network, by the official rules of CULane and LLAMAS, and against its teacher.

Agreement with a teacher is that of the masks, see `kdlib.evaluation.segmentation`.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import nn

from kdlib import progress
from kdlib.data import layouts
from kdlib.data.layouts.sample import Sample
from kdlib.data.loader import resize
from kdlib.evaluation import segmentation
from kdlib.evaluation.feeding import chunks, to_device
from kdlib.evaluation.segmentation import Pair
from kdlib.metrics import lanes as metrics
from kdlib.metrics import segmentation as masks
from kdlib.resize import bilinear

__all__ = ["Pair", "evaluate", "headline", "predict_lanes"]

HEADLINES = {"culane": "f1", "llamas": "map"}
SLACK = 0.03  # two lanes of some forty pictures may turn from hit to error by rounding alone
OFFICIAL_HW = (208, 976)  # of the maps that CULane's rule for rows and for blurring is made for


def headline(reader: ModuleType) -> str:
    """The score that tables and teachers go by."""
    return HEADLINES[reader.METRIC]


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
    """Scores on stills with lanes, by the rule of the layout's ``METRIC``.

    "culane": precision, recall, f1, their counts, and the same by scenario; stills in no list of a
    scenario are one more, "unnamed", and count in the whole like the others; pictures of another
    size than the official one are brought to it. "llamas": map, and ap of each lane. Both:
    miou and iou of the masks, where stills have masks, and agreement with `teacher` where one is
    given. Fractions.
    """
    reader = layouts.get(layout)
    classes = len(reader.CLASSES)
    confusion = torch.zeros(classes, classes, dtype=torch.int64, device=fabric.device)
    pair = Pair(network, teacher, reader, fabric)
    rule = _Culane(reader) if reader.METRIC == "culane" else _Llamas(reader)
    for some in progress.bar(list(chunks(samples, batch)), title=title):
        stored = [reader.read_image(sample.image) for sample in some]
        sizes = [image.shape[:2] for image in stored]
        output = pair.outputs([resize(image, size_hw) for image in stored], sizes)
        for number, (sample, size) in enumerate(zip(some, sizes, strict=True)):
            logits = output.logits[number][None].float()
            exists = None if output.existence is None else output.existence[number].float()
            label = rule.add(sample, logits, exists, size)
            if label is not None:
                seen = bilinear(logits, size)[0].argmax(0)
                truth = torch.from_numpy(label).to(fabric.device).long()
                confusion += masks.confusion_matrix(seen, truth, classes, ignore_index=255)
    scores = rule.scores()
    if confusion.any():
        of_masks = segmentation.summary(confusion.cpu(), reader)
        scores |= {name: of_masks[name] for name in ("miou", "iou")}
    return scores | pair.agreement()


def predict_lanes(
    network: nn.Module, image_HWC: Any, size_hw: tuple[int, int], fabric: Fabric
) -> list[np.ndarray]:
    """CULane's lanes of one picture that is cut already, x and y on the official 590 x 1640."""
    network.eval()
    with torch.inference_mode(), fabric.autocast():
        output = network(to_device([resize(image_HWC, size_hw)], fabric))
    exists = None if output.existence is None else output.existence[0].float()
    return _lanes(output.logits.float(), exists)


def _lanes(logits_1CHW: torch.Tensor, exists: torch.Tensor | None) -> list[np.ndarray]:
    probability = bilinear(logits_1CHW, OFFICIAL_HW).softmax(1)[0].cpu()
    flags = None if exists is None else exists.sigmoid().cpu()
    return metrics.lanes_from_probabilities(probability, flags)


class _Culane:
    """F1 of lanes as curves. The rule is in pixels of the official picture; so are the lanes."""

    def __init__(self, reader: ModuleType):
        self.reader = reader
        self.counts: dict[str, np.ndarray] = {}

    def add(
        self,
        sample: Sample,
        logits_1CHW: torch.Tensor,
        exists: torch.Tensor | None,
        size_hw: tuple[int, int],
    ) -> np.ndarray | None:
        """Counts a still; returns its mask below the cut, None where it has none."""
        scale = self.reader.FULL[1] / size_hw[1]
        truth = [scale * lane for lane in self.reader.read_lanes(sample)]
        counts = metrics.culane_match(_lanes(logits_1CHW, exists), truth)
        name = self.reader.scenario(sample) or "unnamed"
        self.counts[name] = self.counts.get(name, 0) + np.array(counts)
        return None if sample.label is None else self.reader.read_label(sample.label)

    def scores(self) -> dict[str, Any]:
        named = {name: tuple(map(int, counts)) for name, counts in self.counts.items()}
        return metrics.culane_scores(named)


class _Llamas:
    """Average precision of the lanes' pixels, on whole pictures."""

    def __init__(self, reader: ModuleType):
        self.reader = reader
        self.rows: list[torch.Tensor] = []

    def add(
        self,
        sample: Sample,
        logits_1CHW: torch.Tensor,
        exists: torch.Tensor | None,
        size_hw: tuple[int, int],
    ) -> np.ndarray | None:
        """Counts a still; returns its mask below the cut."""
        # The script reads stored images. Rounded, not cut off: a map without a single 255 predicts
        # nothing at threshold 1.00, and by the rule that alone costs its first step of recall.
        probability = (255 * bilinear(logits_1CHW, size_hw).softmax(1)).round().byte()
        # The truth is that of the whole picture; above the cut nothing is predicted.
        # Read once for both scores: to read a label is to draw it.
        label = self.reader.read_whole_label(sample)
        top = len(label) - size_hw[0]
        truth = torch.from_numpy(label)[None].to(probability.device)
        self.rows.append(metrics.llamas_scores(metrics.with_top(probability, top), truth))
        return label[top:]

    def scores(self) -> dict[str, Any]:
        found = metrics.llamas_map(torch.cat(self.rows))
        lanes = self.reader.CLASSES[1:]
        return {"map": found["map"], "ap": {name: found["channels"][name]["auc"] for name in lanes}}
