"""Sums inside regions, compiled for the CPU: the passes over maps behind `kdlib.losses.moments`.

In torch each region and each power is an operation of its own with a pass over memory, and maps in
training's format, channels last, lie the wrong way round for it. A loop that takes all powers of a
region's pixels at once reads the map about once, in the order in which it lies.

`kdlib.losses.moment_sums` has the same functions for other devices. Numba compiles a loop when it
is first called with a type, in less than a second. No result depends on the number of threads.

Which parts of the arithmetic may be rearranged is told loop by loop: what is measured from a value
near the mean must be exactly 0 where it equals that value, or gradients of quiet channels drown.

Shape suffixes: N images, R regions, C channels, P pixels.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

# The value near a region's mean is that of sixteen pixels, one of each sixteenth of the region.
# Where in it, in 256ths, follows no rule (digits of pi): at equal distances all would lie in one
# column of a region of 16, 32, ... full rows: in the border, where padding makes values of its own.
_PLACES = np.array(list(bytes.fromhex("243f6a8885a308d313198a2e03707344")))
# pixels whose sums are taken in the maps' type; the sums of such chunks are added in float64
_CHUNK = 2048
# entries below which a second thread costs more than it takes over
_ENTRIES = 2**20


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
    shape_NRC = (*where.inside.shape[:2], features_NCHW.shape[1])
    near_NRC = features_NCHW.new_zeros(shape_NRC)
    sums_N3RC = torch.zeros(shape_NRC[0], 3, *shape_NRC[1:], dtype=torch.float64)
    kernel = _sum_columns if _by_pixel(features_NCHW) else _sum_rows
    _each_image(kernel, _matrices(features_NCHW), where, near_NRC.numpy(), sums_N3RC.numpy())
    return near_NRC, sums_N3RC.transpose(0, 1).to(features_NCHW.dtype)


def evaluate(features_NCHW: Tensor, where: Places, factors_NRC: Sequence[Tensor]) -> Tensor:
    """The gradient, see `kdlib.losses.moments`: c0 + c1 y + c2 y^2 with y = x - near, added over a
    pixel's regions; 0 outside of all. `factors_NRC` are near, c0, c1 and c2."""
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
    """Call a kernel for every image, on torch's number of threads but at most one an image."""

    def run(n: int) -> None:
        kernel(x[n], where.inside[n], where.pixels, where.starts[n], *(o[n] for o in others))

    threads = min(torch.get_num_threads(), len(x))
    if threads > 1 and x.size >= _ENTRIES:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, range(len(x))))
    else:
        for n in range(len(x)):
            run(n)


# Without the interpreter's lock threads run side by side. What one compiled function calls would
# inherit its freedoms, so "none" is written out.
_exact = njit(nogil=True, fastmath=False)
# A product and a sum may be rounded once.
_compiled = njit(nogil=True, fastmath={"contract"})
# Terms of a sum may be added in any order, so several at once; NaN and infinity stay what they are.
_reordered = njit(nogil=True, fastmath={"contract", "reassoc", "nsz"})


@_compiled
def _listed(inside_NRP):
    """`pixels` and `starts`. Unsigned: with a sign each lookup asks if it counts from the end."""
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


@_exact
def _less(x, near):
    return x - near


@_exact
def _sampled(m, n_pixels):
    """Which of a region's pixels is its m-th sample."""
    return (256 * m + _PLACES[m]) * n_pixels // (256 * len(_PLACES))


@_reordered
def _sum_rows(x_CP, inside_RP, pixels, starts, near_RC, sums_3RC):
    """Channel by channel: a row is read from memory for its first region, then from the cache."""
    n_pixels = x_CP.shape[1]
    zero, samples = x_CP.dtype.type(0), x_CP.dtype.type(len(_PLACES))
    taken = np.empty(_CHUNK, x_CP.dtype)
    for c in range(len(x_CP)):
        row = x_CP[c]
        for r in range(len(inside_RP)):
            at = pixels[starts[r] : starts[r + 1]]
            if len(at) == 0:
                continue
            first, excess = row[at[0]], zero
            for m in range(len(_PLACES)):
                excess += _less(row[at[_sampled(m, len(at))]], first)
            near = first + excess / samples
            near_RC[r, c] = near
            # to pass over the pixels outside costs less than to look up each one inside
            all_pixels = 4 * len(at) > n_pixels
            n_steps = n_pixels if all_pixels else len(at)
            for low in range(0, n_steps, _CHUNK):
                size = min(_CHUNK, n_steps - low)
                sum1, sum2, sum3 = zero, zero, zero
                if all_pixels:
                    x, inside = row[low : low + size], inside_RP[r, low : low + size]
                    for p in range(size):
                        y = _less(x[p], near) if inside[p] else zero
                        sum1 += y
                        sum2 += y * y
                        sum3 += y * y * y
                else:
                    some = at[low : low + size]
                    for k in range(size):
                        taken[k] = row[some[k]]
                    for k in range(size):
                        y = _less(taken[k], near)
                        sum1 += y
                        sum2 += y * y
                        sum3 += y * y * y
                sums_3RC[0, r, c] += sum1
                sums_3RC[1, r, c] += sum2
                sums_3RC[2, r, c] += sum3


@_compiled
def _sum_columns(x_PC, inside_RP, pixels, starts, near_RC, sums_3RC):
    """Four pixels at a time, all channels of each, so that sums are stored less often."""
    n_channels = x_PC.shape[1]
    zero = x_PC.dtype.type(0)
    sums = np.empty((3, n_channels), x_PC.dtype)
    sum1, sum2, sum3 = sums[0], sums[1], sums[2]
    for r in range(len(inside_RP)):
        at = pixels[starts[r] : starts[r + 1]]
        if len(at) == 0:
            continue
        near, first = near_RC[r], x_PC[at[0]]
        for m in range(len(_PLACES)):
            x = x_PC[at[_sampled(m, len(at))]]
            for c in range(n_channels):
                near[c] += x[c] - first[c]
        for c in range(n_channels):
            near[c] = first[c] + near[c] / x_PC.dtype.type(len(_PLACES))
        for low in range(0, len(at), _CHUNK):
            some = at[low : low + _CHUNK]
            sums[:] = zero
            for k in range(0, len(some) - 3, 4):
                x0, x1, x2, x3 = (
                    x_PC[some[k]],
                    x_PC[some[k + 1]],
                    x_PC[some[k + 2]],
                    x_PC[some[k + 3]],
                )
                for c in range(n_channels):
                    y0, y1 = x0[c] - near[c], x1[c] - near[c]
                    y2, y3 = x2[c] - near[c], x3[c] - near[c]
                    sum1[c] += (y0 + y1) + (y2 + y3)
                    sum2[c] += (y0 * y0 + y1 * y1) + (y2 * y2 + y3 * y3)
                    sum3[c] += (y0 * y0 * y0 + y1 * y1 * y1) + (y2 * y2 * y2 + y3 * y3 * y3)
            for k in range(len(some) - len(some) % 4, len(some)):
                x = x_PC[some[k]]
                for c in range(n_channels):
                    y = x[c] - near[c]
                    sum1[c] += y
                    sum2[c] += y * y
                    sum3[c] += y * y * y
            for m in range(3):
                for c in range(n_channels):
                    sums_3RC[m, r, c] += sums[m, c]


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
