"""PSPNet: a dilated ResNet, pooling at several scales, one classifier.

Zhao et al., "Pyramid scene parsing network", CVPR 2017. Channels follow mmsegmentation (fact sheet
function_matching 4.7): the pyramid has a quarter of the last stage's channels (512 for ResNet-101,
128 for ResNet-18), the auxiliary head a quarter of the last stage's but one (256 and 64).
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Literal

import torch
from torch import Tensor, nn

from kdlib.models.inputs import IMAGENET_MEAN, IMAGENET_STD, InputNorm
from kdlib.models.outputs import SegmentationOutput
from kdlib.models.resnet import ResNet, ResNetConfig, imagenet_weights, initialise, norm_layer
from kdlib.resize import pyramid_pool, spread

ACTIVATIONS = ("relu", "leaky_relu", "none")


def _conv_norm_act(
    inputs: int, outputs: int, kernel: int, norm: str, activation: str, *, bias: bool = False
) -> nn.Sequential:
    act = {
        "relu": lambda: nn.ReLU(inplace=True),
        "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace=True),
        "none": nn.Identity,
    }[activation]
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias),
        norm_layer(norm, outputs),
        act(),
    )


class PyramidPooling(nn.Module):
    """Context from b x b averages of the whole map, for every b of `bins`.

    (N, C, h, w) in; (N, channels, h, w) out: the map and its pooled, reduced (1x1) and bilinearly
    spread averages are concatenated and mixed by a 3x3 convolution.
    """

    def __init__(
        self, inputs: int, channels: int, bins: Sequence[int], norm: str, activation: str = "relu"
    ):
        super().__init__()
        self.bins = tuple(bins)
        self.reduce = nn.ModuleList(
            _conv_norm_act(inputs, channels, 1, norm, activation) for _ in self.bins
        )
        mixed = inputs + channels * len(self.bins)
        self.bottleneck = _conv_norm_act(mixed, channels, 3, norm, activation)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        size = tuple(x_NCHW.shape[-2:])
        channels_last = x_NCHW.is_contiguous(memory_format=torch.channels_last)
        maps = [x_NCHW]
        for reduce, cells in zip(self.reduce, pyramid_pool(x_NCHW, self.bins), strict=True):
            spread_NCHW = spread(reduce(cells), size, channels_last=channels_last)
            maps.append(spread_NCHW.to(x_NCHW.dtype))
        return self.bottleneck(torch.cat(maps, 1))


class PSPNet(nn.Module):
    """Pyramid scene parsing network.

    `forward(images_NCHW)` takes RGB in [0, 1] and returns a `SegmentationOutput` with logits at the
    output stride (ceil(H / stride) x ceil(W / stride); one more where `ceil_pool` finds a partial
    window, 65 for 512 pixels), not upsampled. Features: "stage1" ...
    "stage4" of the backbone and "pyramid", the map that the classifier reads (after dropout).

    Args:
        num_classes: classes C.
        backbone: shape of the ResNet, at least two stages; None: ResNet-18 at output stride 8.
        pretrained: start from torchvision's ImageNet weights (`ModelError` where they cannot be
        had). pyramid_bins: cells a side of each pooling.
        pyramid_channels: None: a quarter of the last stage's channels.
        aux: build the auxiliary head on the last stage but one. It runs in training mode only; in
            evaluation mode `aux` of the output is None.
        aux_channels: None: a quarter of that stage's channels.
        aux_bias: give the auxiliary head's 3x3 convolution a bias, idle before its norm.
        head_activation: "relu", "leaky_relu" (slope 0.01) or "none", behind every norm of the
            pyramid and of the auxiliary head.
        dropout: probability of dropping a whole channel before each classifier.
        mean, std: input statistics of R, G, B as fractions.
        bgr: the backbone's weights expect B, G, R.
        shrink: average this many pixels a side of the images first, for a network that works at a
            lower resolution than its teacher but must be fed the identical tensor.

    With batch norm, training needs at least two images: the 1x1 pooling leaves one value per image.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: ResNetConfig | None = None,
        *,
        pretrained: bool = False,
        pyramid_bins: Sequence[int] = (1, 2, 3, 6),
        pyramid_channels: int | None = None,
        aux: bool = True,
        aux_channels: int | None = None,
        aux_bias: bool = False,
        head_activation: Literal["relu", "leaky_relu", "none"] = "relu",
        dropout: float = 0.1,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr: bool = False,
        shrink: int = 1,
    ):
        super().__init__()
        backbone = backbone or ResNetConfig()
        if len(backbone.channels) < 2:
            raise ValueError(f"PSPNet needs a backbone of at least two stages, not {backbone}")
        if head_activation not in ACTIVATIONS:
            raise ValueError(
                f"head_activation must be one of {ACTIVATIONS}, not {head_activation!r}"
            )
        *_, before_last, last = backbone.channels
        pyramid_channels = pyramid_channels or max(1, last // 4)
        aux_channels = aux_channels or max(1, before_last // 4)

        self.shrink = shrink
        self.output_stride = backbone.output_stride * shrink
        self.input_norm = InputNorm(mean, std, bgr=bgr)
        self.backbone = ResNet(backbone)
        self.pyramid = PyramidPooling(
            last, pyramid_channels, pyramid_bins, backbone.norm, head_activation
        )
        self.classifier = nn.Conv2d(pyramid_channels, num_classes, 1)
        self.aux_head = None
        if aux:
            self.aux_head = nn.Sequential(
                _conv_norm_act(
                    before_last, aux_channels, 3, backbone.norm, head_activation, bias=aux_bias
                ),
                nn.Dropout2d(dropout),
                nn.Conv2d(aux_channels, num_classes, 1),
            )
        self.dropout = nn.Dropout2d(dropout)

        for head in filter(None, (self.pyramid, self.classifier, self.aux_head)):
            initialise(head)
        for classifier in filter(None, (self.classifier, self.aux_head and self.aux_head[-1])):
            nn.init.normal_(classifier.weight, std=0.01)
        if pretrained:
            self.backbone.load_state_dict(imagenet_weights(backbone))

    def forward(self, images_NCHW: Tensor) -> SegmentationOutput:
        if min(images_NCHW.shape[-2:]) < self.output_stride:
            raise ValueError(
                f"images of {tuple(images_NCHW.shape[-2:])} pixels are smaller than the output "
                f"stride {self.output_stride}"
            )
        if self.shrink > 1:
            images_NCHW = nn.functional.avg_pool2d(images_NCHW, self.shrink)
        stages = self.backbone(self.input_norm(images_NCHW))
        pyramid_NCHW = self.dropout(self.pyramid(stages[-1]))
        aux_NCHW = None
        if self.aux_head is not None and self.training:
            aux_NCHW = self.aux_head(stages[-2])
        features = {f"stage{i + 1}": stage for i, stage in enumerate(stages)}
        features["pyramid"] = pyramid_NCHW
        return SegmentationOutput(self.classifier(pyramid_NCHW), aux_NCHW, features)


def build_pspnet(num_classes: int, **options) -> PSPNet:
    """A PSPNet from flat options: those of `ResNetConfig` beside those of `PSPNet`."""
    names = {field.name for field in fields(ResNetConfig)}
    backbone = ResNetConfig(**{key: value for key, value in options.items() if key in names})
    head = {key: value for key, value in options.items() if key not in names}
    return PSPNet(num_classes, backbone, **head)
