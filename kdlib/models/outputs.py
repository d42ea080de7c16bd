"""What a network returns, and the error it raises."""

from typing import NamedTuple

from torch import Tensor

from kdlib.detection import DetectionOutput

__all__ = ["DetectionOutput", "ModelError", "SegmentationOutput"]


class ModelError(RuntimeError):
    """A network cannot be built or its weights cannot be had; the message names the cure."""


class SegmentationOutput(NamedTuple):
    """Output of a segmentation network.

    A named tuple and not a dataclass, because Lightning Fabric walks through tuples and refuses
    frozen dataclasses.

    Attributes:
        logits: (N, C, h, w) scores of the classes before softmax, at the network's output stride.
        aux: (N, C, h', w') scores of the auxiliary head, or None.
        features: intermediate maps by name, e.g. "stage4" (N, channels, h, w).
        existence: (N, lanes) logits, before any sigmoid, of each lane's being in the image; None of
            a network without such a head.
    """

    logits: Tensor
    aux: Tensor | None
    features: dict[str, Tensor]
    existence: Tensor | None = None
