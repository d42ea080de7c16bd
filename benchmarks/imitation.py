"""Cost of the imitation mask and loss as ratios, for a quiet machine; nothing is asserted.

    python -m benchmarks.imitation [--device cuda] [--threads 1] [--repeats 15]

The mask is timed against plain broadcasting, which holds the IoU of every anchor with every box of
every image at once, and against a loop over images and boxes. 8 images, 38 x 50 cells, 9 anchors
each, 10 boxes each; and the small detector's map, 24 x 78. The loss is timed, forward and backward,
against the squared difference over all cells.
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.losses import best_ms
from kdlib.losses.imitation import anchor_grid, imitation_loss, imitation_mask

IMAGES, BOXES, CHANNELS = 8, 10, 512
MAPS = ((38, 50), (24, 78))
STRIDE = 16


def boxes_of(
    images: int, count: int, *, feature_hw: tuple[int, int] = MAPS[0], seed: int = 0
) -> list[Tensor]:
    """Random boxes of whole pixels, 8 to 250 on a side, up to the image's border."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(feature_hw[::-1]) * STRIDE
    boxes = []
    for _ in range(images):
        sides = 8 + 242 * torch.rand(count, 2, generator=generator)
        low = torch.rand(count, 2, generator=generator) * (size - sides)
        boxes.append(torch.cat([low, low + sides - 1], 1).round())
    return boxes


def plain(
    anchors: Tensor,
    boxes: Sequence[Tensor],
    feature_hw: tuple[int, int],
    *,
    psi: float = 0.5,
    inclusive: bool = True,
) -> Tensor:
    """All overlaps in one tensor (images, anchors, boxes); every image has the same count."""
    plus = 1 if inclusive else 0
    boxes_NGx = torch.stack(list(boxes))[:, None]
    anchors_A1 = anchors[:, None]

    def extent(axis: int) -> Tensor:
        low = torch.maximum(anchors_A1[..., axis], boxes_NGx[..., axis])
        high = torch.minimum(anchors_A1[..., axis + 2], boxes_NGx[..., axis + 2])
        return (high - low + plus).clamp(min=0)

    def area(xyxy: Tensor) -> Tensor:
        sides = xyxy[..., 2:] - xyxy[..., :2] + plus
        return sides[..., 0] * sides[..., 1]

    shared_NAG = extent(0) * extent(1)
    iou_NAG = shared_NAG / (area(anchors_A1) + area(boxes_NGx) - shared_NAG)
    hits_NAG = iou_NAG > psi * iou_NAG.amax(1, keepdim=True)
    return hits_NAG.any(2).unflatten(1, (*feature_hw, -1)).any(3)


def per_box(
    anchors: Tensor, boxes: Sequence[Tensor], feature_hw: tuple[int, int], *, psi: float = 0.5
) -> Tensor:
    """The same, one box after the other."""
    masks = []
    for each in boxes:
        mask_HW = torch.zeros(feature_hw, dtype=torch.bool, device=each.device)
        for box in each:
            mask_HW |= plain(anchors, [box[None]], feature_hw, psi=psi)[0]
        masks.append(mask_HW)
    return torch.stack(masks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, repeats = options.device, options.repeats

    print(f"torch {torch.__version__}, {device}, {options.threads} threads, {IMAGES} images")
    print(f"{'':<36} {'ms':>9} {'plain /':>8} {'loop /':>8}")
    for feature_hw in MAPS:
        anchors = anchor_grid(feature_hw)  # on the CPU for both devices, as training keeps them
        boxes = [each.to(device) for each in boxes_of(IMAGES, BOXES, feature_hw=feature_hw)]
        there = anchors.to(device)
        masks = [
            imitation_mask(anchors, boxes, feature_hw),
            plain(there, boxes, feature_hw),
            per_box(there, boxes, feature_hw),
        ]
        if not all(torch.equal(mask, masks[0]) for mask in masks):
            raise SystemExit(f"{feature_hw}: the forms' masks differ")
        ms, ms_plain, ms_loop = (
            best_ms(run, device, repeats)
            for run in (
                lambda a=anchors, b=boxes, hw=feature_hw: imitation_mask(a, b, hw),
                lambda a=there, b=boxes, hw=feature_hw: plain(a, b, hw),
                lambda a=there, b=boxes, hw=feature_hw: per_box(a, b, hw),
            )
        )
        title = f"mask, {feature_hw[0]} x {feature_hw[1]} x 9, {BOXES} boxes"
        print(f"{title:<36} {ms:9.2f} {ms_plain / ms:8.1f} {ms_loop / ms:8.1f}", flush=True)

        student = torch.randn(IMAGES, CHANNELS, *feature_hw, device=device, requires_grad=True)
        teacher = torch.randn(IMAGES, CHANNELS, *feature_hw, device=device)
        ms, ms_plain = (
            best_ms(run, device, min(repeats, 5))
            for run in (
                lambda s=student, t=teacher, m=masks[0]: imitation_loss(s, t, m).backward(),
                lambda s=student, t=teacher: (s - t).square().mean().backward(),
            )
        )
        title = f"loss, {CHANNELS} channels"
        print(f"{title:<36} {ms:9.2f} {ms_plain / ms:8.1f} {'':>8}", flush=True)


if __name__ == "__main__":
    main()
