"""Sums inside regions: the passes over feature maps behind `kdlib.losses.moments`.

Every pass is there twice: on the CPU over the pixels inside regions only (`..._chosen`), elsewhere
over the whole maps (`..._whole`): to look for pixels is to wait for the device.

Shape suffixes: N images, R regions, C channels, P pixels, K chosen pixels, M sampled pixels.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# pixels of a region that give the value near its mean
_SAMPLES = 16
# regions of which a device is not asked whether they are there
_FEW = 8
# entries worked on at once on the CPU: a slice of one image, and a block that stays in the cache
_SLICE, _BLOCK = 2**22, 2**19


class Image(NamedTuple):
    """Where the regions of one image lie. Large ones hold more than half of the pixels."""

    numbers: list[int]  # of the regions present, the large ones first
    sampled: Tensor  # (large regions * M,) pixels
    outside: list[Tensor]  # of each large region the pixels that are not in it
    sizes: list[int]  # of each small region
    pixels: Tensor  # (sum of sizes,) of the small regions
    places: Tensor  # (small regions * M,) where in `pixels` the samples are


def images_of(areas_NRHW: Tensor) -> list[Image] | None:
    """Pixels of the regions of each image; None where looking for them would wait for a device."""
    if areas_NRHW.device.type != "cpu":
        return None
    steps_M = torch.arange(_SAMPLES)
    images = []
    for areas_RP in areas_NRHW.flatten(2):
        regions = [(r, area_P, area_P.nonzero().squeeze(1)) for r, area_P in enumerate(areas_RP)]
        large = [each for each in regions if 2 * len(each[2]) > len(each[1])]
        small = [each for each in regions if 0 < 2 * len(each[2]) <= len(each[1])]
        sizes = [len(pixels_K) for _, _, pixels_K in small]
        starts = itertools.accumulate(sizes, initial=0)
        sampled = [pixels_K[steps_M * len(pixels_K) // _SAMPLES] for _, _, pixels_K in large]
        places = [
            start + steps_M * size // _SAMPLES for start, size in zip(starts, sizes, strict=False)
        ]
        images.append(
            Image(
                [r for r, _, _ in large + small],
                _joined(sampled),
                [(~area_P).nonzero().squeeze(1) for _, area_P, _ in large],
                sizes,
                _joined([pixels_K for _, _, pixels_K in small]),
                _joined(places),
            )
        )
    return images


def _joined(indices: list[Tensor]) -> Tensor:
    return torch.cat(indices) if indices else torch.empty(0, dtype=torch.long)


def _rows(features_CHW: Tensor) -> Tensor:
    """(C, P), each channel's pixels side by side.

    A channels-last map is copied as one matrix: torch transposes that several times faster than
    some of its channels, or than a map of three dimensions.
    """
    return features_CHW.flatten(1).contiguous()


def _slices(x_CP: Tensor) -> list[slice]:
    """Of the channels, as many at once as are worked on."""
    channels, pixels = x_CP.shape
    step = max(1, _SLICE // pixels)
    return [slice(first, first + step) for first in range(0, channels, step)]


def _blocks(x_CP: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors in parts of as many channels as stay in the cache."""
    rows = max(1, _BLOCK // x_CP.shape[1])
    return zip(*(x.split(rows) for x in (x_CP, *others)), strict=True)


def _space(features_NCHW: Tensor, images: list[Image]) -> tuple[Tensor, Tensor]:
    """Room for a block, and for the small regions of a slice: new memory each time is slow."""
    _, channels, height, width = features_NCHW.shape
    most = max((len(image.pixels) for image in images), default=0)
    rows = min(channels, max(1, _SLICE // (height * width)))
    return (
        features_NCHW.new_empty(max(_BLOCK, height * width)),
        features_NCHW.new_empty(rows * most),
    )


def _in(space: Tensor, rows: int, columns: int) -> Tensor:
    return space[: rows * columns].view(rows, columns)


def _near(x_CK: Tensor, sampled: Tensor) -> tuple[Tensor, ...]:
    """(C, 1) for each M sampled columns: their mean.

    Measured from one of them: of equal values it must be that value exactly.
    """
    sampled_CRM = x_CK.index_select(1, sampled).unflatten(1, (-1, _SAMPLES))
    first_CR1 = sampled_CRM[..., :1]
    return ((sampled_CRM - first_CR1).mean(2) + first_CR1.squeeze(2)).split(1, dim=1)


def sums_chosen(
    features_NCHW: Tensor, n_regions: int, images: list[Image]
) -> tuple[Tensor, Tensor]:
    """(N, R, C) values near the means, and (3, N, R, C) sums of powers of what exceeds them."""
    shape = (len(images), n_regions, features_NCHW.shape[1])
    near_NRC, sums_3NRC = features_NCHW.new_zeros(shape), features_NCHW.new_zeros(3, *shape)
    spaces = _space(features_NCHW, images)
    for n, image in enumerate(images):
        if not image.numbers:
            continue
        x_CP = _rows(features_NCHW[n])
        for part in _slices(x_CP):
            near, sums = _sums_of(x_CP[part], image, *spaces)
            near_NRC[n, image.numbers, part] = torch.cat(near, 1).T
            sums_3NRC[:, n, image.numbers, part] = torch.cat(sums, 1)
    return near_NRC, sums_3NRC


def _sums_of(
    x_CP: Tensor, image: Image, space: Tensor, space_small: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Of a slice: (C, 1) values near each region's mean, and sums (3, regions, C)."""
    zero = x_CP.new_zeros(1, 1)
    near = list(_near(x_CP, image.sampled)) if image.outside else []
    found = [[] for _ in near]
    small_CK = _in(space_small, len(x_CP), len(image.pixels))
    for x, small, *starts in _blocks(x_CP, small_CK, *near):
        for start, outside_K, sums in zip(starts, image.outside, found, strict=True):
            y = torch.sub(x, start, out=_in(space, *x.shape))
            _clear(y, outside_K, zero)
            sums.append(_power_sums([y], y))
        if image.sizes:
            # while the block is in the cache; pixel by pixel it would come slowly
            if not near:
                x.sum()
            torch.index_select(x, 1, image.pixels, out=small)
    sums = [torch.cat(each, 2) for each in found]
    if image.sizes:
        near_small = _near(small_CK, image.places)
        regions = small_CK.split(image.sizes, dim=1)
        for y_CK, near_C1 in zip(regions, near_small, strict=True):
            y_CK -= near_C1
        sums.append(_power_sums(regions, small_CK))
        near += near_small
    return near, sums


def _clear(y_CP: Tensor, pixels_K: Tensor, zero: Tensor) -> None:
    if len(pixels_K):
        shape = (len(y_CP), len(pixels_K))
        y_CP.scatter_(1, pixels_K.expand(shape), zero.expand(shape))


def _power_sums(regions: Sequence[Tensor], whole: Tensor) -> Tensor:
    """(3, regions, C): sums of y, y^2 and y^3 over the (C, K) parts of `whole`, which is spent."""
    first = [y_CK.sum(1) for y_CK in regions]
    # a norm reads once and writes nothing
    second = [torch.linalg.vector_norm(y_CK, dim=1).square() for y_CK in regions]
    whole.pow_(3)
    third = [y_CK.sum(1) for y_CK in regions]
    return torch.stack(first + second + third).unflatten(0, (3, -1))


def evaluate_chosen(
    gradient_NCHW: Tensor,
    features_NCHW: Tensor,
    images: list[Image],
    factors_NRC: Sequence[Tensor],
) -> None:
    """Fill the gradient: c0 + c1 y + c2 y^2 with y = x - near, added over a pixel's regions.

    `factors_NRC` are near, c0, c1 and c2.
    """
    spaces = _space(features_NCHW, images), _space(features_NCHW, images)
    factors_4NRC = torch.stack(list(factors_NRC))
    for n, image in enumerate(images):
        x_CP, gradient_CP = _rows(features_NCHW[n]), gradient_NCHW[n].flatten(1)
        rows_CP = gradient_CP if gradient_CP.is_contiguous() else torch.empty_like(x_CP)
        for part in _slices(x_CP):
            factors_CR41 = factors_4NRC[:, n, image.numbers, part, None].permute(2, 1, 0, 3)
            _evaluate(rows_CP[part], x_CP[part], image, factors_CR41, *spaces)
        if rows_CP is not gradient_CP:
            gradient_CP.T.copy_(rows_CP.T)  # as one matrix, see `_rows`


def _evaluate(
    gradient_CP: Tensor,
    x_CP: Tensor,
    image: Image,
    factors_CR41: Tensor,
    *all_spaces: tuple[Tensor, Tensor],
) -> None:
    """`evaluate_chosen` of a slice."""
    spaces, spaces_small = zip(*all_spaces, strict=True)
    zero = x_CP.new_zeros(1, 1)
    y_small, value_small = (_in(each, len(x_CP), len(image.pixels)) for each in spaces_small)
    if image.sizes:
        for x, y in _blocks(x_CP, y_small):
            x.sum()  # as above
            torch.index_select(x, 1, image.pixels, out=y)
        parts = (each.split(image.sizes, dim=1) for each in (y_small, value_small))
        factors = factors_CR41.unbind(1)[len(image.outside) :]
        for y, value, each in zip(*parts, factors, strict=True):
            near, *c = each.unbind(1)
            _polynomial(y.sub_(near), *c, out=value)
    for x, out, chosen, each in _blocks(x_CP, gradient_CP, value_small, factors_CR41):
        out.zero_()
        for j, outside_K in enumerate(image.outside):
            near, *c = each[:, j].unbind(1)
            y, value = (_in(space, *x.shape) for space in spaces)
            _polynomial(torch.sub(x, near, out=y), *c, out=value)
            _clear(value, outside_K, zero)
            out += value
        out.index_add_(1, image.pixels, chosen)


def _polynomial(y: Tensor, c0: Tensor, c1: Tensor, c2: Tensor, *, out: Tensor) -> None:
    torch.mul(y, c2, out=out)
    out += c1
    out *= y
    out += c0


def present_of(areas_NRHW: Tensor) -> list[int]:
    """Numbers of the regions to go over: all if they are few, else those that any image has.

    A data set may have 37 classes and its pictures a few: then the passes saved cost far more than
    the wait for the device. Of the background and four lanes a batch shows all anyhow.
    """
    if areas_NRHW.shape[1] <= _FEW:
        return list(range(areas_NRHW.shape[1]))
    return areas_NRHW.flatten(2).any(2).any(0).nonzero().flatten().tolist()


def sums_whole(
    features_NCHW: Tensor, areas_NRHW: Tensor, present: list[int]
) -> tuple[Tensor, Tensor]:
    """`sums_chosen` without a choice of pixels: each present region is a pass over all maps."""
    x_NCP = features_NCHW.flatten(2)
    shape = (*areas_NRHW.shape[:2], features_NCHW.shape[1])
    near_NRC, sums_3NRC = features_NCHW.new_zeros(shape), features_NCHW.new_zeros(3, *shape)
    for r in present:
        inside_N1P = areas_NRHW[:, r].flatten(1)[:, None]
        count_N11 = inside_N1P.sum(2, keepdim=True)
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


def evaluate_whole(
    gradient_NCHW: Tensor,
    features_NCHW: Tensor,
    areas_NRHW: Tensor,
    present: list[int],
    factors_NRC: Sequence[Tensor],
) -> None:
    """`evaluate_chosen` without a choice of pixels."""
    x_NCP, gradient_NCP = features_NCHW.flatten(2), gradient_NCHW.flatten(2).zero_()
    for r in present:
        near, c0, c1, c2 = (f_NRC[:, r, :, None] for f_NRC in factors_NRC)
        y_NCP = x_NCP - near
        inside_N1P = areas_NRHW[:, r].flatten(1)[:, None]
        gradient_NCP += ((c2 * y_NCP + c1) * y_NCP + c0).where(inside_N1P, 0)
