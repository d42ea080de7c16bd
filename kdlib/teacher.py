"""A trained network that teaches: wrapped once, so that no caller forgets what a teacher needs."""

from typing import NamedTuple

import torch
from torch import nn

from kdlib.detection import DetectionOutput, Detections
from kdlib.models.outputs import SegmentationOutput
from kdlib.models.rcnn import TwoStageOutput
from kdlib.models.shuffledet import AnchorOutput


class TeacherError(RuntimeError):
    """A teacher that does not reach the score recorded with its weights."""


class Teacher(nn.Module):
    """A frozen network in evaluation mode that owns its input normalisation and its recorded score.

    Feed it the student's very tensor: RGB in 0..1, already augmented (consistent teaching, Beyer et
    al. 2022, section 3). In bf16 runs Fabric rounds the student's copy, by up to half a grey level.
    `train()` leaves it in evaluation mode.
    """

    def __init__(self, network: nn.Module, *, name: str, score: float):
        super().__init__()
        self.name, self.score = name, score
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode: batch statistics of the student's views must not leak in."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, images_NCHW: torch.Tensor
    ) -> SegmentationOutput | DetectionOutput | AnchorOutput | TwoStageOutput:
        """The network's output for RGB images in 0..1."""
        return self.network(images_NCHW)

    def detections(self, output: NamedTuple, size_hw: tuple[int, int]) -> list[Detections]:
        """The boxes that an output of a detector holds."""
        return self.network.detections(output, size_hw)

    def check(self, reached: float, *, slack: float = 0.005) -> None:
        """Refuse to teach when `reached` lies more than `slack` under the recorded score.

        Both are the same score on the same held-out sample. Raises TeacherError.
        """
        if not reached >= self.score - slack:  # NaN is refused too
            raise TeacherError(
                f"teacher {self.name}: scores {reached:.4f} on its held-out sample, but "
                f"{self.score:.4f} is recorded with its weights. Its input size, normalisation, "
                "channel order or weights differ from when it was trained: run its stage again."
            )
