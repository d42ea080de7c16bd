"""How the evaluators hand images to a network."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.fabric import Fabric


def to_device(images: list[Any], fabric: Fabric) -> torch.Tensor:
    """Arrays (H, W, 3) uint8 of one size as (N, 3, H, W) in 0..1 on the device."""
    stacked = torch.stack([torch.from_numpy(image) for image in images]).to(fabric.device)
    return (stacked.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=torch.channels_last)


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def spread(count: int, total: int) -> list[int]:
    """Up to `count` places, evenly over 0 .. total - 1."""
    count = min(count, total)
    return [i * total // count for i in range(count)]
