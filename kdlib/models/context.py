"""A dilated ResNet with the context module released with IntRA-KD.

Hou et al., "Inter-region affinity distillation for road marking segmentation", CVPR 2020 (fact
sheet inter_region_affinity 2): with ResNet-101 the teacher, with ResNet-18 or 34 a student. The
context module is a kin of the pyramid of PSPNet (Zhao et al., CVPR 2017); but its cells have a size
in positions, so a larger image has more of them.

Deviations from the released code:

- The padding is the one it means. It hands over (height, height, width, width) where the framework
  expects (width, width, height, height), so that a map whose two paddings differ is padded along
  the wrong axis, shrunk out of proportion and cropped at the wrong place.
- Batch norm has momentum 0.1, not 0.95, with which the statistics for evaluation are almost those
  of the last batch alone.
- Both 3x3 convolutions of a dilated basic block are dilated, there only the first.
- Logits stay at an eighth of the image; losses and evaluation enlarge them.
"""

from collections.abc import Sequence
from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.models.erfnet import MEAN, STD, Existence
from kdlib.models.inputs import IMAGENET_MEAN, IMAGENET_STD, InputNorm
from kdlib.models.outputs import SegmentationOutput
from kdlib.models.resnet import (
    ResNet,
    ResNetConfig,
    imagenet_weights,
    initialise,
    norm_layer,
)
from kdlib.resize import cached

CELLS = (10, 20, 30, 60)  # positions a side


def _axis(size: int, cell: int) -> tuple[Tensor, Tensor]:
    """(size, cells) to shrink one axis by `cell`, (cells, size) to enlarge it again; float64, CPU.

    The axis is padded with zeros to whole cells, half before and half behind (the odd one behind),
    and cropped in the end. Bilinear, corners not aligned: an even cell's value is the mean of its
    two middle positions.
    """
    count = -(-size // cell)
    before = (count * cell - size) // 2
    kept = slice(before, before + size)
    # what interpolation makes of unit vectors is its matrix
    positions = torch.eye(count * cell, dtype=torch.float64, device="cpu")
    shrink = F.interpolate(positions[None], count, mode="linear")[0]
    cells = torch.eye(count, dtype=torch.float64, device="cpu")
    enlarge = F.interpolate(cells[None], count * cell, mode="linear")[0]
    return shrink[kept], enlarge[:, kept]


@cached
def _matrices(
    size: tuple[int, int], cell: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(H W, cells) and (cells, H W): padding and shrinking, enlarging and cropping, both axes."""
    rows, columns = (_axis(side, cell) for side in size)
    shrink, enlarge = (torch.kron(*pair) for pair in zip(rows, columns, strict=True))
    return shrink.to(device, dtype), enlarge.to(device, dtype)


def _product(x_NCP: Tensor, matrix_PQ: Tensor, channels_last: bool) -> Tensor:
    """x @ matrix over the positions, written in either memory format; float32 or finer."""
    x_NCP = x_NCP.to(matrix_PQ.dtype)
    with torch.autocast(x_NCP.device.type, enabled=False):
        if channels_last:
            return torch.matmul(matrix_PQ.T, x_NCP.transpose(1, 2)).transpose(1, 2)
        return torch.matmul(x_NCP, matrix_PQ)


class ContextModule(nn.Module):
    """Context from cells of several sizes: (N, inputs, h, w) in, (N, channels, h, w) out.

    For every size: pad to whole cells, shrink bilinearly by the size, 1x1 convolution, norm, ReLU,
    enlarge bilinearly by the size, crop. The results and the map itself are concatenated and mixed
    by a 3x3 convolution, norm and ReLU. Padding, resizing and cropping are linear, so they are
    products with two small matrices, deterministic forward and backward on every device.

    Args:
        inputs, channels: channels.
        cells: positions a side of each size of cell.
        norm: "batch" or "group".
    """

    def __init__(
        self, inputs: int, channels: int, cells: Sequence[int] = CELLS, norm: str = "batch"
    ):
        super().__init__()
        self.cells = tuple(cells)
        if channels < 1 or not self.cells or min(self.cells) < 1:
            raise ValueError(f"context_width and cells must be positive: {channels}, {self.cells}")
        self.reduce = nn.ModuleList(_conv_norm_relu(inputs, channels, 1, norm) for _ in self.cells)
        mixed = inputs + channels * len(self.cells)
        self.mix = _conv_norm_relu(mixed, channels, 3, norm)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        size = tuple(x_NCHW.shape[-2:])
        channels_last = x_NCHW.is_contiguous(memory_format=torch.channels_last)
        dtype = torch.promote_types(x_NCHW.dtype, torch.float32)
        flat_NCP = x_NCHW.flatten(2)
        maps = [x_NCHW]
        for reduce, cell in zip(self.reduce, self.cells, strict=True):
            shrink, enlarge = _matrices(size, cell, dtype, x_NCHW.device)
            grid = tuple(-(-side // cell) for side in size)
            cells = _product(flat_NCP, shrink, channels_last).to(x_NCHW.dtype).unflatten(2, grid)
            spread = _product(reduce(cells).flatten(2), enlarge, channels_last)
            maps.append(spread.to(x_NCHW.dtype).unflatten(2, size))
        return self.mix(torch.cat(maps, 1))


def _conv_norm_relu(inputs: int, outputs: int, kernel: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        norm_layer(norm, outputs),
        nn.ReLU(inplace=True),
    )


class ContextResNet(nn.Module):
    """A ResNet at output stride 8, the context module and a 1x1 classifier.

    65.6 M parameters with ResNet-101, 34.1 M with 34, 24.0 M with 18; 197 and, with ResNet-18, 74.7
    10^9 multiply-adds at 208 x 976.

    `forward(images_NCHW)` takes RGB in [0, 1] and returns logits at the output stride (ceil of
    H / stride and W / stride), not enlarged. Features: "middle" (the backbone's second stage) and
    "high" (its last one), the two levels of inter-region affinity distillation.

    Args:
        num_classes: classes C.
        backbone: shape of the ResNet, at least three stages; None: ResNet-18 at output stride 8.
        context_width: channels of each part of the context module, and of its output.
        cells: positions a side of the context module's cells.
        lanes: with this many lanes an existence head on the last stage, whose (N, lanes) logits are
            `existence` of the output; None: no head.
        dropout: probability of dropping a whole channel before the classifier.
        mean, std: input statistics of R, G, B as fractions.
        bgr: hand the channels on as B, G, R.

    With batch norm, training needs at least two images where a map is one single cell.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: ResNetConfig | None = None,
        *,
        context_width: int = 512,
        cells: Sequence[int] = CELLS,
        lanes: int | None = None,
        dropout: float = 0.1,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        bgr: bool = True,
    ):
        super().__init__()
        backbone = backbone or ResNetConfig(dilate_first=True)
        if len(backbone.channels) < 3:
            raise ValueError(
                f"a context-resnet needs a backbone of at least three stages, not {backbone}: its "
                "second and its last one are the two levels of distillation"
            )
        last = backbone.channels[-1]
        self.output_stride = backbone.output_stride
        self.input_norm = InputNorm(mean, std, bgr=bgr)
        self.backbone = ResNet(backbone)
        self.context = ContextModule(last, context_width, cells, backbone.norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(context_width, num_classes, 1)
        initialise(self.context)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        self.existence = None
        if lanes is not None:
            width = backbone.width
            self.existence = Existence(last, lanes, channels=max(1, width // 2), hidden=2 * width)

    def forward(self, images_NCHW: Tensor) -> SegmentationOutput:
        if min(images_NCHW.shape[-2:]) < self.output_stride:
            raise ValueError(
                f"images of {tuple(images_NCHW.shape[-2:])} pixels are smaller than the output "
                f"stride {self.output_stride}"
            )
        stages = self.backbone(self.input_norm(images_NCHW))
        logits = self.classifier(self.dropout(self.context(stages[-1])))
        existence = None if self.existence is None else self.existence(stages[-1])
        features = {"middle": stages[1], "high": stages[-1]}
        return SegmentationOutput(logits, None, features, existence)


def build_context(num_classes: int, *, pretrained: bool = False, **options) -> ContextResNet:
    """A `ContextResNet` from flat options: those of `ResNetConfig` beside its own.

    `pretrained` starts the backbone from torchvision's ImageNet weights and takes their input
    statistics. The order of the channels stays that of a network without them, so that one built
    anew can load what was trained: the first convolution is turned round instead. Raises ModelError
    where the weights cannot be had.
    """
    names = {field.name for field in fields(ResNetConfig)}
    chosen = {key: value for key, value in options.items() if key in names}
    head = {key: value for key, value in options.items() if key not in names}
    backbone = ResNetConfig(**{"dilate_first": True, **chosen})
    if not pretrained:
        return ContextResNet(num_classes, backbone, **head)
    statistics = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    network = ContextResNet(num_classes, backbone, **(statistics | head))
    weights = imagenet_weights(backbone)
    if network.input_norm.bgr:  # they are made for R, G, B
        weights["conv1.weight"] = weights["conv1.weight"].flip(1)
    network.backbone.load_state_dict(weights)
    return network
