"""Input normalisation, owned by each network.

All networks take the same RGB images in [0, 1]: teacher and student get the identical tensor,
whatever statistics or channel order each was trained with.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class InputNorm(nn.Module):
    """(images - mean) / std, channel by channel, then the order of channels the network wants.

    Args:
        mean: mean of R, G, B as fractions.
        std: standard deviation of R, G, B as fractions.
        bgr: hand the channels on as B, G, R.
    """

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        *,
        bgr: bool = False,
    ):
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
            raise ValueError(f"mean and std must be three numbers each, std > 0, not {mean}, {std}")
        self.bgr = bgr
        # one multiplication and one addition for each value
        scale = torch.tensor([1 / s for s in std]).view(1, 3, 1, 1)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(1, 3, 1, 1)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        if images_NCHW.dim() != 4 or images_NCHW.shape[1] != 3:
            raise ValueError(f"images must be (N, 3, H, W), not {tuple(images_NCHW.shape)}")
        if not images_NCHW.is_floating_point():
            raise TypeError(
                f"images must be floats in [0, 1], not {images_NCHW.dtype}: divide by 255"
            )
        images_NCHW = images_NCHW * self.scale + self.shift
        return images_NCHW.flip(1) if self.bgr else images_NCHW
