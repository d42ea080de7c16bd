"""Sums inside regions with torch: the passes over feature maps behind `kdlib.losses.moments`.

For devices: every region is a pass over the whole maps, because to look for its pixels is to wait
for the device. `kdlib.losses.moment_kernels` has the same functions for the CPU.

Shape suffixes: N images, R regions, C channels, P pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# regions of which a device is not asked whether they are there
_FEW = 8


class Places(NamedTuple):
    """Where the regions of the images lie."""

    inside: Tensor  # (N, R, P) bool
    present: list[int]  # numbers of the regions to go over
    counts: Tensor  # (N, R, 1): pixels of each region


def places(areas_NRHW: Tensor) -> Places:
    """All regions if they are few, else those that any image has.

    A data set may have 37 classes and its pictures a few: then the passes saved cost far more than
    the wait for the device. Of the background and four lanes a batch shows all anyhow.
    """
    inside_NRP = areas_NRHW.flatten(2)
    counts_NR1 = inside_NRP.sum(2, keepdim=True)
    _, n_regions, n_pixels = inside_NRP.shape
    few = n_regions <= _FEW and n_pixels > 0
    return Places(inside_NRP, list(range(n_regions)) if few else _present(counts_NR1), counts_NR1)


def _present(counts_NR1: Tensor) -> list[int]:
    return (counts_NR1 > 0).any(0).nonzero()[:, 0].tolist()


def power_sums(features_NCHW: Tensor, where: Places) -> tuple[Tensor, Tensor]:
    """(N, R, C) values near the means, and (3, N, R, C) sums of powers of what exceeds them.

    The value is the region's mean as one pass finds it, measured from one of its pixels: of equal
    values it is that value exactly.
    """
    x_NCP = features_NCHW.flatten(2)
    shape = (*where.inside.shape[:2], features_NCHW.shape[1])
    near_NRC, sums_3NRC = features_NCHW.new_zeros(shape), features_NCHW.new_zeros(3, *shape)
    for r in where.present:
        inside_N1P = where.inside[:, r, None]
        count_N11 = where.counts[:, r, None]
        first_N11 = inside_N1P.to(torch.uint8).argmax(2, keepdim=True)
        near_NC1 = x_NCP.gather(2, first_N11.expand(-1, x_NCP.shape[1], -1))
        excess_NCP = (x_NCP - near_NC1).where(inside_N1P, 0)
        near_NC1 = near_NC1 + excess_NCP.sum(2, keepdim=True) / count_N11.clamp(min=1)
        near_NC1 = near_NC1.where(count_N11 > 0, 0)
        y_NCP = (x_NCP - near_NC1).where(inside_N1P, 0)
        square_NCP = y_NCP.square()
        near_NRC[:, r] = near_NC1.squeeze(2)
        powers = (y_NCP, square_NCP, square_NCP * y_NCP)
        sums_3NRC[:, :, r] = torch.stack([power_NCP.sum(2) for power_NCP in powers])
    return near_NRC, sums_3NRC


def evaluate(features_NCHW: Tensor, where: Places, factors_NRC: Sequence[Tensor]) -> Tensor:
    """The gradient, see `kdlib.losses.moments`: c0 + c1 y + c2 y^2 with y = x - near, added over a
    pixel's regions; 0 outside of all. `factors_NRC` are near, c0, c1 and c2."""
    x_NCP = features_NCHW.flatten(2)
    found_NCP = torch.zeros_like(x_NCP)
    for r in where.present:
        near, c0, c1, c2 = (f_NRC[:, r, :, None] for f_NRC in factors_NRC)
        y_NCP = x_NCP - near
        inside_N1P = where.inside[:, r, None]
        found_NCP += ((c2 * y_NCP + c1) * y_NCP + c0).where(inside_N1P, 0)
    return found_NCP.view_as(features_NCHW)
