"""What a student learns from. One class per method; the training loop knows none of them."""

import torch

from kdlib.config import Method as Settings
from kdlib.methods.base import Method
from kdlib.methods.matching import Distil, FunctionMatching
from kdlib.methods.structured import Structured
from kdlib.methods.supervised import Supervised, inverse_sqrt_weights

__all__ = [
    "Distil",
    "FunctionMatching",
    "Method",
    "Structured",
    "Supervised",
    "build",
    "inverse_sqrt_weights",
]


def build(settings: Settings, class_weights: torch.Tensor | None, classes: int) -> Method:
    """The method that the parameters name, for a data set of so many classes."""
    if settings.name == "supervised":
        return Supervised(class_weights)
    if settings.name == "structured":
        return Structured(settings.structured, classes, class_weights)
    shared = {"temperature": settings.temperature, "class_weights": class_weights}
    if settings.name == "distil":
        return Distil(**shared, label_weight=settings.label_weight)
    return FunctionMatching(**shared, mixup=settings.mixup)
