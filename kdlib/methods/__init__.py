"""What a student learns from. One class per method; the training loop knows none of them."""

import torch

from kdlib.config import ConfigError
from kdlib.config import Method as Settings
from kdlib.methods.affinity import Affinity
from kdlib.methods.base import Method
from kdlib.methods.boxes import DistilBoxes, FunctionMatchingBoxes, SupervisedBoxes
from kdlib.methods.imitation import Imitation
from kdlib.methods.matching import Distil, FunctionMatching
from kdlib.methods.structured import Structured
from kdlib.methods.supervised import Supervised, inverse_sqrt_weights

__all__ = [
    "Affinity",
    "Distil",
    "DistilBoxes",
    "FunctionMatching",
    "FunctionMatchingBoxes",
    "Imitation",
    "Method",
    "Structured",
    "Supervised",
    "SupervisedBoxes",
    "build",
    "inverse_sqrt_weights",
]


def build(
    settings: Settings,
    class_weights: torch.Tensor | None,
    classes: int,
    task: str = "segmentation",
) -> Method:
    """The method that the parameters name, for a task and a data set of so many classes.

    Raises ConfigError where a method does not exist for the task.
    """
    if task == "detection":
        return _for_boxes(settings)
    if settings.name == "imitation":
        raise ConfigError("method.name: imitation learns from boxes, this data set has masks")
    if settings.weighting:
        raise ConfigError("method.weighting: only for boxes, this data set has masks")
    if settings.name == "supervised":
        return Supervised(class_weights)
    if settings.name == "structured":
        return Structured(settings.structured, classes, class_weights)
    if settings.name == "affinity":
        return Affinity(settings.affinity, classes, class_weights)
    shared = {"temperature": settings.temperature, "class_weights": class_weights}
    if settings.name == "distil":
        return Distil(**shared, label_weight=settings.label_weight)
    return FunctionMatching(**shared, mixup=settings.mixup)


def _for_boxes(settings: Settings) -> Method:
    if settings.label_weight:
        raise ConfigError("method.label_weight: only for masks, detectors match without labels")
    if settings.name == "supervised":
        return SupervisedBoxes()
    shared = {
        "temperature": settings.temperature,
        "weighting": settings.weighting or "foreground",
    }
    if settings.name == "distil":
        return DistilBoxes(**shared)
    if settings.name == "matching":
        return FunctionMatchingBoxes(**shared, mixup=settings.mixup)
    if settings.name == "imitation":
        return Imitation(settings.imitation)
    raise ConfigError(f"method.name: {settings.name} learns from masks, this data set has boxes")
