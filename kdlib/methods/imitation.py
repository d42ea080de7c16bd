"""Imitating a teacher's features where objects are: fine-grained feature imitation."""

from collections.abc import Callable

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from kdlib import config
from kdlib.data.augment import Views
from kdlib.detection import Targets
from kdlib.losses import imitation
from kdlib.methods.base import Alone
from kdlib.methods.boxes import LABEL_WEIGHTS, labelled_terms
from kdlib.models.outputs import ModelError
from kdlib.models.shuffledet import AnchorOutput
from kdlib.runtime import seed_for

ADAPTER_STD = 1e-4


class Imitation(Alone):
    """The detector's own losses, and any of the paper's four ways to learn from the teacher.

    Wang et al., CVPR 2019; fact sheet feature_imitation, sections 2 and 3. Letters: I imitates the
    feature before the head in the cells that `imitation_mask` picks, F in every cell, G in the
    cells of the labelled boxes, D matches the head's class scores. No letter: the student alone.

    The adapter, a 3x3 convolution with ReLU from the student's channels to the teacher's, starts
    near zero, learns by the student's optimiser and is dropped afterwards. During the first
    `settings.warmup` steps the imitation counts nothing (released code; not in the paper).

    Our choices, the paper being silent: F and G have the weight and the adapter of I; G covers
    every cell that a box touches; D is weighted by the teacher's confidence in an anchor.
    """

    needs_labels = True
    needs_pool = False
    cure = "Early features can be far apart: lower method.imitation.weight, or set its warmup. "

    def __init__(self, settings: config.Imitation):
        self.settings = settings
        self.needs_teacher = bool(settings.letters)
        self.joint: nn.Module | None = None
        self.step = 0
        self.anchors: dict[tuple[int, int], Tensor] = {}  # on the host, by the size of the images

    @property
    def weights(self) -> dict[str, float]:
        chosen = dict(LABEL_WEIGHTS)
        if self._region() is not None:
            started = self.step >= self.settings.warmup
            chosen["imitation"] = self.settings.weight if started else 0.0
        if "D" in self.settings.letters:
            chosen["scores"] = self.settings.scores_weight
        return chosen

    def begin(
        self,
        fabric: Fabric,
        seed: int,
        steps: int,
        student: nn.Module | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        """A new adapter, drawn by the run's seed."""
        self.step = 0
        if self._region() is None:
            return
        torch.manual_seed(seed_for(seed, "adapter"))
        adapter = nn.Conv2d(_neck(student), _neck(teacher.network), 3, padding=1)
        cut = 2 * ADAPTER_STD
        nn.init.trunc_normal_(adapter.weight, std=ADAPTER_STD, a=-cut, b=cut)
        nn.init.zeros_(adapter.bias)
        joint = nn.Sequential(adapter, nn.ReLU()).to(fabric.device)
        self.joint = joint.to(memory_format=torch.channels_last)

    def terms(
        self, views: Views, student: AnchorOutput, teacher: AnchorOutput | None
    ) -> dict[str, Tensor]:
        terms = labelled_terms(student, views.labels)
        region = self._region()
        if region is not None:
            adapted = self.joint(student.features["neck"])
            mask = region(student, views.labels)
            terms["imitation"] = imitation.imitation_loss(adapted, teacher.features["neck"], mask)
        if "D" in self.settings.letters:
            terms["scores"] = imitation.vanilla(
                student.classes,
                teacher.classes,
                classes_dim=2,
                weight=teacher.confidence.float().sigmoid(),
            )
        return terms

    def follow(
        self, views: Views, student: AnchorOutput, teacher: AnchorOutput | None, step: int
    ) -> dict[str, Tensor]:
        self.step = step + 1
        return {}

    def state(self) -> dict[str, Tensor]:
        """The adapter's weights and how far the warm-up is."""
        if self.joint is None:
            return {}
        adapter = {f"adapter.{name}": value for name, value in self.joint.state_dict().items()}
        return adapter | {"step": torch.tensor(self.step)}

    def restore(self, state: dict[str, Tensor]) -> None:
        if self.joint is not None:
            names = {key.removeprefix("adapter."): state[key] for key in state if key != "step"}
            self.joint.load_state_dict(names)
            self.step = int(state["step"])

    def _region(self) -> Callable[[AnchorOutput, Targets], Tensor] | None:
        """What gives the imitating cells (N, h, w), or None where features play no part."""
        for letter, region in (("I", self._near), ("F", _everywhere), ("G", _inside)):
            if letter in self.settings.letters:
                return region
        return None

    def _near(self, output: AnchorOutput, targets: Targets) -> Tensor:
        if output.size_hw not in self.anchors:  # copied once: a copy waits for the device
            self.anchors[output.size_hw] = output.anchors.cpu()
        return imitation.imitation_mask(
            self.anchors[output.size_hw],
            _boxes(targets),
            _cells(output),
            psi=self.settings.psi,
            inclusive=False,
        )


def _everywhere(output: AnchorOutput, targets: Targets) -> Tensor:
    return imitation.full_region(_cells(output), len(targets.xyxy), device=targets.xyxy.device)


def _inside(output: AnchorOutput, targets: Targets) -> Tensor:
    stride = output.size_hw[0] / _cells(output)[0]
    return imitation.box_region(
        _boxes(targets), _cells(output), stride=stride, rule="outward", inclusive=False
    )


def _boxes(targets: Targets) -> list[Tensor]:
    """The objects' boxes per image; what is ignored becomes empty, which lights no cell."""
    return list(targets.xyxy.masked_fill(targets.ignored[..., None], 0))


def _cells(output: AnchorOutput) -> tuple[int, int]:
    return tuple(output.features["neck"].shape[-2:])


def _neck(network: nn.Module) -> int:
    """Channels of the feature that is imitated. Raises ModelError where a network has none."""
    channels = getattr(network, "neck_channels", None)
    if channels is None:
        raise ModelError(
            f"{type(network).__name__} has no neck to imitate: feature imitation runs on the "
            "architecture shuffledet"
        )
    return channels
