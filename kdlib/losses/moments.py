"""Central moments of feature maps inside regions, with their gradient.

The numerical part of `kdlib.losses.affinity`. Sums of raw powers lose a quiet channel (fact sheet
inter_region_affinity, section 1.7), so each pixel is measured from a value near its region's mean.

Here are the moments and their gradient. The passes over the maps are in two modules with the same
functions, those of `Passes`: compiled for the CPU in `moment_kernels`, elsewhere with torch's
operations in `moment_sums`.

Shape suffixes: N images, R regions, C channels, H rows, W columns.
"""

import functools
from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from kdlib.losses import moment_sums


class Places(Protocol):
    """Where the regions of the images lie, in a form that only its own module reads further."""

    @property
    def counts(self) -> Tensor:
        """(N, R, 1): pixels of each region."""


Own = TypeVar("Own", bound=Places)


class Passes(Protocol[Own]):
    """What a module has to have for the passes over the maps; `Own` is its own form of places."""

    def places(self, areas_NRHW: Tensor) -> Own:
        """From (N, R, H, W) bool, for the two other functions."""

    def power_sums(self, features_NCHW: Tensor, where: Own) -> tuple[Tensor, Tensor]:
        """(N, R, C) values near the means, and (3, N, R, C) sums of powers of what exceeds them."""

    def evaluate(self, features_NCHW: Tensor, where: Own, factors_NRC: Sequence[Tensor]) -> Tensor:
        """The gradient from near, c0, c1 and c2 (`_CentralMoments.backward`), as the features."""


@functools.cache
def _passes(device: str) -> Passes:
    """The module for a type of device; torch's, only slower, where numba can't be had."""
    if device != "cpu":
        return moment_sums
    try:  # only here: numba takes its time, which others need not spend
        from kdlib.losses import moment_kernels
    except ImportError:
        return moment_sums
    return moment_kernels


def central_moments(features_NCHW: Tensor, areas_NRHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, second and third central moment of every channel inside every region.

    A channel that is constant in a region gets its value and twice an exact 0; so does a region of
    one pixel, and two pixels have a third moment of exactly 0. Absent regions have 0 throughout.
    Differentiable once, with respect to the features; without a gradient nothing is kept. Compiled,
    the work grows with the pixels inside regions; otherwise every region costs a pass over the
    whole maps. Of more than eight only those that an image has, and the forward pass waits for the
    device, once, to know which.

    Args:
        features_NCHW: float32 or float64, any memory format.
        areas_NRHW: bool; regions may overlap, and leave pixels out.

    Returns:
        Three tensors (N, R, C), the sums divided by the region's number of pixels.

    Raises:
        ValueError: areas of another type or of other images, rows or columns.
    """
    sizes = [(len(x), *x.shape[2:]) for x in (features_NCHW, areas_NRHW)]
    if areas_NRHW.dtype != torch.bool or sizes[0] != sizes[1]:  # compiled loops ask nothing
        raise ValueError(
            f"areas must be bool and have the features' N, H and W, {sizes[0]}; they are "
            f"{areas_NRHW.dtype} and have {sizes[1]}"
        )
    if torch.is_grad_enabled() and features_NCHW.requires_grad:
        return _CentralMoments.apply(features_NCHW, areas_NRHW)
    with torch.no_grad():
        passes = _passes(features_NCHW.device.type)
        moments_NRC, _ = _forward(passes, features_NCHW, passes.places(areas_NRHW))
    return moments_NRC


class _CentralMoments(torch.autograd.Function):
    """`central_moments` with the gradient written out.

    With z = x - mean inside a region of n pixels, and the gradients g1, g2, g3 of its moments, the
    pixel's is (g1 + 2 z g2 + 3 (z^2 - second) g3) / n, added over the regions it lies in.
    """

    @staticmethod
    def forward(ctx, features_NCHW: Tensor, areas_NRHW: Tensor) -> tuple[Tensor, ...]:
        if areas_NRHW.is_inference():
            areas_NRHW = areas_NRHW.clone()  # the gradient keeps it
        ctx.passes = _passes(features_NCHW.device.type)
        ctx.where = ctx.passes.places(areas_NRHW)
        moments_NRC, kept_NRC = _forward(ctx.passes, features_NCHW, ctx.where)
        # the areas, whose memory `where` may share, so that a change of theirs is noticed
        ctx.save_for_backward(features_NCHW, areas_NRHW, moments_NRC[1], *kept_NRC)
        return moments_NRC

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads_NRC: Tensor) -> tuple[Tensor, None]:
        features_NCHW, _, second_NRC, near_NRC, rest_NRC = ctx.saved_tensors
        count_NR1 = ctx.where.counts
        g1_NRC, g2_NRC, g3_NRC = (g / count_NR1.clamp(min=1) for g in grads_NRC)
        # two pixels lie equally far from their mean
        g3_NRC = 3 * g3_NRC.where(count_NR1 > 2, 0)
        # an infinity, which a divisor near 0 can give, must not meet the 0 of a constant channel
        largest = torch.finfo(g3_NRC.dtype).max
        g3_NRC = g3_NRC.clamp(-largest, largest)
        # with y = x - near = z + rest: c0 + c1 y + c2 y^2
        c1_NRC = 2 * (g2_NRC - rest_NRC * g3_NRC)
        c0_NRC = g1_NRC - 2 * rest_NRC * g2_NRC + (rest_NRC.square() - second_NRC) * g3_NRC
        factors_NRC = (near_NRC, c0_NRC, c1_NRC, g3_NRC)
        return ctx.passes.evaluate(features_NCHW, ctx.where, factors_NRC), None


def _forward(
    passes: Passes[Own], features_NCHW: Tensor, where: Own
) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor]]:
    """The moments; and the value near the mean, and what the mean has beyond it: (N, R, C) each."""
    near_NRC, sums_3NRC = passes.power_sums(features_NCHW, where)
    count_NR1 = where.counts
    rest_NRC, square_NRC, cube_NRC = sums_3NRC / count_NR1.clamp(min=1)
    # from powers of y = z + rest to powers of z; a rest above the deviation would cost digits
    second_NRC = (square_NRC - rest_NRC.square()).clamp(min=0)
    third_NRC = cube_NRC - rest_NRC * (3 * second_NRC + rest_NRC.square())
    third_NRC = third_NRC.where(count_NR1 > 2, 0)
    return (near_NRC + rest_NRC, second_NRC, third_NRC), (near_NRC, rest_NRC)
