"""ENet: a small encoder of bottlenecks and a smaller decoder that unpools.

Paszke et al., "ENet: a deep neural network architecture for real-time semantic segmentation", 2016,
with the channels, dropout and activations of the code of Hou et al., "Inter-region affinity
distillation for road marking segmentation", CVPR 2020 (fact sheet inter_region_affinity 2).

Deviations from that code:

- Max-pooling has windows of 2x2 that do not overlap, as the paper of ENet says. The code's 3x3
  windows can choose one pixel twice, and unpooling then keeps whichever is written last.
- Unpooling is a comparison and a choice, equal to `max_unpool2d` but deterministic on every device.
- The existence head, which that code lacks, is the one of ERFNet.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.models.erfnet import MEAN, STD, Existence, check_size, check_width
from kdlib.models.inputs import InputNorm
from kdlib.models.outputs import SegmentationOutput

# the convolutions between, in stages 2 and 3: a 3x3 of this dilation, or a 5x1 and a 1x5
KINDS = (1, 2, "asymmetric", 4, 1, 8, "asymmetric", 16) * 2


def unpool(x_NCHW: Tensor, places_NCHW: Tensor) -> Tensor:
    """(N, C, 2 h, 2 w): each value at the pixel that 2x2 max-pooling took it from, zero elsewhere.

    The result has the memory format of `x_NCHW`.

    Args:
        x_NCHW: (N, C, h, w).
        places_NCHW: (N, C, h, w) indices of `max_pool2d(y, 2, return_indices=True)`, which number
            the 2 h x 2 w pixels of y row by row.
    """
    h, w = x_NCHW.shape[-2:]
    rows, columns = (torch.arange(side, device=x_NCHW.device) for side in (h, w))
    corner_hw = 4 * w * rows[:, None] + 2 * columns  # upper left pixel of each window
    parts = [
        torch.where(places_NCHW == corner_hw + offset, x_NCHW, 0)
        for offset in (0, 1, 2 * w, 2 * w + 1)
    ]
    last = x_NCHW.is_contiguous(memory_format=torch.channels_last)
    if last:  # interleaved in the order in which they lie in memory
        parts = [part.permute(0, 2, 3, 1) for part in parts]
    down, across = (1, 2) if last else (2, 3)
    lines = [
        torch.stack(pair, across + 1).flatten(across, across + 1) for pair in (parts[:2], parts[2:])
    ]
    out = torch.stack(lines, down + 1).flatten(down, down + 1)
    return out.permute(0, 3, 1, 2) if last else out


class _Bottleneck(nn.Module):
    """The learnt branch: reduce, convolve, expand, each normalised and activated; then dropout.

    `act` has one slope for the whole bottleneck where it is a PReLU, as in the released code.

    Args:
        inputs, outputs: channels.
        reduce: the convolution to `inner` channels.
        main: the convolutions between, each of `inner` channels.
    """

    def __init__(
        self,
        inner: int,
        outputs: int,
        reduce: nn.Module,
        main: Sequence[nn.Module],
        act: nn.Module,
        dropout: float,
    ):
        super().__init__()
        self.act = act
        self.convs = nn.ModuleList([reduce, *main, nn.Conv2d(inner, outputs, 1, bias=False)])
        self.norms = nn.ModuleList(nn.BatchNorm2d(conv.out_channels) for conv in self.convs)
        self.dropout = nn.Dropout2d(dropout)

    def branch(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.act(norm(conv(x)))
        return self.dropout(x)


def _conv(channels: int, kind: int | str) -> list[nn.Conv2d]:
    """A 3x3 convolution of dilation `kind`, or a 5x1 and a 1x5 for "asymmetric"."""
    if kind == "asymmetric":
        return [
            nn.Conv2d(channels, channels, (5, 1), padding=(2, 0), bias=False),
            nn.Conv2d(channels, channels, (1, 5), padding=(0, 2), bias=False),
        ]
    return [nn.Conv2d(channels, channels, 3, padding=kind, dilation=kind, bias=False)]


class Regular(_Bottleneck):
    """A bottleneck that keeps size and channels; `kind` as in `KINDS`."""

    def __init__(
        self, channels: int, kind: int | str = 1, *, dropout: float = 0.1, relu: bool = False
    ):
        inner = channels // 4
        super().__init__(
            inner,
            channels,
            nn.Conv2d(channels, inner, 1, bias=False),
            _conv(inner, kind),
            nn.ReLU() if relu else nn.PReLU(),
            dropout,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.branch(x))


class Down(_Bottleneck):
    """A bottleneck that halves height and width; the shortcut is pooled and padded with zeros.

    Returns its output and the places that `unpool` takes.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float):
        inner = inputs // 4
        reduce = nn.Conv2d(inputs, inner, 2, 2, bias=False)
        super().__init__(inner, outputs, reduce, _conv(inner, 1), nn.PReLU(), dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, places = F.max_pool2d(x, 2, return_indices=True)
        branch = self.branch(x)
        padded = F.pad(pooled, (0, 0, 0, 0, 0, branch.shape[1] - pooled.shape[1]))
        return self.act(padded + branch), places


class Up(_Bottleneck):
    """A bottleneck that doubles height and width; the shortcut is projected and unpooled."""

    def __init__(self, inputs: int, outputs: int):
        inner = inputs // 4
        double = nn.ConvTranspose2d(inner, inner, 3, 2, 1, output_padding=1, bias=False)
        reduce = nn.Conv2d(inputs, inner, 1, bias=False)
        super().__init__(inner, outputs, reduce, [double], nn.ReLU(), dropout=0.1)
        self.project = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        return self.act(unpool(self.project(x), places) + self.branch(x))


class ENet(nn.Module):
    """Bottlenecks at a quarter and an eighth, a decoder that unpools: logits at full resolution.

    0.36 M parameters for 37 classes and 1.49 10^9 multiply-adds at 208 x 976 for 5. PReLU in the
    encoder, ReLU in the decoder.

    `forward(images_NCHW)` takes RGB in [0, 1], height and width multiples of 8. Features: "middle"
    (4 * width channels, 1/4: the end of stage 1) and "high" (8 * width, 1/8: the end of stage 3,
    the encoder's output), the two levels of inter-region affinity distillation.

    Args:
        num_classes: classes C.
        width: channels of the first stage; all others follow in proportion.
        lanes: with this many lanes an existence head, whose (N, lanes) logits are `existence` of
            the output; None: no head.
        mean, std: input statistics of R, G, B as fractions.
        bgr: hand the channels on as B, G, R.
    """

    output_stride = 1

    def __init__(
        self,
        num_classes: int,
        *,
        width: int = 16,
        lanes: int | None = None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        bgr: bool = True,
    ):
        super().__init__()
        check_width("ENet", width)
        quarter, eighth = 4 * width, 8 * width
        self.input_norm = InputNorm(mean, std, bgr=bgr)
        self.initial = nn.Conv2d(3, width - 3, 3, 2, 1, bias=False)
        self.initial_norm = nn.BatchNorm2d(width)
        self.initial_act = nn.PReLU()
        self.down1 = Down(width, quarter, dropout=0.01)
        self.stage1 = nn.Sequential(*(Regular(quarter, dropout=0.01) for _ in range(4)))
        self.down2 = Down(quarter, eighth, dropout=0.1)
        self.stages23 = nn.Sequential(*(Regular(eighth, kind) for kind in KINDS))
        self.up4 = Up(eighth, quarter)
        self.stage4 = nn.Sequential(*(Regular(quarter, relu=True) for _ in range(2)))
        self.up5 = Up(quarter, width)
        self.stage5 = Regular(width, relu=True)
        self.scores = nn.ConvTranspose2d(width, num_classes, 3, 2, 1, output_padding=1, bias=False)
        self.existence = None
        if lanes is not None:
            self.existence = Existence(eighth, lanes, channels=2 * width, hidden=eighth)

    def forward(self, images_NCHW: Tensor) -> SegmentationOutput:
        check_size("ENet", images_NCHW)
        images = self.input_norm(images_NCHW)
        x = torch.cat([self.initial(images), F.max_pool2d(images, 2)], 1)
        x, places1 = self.down1(self.initial_act(self.initial_norm(x)))
        middle = self.stage1(x)
        x, places2 = self.down2(middle)
        high = self.stages23(x)
        x = self.stage4(self.up4(high, places2))
        logits = self.scores(self.stage5(self.up5(x, places1)))
        existence = None if self.existence is None else self.existence(high)
        return SegmentationOutput(logits, None, {"middle": middle, "high": high}, existence)
