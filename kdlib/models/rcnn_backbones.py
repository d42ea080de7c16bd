"""Backbones of the two-stage detectors, and the heads that continue them behind RoIAlign.

Fact sheet feature_imitation section 4. Backbones and heads keep torchvision's parameter names, so
that its ImageNet weights load by name: `features` and `classifier` of VGG, `conv1` to `layer3` and
`layer4` of ResNet.

Shape suffixes: N images, C channels, H x W pixels or cells, K regions, P x P cells of a region.
Not supported: VGG with batch norm, ResNets of basic blocks (18, 34).
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from kdlib.models import weights
from kdlib.models.outputs import ModelError
from kdlib.models.resnet import BLOCKS, Bottleneck, ResNet, ResNetConfig, initialise

# convolutions of each of the five blocks: configurations A and D of the VGG paper
VGG_BLOCKS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}


class VggBody(nn.Module):
    """VGG's convolutions without the last pooling: (N, 3, H, W) to (N, 8 width, H//16, W//16)."""

    def __init__(self, depth: int = 16, width: int = 64):
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for block, count in enumerate(VGG_BLOCKS[depth]):
            if block > 0:
                layers.append(nn.MaxPool2d(2))
            outputs = width * min(2**block, 8)
            for _ in range(count):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = outputs
        self.features = nn.Sequential(*layers)
        initialise(self)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.features(x_NCHW)


class VggBackbone(nn.Module):
    """`{"conv5": map}` at stride 16: the last convolution and ReLU of block 5."""

    strides = {"conv5": 16}  # noqa: RUF012
    pooled = ("conv5",)

    def __init__(self, depth: int, width: int):
        super().__init__()
        if depth not in VGG_BLOCKS:
            raise ValueError(f"depth must be one of {sorted(VGG_BLOCKS)}, not {depth}")
        self.depth = depth
        self.channels = 8 * width
        self.body = VggBody(depth, width)

    def forward(self, x_NCHW: Tensor) -> dict[str, Tensor]:
        return {"conv5": self.body(x_NCHW)}

    def lower(self, released: bool) -> list[nn.Module]:
        """Blocks 1 and 2; the released code cuts VGG11 one layer late, behind conv3_1."""
        third = 2 * sum(VGG_BLOCKS[self.depth][:2]) + 2  # index of conv3_1
        return list(self.body.features[: third + (released and self.depth == 11)])


class C4Backbone(nn.Module):
    """`{"c4": map}` at stride 16: a ResNet's fourth stage (`layer3`), the fifth is the head."""

    strides = {"c4": 16}  # noqa: RUF012
    pooled = ("c4",)

    def __init__(self, config: ResNetConfig):
        super().__init__()
        self.channels = config.channels[-1]
        self.body = ResNet(config)

    def forward(self, x_NCHW: Tensor) -> dict[str, Tensor]:
        return {"c4": self.body(x_NCHW)[-1]}

    def lower(self, released: bool) -> list[nn.Module]:
        return _resnet_lower(self.body, released)


class FpnBackbone(nn.Module):
    """`{"p2": map, ..., "p6": map}` at strides 4 to 64; p6 is every second cell of p5.

    Lin et al., "Feature pyramid networks for object detection", CVPR 2017, section 4.
    """

    strides = {f"p{level}": 2**level for level in range(2, 7)}  # noqa: RUF012
    pooled = ("p2", "p3", "p4", "p5")

    def __init__(self, config: ResNetConfig, channels: int):
        super().__init__()
        self.channels = channels
        self.body = ResNet(config)
        self.fpn = FeaturePyramidNetwork(list(config.channels), channels, LastLevelMaxPool())

    def forward(self, x_NCHW: Tensor) -> dict[str, Tensor]:
        levels = self.fpn(dict(zip(self.pooled, self.body(x_NCHW), strict=True)))
        return dict(zip(self.strides, levels.values(), strict=True))

    def lower(self, released: bool) -> list[nn.Module]:
        return _resnet_lower(self.body, released)


def _resnet_lower(body: ResNet, released: bool) -> list[nn.Module]:
    if released:
        raise ValueError("no code of the ResNets was released: frozen must be 'lower' or 'none'")
    return [body.conv1, body.bn1, body.layer1]


def resnet_config(depth: int, width: int, norm: str, blocks: Sequence[int] | None) -> ResNetConfig:
    """The whole ResNet, all four stages at output stride 32."""
    if depth not in (50, 101):
        raise ValueError(f"depth must be 50 or 101, not {depth}")
    blocks = BLOCKS[depth] if blocks is None else tuple(blocks)
    if len(blocks) != 4:
        raise ValueError(f"blocks must name the blocks of four stages, not {blocks}")
    return ResNetConfig(depth, blocks=blocks, width=width, output_stride=32, norm=norm)


class VggHead(nn.Module):
    """Regions (K, C, P, P) to (K, outputs): fc6 and fc7, each with ReLU and dropout."""

    def __init__(self, inputs: int, outputs: int, dropout: float):
        super().__init__()
        self.outputs = outputs
        self.classifier = nn.Sequential(
            nn.Linear(inputs, outputs),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(outputs, outputs),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        for layer in (self.classifier[0], self.classifier[3]):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, regions_KCPP: Tensor) -> Tensor:
        return self.classifier(regions_KCPP.flatten(1))


class Stage5Head(nn.Module):
    """Regions (K, C, P, P) to (K, outputs): a ResNet's last stage at stride 2, then the mean."""

    def __init__(self, config: ResNetConfig):
        super().__init__()
        *_, inputs, self.outputs = config.channels
        planes = self.outputs // Bottleneck.expansion
        layers = []
        for i in range(config.stage_blocks[-1]):
            first = i == 0
            layers.append(
                Bottleneck(
                    inputs if first else self.outputs, planes, 2 if first else 1, 1, 1, config.norm
                )
            )
        self.layer4 = nn.Sequential(*layers)
        initialise(self)

    def forward(self, regions_KCPP: Tensor) -> Tensor:
        return self.layer4(regions_KCPP).mean(dim=(2, 3))


def vgg_weights(depth: int, width: int) -> dict[str, Tensor]:
    """torchvision's ImageNet weights of VGG11 or VGG16, from torch.hub's cache or downloaded.

    Raises:
        ModelError: no such weights exist, or they can be neither found nor downloaded.
    """
    if width != 64:
        raise ModelError(f"ImageNet weights of VGG exist only for width 64, not {width}")
    return weights.imagenet(f"VGG{depth}")
