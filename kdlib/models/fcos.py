"""FCOS: a ResNet, a feature pyramid, and one head that every level shares.

Tian et al., "FCOS: fully convolutional one-stage object detection", ICCV 2019 (arXiv 1904.01355),
in the form of the BDD100K model zoo (fact sheet function_matching 4.7): extra levels made from the
pyramid's last output, group norm in the head, centerness beside the classes, distances
exp(scale * x). Lin et al., "Feature pyramid networks for object detection", CVPR 2017.

Not supported: the later tricks (centerness beside the boxes, distances by ReLU), which lose here.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdlib.detection import DetectionOutput, Detections
from kdlib.models import decode
from kdlib.models.inputs import IMAGENET_MEAN, IMAGENET_STD, InputNorm
from kdlib.models.resnet import STEM_STRIDE, ResNet, ResNetConfig, imagenet_weights

# exp() of it is far beyond any image; areas of such boxes still fit float32
LARGEST_EXPONENT = 16.0
PRIOR = 0.01


class Pyramid(nn.Module):
    """Feature pyramid with as many extra levels as asked for.

    Maps of the backbone in, finest first; (N, channels, h, w) of every level out. The top-down
    part is torchvision's. Each extra level is a 3x3 convolution of stride 2 on the level before,
    which passes a ReLU first unless it is the backbone's last.
    """

    def __init__(self, inputs: Sequence[int], channels: int, extra: int):
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork  # slow to import, and needed only here

        self.top_down = FeaturePyramidNetwork(list(inputs), channels)
        self.extra = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(extra)
        )
        for conv in self.extra:
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        levels = list(self.top_down({str(i): x for i, x in enumerate(stages)}).values())
        for i, conv in enumerate(self.extra):
            levels.append(conv(levels[-1] if i == 0 else levels[-1].relu()))
        return levels


class Head(nn.Module):
    """Two towers of 3x3 convolutions with group norm and ReLU, and the three predictions.

    The classes and the centerness read the first tower, the distances the second.
    """

    def __init__(self, channels: int, num_classes: int, convs: int, levels: int):
        super().__init__()
        self.class_tower = _tower(channels, convs)
        self.box_tower = _tower(channels, convs)
        self.classes = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box = nn.Conv2d(channels, 4, 3, padding=1)
        self.quality = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight, std=0.01)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        # at the start every class of every cell has probability 0.01 (focal loss, section 3.3)
        nn.init.constant_(self.classes.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, x_NCHW: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits, distances in the box unit, centerness logits of one level."""
        classes = self.class_tower(x_NCHW)
        box = self.box(self.box_tower(x_NCHW))
        # in float32 at least, which autocast leaves alone here: bfloat16 keeps two to three digits
        box = box.to(torch.promote_types(box.dtype, torch.float32)) * self.scales[level]
        box = box.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()
        return self.classes(classes), box, self.quality(classes)


def _tower(channels: int, convs: int) -> nn.Sequential:
    layers = []
    for _ in range(convs):
        # eight channels a group: the zoo's 32 groups of 256 channels
        groups = math.gcd(channels, max(1, channels // 8))
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(groups, channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class FCOS(nn.Module):
    """FCOS detector.

    `forward(images_NCHW)` takes RGB in [0, 1] and returns a `DetectionOutput` with one entry per
    level, ceil(H / stride) x ceil(W / stride) cells each. Features: "stage1" ... of the backbone
    and "p3" ... of the pyramid. Distances are float32 at least, also under autocast.

    Args:
        num_classes: classes C.
        depth: depth of the backbone, see `ResNetConfig`; None: 18.
        blocks, width, stem, norm: shape of the backbone, see `ResNetConfig`; width None: 64. The
            backbone is never dilated: its last stage has stride 32 with four stages and the
            "imagenet" stem, 16 with the "small" one.
        channels: of the pyramid and of the head.
        head_convs: convolutions of each of the head's two towers.
        levels: three to five successive levels; level l has stride 2^l. The backbone gives those
            that it has, and its last one must be among them; the others are made from it.
        box_unit: "pixel": distances are exp(scale * x) pixels, the zoo's; "stride": exp(scale * x)
            strides of the level, so that at the start every level finds boxes of about its own
            size, for short training.
        pretrained: start from torchvision's ImageNet weights (`ModelError` where they cannot be
            had).
        frozen: "lower": the stem and the first stage of the backbone are not trained, as in the
            zoo, which starts from ImageNet; "none": everything is.
        frozen_norm: keep the backbone's batch norms at their stored statistics, not trained: the
            zoo's, for pretrained weights. What is frozen keeps them in any case.
        mean, std: input statistics of R, G, B as fractions.
        bgr: the backbone's weights expect B, G, R.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        depth: int | None = None,
        blocks: Sequence[int] | None = None,
        width: int | None = None,
        stem: Literal["imagenet", "small", "deep"] = "imagenet",
        norm: Literal["batch", "group"] = "batch",
        channels: int = 256,
        head_convs: int = 4,
        levels: Sequence[int] = (3, 4, 5, 6, 7),
        box_unit: Literal["pixel", "stride"] = "pixel",
        pretrained: bool = False,
        frozen: Literal["lower", "none"] = "none",
        frozen_norm: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr: bool = False,
    ):
        super().__init__()
        if box_unit not in ("pixel", "stride"):
            raise ValueError(f"box_unit must be 'pixel' or 'stride', not {box_unit!r}")
        if num_classes < 1 or channels < 1 or head_convs < 0:
            raise ValueError(
                f"num_classes and channels must be positive and head_convs not negative, not "
                f"{num_classes}, {channels} and {head_convs}"
            )
        if stem not in STEM_STRIDE:
            raise ValueError(f"stem must be one of {sorted(STEM_STRIDE)}, not {stem!r}")
        stages = 4 if blocks is None else len(blocks)
        backbone = ResNetConfig(
            depth=18 if depth is None else depth,
            blocks=blocks,
            width=64 if width is None else width,
            output_stride=STEM_STRIDE[stem] * 2 ** max(stages - 1, 0),
            stem=stem,
            norm=norm,
        )
        if frozen not in ("lower", "none"):
            raise ValueError(f"frozen must be 'lower' or 'none', not {frozen!r}")
        self.levels = tuple(levels)
        first = STEM_STRIDE[stem].bit_length() - 1
        last = first + stages - 1
        own = [level for level in self.levels if level <= last]
        successive = tuple(range(self.levels[0], self.levels[0] + len(self.levels)))
        if not 3 <= len(self.levels) <= 5 or self.levels != successive:
            raise ValueError(f"levels must be three to five successive ones, not {self.levels}")
        if self.levels[0] < first or last not in own:
            raise ValueError(
                f"the backbone has the levels {first} to {last}: levels must start among them and "
                f"reach {last} (leave out stages with blocks), not {self.levels}"
            )
        self.output_stride = 2 ** self.levels[-1]
        self.strides = tuple(2**level for level in self.levels)
        self.box_unit = box_unit
        self._used = tuple(level - first for level in own)

        self.input_norm = InputNorm(mean, std, bgr=bgr)
        self.backbone = ResNet(backbone)
        inputs = [backbone.channels[i] for i in self._used]
        self.pyramid = Pyramid(inputs, channels, len(self.levels) - len(own))
        self.head = Head(channels, num_classes, head_convs, len(self.levels))
        if pretrained:
            self.backbone.load_state_dict(imagenet_weights(backbone))
        lower = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "layer1")  # of the deep stem, too
        for name, part in self.backbone.named_children():
            if frozen == "lower" and name in lower:
                part.requires_grad_(False)
        if frozen_norm:
            for part in self._batch_norms():
                part.requires_grad_(False)

    def _batch_norms(self) -> list[_BatchNorm]:
        return [part for part in self.backbone.modules() if isinstance(part, _BatchNorm)]

    def train(self, mode: bool = True) -> "FCOS":
        """Training or evaluation mode; batch norms that are not trained keep their statistics."""
        super().train(mode)
        # looked for anew: in a process group others take the place of those that were built
        for norm in self._batch_norms():
            if not norm.weight.requires_grad:
                norm.eval()
        return self

    def forward(self, images_NCHW: Tensor) -> DetectionOutput:
        stages = self.backbone(self.input_norm(images_NCHW))
        pyramid = self.pyramid([stages[i] for i in self._used])
        answers = [self.head(x_NCHW, i) for i, x_NCHW in enumerate(pyramid)]
        classification, box, quality = zip(*answers, strict=True)
        if self.box_unit == "stride":
            box = tuple(x * stride for x, stride in zip(box, self.strides, strict=True))
        features = {f"stage{i + 1}": stage for i, stage in enumerate(stages)}
        features |= {f"p{level}": x for level, x in zip(self.levels, pyramid, strict=True)}
        return DetectionOutput(classification, box, quality, self.strides, features)

    def detections(self, output: DetectionOutput, size_hw: tuple[int, int]) -> list[Detections]:
        """The boxes that an output of this network holds, see `kdlib.models.decode`."""
        return decode.detections(output, size_hw)
