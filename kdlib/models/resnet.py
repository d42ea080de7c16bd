"""ResNet backbones with any depth, width and output stride.

He et al., "Deep residual learning for image recognition", CVPR 2016, in torchvision's form: the
same parameter names (without `fc`) and, at width 64 and output stride 32, the same function, so
that torchvision's ImageNet weights load strictly. torchvision itself refuses dilated basic blocks.

Not supported: ResNeXt, squeeze-and-excitation.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from kdlib.models import weights
from kdlib.models.outputs import ModelError

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STEM_STRIDE = {"imagenet": 4, "small": 2, "deep": 4}


@dataclass(frozen=True)
class ResNetConfig:
    """Shape of a ResNet.

    Attributes:
        depth: 18, 34 (basic blocks), 50 or 101 (bottlenecks). Gives the blocks unless `blocks`
            does; with `blocks` only the kind of block is taken from it.
        blocks: blocks of each stage, e.g. (1, 1, 1) for three stages; None: those of `depth`.
        width: channels of the stem and of the first stage's 3x3 convolutions; they double with
            every stage. 64 is torchvision's.
        output_stride: pixels of the image per position of the last stage. Stages beyond it keep the
            resolution and dilate instead.
        stem: "imagenet" (7x7 stride 2, then max-pooling: stride 4), "small" (one 3x3 stride 2) or
            "deep" (three 3x3 convolutions, the first of stride 2, the last with twice the channels,
            then max-pooling: stride 4).
        norm: "batch", or "group" with 16 channels a group.
        stem_width: channels of the stem's first convolution; None: `width`.
        ceil_pool: the stem's max-pooling keeps a last, partial window, so that 512 pixels become
            129 and not 128 positions.
        dilate_first: a stage that gives up its stride dilates its first 3x3 convolution like all
            others, as the PSPNets of the structured paper do; by default that one keeps the
            dilation of the stage before.
    """

    depth: int = 18
    blocks: tuple[int, ...] | None = None
    width: int = 64
    output_stride: int = 8
    stem: Literal["imagenet", "small", "deep"] = "imagenet"
    norm: Literal["batch", "group"] = "batch"
    stem_width: int | None = None
    ceil_pool: bool = False
    dilate_first: bool = False

    def __post_init__(self):
        if self.depth not in BLOCKS:
            raise ValueError(f"depth must be one of {sorted(BLOCKS)}, not {self.depth}")
        if self.stem not in STEM_STRIDE:
            raise ValueError(f"stem must be one of {sorted(STEM_STRIDE)}, not {self.stem!r}")
        if self.norm not in ("batch", "group"):
            raise ValueError(f"norm must be 'batch' or 'group', not {self.norm!r}")
        if self.blocks is not None:
            object.__setattr__(self, "blocks", tuple(self.blocks))
        if not self.stage_blocks or min(self.stage_blocks) < 1 or self.width < 1:
            raise ValueError(f"blocks and width must be positive: {self.blocks}, {self.width}")
        if self.stem_width is not None and self.stem_width < 1:
            raise ValueError(f"stem_width must be positive, not {self.stem_width}")
        if self.ceil_pool and self.stem == "small":
            raise ValueError("the 'small' stem has no pooling: leave ceil_pool out")
        strides = [STEM_STRIDE[self.stem] * 2**i for i in range(len(self.stage_blocks))]
        if self.output_stride not in strides:
            raise ValueError(
                f"output_stride must be one of {strides} for {len(strides)} stages and the "
                f"{self.stem!r} stem, not {self.output_stride}"
            )

    @property
    def stage_blocks(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return BLOCKS[self.depth] if self.blocks is None else self.blocks

    @property
    def stem_channels(self) -> int:
        """Output channels of the stem."""
        first = self.width if self.stem_width is None else self.stem_width
        return 2 * first if self.stem == "deep" else first

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels of each stage."""
        expansion = Bottleneck.expansion if self.depth >= 50 else BasicBlock.expansion
        return tuple(self.width * 2**i * expansion for i in range(len(self.stage_blocks)))


def norm_layer(kind: str, channels: int) -> nn.Module:
    """Batch normalisation, or group normalisation with about 16 channels a group."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 16)), channels)


def _conv3x3(inputs: int, outputs: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. The first has the stride and its own dilation."""

    expansion = 1

    def __init__(
        self, inputs: int, planes: int, stride: int, first_dilation: int, dilation: int, norm: str
    ):
        super().__init__()
        self.conv1 = _conv3x3(inputs, planes, stride, first_dilation)
        self.bn1 = norm_layer(norm, planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(planes, planes, 1, dilation)
        self.bn2 = norm_layer(norm, planes)
        self.downsample = _shortcut(inputs, planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; the 3x3 has the stride (ResNet 1.5)."""

    expansion = 4

    def __init__(
        self, inputs: int, planes: int, stride: int, first_dilation: int, dilation: int, norm: str
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = norm_layer(norm, planes)
        self.conv2 = _conv3x3(planes, planes, stride, first_dilation)
        self.bn2 = norm_layer(norm, planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = norm_layer(norm, planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, planes * self.expansion, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


def _shortcut(inputs: int, outputs: int, stride: int, norm: str) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm_layer(norm, outputs)
    )


class ResNet(nn.Module):
    """Backbone: `forward(x_NCHW)` gives the outputs of all stages, first to last.

    Where a stage gives up its stride of 2, its first 3x3 convolution keeps the dilation of the
    stage before and everything after it doubles (1, 1, 2, 4 at output stride 8). The values are
    then those of the strided network, on a finer grid: weights trained at stride 32 stay valid.
    With `dilate_first` the first convolution doubles too, and the values differ.
    """

    def __init__(self, config: ResNetConfig = ResNetConfig()):
        super().__init__()
        self.config = config
        width, stem = config.width, config.stem_channels
        if config.stem == "deep":
            half = stem // 2
            self.conv1 = _conv3x3(3, half, 2, 1)
            self.bn1 = norm_layer(config.norm, half)
            self.conv2 = _conv3x3(half, half, 1, 1)
            self.bn2 = norm_layer(config.norm, half)
            self.conv3 = _conv3x3(half, stem, 1, 1)
            self.bn3 = norm_layer(config.norm, stem)
        else:
            small = config.stem == "small"
            self.conv1 = nn.Conv2d(3, stem, 3 if small else 7, 2, 1 if small else 3, bias=False)
            self.bn1 = norm_layer(config.norm, stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = (
            nn.Identity()
            if config.stem == "small"
            else nn.MaxPool2d(3, 2, 1, ceil_mode=config.ceil_pool)
        )

        block = Bottleneck if config.depth >= 50 else BasicBlock
        stride_so_far, dilation, inputs = STEM_STRIDE[config.stem], 1, stem
        for i, (count, channels) in enumerate(
            zip(config.stage_blocks, config.channels, strict=True)
        ):
            first_dilation, stride = dilation, 1
            if i > 0 and stride_so_far < config.output_stride:
                stride, stride_so_far = 2, stride_so_far * 2
            elif i > 0:
                dilation *= 2
                first_dilation = dilation if config.dilate_first else first_dilation
            layer = []
            for j in range(count):
                layer.append(
                    block(
                        inputs if j == 0 else channels,
                        width * 2**i,
                        stride if j == 0 else 1,
                        first_dilation if j == 0 else dilation,
                        dilation,
                        config.norm,
                    )
                )
            inputs = channels
            setattr(self, f"layer{i + 1}", nn.Sequential(*layer))
        initialise(self)

    def forward(self, x_NCHW: Tensor) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(x_NCHW)))
        if self.config.stem == "deep":
            x = self.relu(self.bn2(self.conv2(x)))
            x = self.relu(self.bn3(self.conv3(x)))
        x = self.maxpool(x)
        stages = []
        for i in range(len(self.config.stage_blocks)):
            x = getattr(self, f"layer{i + 1}")(x)
            stages.append(x)
        return stages


def initialise(module: nn.Module) -> None:
    """He initialisation of every convolution, fan-out, as torchvision does."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)


def imagenet_weights(config: ResNetConfig) -> dict[str, Tensor]:
    """torchvision's ImageNet weights for a backbone, from torch.hub's cache or downloaded into it.

    Raises:
        ModelError: no such weights exist for this shape, or they can be neither found nor
        downloaded.
    """
    # what the weights do not depend on is left as it is asked for
    standard = ResNetConfig(
        config.depth,
        output_stride=config.output_stride,
        ceil_pool=config.ceil_pool,
        dilate_first=config.dilate_first,
    )
    same_stem = config.stem_channels == standard.stem_channels
    asked = replace(
        config,
        blocks=None if config.stage_blocks == BLOCKS[config.depth] else config.blocks,
        stem_width=None if same_stem else config.stem_width,
    )
    if asked != standard:
        raise ModelError(
            "ImageNet weights exist only for width 64, batch norm, the imagenet stem and the "
            f"blocks of the named depth, not for {config}: train from scratch (pretrained: false)"
        )
    state = weights.imagenet(f"ResNet{config.depth}")
    del state["fc.weight"], state["fc.bias"]
    return state
