"""The regions of `kdlib.losses.affinity`: where each class of a label map is, or comes near.

Fact sheet inter_region_affinity, section 1.1.

Shape suffixes: N images, R regions, H rows, W columns.
"""

import torch
from torch import Tensor


def areas_of_interest(
    labels_NHW: Tensor,
    num_classes: int,
    *,
    kernel: int = 5,
    size: tuple[int, int] | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Where each class is, or comes near: its mask, dilated by a square.

    Fact sheet inter_region_affinity, section 1.1: the paper smooths the mask with an average kernel
    and takes what is not 0, which is this dilation. Areas overlap. Widened at the size of the
    labels, then sampled at that of the features, which the paper leaves open; a class may vanish.

    Args:
        labels_NHW: integers. A label outside 0 .. num_classes - 1 belongs to no class.
        num_classes: R, the background among them.
        kernel: odd side of the square in pixels of the labels; 1 leaves the masks as they are.
        size: (height, width) of the features. Row i takes row floor(i H / height) of the areas, in
            whole numbers, and columns likewise. None: the size of the labels.
        ignore_index: label of no class, also where it is one of the R numbers; a neighbour's area
            may cover such pixels.

    Returns:
        (N, R, H, W) bool, H and W of `size`.

    Raises:
        ValueError: labels that are not (N, H, W) integers or have no pixel, no class, an even
            kernel, an empty size.
    """
    if labels_NHW.dim() != 3 or labels_NHW.is_floating_point() or labels_NHW.is_complex():
        raise ValueError(
            f"labels must be integers (N, H, W), not {labels_NHW.dtype} {tuple(labels_NHW.shape)}"
        )
    if 0 in labels_NHW.shape[1:]:
        raise ValueError(f"labels must have at least one pixel, not {tuple(labels_NHW.shape)}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, not {num_classes}")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be an odd number of pixels, not {kernel}")
    size = tuple(labels_NHW.shape[1:]) if size is None else tuple(size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be (height, width) of at least one pixel, not {size}")

    height, width = labels_NHW.shape[1:]
    # of 64 bits: in fewer 2^32 would be class 0, and no byte would be below 300
    wide_NHW = labels_NHW.long()
    known_NHW = (wide_NHW >= 0) & (wide_NHW < num_classes) & (wide_NHW != ignore_index)
    # one class more for what has none
    labels_NHW = wide_NHW.int().where(known_NHW, num_classes)
    areas_NRHW = torch.zeros(
        (len(labels_NHW), num_classes + 1, *size), dtype=torch.bool, device=labels_NHW.device
    )
    offsets = range(-(kernel // 2), kernel // 2 + 1)
    rows, columns = (
        torch.arange(samples, device=labels_NHW.device) * length // samples
        for samples, length in zip(size, (height, width), strict=True)
    )
    for down in offsets:
        # beyond the border comes the border again, which the square covers as well
        near_NhW = labels_NHW.index_select(1, (rows + down).clamp(0, height - 1))
        for right in offsets:
            near_Nhw = near_NhW.index_select(2, (columns + right).clamp(0, width - 1)).long()
            areas_NRHW.scatter_(1, near_Nhw[:, None], True)
    return areas_NRHW[:, :num_classes].contiguous()
