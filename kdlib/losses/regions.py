"""Regions of a feature map that a detector's student imitates, and the anchors that choose them.

The parts of fine-grained feature imitation that come before the loss of `kdlib.losses.imitation`,
which holds them all by name. Wang et al., CVPR 2019; fact sheet feature_imitation, sections 1 and
3.

Pixels: the paper's code speaks of inclusive boxes, whose x2 and y2 are the last pixel inside, and
so do the functions here with `inclusive=True`. Boxes of `kdlib.detection` end outside: subtract one
from x2 and y2, or say `inclusive=False` where the anchors end outside as well.

Shape suffixes: N images, H rows, W columns, K anchors of a cell, A = H W K anchors, G boxes of an
image, T boxes of the batch.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

REGION_RULES = ("released", "outward")

# overlaps held at once: few enough for a processor's cache, many enough to fill a GPU
_CPU_ENTRIES, _GPU_ENTRIES = 2**18, 2**25


def anchor_grid(
    feature_hw: tuple[int, int],
    *,
    stride: float = 16,
    base: int = 16,
    ratios: Sequence[float] = (0.5, 1, 2),
    scales: Sequence[float] = (8, 16, 32),
) -> Tensor:
    """Anchors of Faster R-CNN as the paper's code makes them, at every cell of a feature map.

    Fact sheet feature_imitation, section 1. Of a square of `base` pixels and a ratio r, the width
    is rounded first, w = round(base / sqrt(r)), then the height, h = round(w r), halves to the even
    number; then both are multiplied by the scale. The anchors of cell (0, 0) are centred at
    (base - 1) / 2, those of the others `stride` pixels further each.

    Args:
        feature_hw: H and W, cells.
        stride: pixels a cell spans.
        base: side of the square in pixels.
        ratios: height over width.
        scales: factors of the sides.

    Returns:
        (H * W * K, 4) float32: x1, y1, x2, y2 in pixels, x2 and y2 inside. Rows, then columns, then
        anchors; among these all scales of the first ratio come first. Many lie partly or wholly
        outside the image, and count.

    Raises:
        ValueError: a ratio, scale, stride or base that is not positive.
    """
    if not min(*ratios, *scales, stride, base) > 0:
        raise ValueError(
            f"stride, base, ratios and scales must be positive, not {stride}, {base}, {ratios}, "
            f"{scales}"
        )
    sides_K2 = []
    for ratio in ratios:
        width = round((base * base / ratio) ** 0.5)
        height = round(width * ratio)
        sides_K2 += [(width * scale, height * scale) for scale in scales]
    half_K2 = (torch.tensor(sides_K2, dtype=torch.float32) - 1) / 2
    x_W1, y_H1 = (
        ((base - 1) / 2 + stride * torch.arange(cells, dtype=torch.float32))[:, None]
        for cells in feature_hw[::-1]
    )
    shape = (*feature_hw, len(sides_K2))
    edges = (
        (x_W1 - half_K2[:, 0])[None],
        (y_H1 - half_K2[:, 1])[:, None],
        (x_W1 + half_K2[:, 0])[None],
        (y_H1 + half_K2[:, 1])[:, None],
    )
    return torch.stack([edge.expand(shape) for edge in edges], dim=-1).reshape(-1, 4)


@torch.no_grad()
def imitation_mask(
    anchors: Tensor,
    boxes: Sequence[Tensor],
    feature_hw: tuple[int, int],
    *,
    psi: float = 0.5,
    inclusive: bool = True,
) -> Tensor:
    """The cells that imitate: near objects, by the anchors that see them best.

    Fact sheet feature_imitation, section 1:

        I_ij = 1 where some box g and anchor k have IoU(a_ijk, g) > psi max_a IoU(a, g).

    The threshold is relative to each box's own best anchor, so no object is lost that overlaps any
    anchor. All anchors count, also those outside the image. Limits: psi = 0 lights every cell of
    which an anchor touches a box (not all cells, as the paper says: `full_region` does that), psi =
    1 none. A box much smaller than the smallest anchor lights a blob of that anchor's size.

    Where the anchors form a grid, overlaps along x and along y are computed on their own and
    multiplied; else box by anchor. The results agree bit for bit.

    Args:
        anchors: (H * W * K, 4) x1, y1, x2, y2 in pixels, in the order of `anchor_grid`. Left on the
            CPU they serve boxes on a GPU without waiting for it; on a GPU it takes a wait to see
            whether they form a grid.
        boxes: N tensors (G, 4) of the same kind, G may differ and be 0. Half types are computed in
            float32; float64, of boxes or anchors, stays.
        feature_hw: H and W, cells.
        psi: 0 ... 1, share of the best overlap that must be exceeded.
        inclusive: x2 and y2 are inside, of boxes and anchors: sides are x2 - x1 + 1, and a box of
            1 x 1 pixels has IoU 0 with everything, as released. False: they are outside, sides are
            x2 - x1 (the paper's TensorFlow code).

    Returns:
        (N, H, W) bool on the device of the boxes. All False for an image without boxes.

    Raises:
        ValueError: a psi outside 0 ... 1, anchors that do not fill the map, boxes of another shape.
    """
    return imitation_masks([anchors], boxes, [feature_hw], psi=psi, inclusive=inclusive)[0]


@torch.no_grad()
def imitation_masks(
    anchors: Sequence[Tensor],
    boxes: Sequence[Tensor],
    features_hw: Sequence[tuple[int, int]],
    *,
    psi: float = 0.5,
    inclusive: bool = True,
) -> list[Tensor]:
    """The same on the levels of a pyramid, where the best overlap M is that of all levels.

    So the anchors decide to which levels a box belongs: those that see it nearly as well as the
    best of all. One of the rules of re-implementations (fact sheet feature_imitation, section 8);
    for the others, which give boxes to levels beforehand, call `imitation_mask` level by level.

    Args:
        anchors: per level, see `imitation_mask`.
        boxes: of the images, see there.
        features_hw: per level H and W, cells.
        psi, inclusive: see there.

    Returns:
        Per level (N, H, W) bool.

    Raises:
        ValueError: as there, or levels of unequal number.
    """
    if not 0 <= psi <= 1:
        raise ValueError(f"psi must lie in 0 ... 1, not {psi}")
    for each, (height, width) in zip(anchors, features_hw, strict=True):
        cells = height * width
        if each.dim() != 2 or each.shape[1] != 4 or cells == 0 or len(each) % cells:
            raise ValueError(
                f"anchors must be (H * W * K, 4) with H x W = {height} x {width} cells, not "
                f"{tuple(each.shape)}"
            )
    _check_boxes(boxes)
    device = boxes[0].device if len(boxes) else anchors[0].device
    total = sum(map(len, anchors))
    counts = [len(each) for each in boxes]
    if total == 0 or sum(counts) == 0:
        return [torch.zeros(len(boxes), *hw, dtype=torch.bool, device=device) for hw in features_hw]

    boxes_T4 = torch.cat(list(boxes))
    dtype = torch.promote_types(
        torch.promote_types(boxes_T4.dtype, anchors[0].dtype), torch.float32
    )
    boxes_T4 = boxes_T4.to(dtype)
    plus = 1 if inclusive else 0
    overlaps = [
        _overlaps(each.to(dtype).unflatten(0, (*hw, -1)), plus, device)
        for each, hw in zip(anchors, features_hw, strict=True)
    ]
    entries = _CPU_ENTRIES if device.type == "cpu" else _GPU_ENTRIES
    hits: list[list[Tensor]] = [[] for _ in overlaps]
    for part_T4 in boxes_T4.split(max(1, entries // total)):
        best_LTHW = [best(part_T4) for best in overlaps]
        # m > F = psi M, once per cell: one of the K exceeds it just if the largest does
        limit_T = psi * torch.stack([best_THW.amax((1, 2)) for best_THW in best_LTHW]).amax(0)
        for own, best_THW in zip(hits, best_LTHW, strict=True):
            own.append(best_THW > limit_T[:, None, None])
    dots_T = (boxes_T4[:, 0] == boxes_T4[:, 2]) & (boxes_T4[:, 1] == boxes_T4[:, 3])
    masks = []
    for own in hits:
        hits_THW = torch.cat(own)
        if inclusive:
            hits_THW &= ~dots_T[:, None, None]
        masks.append(torch.stack([image_GHW.any(0) for image_GHW in hits_THW.split(counts)]))
    return masks


def _overlaps(anchors_HWK4: Tensor, plus: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """What gives boxes (T, 4) the largest IoU (T, H, W) of each cell's anchors, on the device."""
    grid = _Grid.of(anchors_HWK4, plus, device)
    if grid is not None:
        return lambda boxes_T4: grid.best(boxes_T4, plus)
    anchors_HWK4 = anchors_HWK4.to(device)
    return lambda boxes_T4: _best_of_any(anchors_HWK4, boxes_T4, plus)


def full_region(
    feature_hw: tuple[int, int], batch: int, *, device: torch.device | str | None = None
) -> Tensor:
    """(N, H, W) bool, every cell: the paper's ablation F, full-feature imitation.

    The released code has no path for it (fact sheet feature_imitation, section 3); psi = 0 of
    `imitation_mask` is smaller.
    """
    return torch.ones(batch, *feature_hw, dtype=torch.bool, device=device)


@torch.no_grad()
def box_region(
    boxes: Sequence[Tensor],
    feature_hw: tuple[int, int],
    *,
    stride: float = 16,
    rule: str = "released",
    inclusive: bool = True,
) -> Tensor:
    """The labelled boxes on the feature map: the paper's ablation G.

    Rules (fact sheet feature_imitation, section 3; the paper's own rounding is not known):

    - "released", from code that is commented out: with the box's centre and sides divided by the
      stride and floored, (x, y, w, h), rows y - floor(h / 2) up to but without y + floor(h / 2),
      columns likewise. Boxes under two strides on a side give nothing. A start before the map
      counts from the map's end, as slices do: nearly always nothing is left.
    - "outward", ours: every cell the box touches, at least one; none for a box without area.

    Args:
        boxes: N tensors (G, 4) x1, y1, x2, y2 in pixels; G may differ and be 0.
        feature_hw: H and W, cells.
        stride: pixels a cell spans.
        rule: "released" or "outward".
        inclusive: x2 and y2 are inside (sides x2 - x1 + 1); False: outside.

    Returns:
        (N, H, W) bool on the device of the boxes.

    Raises:
        ValueError: an unknown rule, a stride that is not positive, boxes of another shape.
    """
    if rule not in REGION_RULES:
        raise ValueError(f"rule must be one of {', '.join(REGION_RULES)}, not {rule!r}")
    if not stride > 0:
        raise ValueError(f"stride must be positive, not {stride}")
    _check_boxes(boxes)
    if len(boxes) == 0:
        return torch.zeros(0, *feature_hw, dtype=torch.bool)
    counts = [len(each) for each in boxes]
    boxes_T4 = torch.cat(list(boxes))
    boxes_T4 = boxes_T4.to(torch.promote_types(boxes_T4.dtype, torch.float32))
    inside = []
    for axis, cells in ((1, feature_hw[0]), (0, feature_hw[1])):
        low_T, high_T = boxes_T4[:, axis], boxes_T4[:, axis + 2] + (1 if inclusive else 0)
        if rule == "released":
            centre_T = ((low_T + high_T) / 2 / stride).floor()
            half_T = (((high_T - low_T) / stride).floor() / 2).floor()
            start_T, stop_T = (
                edge_T.where(edge_T >= 0, edge_T + cells)
                for edge_T in (centre_T - half_T, centre_T + half_T)
            )
        else:
            start_T = (low_T / stride).floor().clamp(0, cells - 1)
            stop_T = torch.maximum((high_T / stride).ceil(), start_T + 1)
        index = torch.arange(cells, device=boxes_T4.device)
        side_T = high_T > low_T
        inside.append((index >= start_T[:, None]) & (index < stop_T[:, None]) & side_T[:, None])
    hits_THW = inside[0][:, :, None] & inside[1][:, None, :]
    return torch.stack([image_GHW.any(0) for image_GHW in hits_THW.split(counts)])


class _Grid:
    """Anchors whose columns depend on x only and whose rows depend on y only, kept by axis."""

    def __init__(self, x_2KW: Tensor, y_2KH: Tensor, area_KHW: Tensor):
        self.x_2KW, self.y_2KH, self.area_KHW = x_2KW, y_2KH, area_KHW

    @classmethod
    def of(cls, anchors_HWK4: Tensor, plus: int, device: torch.device) -> "_Grid | None":
        """The grid, on the device, or None where the anchors form none."""
        x_WK2, y_HK2 = anchors_HWK4[0, :, :, 0::2], anchors_HWK4[:, 0, :, 1::2]
        same = (anchors_HWK4[..., 0::2] == x_WK2).all()
        same &= (anchors_HWK4[..., 1::2] == y_HK2[:, None]).all()
        if not same:
            return None
        x_2KW, y_2KH = x_WK2.permute(2, 1, 0), y_HK2.permute(2, 1, 0)
        width_KW, height_KH = (high - low + plus for low, high in (x_2KW, y_2KH))
        # sides that are the same in every cell need no map of areas
        if bool(((width_KW == width_KW[:, :1]).all()) & (height_KH == height_KH[:, :1]).all()):
            width_KW, height_KH = width_KW[:, :1], height_KH[:, :1]
        area_KHW = width_KW[:, None, :] * height_KH[:, :, None]
        kept = (x_2KW, y_2KH, area_KHW)
        return cls(*(t.contiguous().to(device, non_blocking=True) for t in kept))

    def best(self, boxes_T4: Tensor, plus: int) -> Tensor:
        """(T, H, W) largest IoU of a cell's anchors with each box."""
        x1, y1, x2, y2 = (edge_T[:, None, None] for edge_T in boxes_T4.unbind(1))
        wide_TKW = (torch.minimum(self.x_2KW[1], x2) - torch.maximum(self.x_2KW[0], x1)) + plus
        high_TKH = (torch.minimum(self.y_2KH[1], y2) - torch.maximum(self.y_2KH[0], y1)) + plus
        shared_TKHW = wide_TKW.clamp(min=0)[:, :, None, :] * high_TKH.clamp(min=0)[..., None]
        # the same operations in the same order as in _best_of_any: the bits must agree
        area_T = (x2 - x1 + plus) * (y2 - y1 + plus)
        union_TKHW = (self.area_KHW + area_T[..., None]) - shared_TKHW
        return shared_TKHW.div_(union_TKHW).amax(1)


def _best_of_any(anchors_HWK4: Tensor, boxes_T4: Tensor, plus: int) -> Tensor:
    """(T, H, W) largest IoU of a cell's anchors with each box, box by anchor."""
    ax1, ay1, ax2, ay2 = anchors_HWK4.unbind(3)
    x1, y1, x2, y2 = (edge_T[:, None, None, None] for edge_T in boxes_T4.unbind(1))
    wide = ((torch.minimum(ax2, x2) - torch.maximum(ax1, x1)) + plus).clamp(min=0)
    high = ((torch.minimum(ay2, y2) - torch.maximum(ay1, y1)) + plus).clamp(min=0)
    shared_THWK = wide * high
    areas = (ax2 - ax1 + plus) * (ay2 - ay1 + plus) + (x2 - x1 + plus) * (y2 - y1 + plus)
    return (shared_THWK / (areas - shared_THWK)).amax(3)


def _check_boxes(boxes: Sequence[Tensor]) -> None:
    for number, each in enumerate(boxes):
        if each.dim() != 2 or each.shape[1] != 4:
            raise ValueError(
                f"boxes must be one (G, 4) tensor per image, image {number} has "
                f"{tuple(each.shape)}; no boxes are (0, 4)"
            )
