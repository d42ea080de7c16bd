"""Imitating a teacher's features where objects are: fine-grained feature imitation."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor, distributed, nn

from kdlib import config
from kdlib.data.augment import Views
from kdlib.detection import Targets
from kdlib.losses import imitation
from kdlib.losses.regions import imitation_masks
from kdlib.methods.base import TINY, Alone, share
from kdlib.methods.boxes import LABEL_WEIGHTS, labelled_terms
from kdlib.models.outputs import ModelError
from kdlib.models.rcnn import TwoStageOutput, assign_levels
from kdlib.models.shuffledet import AnchorOutput
from kdlib.runtime import seed_for

ADAPTER_STD = 1e-4

Output = AnchorOutput | TwoStageOutput


class Level(NamedTuple):
    """A map that is imitated, apart from its values."""

    name: str
    anchors: Tensor  # (h * w * K, 4) pixels, ends outside; on the host
    cells_hw: tuple[int, int]
    stride: int  # pixels


class Imitation(Alone):
    """The detector's own losses, and any of the paper's four ways to learn from the teacher.

    Wang et al., CVPR 2019; fact sheet feature_imitation, sections 2 and 3. Letters: I imitates the
    feature before the head in the cells that `imitation_mask` picks, F in every cell, G in the
    cells of the labelled boxes, D matches the head's class scores. No letter: the student alone.

    The adapter, a 3x3 convolution with ReLU from the student's channels to the teacher's, starts
    near zero, learns by the student's optimiser and is dropped afterwards. During the first
    `settings.warmup` steps the imitation counts nothing (released code; not in the paper).

    Our choices, the paper being silent: F and G have the weight and the adapter of I; G covers
    every cell that a box touches. D is weighted by the teacher's confidence in an anchor; of a
    two-stage student it compares the class scores, background included, of the regions drawn to
    train its head, which the teacher's head scores too, and all count alike.

    Of a pyramid P2 to P5 are imitated, each with an adapter of its own, and the loss is divided by
    twice the cells of all levels. Which boxes make the region of which level was never told (fact
    sheet, sections 2 and 8); `settings.assign` chooses: "area", one level by the box's size in
    proportion to the anchors' scale, as the student's heads read their regions; "anchors", the
    levels whose anchors see it nearly as well as the best of all levels; "every", all levels, each
    with a best overlap of its own.

    Measured here: the small detectors on simulated pictures. That two-stage detectors learn so is
    tested on a few tiny images only; none was trained on VOC07 or COCO.
    """

    needs_labels = True
    needs_pool = False
    cure = "Early features can be far apart: lower method.imitation.weight, or set its warmup. "

    def __init__(self, settings: config.Imitation):
        self.settings = settings
        self.needs_teacher = bool(settings.letters)
        self.joint: nn.Module | None = None
        self.step = 0
        self.fabric: Fabric | None = None
        self.student: nn.Module | None = None
        self.teacher: nn.Module | None = None
        self.levels: dict[tuple[int, int], list[Level]] = {}  # by the size of the images

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
        """New adapters, drawn by the run's seed."""
        self.step, self.levels = 0, {}
        self.fabric, self.student, self.teacher = fabric, student, teacher
        if self._region() is None:
            return
        own, told = _necks(student), _necks(teacher.network)
        if own.keys() != told.keys():
            raise ModelError(
                f"the student has the maps {', '.join(own)}, its teacher {', '.join(told)}: take "
                "two VGGs, two ResNets or two pyramids"
            )
        torch.manual_seed(seed_for(seed, "adapter"))
        adapters = {name: _adapter(own[name], told[name]) for name in own}
        joint = nn.ModuleDict(adapters) if len(own) > 1 else next(iter(adapters.values()))
        self.joint = joint.to(fabric.device).to(memory_format=torch.channels_last)

    def terms(self, views: Views, student: Output, teacher: Output | None) -> dict[str, Tensor]:
        terms = labelled_terms(student, views.labels)
        region = self._region()
        if region is not None:
            masks = region(self._levels(student), views.labels)
            terms["imitation"] = self._features(student, teacher, masks)
        if "D" in self.settings.letters:
            terms["scores"] = self._scores(student, teacher)
        return terms

    def follow(
        self, views: Views, student: Output, teacher: Output | None, step: int
    ) -> dict[str, Tensor]:
        self.step = step + 1
        return {}

    def state(self) -> dict[str, Tensor]:
        """The adapters' weights and how far the warm-up is."""
        if self.joint is None:
            return {}
        adapter = {f"adapter.{name}": value for name, value in self.joint.state_dict().items()}
        return adapter | {"step": torch.tensor(self.step)}

    def restore(self, state: dict[str, Tensor]) -> None:
        if self.joint is not None:
            names = {key.removeprefix("adapter."): state[key] for key in state if key != "step"}
            self.joint.load_state_dict(names)
            self.step = int(state["step"])

    def _features(self, student: Output, teacher: Output, masks: dict[str, Tensor]) -> Tensor:
        """Half the squared distance of the features, per imitating cell of all levels.

        In a process group the cells are those of the whole batch: the mean over the processes is
        what one process would have. The adapter computes in float32, whatever the networks do.
        """
        adapters = self.joint if len(masks) > 1 else dict.fromkeys(masks, self.joint)
        cells = torch.stack([mask.sum() for mask in masks.values()])
        divisor = share(cells.sum()) if distributed.is_initialized() else None
        losses = [
            imitation.imitation_loss(
                adapters[name](student.features[name]), teacher.features[name], mask, cells=divisor
            )
            for name, mask in masks.items()
        ]
        if len(losses) == 1:
            return losses[0]
        if divisor is not None:
            return torch.stack(losses).sum()
        # each is a mean over its own cells; their mean by cells is that of all cells
        return (torch.stack(losses) * cells).sum() / cells.sum().clamp(min=1)

    def _scores(self, student: Output, teacher: Output) -> Tensor:
        if isinstance(student, TwoStageOutput):
            with torch.no_grad(), self.fabric.autocast():
                told = self.teacher.network.score(
                    teacher.features, student.regions, student.size_hw
                )
            return imitation.vanilla(student.scores, told, classes_dim=1)
        weight, normaliser = teacher.confidence.float().sigmoid(), None
        if distributed.is_initialized():
            normaliser = share(weight.sum(), least=TINY)
        return imitation.vanilla(
            student.classes, teacher.classes, classes_dim=2, weight=weight, normaliser=normaliser
        )

    def _region(self) -> Callable[[list[Level], Targets], dict[str, Tensor]] | None:
        """What gives the imitating cells (N, h, w) by map, or None where features play no part."""
        for letter, region in (("I", self._near), ("F", _everywhere), ("G", self._inside)):
            if letter in self.settings.letters:
                return region
        return None

    def _near(self, levels: list[Level], targets: Targets) -> dict[str, Tensor]:
        psi = self.settings.psi
        if self.settings.assign == "anchors":
            masks = imitation_masks(
                [level.anchors for level in levels],
                list(_present(targets)),
                [level.cells_hw for level in levels],
                psi=psi,
                inclusive=False,
            )
        else:
            masks = [
                imitation.imitation_mask(
                    level.anchors, boxes, level.cells_hw, psi=psi, inclusive=False
                )
                for level, boxes in zip(levels, self._shared(targets, len(levels)), strict=True)
            ]
        return {level.name: mask for level, mask in zip(levels, masks, strict=True)}

    def _inside(self, levels: list[Level], targets: Targets) -> dict[str, Tensor]:
        shared = zip(levels, self._shared(targets, len(levels)), strict=True)
        return {
            level.name: imitation.box_region(
                boxes, level.cells_hw, stride=level.stride, rule="outward", inclusive=False
            )
            for level, boxes in shared
        }

    def _shared(self, targets: Targets, levels: int) -> list[list[Tensor]]:
        """Per level the boxes per image; those of other levels become empty, too."""
        xyxy = _present(targets)
        if levels == 1:
            return [list(xyxy)]
        rule, canonical = self.settings.assign or "area", self.student.config.canonical
        others = ~assign_levels(xyxy, rule=rule, levels=levels, canonical=canonical)
        return [list(xyxy.masked_fill(other[..., None], 0)) for other in others.unbind(-1)]

    def _levels(self, output: Output) -> list[Level]:
        """The maps that are imitated; anchors are copied once, as a copy waits for the device."""
        if output.size_hw not in self.levels:
            if isinstance(output, TwoStageOutput):
                anchors, strides = self.student.anchors(output.features), output.strides
            else:
                anchors = {"neck": output.anchors}
                strides = {"neck": self.student.output_stride}
            self.levels[output.size_hw] = [
                Level(
                    name,
                    anchors[name].cpu(),
                    tuple(output.features[name].shape[-2:]),
                    strides[name],
                )
                for name in _necks(self.student)
            ]
        return self.levels[output.size_hw]


def _everywhere(levels: list[Level], targets: Targets) -> dict[str, Tensor]:
    count, device = len(targets.xyxy), targets.xyxy.device
    return {
        level.name: imitation.full_region(level.cells_hw, count, device=device) for level in levels
    }


def _present(targets: Targets) -> Tensor:
    """(N, G, 4) the objects' boxes; what is ignored becomes empty, which lights no cell."""
    return targets.xyxy.masked_fill(targets.ignored[..., None], 0)


def _adapter(inputs: int, outputs: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    cut = 2 * ADAPTER_STD
    nn.init.trunc_normal_(convolution.weight, std=ADAPTER_STD, a=-cut, b=cut)
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.ReLU())


def _necks(network: nn.Module) -> dict[str, int]:
    """Channels of the features that are imitated, by name. Raises ModelError where none are."""
    channels = getattr(network, "neck_channels", None)
    if channels is None:
        raise ModelError(
            f"{type(network).__name__} has no neck to imitate: feature imitation runs on the "
            "architectures shuffledet and rcnn-..."
        )
    return channels if isinstance(channels, dict) else {"neck": channels}
