"""Sums inside regions, compiled for the CPU: the passes over maps behind `kdlib.losses.moments`.

In torch each region and each power is an operation of its own with a pass over memory, and maps in
training's format, channels last, lie the wrong way round for it. A loop that takes all powers of a
region's pixels at once reads the map about once, in the order in which it lies.

`kdlib.losses.moment_sums` has the same functions for other devices. Numba compiles a loop when it
is first called with a type, in less than a second. No result depends on the number of threads.

Shape suffixes: N images, R regions, C channels, P pixels.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

# pixels of a region that give the value near its mean
_SAMPLES = 16


class Places(NamedTuple):
    """Where the regions of the images lie."""

    inside: np.ndarray  # (N, R, P) bool
    pixels: np.ndarray  # of region after region, image after image
    starts: np.ndarray  # (N, R + 1): where in `pixels` a region starts, and the last one ends
    counts: Tensor  # (N, R, 1): pixels of each region


def places(areas_NRHW: Tensor) -> Places:
    """The pixels of each region."""
    inside_NRP = areas_NRHW.flatten(2).contiguous().numpy()
    pixels, starts = _listed(inside_NRP)
    counts_NR1 = torch.from_numpy(np.diff(starts))[..., None]
    return Places(inside_NRP, pixels, starts, counts_NR1)


def power_sums(features_NCHW: Tensor, where: Places) -> tuple[Tensor, Tensor]:
    """(N, R, C) values near the means, and (3, N, R, C) sums of powers of what exceeds them.

    The value is the mean of some of the region's pixels, measured from one of them: of equal values
    it is that value exactly.
    """
    features_NCHW = _dense(features_NCHW)
    n_images, n_regions = where.inside.shape[:2]
    near_NRC = features_NCHW.new_zeros(n_images, n_regions, features_NCHW.shape[1])
    sums_N3RC = torch.stack([near_NRC] * 3, 1)
    kernel = _sum_columns if _by_pixel(features_NCHW) else _sum_rows
    _each_image(kernel, _matrices(features_NCHW), where, near_NRC.numpy(), sums_N3RC.numpy())
    return near_NRC, sums_N3RC.transpose(0, 1)


def evaluate(features_NCHW: Tensor, where: Places, factors_NRC: Sequence[Tensor]) -> Tensor:
    """c0 + c1 y + c2 y^2 with y = x - near, added over a pixel's regions; 0 outside of all.

    `factors_NRC` are near, c0, c1 and c2.
    """
    features_NCHW = _dense(features_NCHW)
    found_NCHW = torch.zeros_like(features_NCHW)
    factors_N4RC = torch.stack(list(factors_NRC), 1).numpy()
    kernel = _evaluate_columns if _by_pixel(features_NCHW) else _evaluate_rows
    _each_image(kernel, _matrices(features_NCHW), where, factors_N4RC, _matrices(found_NCHW))
    return found_NCHW


def _by_pixel(features_NCHW: Tensor) -> bool:
    """Do the channels of a pixel lie side by side, rather than the pixels of a channel?"""
    return not features_NCHW.is_contiguous()


def _dense(features_NCHW: Tensor) -> Tensor:
    last = features_NCHW.is_contiguous(memory_format=torch.channels_last)
    return features_NCHW.detach() if last else features_NCHW.detach().contiguous()


def _matrices(features_NCHW: Tensor) -> np.ndarray:
    """(N, P, C) or (N, C, P), as it lies."""
    if _by_pixel(features_NCHW):
        return features_NCHW.permute(0, 2, 3, 1).flatten(1, 2).numpy()
    return features_NCHW.flatten(2).numpy()


def _each_image(kernel: Callable, x: np.ndarray, where: Places, *others: np.ndarray) -> None:
    """Call a kernel for every image, on torch's number of threads."""

    def run(n: int) -> None:
        kernel(x[n], where.inside[n], where.pixels, where.starts[n], *(o[n] for o in others))

    threads = min(torch.get_num_threads(), len(x))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, range(len(x))))
    else:
        for n in range(len(x)):
            run(n)


# The order of a sum is the compiler's choice, so that it can add several at once; NaN and infinity
# stay what they are. Without the interpreter's lock threads run side by side.
_compiled = njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})


@_compiled
def _listed(inside_NRP):
    """`pixels` and `starts`. Without a sign, or each lookup would ask if it counts from the end."""
    n_images, n_regions, n_pixels = inside_NRP.shape
    starts = np.empty((n_images, n_regions + 1), np.int64)
    pixels = np.empty(inside_NRP.sum() + 1, np.uint32)  # one more, for what is written in vain
    k = 0
    for n in range(n_images):
        for r in range(n_regions):
            starts[n, r] = k
            for p in range(n_pixels):
                pixels[k] = p
                k += inside_NRP[n, r, p]
        starts[n, n_regions] = k
    return pixels, starts


@_compiled
def _sum_rows(x_CP, inside_RP, pixels, starts, near_RC, sums_3RC):
    """Channel by channel: a row is read from memory for its first region, then from the cache."""
    n_pixels = x_CP.shape[1]
    zero, samples = x_CP.dtype.type(0), x_CP.dtype.type(_SAMPLES)
    taken = np.empty(n_pixels, x_CP.dtype)
    for c in range(len(x_CP)):
        row = x_CP[c]
        for r in range(len(inside_RP)):
            at = pixels[starts[r] : starts[r + 1]]
            size = len(at)
            if size == 0:
                continue
            first, excess = row[at[0]], zero
            for m in range(_SAMPLES):
                excess += row[at[m * size // _SAMPLES]] - first
            near = first + excess / samples
            sum1, sum2, sum3 = zero, zero, zero
            if 4 * size > n_pixels:  # to pass over the others costs less than to look up each
                inside = inside_RP[r]
                for p in range(n_pixels):
                    y = row[p] - near if inside[p] else zero
                    sum1 += y
                    sum2 += y * y
                    sum3 += y * y * y
            else:
                for k in range(size):
                    taken[k] = row[at[k]]
                for k in range(size):
                    y = taken[k] - near
                    sum1 += y
                    sum2 += y * y
                    sum3 += y * y * y
            near_RC[r, c] = near
            sums_3RC[0, r, c], sums_3RC[1, r, c], sums_3RC[2, r, c] = sum1, sum2, sum3


@_compiled
def _sum_columns(x_PC, inside_RP, pixels, starts, near_RC, sums_3RC):
    """Pixel by pixel, all channels at once; four pixels, so that sums are stored less often."""
    samples = x_PC.dtype.type(_SAMPLES)
    for r in range(len(inside_RP)):
        at = pixels[starts[r] : starts[r + 1]]
        size = len(at)
        if size == 0:
            continue
        near, sum1, sum2, sum3 = near_RC[r], sums_3RC[0, r], sums_3RC[1, r], sums_3RC[2, r]
        first = x_PC[at[0]]
        for m in range(_SAMPLES):
            x = x_PC[at[m * size // _SAMPLES]]
            for c in range(len(near)):
                near[c] += x[c] - first[c]
        for c in range(len(near)):
            near[c] = first[c] + near[c] / samples
        for k in range(0, size - 3, 4):
            xa, xb, xc, xd = x_PC[at[k]], x_PC[at[k + 1]], x_PC[at[k + 2]], x_PC[at[k + 3]]
            for c in range(len(near)):
                a, b, d, e = xa[c] - near[c], xb[c] - near[c], xc[c] - near[c], xd[c] - near[c]
                sum1[c] += (a + b) + (d + e)
                sum2[c] += (a * a + b * b) + (d * d + e * e)
                sum3[c] += (a * a * a + b * b * b) + (d * d * d + e * e * e)
        for k in range(size - size % 4, size):
            x = x_PC[at[k]]
            for c in range(len(near)):
                y = x[c] - near[c]
                sum1[c] += y
                sum2[c] += y * y
                sum3[c] += y * y * y


@_compiled
def _evaluate_rows(x_CP, inside_RP, pixels, starts, factors_4RC, found_CP):
    n_pixels = x_CP.shape[1]
    zero = x_CP.dtype.type(0)
    for c in range(len(x_CP)):
        row, found = x_CP[c], found_CP[c]
        for r in range(len(inside_RP)):
            at = pixels[starts[r] : starts[r + 1]]
            near, c0 = factors_4RC[0, r, c], factors_4RC[1, r, c]
            c1, c2 = factors_4RC[2, r, c], factors_4RC[3, r, c]
            if 4 * len(at) > n_pixels:
                inside = inside_RP[r]
                for p in range(n_pixels):
                    y = row[p] - near
                    found[p] += (c2 * y + c1) * y + c0 if inside[p] else zero
            else:
                for k in range(len(at)):
                    y = row[at[k]] - near
                    found[at[k]] += (c2 * y + c1) * y + c0


@_compiled
def _evaluate_columns(x_PC, inside_RP, pixels, starts, factors_4RC, found_PC):
    for r in range(len(inside_RP)):
        at = pixels[starts[r] : starts[r + 1]]
        near, c0 = factors_4RC[0, r], factors_4RC[1, r]
        c1, c2 = factors_4RC[2, r], factors_4RC[3, r]
        for k in range(len(at)):
            x, found = x_PC[at[k]], found_PC[at[k]]
            for c in range(len(near)):
                y = x[c] - near[c]
                found[c] += (c2[c] * y + c1[c]) * y + c0[c]
