"""How one image becomes scores at full resolution: whole, in tiles, mirrored, at several scales.

A network is here a callable from images (N, 3, h, w), RGB from 0 to 1, to logits (N, C, h', w') of
whatever resolution: ``lambda images: network(images).logits``. `scores` puts the ways together as
`Views` says; the defaults (whole image, once) are what `kdlib.evaluation` does. Structured
distillation reports with the defaults, and its released code holds the others: fact sheet 2.3.

Means are of raw scores, as released, unless `average` asks for probabilities; of a tile, a mirror
image or a scale no more than one is held beside the running sum.

Shape suffixes: N images, C channels or classes, H rows, W columns.
Not supported: anti-aliasing of scales below 1 (the released code has none), tiles of several images
at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from kdlib.resize import bilinear

Network = Callable[[Tensor], Tensor]
Average = Literal["scores", "probabilities"]


@dataclass(frozen=True)
class Views:
    """Which views of an image are scored, and how they are joined.

    Args:
        mode: "whole": the network sees the image at once. "sliding": it sees tiles.
        tile: rows and columns of a tile.
        stride: rows and columns from one tile to the next; None = `released_stride` of the tile.
        flip: score the mirrored image as well.
        scales: sizes of the image that are scored, as factors.
        average: "scores" averages raw scores over mirror images and scales, as released;
            "probabilities" averages their softmax over classes. Tiles always join by raw scores.
        fill: what a tile shows beyond the image, one number or one a channel, in the units of the
            image. The released code fills with zeros after the mean is subtracted, which is the
            mean colour here.

    Raises:
        ValueError: a setting that cannot work; the text names it.
    """

    mode: Literal["whole", "sliding"] = "whole"
    tile: tuple[int, int] = (512, 512)
    stride: tuple[int, int] | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    average: Average = "scores"
    fill: float | tuple[float, ...] = 0.0

    def __post_init__(self):
        if self.mode not in ("whole", "sliding"):
            raise ValueError(f"views.mode must be 'whole' or 'sliding', not {self.mode!r}")
        if self.mode == "sliding":
            _checked_stride(self.tile, self.stride)
        _check_joint(self.scales, self.average)


def scores(
    network: Network, images_NCHW: Tensor, size_hw: tuple[int, int], views: Views | None = None
) -> Tensor:
    """Scores at full resolution by all the views that `views` asks for.

    As in the released code the image is resized first, each size is mirrored, each of these is
    scored whole or in tiles, and every result is brought to `size_hw` before it is averaged.

    Args:
        network: images to logits; called under the caller's autocast and inference mode.
        images_NCHW: RGB from 0 to 1, at the size that the network shall see at scale 1.
        size_hw: height and width of the answer, usually the label's.
        views: None = the defaults: bit for bit ``bilinear(network(images).float(), size_hw)``.

    Returns:
        (N, C, H, W), raw scores, or probabilities where `views.average` says so; float32, or
        float64 where the logits are.
    """
    views = views or Views()
    if views.mode == "whole":
        score = partial(whole, network, size=size_hw)
    else:

        def score(images_NCHW: Tensor) -> Tensor:
            tiles = sliding(
                network, images_NCHW, tile=views.tile, stride=views.stride, fill=views.fill
            )
            return bilinear(tiles, size_hw)

    def view(images_NCHW: Tensor) -> Tensor:
        if views.flip:
            return flipped(score, images_NCHW, average=views.average)
        return _as(score(images_NCHW), views.average)

    return multi_scale(view, images_NCHW, views.scales)


def whole(network: Network, images_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Raw scores (N, C, H, W) at `size` of the image seen at once; bilinear, corners aligned."""
    return bilinear(_full(network(images_NCHW)), size)


def released_stride(tile: tuple[int, int]) -> tuple[int, int]:
    """ceil(2/3 * tile height) for both axes, as the released code has it (fact sheet 2.3)."""
    step = -(-2 * tile[0] // 3)
    return step, step


def sliding(
    network: Network,
    images_NCHW: Tensor,
    *,
    tile: tuple[int, int] = (512, 512),
    stride: tuple[int, int] | None = None,
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Raw scores (N, C, H, W) at the image's own size, from tiles; the mean where tiles overlap.

    Structured distillation, released code, fact sheet 2.3. Tiles lie on a grid of `stride`; the
    last of each row and column is moved back so that it ends with the image. Only an image smaller
    than a tile is padded, below and on the right, and the scores of the padding are cut off.

    Args:
        tile: rows and columns that the network sees at a time.
        stride: rows and columns between tiles; None = `released_stride`, from the tile's *height*
            for both axes, which leaves gaps where a tile is narrower than 2/3 of its height.
        fill: the padding, see `Views`.

    Raises:
        ValueError: an empty tile, or a stride that is not from 1 to the tile's size.
    """
    stride = _checked_stride(tile, stride)
    height, width = images_NCHW.shape[-2:]
    tops, lefts = _starts(height, tile[0], stride[0]), _starts(width, tile[1], stride[1])
    total_NCHW = None
    for top in tops:
        for left in lefts:
            part_NCHW = images_NCHW[..., top : top + tile[0], left : left + tile[1]]
            rows, columns = part_NCHW.shape[-2:]
            logits_NCHW = bilinear(_full(network(_padded(part_NCHW, tile, fill))), tile)
            if total_NCHW is None:
                total_NCHW = logits_NCHW.new_zeros(*logits_NCHW.shape[:2], height, width)
            place_NCHW = total_NCHW[..., top : top + rows, left : left + columns]
            place_NCHW += logits_NCHW[..., :rows, :columns]
    # pixel (y, x) lies in as many tiles as y in rows of tiles times x in columns of tiles
    count_H, count_W = _cover(tops, height, tile[0]), _cover(lefts, width, tile[1])
    return total_NCHW.div_((count_H[:, None] * count_W).to(total_NCHW.device))


def flipped(
    score: Callable[[Tensor], Tensor], images_NCHW: Tensor, *, average: Average = "scores"
) -> Tensor:
    """Mean of `score` on the images and on their mirror images, the latter mirrored back.

    `score` gives full-resolution scores (N, C, H, W) of images: `whole`, `sliding` with their
    other arguments bound.
    """

    def parts() -> Iterator[Tensor]:
        yield _as(score(images_NCHW), average)
        yield _as(score(images_NCHW.flip(-1)), average).flip(-1)

    return _mean(parts(), 2)


def multi_scale(
    score: Callable[[Tensor], Tensor],
    images_NCHW: Tensor,
    scales: Sequence[float],
    *,
    average: Average = "scores",
) -> Tensor:
    """Mean of `score` over the images resized by each of `scales`; bilinear, corners aligned.

    `score` must give one size (N, C, H, W) whatever the size of its images. Heights and widths are
    rounded, halves to even. The scale 1 alone gives the answer of `score` itself.

    Raises:
        ValueError: no scales, or one that is not positive.
    """
    _check_joint(scales, average)
    height, width = images_NCHW.shape[-2:]
    sizes = [(max(1, round(height * s)), max(1, round(width * s))) for s in scales]
    parts = (_as(score(bilinear(images_NCHW, size)), average) for size in sizes)
    return _mean(parts, len(sizes))


def _mean(parts: Iterator[Tensor], count: int) -> Tensor:
    """Mean of `count` maps that are made one at a time."""
    total_NCHW = next(parts)
    if count == 1:
        return total_NCHW
    total_NCHW = total_NCHW.clone()  # a network may hand out its input or what it keeps
    for part_NCHW in parts:
        total_NCHW += part_NCHW
    return total_NCHW.div_(count)


def _as(scores_NCHW: Tensor, average: Average) -> Tensor:
    return scores_NCHW.softmax(1) if average == "probabilities" else scores_NCHW


def _full(logits_NCHW: Tensor) -> Tensor:
    """Half types in float32, so that sums and resizing keep their digits."""
    return logits_NCHW.to(torch.promote_types(logits_NCHW.dtype, torch.float32))


def _starts(size: int, tile: int, stride: int) -> list[int]:
    """Where the tiles of one axis begin: every `stride`, the last one flush with the end."""
    last = max(size - tile, 0)
    return [min(start, last) for start in range(0, last + stride, stride)]


def _cover(starts: list[int], size: int, tile: int) -> Tensor:
    """(size,) number of tiles over each row or column."""
    count = torch.zeros(size, dtype=torch.int64, device="cpu")
    for start in starts:
        count[start : start + tile] += 1
    return count


def _padded(part_NCHW: Tensor, tile: tuple[int, int], fill: float | Sequence[float]) -> Tensor:
    """A tile at its full size, filled below and on the right."""
    rows, columns = part_NCHW.shape[-2:]
    if (rows, columns) == tuple(tile):
        return part_NCHW
    colour = torch.as_tensor(fill, dtype=part_NCHW.dtype, device=part_NCHW.device)
    if colour.numel() not in (1, part_NCHW.shape[1]):
        raise ValueError(
            f"fill must be one number or one of each of {part_NCHW.shape[1]} channels, not {fill}"
        )
    tile_NCHW = colour.view(1, -1, 1, 1).expand(*part_NCHW.shape[:2], *tile).clone()
    tile_NCHW[..., :rows, :columns] = part_NCHW
    return tile_NCHW


def _checked_stride(tile: tuple[int, int], stride: tuple[int, int] | None) -> tuple[int, int]:
    """The stride to use."""
    if len(tile) != 2 or min(tile) < 1:
        raise ValueError(f"tile must be rows and columns, each at least 1, not {tile}")
    told = tuple(stride) if stride is not None else released_stride(tile)
    if len(told) != 2 or not all(1 <= step <= size for step, size in zip(told, tile, strict=True)):
        rule = "" if stride is not None else " (from the tile's height, as released)"
        raise ValueError(
            f"stride {told}{rule} must be from 1 to the tile's {tuple(tile)} on each axis, or "
            "pixels between tiles get no score: give stride=(rows, columns)"
        )
    return told


def _check_joint(scales: Sequence[float], average: str) -> None:
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be one or more positive factors, not {scales}")
    if average not in ("scores", "probabilities"):
        raise ValueError(f"average must be 'scores' or 'probabilities', not {average!r}")
