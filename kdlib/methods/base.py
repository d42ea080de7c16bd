"""What the training loop relies on in a method."""

from typing import Protocol

import torch
from lightning.fabric import Fabric
from torch import distributed, nn

from kdlib.data.augment import Views
from kdlib.detection import DetectionOutput
from kdlib.models.outputs import SegmentationOutput
from kdlib.models.rcnn import TwoStageOutput
from kdlib.models.shuffledet import AnchorOutput

TINY = torch.finfo(torch.float32).tiny  # to divide a sum over nothing by

Output = SegmentationOutput | DetectionOutput | AnchorOutput | TwoStageOutput


class Method(Protocol):
    """What a student learns from.

    A method says which data it takes, may change the views before both networks see them, and turns
    (views, student output, teacher output) into a dict of named loss terms. `weights` holds the
    factor of each term; the loop multiplies and adds, and logs each term before and after.

    A method may train something of its own beside the student. What shares the student's loss (an
    adapter) is `joint`: the loop hands its parameters to the student's optimiser. What has a loss
    of its own (a critic) is trained in `follow`, which the loop calls after the student's step; it
    logs the terms that are returned. Either is kept in the resume points, as `state`.
    """

    needs_labels: bool  # the labelled images come with their labels
    needs_teacher: bool
    needs_pool: bool  # unlabelled frames join the labelled images
    cure: str  # what to change when a term is not finite, beyond the loop's own advice
    joint: nn.Module | None  # made by `begin`; learns with the student and is dropped afterwards

    @property
    def weights(self) -> dict[str, float]:
        """Factor of each term; a term without a weight is an error."""
        ...

    def begin(
        self,
        fabric: Fabric,
        seed: int,
        steps: int,
        student: nn.Module | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        """Make what the method trains itself anew, on the device, for a run of `steps` steps."""
        ...

    def prepare(self, views: Views, generator: torch.Generator) -> Views:
        """The views as both networks shall see them."""
        ...

    def terms(
        self, views: Views, student: Output, teacher: Output | None
    ) -> dict[str, torch.Tensor]:
        """Named scalar loss terms, unweighted."""
        ...

    def follow(
        self,
        views: Views,
        student: Output,
        teacher: Output | None,
        step: int,
    ) -> dict[str, torch.Tensor]:
        """Train what is the method's own by one step, on the outputs of the student's step.

        Returns its named terms, unweighted, for the log.
        """
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """What training has changed of the method's own so far, by name."""
        ...

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from such a state."""
        ...


class Alone:
    """A method that trains nothing beside the student."""

    cure = ""
    joint: nn.Module | None = None

    def begin(
        self,
        fabric: Fabric,
        seed: int,
        steps: int,
        student: nn.Module | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        pass

    def prepare(self, views: Views, generator: torch.Generator) -> Views:
        return views

    def follow(
        self,
        views: Views,
        student: Output,
        teacher: Output | None,
        step: int,
    ) -> dict[str, torch.Tensor]:
        return {}

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        pass


def share(count: torch.Tensor, *, least: float = 1) -> torch.Tensor:
    """What each process divides by, so that the mean over processes is the whole batch's loss.

    Args:
        count: what the loss of this process alone would be divided by, evidence, cells, pixels or
            weights; in a process group.
        least: what a sum over all processes counts as that is below it; `TINY` for weights.
    """
    total = count.detach().clone()
    distributed.all_reduce(total)
    return total.clamp(min=least) / distributed.get_world_size()
