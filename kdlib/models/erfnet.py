"""ERFNet, and the head that says which lanes exist.

Romera et al., "ERFNet: efficient residual factorized ConvNet for real-time semantic segmentation",
IEEE T-ITS 2018, as in the code of Hou et al., "Inter-region affinity distillation for road marking
segmentation", CVPR 2020 (fact sheet inter_region_affinity 2).

Deviations: the encoder's own 1x1 classifier is left out, because nothing reads it (129 parameters a
class; the published counts hold without it); the existence head returns logits, where the released
one ends in a sigmoid that its loss applies again.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.models.inputs import InputNorm
from kdlib.models.outputs import SegmentationOutput
from kdlib.resize import bilinear

# Fact sheet 3 gives B, G, R in 0 ... 255, less this mean and not divided.
MEAN = tuple(value / 255 for value in (123.68, 116.779, 103.939))
STD = (1 / 255, 1 / 255, 1 / 255)
DILATIONS = (2, 4, 8, 16) * 2
GRID = (13, 61)  # half of the encoder's map for images of 208 x 976, the CULane crop


class Downsampler(nn.Module):
    """A 3x3 convolution of stride 2 beside 2x2 max-pooling, then batch norm and ReLU.

    (N, inputs, H, W) in, (N, outputs, H / 2, W / 2) out; the pooled inputs are the last channels.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs - inputs, 3, 2, 1)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.cat([self.conv(x), self.pool(x)], 1)).relu()


class NonBottleneck1D(nn.Module):
    """Two 3x3 convolutions, each factored into 3x1 and 1x3, and a shortcut; the second dilates.

    Args:
        channels: of input and output.
        dropout: probability of dropping a whole channel before the sum.
        dilation: of the second pair.
    """

    def __init__(self, channels: int, dropout: float = 0.0, dilation: int = 1):
        super().__init__()
        c, d = channels, dilation
        self.down1 = nn.Conv2d(c, c, (3, 1), padding=(1, 0))
        self.across1 = nn.Conv2d(c, c, (1, 3), padding=(0, 1))
        self.norm1 = nn.BatchNorm2d(c, eps=1e-3)
        self.down2 = nn.Conv2d(c, c, (3, 1), padding=(d, 0), dilation=(d, 1))
        self.across2 = nn.Conv2d(c, c, (1, 3), padding=(0, d), dilation=(1, d))
        self.norm2 = nn.BatchNorm2d(c, eps=1e-3)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.across1(self.down1(x).relu())).relu()
        y = self.norm2(self.across2(self.down2(y).relu()))
        return (self.dropout(y) + x).relu()


class Upsampler(nn.Module):
    """A transposed 3x3 convolution of stride 2, batch norm and ReLU: twice the height and width."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


class Existence(nn.Module):
    """Which lanes are in the image: (N, inputs, h, w) of an encoder in, (N, lanes) logits out.

    A dilated 3x3 convolution, a 1x1 to lanes + 1 maps, softmax over them, 2x2 max-pooling and two
    linear layers (fact sheet 2). The first linear layer reads 13 x 61 positions, the pooled map of
    208 x 976 pixels; a map of another size is resized to them, bilinearly, corners aligned.

    Args:
        inputs: channels of the encoder's map.
        lanes: lanes told apart.
        channels: of the dilated convolution.
        hidden: values between the linear layers.
    """

    def __init__(self, inputs: int, lanes: int, channels: int = 32, hidden: int = 128):
        super().__init__()
        if lanes < 1:
            raise ValueError(f"lanes must be positive, or None for no existence head, not {lanes}")
        self.maps = nn.Sequential(
            nn.Conv2d(inputs, channels, 3, padding=4, dilation=4, bias=False),
            nn.BatchNorm2d(channels, eps=1e-3),
            nn.ReLU(),
            nn.Dropout2d(0.1),
            nn.Conv2d(channels, lanes + 1, 1),
        )
        self.hidden = nn.Linear((lanes + 1) * GRID[0] * GRID[1], hidden)
        self.lanes = nn.Linear(hidden, lanes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if min(x_NCHW.shape[-2:]) < 2:
            raise ValueError(
                f"the existence head pools 2 x 2 positions, the encoder's map has only "
                f"{tuple(x_NCHW.shape[-2:])}: feed larger images"
            )
        shares = F.max_pool2d(self.maps(x_NCHW).softmax(1), 2)
        return self.lanes(self.hidden(bilinear(shares, GRID).flatten(1)).relu())


def check_size(name: str, images_NCHW: Tensor) -> None:
    """Refuse images that three halvings and doublings would not give back."""
    if any(side % 8 or not side for side in images_NCHW.shape[-2:]):
        raise ValueError(
            f"{name} halves and doubles its maps three times, so height and width must be "
            f"multiples of 8, not {tuple(images_NCHW.shape[-2:])}"
        )


def check_width(name: str, width: int) -> None:
    """Refuse a first stage that cannot hold the three pooled colours and something learnt."""
    if width < 4:
        raise ValueError(
            f"{name} puts the 3 colours among the channels of its first stage: width must be at "
            f"least 4, not {width}"
        )


class ERFNet(nn.Module):
    """Encoder of factored residual blocks and a small decoder: logits at the images' resolution.

    2.07 M parameters for 37 classes, 2.61 M for 5 with the existence head of 4 lanes; 10.3 10^9
    multiply-adds at 208 x 976 for 5 classes, 10.4 10^9 with the head.

    `forward(images_NCHW)` takes RGB in [0, 1], height and width multiples of 8. Features: "middle"
    (4 * width channels, 1/4: block 2 of the encoder) and "high" (8 * width, 1/8: block 3, its
    output), the two levels of inter-region affinity distillation.

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
        check_width("ERFNet", width)
        quarter, eighth = 4 * width, 8 * width
        self.input_norm = InputNorm(mean, std, bgr=bgr)
        self.block1 = Downsampler(3, width)
        self.block2 = nn.Sequential(
            Downsampler(width, quarter), *(NonBottleneck1D(quarter, 0.1) for _ in range(5))
        )
        self.block3 = nn.Sequential(
            Downsampler(quarter, eighth), *(NonBottleneck1D(eighth, 0.1, d) for d in DILATIONS)
        )
        self.decoder = nn.Sequential(
            Upsampler(eighth, quarter),
            *(NonBottleneck1D(quarter) for _ in range(2)),
            Upsampler(quarter, width),
            *(NonBottleneck1D(width) for _ in range(2)),
            nn.ConvTranspose2d(width, num_classes, 2, 2),
        )
        self.existence = None
        if lanes is not None:
            self.existence = Existence(eighth, lanes, channels=2 * width, hidden=eighth)

    def forward(self, images_NCHW: Tensor) -> SegmentationOutput:
        check_size("ERFNet", images_NCHW)
        middle = self.block2(self.block1(self.input_norm(images_NCHW)))
        high = self.block3(middle)
        existence = None if self.existence is None else self.existence(high)
        features = {"middle": middle, "high": high}
        return SegmentationOutput(self.decoder(high), None, features, existence)
