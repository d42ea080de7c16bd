"""Bilinear resizing and pyramid pooling as matrix products.

Both are linear maps of the pixels, so a small matrix computes them exactly. Written that way they
are deterministic forward and backward on every device, where PyTorch's CUDA kernels for the
gradients of `interpolate` and `adaptive_avg_pool2d` add in an order that changes from run to run
(the second one refuses to run under `torch.use_deterministic_algorithms(True)`, the first falls
back to a slow form).

Shape suffixes: N images, C channels, H rows, W columns, B pooled cells.
Not supported: anti-aliasing, corners not aligned.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def _interpolation(size_in: int, size_out: int) -> Tensor:
    """(size_out, size_in) weights of linear interpolation, end points aligned, float64, CPU."""
    if size_out == 1:
        positions = torch.zeros(1, dtype=torch.float64, device="cpu")
    else:
        # integers first, one division: whole positions stay whole
        steps = torch.arange(size_out, dtype=torch.float64, device="cpu")
        positions = steps * (size_in - 1) / (size_out - 1)
    lower = positions.floor().long().clamp(max=max(size_in - 2, 0))
    fraction = positions - lower
    weights = torch.zeros(size_out, size_in, dtype=torch.float64, device="cpu")
    rows = torch.arange(size_out, device="cpu")
    weights[rows, lower] = 1 - fraction
    if size_in > 1:
        weights[rows, lower + 1] = fraction
    return weights


def _cells(size_in: int, bins: int) -> Tensor:
    """(bins, size_in) of 0 and 1: the rows that adaptive pooling puts into each cell, float64."""
    cells = torch.zeros(bins, size_in, dtype=torch.float64, device="cpu")
    for i in range(bins):
        start, end = i * size_in // bins, -((-(i + 1) * size_in) // bins)
        cells[i, start:end] = 1
    return cells


def cached(make: Callable[P, T]) -> Callable[P, T]:
    """Keep the matrices of the last sizes, as tensors that may serve training as well."""

    def ordinary(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.inference_mode(False):
            return make(*args, **kwargs)

    kept = lru_cache(maxsize=64)(ordinary)

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        # the compiler traces the making itself; it warns of caches
        return (ordinary if torch.compiler.is_compiling() else kept)(*args, **kwargs)

    return call


@cached
def _axis_matrix(size_in: int, size_out: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _interpolation(size_in, size_out).to(device, dtype)


@cached
def _plane_matrix(
    size_in: tuple[int, int], size_out: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(H_out * W_out, H_in * W_in): both axes in one matrix, for inputs of a few cells."""
    rows = _interpolation(size_in[0], size_out[0])
    columns = _interpolation(size_in[1], size_out[1])
    return torch.kron(rows, columns).to(device, dtype)


@cached
def _pool_matrices(
    size: tuple[int, int], bins: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(H * W, B) of powers of two, and the (B,) factors that make means of the sums.

    A power of two near 1 / count is exact in every half type and keeps float16 sums small.
    """
    cells_BP = torch.cat([torch.kron(_cells(size[0], b), _cells(size[1], b)) for b in bins])
    counts_B = cells_BP.sum(1)
    scale_B = torch.exp2(-counts_B.log2().round())
    matrix_PB = (cells_BP * scale_B[:, None]).T.contiguous()
    factors_B = (1 / (counts_B * scale_B)).to(device, torch.promote_types(dtype, torch.float32))
    return matrix_PB.to(device, dtype), factors_B


def bilinear(x_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly to `size` = (height, width), corners aligned.

    Equal to `interpolate(x, size, mode="bilinear", align_corners=True)` up to rounding. Half types
    are resized in float32 and rounded once, at the end; the result has the dtype of `x_NCHW`.
    """
    height, width = x_NCHW.shape[-2:]
    if (height, width) == tuple(size):
        return x_NCHW
    dtype = torch.promote_types(x_NCHW.dtype, torch.float32)
    rows = _axis_matrix(height, size[0], dtype, x_NCHW.device)
    columns = _axis_matrix(width, size[1], dtype, x_NCHW.device)
    with torch.autocast(x_NCHW.device.type, enabled=False):
        # out = A_h x A_w^T, one axis after the other
        out_NCHW = torch.matmul(rows, torch.matmul(x_NCHW.to(dtype), columns.T))
    return out_NCHW.to(x_NCHW.dtype)


def spread(cells_NCHW: Tensor, size: tuple[int, int], *, channels_last: bool = False) -> Tensor:
    """`bilinear` for a map of a few cells: one product, written in either memory format."""
    dtype = torch.promote_types(cells_NCHW.dtype, torch.float32)
    matrix = _plane_matrix(tuple(cells_NCHW.shape[-2:]), tuple(size), dtype, cells_NCHW.device)
    flat_NCB = cells_NCHW.flatten(2).to(dtype)
    with torch.autocast(cells_NCHW.device.type, enabled=False):
        if channels_last:
            out_NCP = (
                torch.matmul(matrix, flat_NCB.transpose(1, 2)).to(cells_NCHW.dtype).transpose(1, 2)
            )
        else:
            out_NCP = torch.matmul(flat_NCB, matrix.T).to(cells_NCHW.dtype)
    return out_NCP.unflatten(2, tuple(size))


def pyramid_pool(x_NCHW: Tensor, bins: tuple[int, ...]) -> list[Tensor]:
    """Adaptive average pooling to b x b cells for every b of `bins`, all in one matrix product.

    Each result is (N, C, b, b), equal to `adaptive_avg_pool2d(x, b)` up to rounding.
    """
    matrix_PB, factors_B = _pool_matrices(
        tuple(x_NCHW.shape[-2:]), tuple(bins), x_NCHW.dtype, x_NCHW.device
    )
    with torch.autocast(x_NCHW.device.type, enabled=False):
        pooled_NCB = torch.matmul(x_NCHW.flatten(2), matrix_PB) * factors_B
    parts = pooled_NCB.to(x_NCHW.dtype).split([b * b for b in bins], dim=2)
    return [part.unflatten(2, (b, b)) for part, b in zip(parts, bins, strict=True)]


def to_grid(logits_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """A teacher's logits on its student's grid: averaged over areas where the grid is coarser,
    `bilinear` where it is finer. For targets only: the averaging is not deterministic backward.
    """
    if logits_NCHW.shape[-2] > size[0]:
        return torch.nn.functional.adaptive_avg_pool2d(logits_NCHW, size)
    return bilinear(logits_NCHW, size)
