"""Cosine similarities between the nodes of a feature map, and how far two such matrices lie apart.

The parts of the pair-wise term of `kdlib.losses.structured`, which holds the term itself.
Fact sheet structured_kd, section 1.2.

Shape suffixes: N images, C channels, H rows, W columns, M nodes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

POOLS = ("max", "avg")

# A block of affinities: large enough for full speed of the products, small beside the features
_BLOCK_ROWS, _BLOCK_ENTRIES = 512, 2**22


def affinity(
    features_NCHW: Tensor,
    *,
    pool: str = "max",
    ratio: float = 0.5,
    window: int | None = None,
    detach_norm: bool = True,
    eps: float = 1e-8,
) -> Tensor:
    """Cosine similarities between the nodes of a feature map, the matrix that `pairwise` compares.

    Nodes are pooled without padding, kernel = stride, ceil mode: the last row and column of nodes
    may cover fewer pixels, and an average is over the pixels that are there.

    Args:
        features_NCHW: features. Half types are computed in float32, float64 stays.
        pool: "max" (as released) or "avg" (as the paper says).
        ratio: in (0, 1]; the kernel is (floor(H ratio), floor(W ratio)) pixels, as released.
        window: side of the kernel in pixels; overrides `ratio`. 1 makes every position a node.
        detach_norm: the gradient takes the norms for constants, as released.
        eps: >= 0, added to the norms. Zero vectors have similarity 0 to all, also with `eps=0`.
            Deviation: their norm counts as 1, so that their gradient has an ordinary size; the
            released code multiplies it by 1 / eps, which no half type holds.

    Returns:
        (N, M, M), nodes row by row: a_ij = f_i . f_j / ((|f_i| + eps) (|f_j| + eps)).

    Raises:
        ValueError: unknown pooling, a kernel of no pixel, a negative eps, no 4-dimensional map.
    """
    if features_NCHW.dim() != 4:
        raise ValueError(f"features must be (N, C, H, W), not {tuple(features_NCHW.shape)}")
    with torch.autocast(features_NCHW.device.type, enabled=False):
        dtype = torch.promote_types(features_NCHW.dtype, torch.float32)
        units_NCM = unit_nodes(features_NCHW.to(dtype), pool, ratio, window, detach_norm, eps)
        return units_NCM.transpose(1, 2) @ units_NCM


def unit_nodes(
    features_NCHW: Tensor,
    pool: str,
    ratio: float,
    window: int | None,
    detach_norm: bool,
    eps: float,
) -> Tensor:
    """(N, C, M): pooled nodes over their norms."""
    if pool not in POOLS:
        raise ValueError(f"pool must be one of {', '.join(POOLS)}, not {pool!r}")
    if not eps >= 0:
        raise ValueError(f"eps must not be negative, not {eps}")
    kernel = _kernel(tuple(features_NCHW.shape[-2:]), ratio, window)
    nodes_NCM = _pooled(features_NCHW, pool, kernel).flatten(2)
    norm_N1M = torch.linalg.vector_norm(nodes_NCM, dim=1, keepdim=True)
    if detach_norm:
        norm_N1M = norm_N1M.detach()
    # a zero vector stays one; 0 / (0 + eps) has a gradient of 1 / eps, or is NaN without eps
    return nodes_NCM / torch.where(norm_N1M > 0, norm_N1M + eps, 1)


def mean_squared_difference(units_s_NCM: Tensor, units_t_NCM: Tensor) -> Tensor:
    """Mean over N, M, M of (S' S - T' T)^2 for unit vectors S and T with the same N and M.

    Differentiable once, with respect to both. 0 for an empty batch.
    """
    return _MeanSquaredDifference.apply(units_s_NCM, units_t_NCM)


class _MeanSquaredDifference(torch.autograd.Function):
    """`mean_squared_difference`, block by block.

    D = S' S - T' T is symmetric, so only blocks on and above the diagonal are made. The gradient
    with respect to S is 4 / (N M^2) S D, the one with respect to T is -4 / (N M^2) T D.
    """

    @staticmethod
    def forward(ctx, units_s_NCM: Tensor, units_t_NCM: Tensor) -> Tensor:
        units = (units_s_NCM, units_t_NCM)
        n_images, _, nodes = units_s_NCM.shape
        gradients = [
            torch.zeros_like(u, memory_format=torch.contiguous_format) if needed else None
            for u, needed in zip(units, ctx.needs_input_grad, strict=True)
        ]
        total = units_s_NCM.new_zeros(())
        rows = max(1, min(nodes, _BLOCK_ROWS, _BLOCK_ENTRIES // max(nodes, 1)))
        images = max(1, _BLOCK_ENTRIES // max(rows * nodes, 1))
        for first in range(0, n_images, images):
            for top in range(0, nodes, rows):
                part = [u[first : first + images, :, top:] for u in units]
                height = min(rows, nodes - top)
                block, other = (u[..., :height].transpose(1, 2) @ u for u in part)
                block -= other
                del other
                on, above = block[..., :height], block[..., height:]
                total += on.square().sum() + 2 * above.square().sum()
                for u, gradient in zip(part, gradients, strict=True):
                    if gradient is None:
                        continue
                    out = gradient[first : first + images, :, top:]
                    out += u[..., :height] @ block
                    if above.numel():
                        out[..., :height] += u[..., height:] @ above.transpose(1, 2)
        scale = 1 / max(n_images * nodes * nodes, 1)
        for sign, gradient in zip((4, -4), gradients, strict=True):
            if gradient is not None:
                gradient *= sign * scale
        ctx.save_for_backward(*gradients)
        return total * scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gradient_s, gradient_t = (None if g is None else grad * g for g in ctx.saved_tensors)
        return gradient_s, gradient_t


def _kernel(size: tuple[int, int], ratio: float, window: int | None) -> tuple[int, int]:
    height, width = size
    if window is not None:
        if not isinstance(window, int) or window < 1:
            raise ValueError(f"window must be a whole number of pixels from 1 on, not {window}")
        return min(window, height), min(window, width)
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must lie above 0 and up to 1, not {ratio}")
    kernel = math.floor(height * ratio), math.floor(width * ratio)
    if 0 in kernel:
        raise ValueError(
            f"ratio {ratio} of a {height} x {width} map is a kernel of {kernel[0]} x {kernel[1]} "
            "pixels; raise ratio, or give window=1 to make every position a node"
        )
    return kernel


def _pooled(x_NCHW: Tensor, pool: str, kernel: tuple[int, int]) -> Tensor:
    """Pooled with stride = kernel, without padding, in ceil mode."""
    if kernel == (1, 1):
        return x_NCHW
    if x_NCHW.is_cuda and torch.are_deterministic_algorithms_enabled():
        return _pooled_repeatably(x_NCHW, pool, kernel)
    # without padding PyTorch averages over the pixels that a window has inside the map
    pooling = F.max_pool2d if pool == "max" else F.avg_pool2d
    return pooling(x_NCHW, kernel, kernel, ceil_mode=True)


def _pooled_repeatably(x_NCHW: Tensor, pool: str, kernel: tuple[int, int]) -> Tensor:
    """The same, where CUDA's gradients of the poolings may add in any order."""
    if pool == "max":
        # windows do not overlap: no pixel is picked twice
        _, index = F.max_pool2d(
            x_NCHW.detach(), kernel, kernel, ceil_mode=True, return_indices=True
        )
        return x_NCHW.flatten(2).gather(2, index.flatten(2)).unflatten(2, index.shape[2:])
    filled_NCHW = F.pad(x_NCHW, (0, -x_NCHW.shape[3] % kernel[1], 0, -x_NCHW.shape[2] % kernel[0]))
    sums_NCHW = filled_NCHW.unflatten(3, (-1, kernel[1])).unflatten(2, (-1, kernel[0])).sum((3, 5))
    rows, columns = (
        torch.arange(0, size, side, device=x_NCHW.device).neg().add(size).clamp(max=side)
        for size, side in zip(x_NCHW.shape[2:], kernel, strict=True)
    )
    return sums_NCHW / (rows[:, None] * columns)
