"""MobileNetV2Plus: a dilated MobileNetV2 whose seven stages all reach the decoder.

The fifth student of structured distillation (fact sheet structured_kd 3.4), from the LightNet
project. Backbone: Sandler et al., "MobileNetV2", CVPR 2018; squeeze and excitation: Roy et al.,
"Concurrent spatial and channel squeeze and excitation", MICCAI 2018; spatial pyramid: Chen et al.,
"Rethinking atrous convolution", 2017.

Deviations: in-place activated batch norm is replaced by ordinary batch norm and a leaky ReLU of
slope 0.01 (fact sheet 2.1). Logits stay at a quarter of the image; the original enlarges them to
the whole inside the network, here losses and evaluation do (bilinear, corners aligned).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.models.inputs import InputNorm
from kdlib.models.outputs import SegmentationOutput
from kdlib.models.resnet import initialise
from kdlib.models.structured import CONFERENCE_INPUT
from kdlib.resize import bilinear

# expansion, channels, blocks, stride and dilation of each stage
STAGES = (
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 1),
    (6, 64, 4, 1, 2),
    (6, 96, 3, 1, 4),
    (6, 160, 3, 1, 8),
    (6, 320, 1, 1, 16),
)
STEM = 32
CONTEXT = 256  # channels of each branch of the spatial pyramid, and of their mixture
DILATIONS = (12, 24, 36)


def _norm_act(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.LeakyReLU(0.01))


def _conv(inputs: int, outputs: int, kernel: int, *, dilation: int = 1, **options) -> nn.Conv2d:
    """A convolution without bias; padding keeps the size at stride 1."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(
        inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False, **options
    )


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depth-wise 3x3, 1x1 back; added where shapes allow."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, dilation: int):
        super().__init__()
        inner = inputs * expansion
        self.conv = nn.Sequential(
            _conv(inputs, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            _conv(inner, inner, 3, stride=stride, dilation=dilation, groups=inner),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            _conv(inner, outputs, 1),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class SqueezeExcite(nn.Module):
    """Concurrent spatial and channel squeeze and excitation: x * channel gate + x * pixel gate."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)
        self.spatial = _conv(channels, 1, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        gate_NC = self.excite(self.squeeze(x_NCHW.mean((2, 3))).relu()).sigmoid()
        return x_NCHW * gate_NC[:, :, None, None] + x_NCHW * self.spatial(x_NCHW).sigmoid()


class SpatialPyramid(nn.Module):
    """Context at several dilations: (N, C, h, w) in, (N, 256, h + 2, w + 2) out.

    The mean of the image (1x1), a 1x1 and three dilated 3x3 convolutions side by side, normalised
    and mixed by a 1x1. That one is padded by 1 as in the original: a ring of zeros surrounds the
    map, and resizing to the decoder's grid takes it in.
    """

    def __init__(self, inputs: int, dropout: float):
        super().__init__()
        self.norm = _norm_act(inputs)
        self.whole = _conv(inputs, CONTEXT, 1)
        self.branches = nn.ModuleList(
            [_conv(inputs, CONTEXT, 1)]
            + [_conv(inputs, CONTEXT, 3, dilation=dilation) for dilation in DILATIONS]
        )
        self.mix_norm = _norm_act(CONTEXT * (2 + len(DILATIONS)))
        self.mix = nn.Conv2d(CONTEXT * (2 + len(DILATIONS)), CONTEXT, 1, padding=1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x = self.norm(x_NCHW)
        whole = self.whole(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        mixed = torch.cat([whole, *(branch(x) for branch in self.branches)], 1)
        return self.dropout(self.mix(self.mix_norm(mixed)))


class MobileNetV2Plus(nn.Module):
    """MobileNetV2 at output stride 8, spatial pyramid, decoder at a quarter of the image.

    8.3011 M parameters and 86.13 10^9 multiply-adds at 512 x 1024 for 19 classes.

    `forward(images_NCHW)` takes RGB in [0, 1], height and width multiples of 8, and returns a
    `SegmentationOutput` with logits at 1/4; `aux` is None. Features: "stage1" (1/2), "stage2"
    (1/4), "stage3" ... "stage7" (1/8), "stages" (712 channels, 1/8: all of them behind the squeeze
    and excitation), "pyramid" (256, 1/8: the spatial pyramid's output behind dropout, without the
    ring of zeros around it) and "decoder" (296, 1/4: what the classifier reads).

    Args:
        num_classes: classes C.
        dropout: probability of dropping a whole channel of the spatial pyramid's output.
        mean, std: input statistics of R, G, B as fractions; the conference's by default.
        bgr: hand the channels on as B, G, R.
    """

    output_stride = 4

    def __init__(
        self,
        num_classes: int,
        *,
        dropout: float = 0.2,
        mean: Sequence[float] = CONFERENCE_INPUT["mean"],
        std: Sequence[float] = CONFERENCE_INPUT["std"],
        bgr: bool = CONFERENCE_INPUT["bgr"],
    ):
        super().__init__()
        self.input_norm = InputNorm(mean, std, bgr=bgr)
        self.stem = nn.Sequential(
            _conv(3, STEM, 3, stride=2), nn.BatchNorm2d(STEM), nn.ReLU(inplace=True)
        )
        self.stages, inputs = nn.ModuleList(), STEM
        for expansion, channels, count, stride, dilation in STAGES:
            blocks = []
            for j in range(count):
                # a stage that strides is not dilated
                step = stride if j == 0 else 1
                blocks.append(InvertedResidual(inputs, channels, expansion, step, dilation))
                inputs = channels
            self.stages.append(nn.Sequential(*blocks))

        every = sum(channels for _, channels, *_ in STAGES)
        decoder = CONTEXT + STAGES[0][1] + STAGES[1][1]
        self.stages_gate = SqueezeExcite(every)
        self.pyramid = SpatialPyramid(every, dropout)
        self.decoder_gate = SqueezeExcite(decoder)
        self.decoder = nn.Sequential(
            _norm_act(decoder), _conv(decoder, decoder, 3, dilation=2), _norm_act(decoder)
        )
        self.classifier = nn.Conv2d(decoder, num_classes, 1)
        initialise(self)

    def forward(self, images_NCHW: Tensor) -> SegmentationOutput:
        if any(side % 8 for side in images_NCHW.shape[-2:]):
            raise ValueError(
                "MobileNetV2Plus joins its maps of 1/2, 1/4 and 1/8, so height and width must be "
                f"multiples of 8, not {tuple(images_NCHW.shape[-2:])}"
            )
        x, stages = self.stem(self.input_norm(images_NCHW)), []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        half, quarter, *eighths = stages
        half_at_quarter = _pool(half)
        joined = torch.cat([*eighths, _pool(half_at_quarter), _pool(quarter)], 1)
        joined = self.stages_gate(joined)

        context = self.pyramid(joined)
        enlarged = bilinear(context, tuple(quarter.shape[-2:]))
        decoded = self.decoder_gate(torch.cat([enlarged, quarter, half_at_quarter], 1))
        decoded = self.decoder(decoded)

        features = {f"stage{i + 1}": stage for i, stage in enumerate(stages)}
        features |= {"stages": joined, "pyramid": context[..., 1:-1, 1:-1], "decoder": decoded}
        return SegmentationOutput(self.classifier(decoded), None, features)


def _pool(x_NCHW: Tensor) -> Tensor:
    """Half the resolution, rounded up."""
    return F.max_pool2d(x_NCHW, 3, 2, ceil_mode=True)
