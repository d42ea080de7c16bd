"""From a detector's dense answer to boxes."""

import torch
from torch import Tensor

from kdlib.detection import DetectionOutput, Detections, centres


@torch.no_grad()
def detections(
    output: DetectionOutput,
    size_hw: tuple[int, int],
    *,
    score: float = 0.05,
    candidates: int = 1000,
    nms: float = 0.5,
    keep: int = 100,
) -> list[Detections]:
    """The boxes that a dense detector finds, as the zoo tests (fact sheet function_matching 4.7).

    A candidate is a cell and a class whose probability is above `score`. Its score is the class's
    probability times the quality's, both sigmoids, without the square root that FCOS's own code
    takes later (the order, and so any AP, is the same; a threshold on scores is not). Of each level
    the best candidates are clipped to the image and go into a non-maximum suppression per class.

    Args:
        output: of the network; computed in float32.
        size_hw: height and width of the images, pixels.
        score: smallest class probability, before the quality is multiplied.
        candidates: most candidates of a level (cells with a class, as torchvision counts; the zoo's
            older code counts cells).
        nms: largest IoU of two boxes of one class that are both kept.
        keep: most boxes of an image.

    Returns:
        `Detections` per image, highest score first.
    """
    from torchvision.ops import batched_nms  # slow to import, and needed only here

    levels = [
        _best(*level, stride, size_hw, score, candidates)
        for *level, stride in zip(
            output.classification, output.box, output.quality, output.strides, strict=True
        )
    ]
    xyxy_ND4, score_ND, class_ND = (torch.cat(parts, 1) for parts in zip(*levels, strict=True))
    found = []
    for xyxy_D4, score_D, class_D in zip(xyxy_ND4, score_ND, class_ND, strict=True):
        # a cell beyond the image's edge may be left with nothing after clipping
        some_D = (score_D >= 0) & (xyxy_D4[:, 2:] > xyxy_D4[:, :2]).all(1)
        xyxy_D4, score_D, class_D = xyxy_D4[some_D], score_D[some_D], class_D[some_D]
        kept = batched_nms(xyxy_D4, score_D, class_D, nms)[:keep]
        found.append(Detections(xyxy_D4[kept], score_D[kept], class_D[kept]))
    return found


def _best(
    logits_NChw: Tensor,
    box_N4hw: Tensor,
    quality_N1hw: Tensor,
    stride: int,
    size_hw: tuple[int, int],
    score: float,
    candidates: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (N, D, 4), scores and classes (N, D) of a level; score -1 where there are fewer."""
    cells = logits_NChw[0, 0].numel()
    p_NCL = logits_NChw.flatten(2).float().sigmoid()
    q_N1L = quality_N1hw.flatten(2).float().sigmoid()
    score_NP = (p_NCL * q_N1L).where(p_NCL > score, -1).flatten(1)
    score_ND, index_ND = score_NP.topk(min(candidates, score_NP.shape[1]), dim=1)
    class_ND, cell_ND = index_ND // cells, index_ND % cells
    box_N4L = box_N4hw.flatten(2).float()
    box_ND4 = box_N4L.gather(2, cell_ND[:, None].expand(-1, 4, -1)).transpose(1, 2)
    centre_ND2 = centres(tuple(logits_NChw.shape[-2:]), stride, logits_NChw.device)[cell_ND]
    xyxy_ND4 = torch.cat([centre_ND2 - box_ND4[..., :2], centre_ND2 + box_ND4[..., 2:]], dim=-1)
    largest = xyxy_ND4.new_tensor([size_hw[1], size_hw[0]] * 2)
    return torch.minimum(xyxy_ND4.clamp(min=0), largest), score_ND, class_ND
