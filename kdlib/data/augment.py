"""Random views of a batch, drawn on the host and applied on the device.

Every image gets its own zoom, position, flip and colour change. The draw is separate from its
application, so that it depends on the run's seed and the step alone, not on device or batch split.

Shape suffixes: N images, C channels, H x W input pixels, h x w pixels of the view, G boxes.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from kdlib.config import Augment
from kdlib.detection import Targets, area

SEEN = 0.3  # share of a box that must lie in the view for it to be an object there


@dataclass(frozen=True)
class Draw:
    """Random numbers for n images; every tensor has n rows."""

    zoom: torch.Tensor  # (n,) view pixels per image pixel
    centre: torch.Tensor  # (n, 2) x and y in -1..1 of the room that the zoom leaves
    flip: torch.Tensor  # (n,) +1 or -1
    brightness: torch.Tensor  # (n,) factors around 1
    contrast: torch.Tensor
    saturation: torch.Tensor
    gain: torch.Tensor  # (n, 3) factor per colour channel

    def rows(self, which: slice) -> "Draw":
        """The draw of some of the images."""
        return Draw(*(getattr(self, part.name)[which] for part in fields(self)))

    def to(self, device: torch.device) -> "Draw":
        """The draw on a device, which is not waited for."""
        moved = (getattr(self, part.name).to(device, non_blocking=True) for part in fields(self))
        return Draw(*moved)


@dataclass(frozen=True)
class Views:
    """What networks and losses see."""

    images: torch.Tensor  # (N, 3, h, w) RGB in 0..1
    labels: torch.Tensor | Targets | None  # (N, h, w) int64, 255 = ignore; or boxes; or none
    valid: torch.Tensor  # (N, h, w) bool, False on padding


def draw(count: int, settings: Augment, generator: torch.Generator) -> Draw:
    """Random numbers for `count` images."""

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    def factor(*shape: int) -> torch.Tensor:
        return 1 + settings.colour * (2 * uniform(*shape) - 1)

    low, high = settings.zoom
    return Draw(
        zoom=low + (high - low) * uniform(count),
        centre=2 * uniform(count, 2) - 1,
        flip=torch.where(uniform(count) < settings.flip, -1.0, 1.0),
        brightness=factor(count),
        contrast=factor(count),
        saturation=factor(count),
        gain=factor(count, 3),
    )


def apply(
    images_NCHW: torch.Tensor,
    labels: torch.Tensor | Targets | None,
    numbers: Draw,
    view_hw: tuple[int, int],
) -> Views:
    """The views of images (N, 3, H, W) uint8: float 0..1, bilinear.

    labels: masks (N, H, W), which go by nearest neighbour with 255 on padding; or boxes in pixels
    of the images, see `_move`; or None. All tensors on one device; `numbers` is moved there.
    """
    n, _, height, width = images_NCHW.shape
    numbers = numbers.to(images_NCHW.device)
    zoom = numbers.zoom
    # Share of the image that the view spans, per axis; over 1 means that padding shows.
    span = torch.stack([view_hw[1] / (zoom * width), view_hw[0] / (zoom * height)], dim=1)
    centre = numbers.centre * (1 - span).abs()
    theta = images_NCHW.new_zeros(n, 2, 3, dtype=torch.float32)
    theta[:, 0, 0] = span[:, 0] * numbers.flip
    theta[:, 1, 1] = span[:, 1]
    theta[:, :, 2] = centre
    grid = F.affine_grid(theta, [n, 1, *view_hw], align_corners=False)

    pixels = F.grid_sample(images_NCHW.float() / 255, grid, mode="bilinear", align_corners=False)
    valid = (grid.abs() <= 1).all(dim=3)
    views = _recolour(pixels, numbers) * valid[:, None]
    if labels is None:
        return Views(views, None, valid)
    if isinstance(labels, Targets):
        return Views(views, _move(labels, theta, (height, width), view_hw), valid)
    nearest = F.grid_sample(
        labels[:, None].float(),
        grid,
        mode="nearest",
        padding_mode="border",
        align_corners=False,
    )
    masks = torch.where(valid, nearest[:, 0].round().long(), 255)
    return Views(views, masks, valid)


def _move(
    targets: Targets,
    theta_N23: torch.Tensor,
    image_hw: tuple[int, int],
    view_hw: tuple[int, int],
) -> Targets:
    """Boxes of the images as boxes of the views, clipped to them.

    A box of which less than the share SEEN remains is no object to be found any more: it becomes an
    ignored region.
    """
    # filled in place: a tensor made of a list would wait for the device
    image_size, view_size = (
        torch.cat([targets.xyxy.new_full((1,), side) for side in size[::-1]]).repeat(2)
        for size in (image_hw, view_hw)
    )
    scale = torch.stack([theta_N23[:, 0, 0], theta_N23[:, 1, 1]], dim=1).repeat(1, 2)[:, None]
    centre = theta_N23[:, :, 2].repeat(1, 2)[:, None]
    # Both axes run from -1 to 1 over an image; theta takes those of the view to those of the image.
    corners = ((2 * targets.xyxy / image_size - 1 - centre) / scale + 1) / 2 * view_size
    first, second = corners[..., :2], corners[..., 2:]
    whole = torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=-1)
    seen = torch.minimum(whole.clamp(min=0), view_size)
    hidden = area(seen) < SEEN * area(whole)
    return Targets(seen, targets.classes, targets.ignored | hidden)


def _recolour(pixels: torch.Tensor, numbers: Draw) -> torch.Tensor:
    def per_image(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(len(pixels), -1, 1, 1)

    pixels = pixels * per_image(numbers.brightness) * per_image(numbers.gain)
    grey = pixels.mean(dim=1, keepdim=True)
    pixels = grey + per_image(numbers.saturation) * (pixels - grey)
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = mean + per_image(numbers.contrast) * (pixels - mean)
    return pixels.clamp(0, 1)
