"""ESPNet and its encoder ESPNet-C, and the checkpoints released with structured distillation.

Mehta et al., "ESPNet: efficient spatial pyramid of dilated convolutions", ECCV 2018, with 2 and 8
blocks in its second and third level, as in the code of Liu et al., "Structured knowledge
distillation for semantic segmentation", CVPR 2019 (fact sheet structured_kd 3.3).
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.checkpoint import CheckpointError, load_foreign
from kdlib.models.inputs import InputNorm
from kdlib.models.outputs import SegmentationOutput

# Fact sheet structured_kd 2.2 gives B, G, R in 0 ... 255; here they are R, G, B as fractions.
MEAN = tuple(value / 255 for value in (72.41519599, 82.93553322, 73.18188461))
STD = tuple(value / 255 for value in (44.9148, 46.1528, 45.3199))
DILATIONS = (1, 2, 4, 8, 16)


class NormAct(nn.Module):
    """Batch normalisation and a PReLU with one slope a channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=1e-3)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))


class ConvNormAct(NormAct):
    """A 3x3 convolution before them."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__(outputs)
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv(x))


class ESP(nn.Module):
    """Efficient spatial pyramid: reduce, five dilated 3x3 convolutions, hierarchical sums.

    Args:
        inputs, outputs: channels.
        stride: 2 reduces with a 3x3 of stride 2 (the downsampler), 1 with a 1x1.
        residual: add the input before the normalisation.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, residual: bool = False):
        super().__init__()
        n = outputs // 5
        kernel = 3 if stride == 2 else 1
        self.reduce = nn.Conv2d(inputs, n, kernel, stride, kernel // 2, bias=False)
        # the undilated branch takes the channels that five equal parts leave over
        self.branches = nn.ModuleList(
            nn.Conv2d(n, outputs - 4 * n if d == 1 else n, 3, 1, d, d, bias=False)
            for d in DILATIONS
        )
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = nn.PReLU(outputs)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        first, total, *rest = (branch(reduced) for branch in self.branches)
        # d2, d2 + d4, d2 + d4 + d8, ...: sums hide the grid that large dilations leave
        parts = [first, total]
        for part in rest:
            total = total + part
            parts.append(total)
        out = torch.cat(parts, 1)
        if self.residual:
            out = out + x
        return self.act(self.norm(out))


class ESPNetC(nn.Module):
    """The encoder with a 1x1 classifier: logits at 1/8 of the image.

    `forward(images_NCHW)` takes RGB in [0, 1]. Features: "level1" (19 channels, 1/2), "level2"
    (131, 1/4) and "level3" (256, 1/8, what the classifier reads).
    """

    output_stride = 8

    def __init__(
        self, num_classes: int, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
    ):
        super().__init__()
        self.input_norm = InputNorm(mean, std, bgr=True)
        self.level1 = ConvNormAct(3, 16, stride=2)
        self.join1 = NormAct(16 + 3)
        self.down2 = ESP(19, 64, stride=2)
        self.level2 = nn.Sequential(*(ESP(64, 64, residual=True) for _ in range(2)))
        self.join2 = NormAct(64 + 64 + 3)
        self.down3 = ESP(131, 128, stride=2)
        self.level3 = nn.Sequential(*(ESP(128, 128, residual=True) for _ in range(8)))
        self.join3 = NormAct(128 + 128)
        self.scores = nn.Conv2d(256, num_classes, 1, bias=False)

    def encode(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """The three levels by name."""
        images = self.input_norm(images_NCHW)
        half = F.avg_pool2d(images, 3, 2, 1)
        quarter = F.avg_pool2d(half, 3, 2, 1)
        level1 = self.join1(torch.cat([self.level1(images), half], 1))
        down2 = self.down2(level1)
        level2 = self.join2(torch.cat([self.level2(down2), down2, quarter], 1))
        down3 = self.down3(level2)
        level3 = self.join3(torch.cat([down3, self.level3(down3)], 1))
        return {"level1": level1, "level2": level2, "level3": level3}

    def forward(self, images_NCHW: Tensor) -> SegmentationOutput:
        features = self.encode(images_NCHW)
        return SegmentationOutput(self.scores(features["level3"]), None, features)


class ESPNet(ESPNetC):
    """The encoder with a small decoder: logits at the full resolution of the image.

    Features as `ESPNetC`, and "scores" (C channels, 1/8): the encoder's own scores. They are no
    auxiliary output: the released code trains on the main one only.
    """

    output_stride = 1

    def __init__(self, num_classes: int, **options):
        super().__init__(num_classes, **options)
        c = num_classes
        self.norm3 = nn.BatchNorm2d(c, eps=1e-3)
        self.up3 = nn.ConvTranspose2d(c, c, 2, 2, bias=False)
        self.project2 = nn.Conv2d(131, c, 1, bias=False)
        self.join_up3 = NormAct(2 * c)
        self.fuse2 = ESP(2 * c, c)
        self.up2 = nn.ConvTranspose2d(c, c, 2, 2, bias=False)
        self.join_up2 = NormAct(c)
        self.fuse1 = ConvNormAct(c + 19, c)
        self.up1 = nn.ConvTranspose2d(c, c, 2, 2, bias=False)

    def forward(self, images_NCHW: Tensor) -> SegmentationOutput:
        if any(side % 8 for side in images_NCHW.shape[-2:]):
            raise ValueError(
                f"ESPNet doubles its maps three times, so height and width must be multiples of 8, "
                f"not {tuple(images_NCHW.shape[-2:])}"
            )
        features = self.encode(images_NCHW)
        scores = self.scores(features["level3"])
        up3 = self.up3(self.norm3(scores))
        fused2 = self.fuse2(self.join_up3(torch.cat([self.project2(features["level2"]), up3], 1)))
        up2 = self.join_up2(self.up2(fused2))
        fused1 = self.fuse1(torch.cat([up2, features["level1"]], 1))
        return SegmentationOutput(self.up1(fused1), None, {**features, "scores": scores})


# names in the released files, in this order: the beginning, then the parts
_BEGINNINGS = {
    "level2_0": "down2",
    "level3_0": "down3",
    "b1": "join1",
    "b2": "join2",
    "b3": "join3",
    "br": "norm3",
    "classifier_1.conv": "scores",
    "classifier.conv": "scores",
    "classifier": "up1",
    "level3_C.conv": "project2",
    "up_l3.0": "up3",
    "combine_l2_l3.0": "join_up3",
    "combine_l2_l3.1": "fuse2",
    "up_l2.0": "up2",
    "up_l2.1": "join_up2",
    "conv": "fuse1",
}
_PARTS = {".bn.bn.": ".norm.", ".bn.act.": ".act.", ".bn.": ".norm.", ".c1.conv.": ".reduce."}


def _own_name(released: str) -> str:
    name = re.sub(r"^(module\.)+", "", released)
    for beginning, own in _BEGINNINGS.items():
        if name.startswith(beginning + "."):
            name = own + name.removeprefix(beginning)
            break
    for part, own in _PARTS.items():
        name = name.replace(part, own)
    return re.sub(r"\.d(\d+)\.conv\.", lambda m: f".branches.{DILATIONS.index(int(m[1]))}.", name)


def load_released(path: str | Path) -> ESPNetC:
    """The network of a checkpoint released with structured distillation, in evaluation mode.

    Reads tensors only (no code of the file runs), with or without a `module.` prefix. Whether it is
    an ESPNet or an ESPNet-C, and for how many classes, is read from the file; entries that the
    network does not have are left out.

    Raises:
        CheckpointError: the file is missing, holds no table of tensors, or is of another network.
    """
    path = Path(path)
    state = {_own_name(name): value for name, value in load_foreign(path).items()}
    if "scores.weight" not in state:
        raise CheckpointError(
            f"{path} is no ESPNet: the scores of level 3 (256 channels) are missing"
        )

    network = ESPNet if "up1.weight" in state else ESPNetC
    network = network(num_classes=len(state["scores.weight"]))
    own = network.state_dict()
    # the normalisation of the input is this network's own, the counter of old files is optional
    known = {name: state.get(name, own[name]) for name in own}
    missing = [
        name
        for name in own
        if name not in state and not name.startswith("input_norm.") and "num_batches" not in name
    ]
    if missing:
        raise CheckpointError(f"{path} lacks {len(missing)} parameters, the first is {missing[0]}")
    try:
        network.load_state_dict(known)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit {type(network).__name__}: {error}") from error
    return network.eval()
