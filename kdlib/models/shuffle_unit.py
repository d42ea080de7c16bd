"""The unit that `kdlib.models.shuffledet` is built of: ShuffleNet's, padded as the original pads.

Zhang et al., "ShuffleNet", CVPR 2018; fact sheet feature_imitation, section 4.

Shape suffixes: N images, C channels, H rows, W columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 3


def _halving_pad(x: Tensor) -> Tensor:
    """Zeros around a map for a 3x3 of stride 2: only behind, where the sides are even.

    The original pads so. Padding both sides would shift the cells by a pixel at every halving, 15
    pixels in all, away from the anchors.
    """
    return F.pad(x, (x.shape[-1] % 2, 1, x.shape[-2] % 2, 1))


def odd(x: Tensor) -> tuple[int, int]:
    """The same for a pooling in ceil mode, which pads behind by itself."""
    return x.shape[-2] % 2, x.shape[-1] % 2


class Unit(nn.Module):
    """A unit of ShuffleNet: grouped 1x1 to a quarter, shuffle, depthwise 3x3, grouped 1x1.

    Args:
        inputs, outputs: channels.
        kind: "residual" adds the input; "halving" has stride 2 and puts the unit's channels behind
            the averaged input's; "plain" has no way around it.
        groups: of the first and of the last 1x1.
    """

    def __init__(self, inputs: int, outputs: int, kind: str, groups: tuple[int, int]):
        super().__init__()
        self.kind = kind
        middle = outputs // 4
        last = outputs - inputs if kind == "halving" else outputs
        for name, value, parts in (
            ("channels", inputs, groups[0]),
            ("a quarter of the outputs", middle, GROUPS),
            ("the last channels", last, groups[1]),
        ):
            if value < 1 or value % parts or outputs % 4:
                raise ValueError(f"{name}, {value} of {outputs}, are no multiple of {parts} groups")
        self.reduce = nn.Conv2d(inputs, middle, 1, groups=groups[0], bias=False)
        self.norm1 = nn.BatchNorm2d(middle)
        stride, padding = (2, 0) if kind == "halving" else (1, 1)
        self.depthwise = nn.Conv2d(middle, middle, 3, stride, padding, groups=middle, bias=False)
        self.norm2 = nn.BatchNorm2d(middle)
        self.expand = nn.Conv2d(middle, last, 1, groups=groups[1], bias=False)
        self.norm3 = nn.BatchNorm2d(last)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.reduce(x)))
        # channel g * n + i to i * groups + g
        y = y.unflatten(1, (GROUPS, -1)).transpose(1, 2).flatten(1, 2)
        if self.kind == "halving":
            y = _halving_pad(y)
        y = self.norm3(self.expand(self.norm2(self.depthwise(y))))
        if self.kind == "residual":
            return F.relu(x + y)
        if self.kind == "plain":
            return F.relu(y)
        pooled = F.avg_pool2d(x, 3, 2, odd(x), ceil_mode=True, count_include_pad=False)
        return torch.cat([pooled, F.relu(y)], 1)
