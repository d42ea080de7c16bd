"""The first stage of the two-stage detectors: anchors, proposals, levels of a pyramid.

Fact sheet feature_imitation sections 1, 4 and 8. Torchvision's proposal network gets the released
anchors; its head computes in float32 at least, whatever autocast gives it.

Shape suffixes: K anchors of a cell, A anchors, L levels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from kdlib.detection import area
from kdlib.models.outputs import ModelError

LEVEL_RULES = ("area", "every")
CANONICAL = 56.0  # pixels, at scale 8: a box of 224 x 224 then belongs to P4


@dataclass(frozen=True)
class RCNNConfig:
    """Settings of both stages; pairs are (training, evaluation).

    Attributes:
        ratios: anchors' heights to widths.
        scales: anchors' sizes as multiples of a level's stride. VOC07: (8, 16, 32); COCO:
            (4, 8, 16, 32).
        inside_only: train the proposals on the anchors that lie wholly inside the image, as
            released, and not on all, as torchvision does. Needs images larger than the anchors.
        rpn_channels: channels of the proposal head's 3x3 convolution.
        rpn_batch: anchors drawn per image for the loss, at most half of them positive (IoU 0.7 and
            the best of each box; negative below 0.3).
        proposals: regions handed on per image.
        proposals_before_nms: best anchors of each level that enter the suppression (IoU 0.7); the
            fact sheet is silent, these are py-faster-rcnn's.
        roi_size: cells a side of a region.
        roi_batch: regions drawn per image for the loss, at most a quarter positive (IoU 0.5).
        score_threshold, nms_threshold, max_detections: which detections are given out, per image:
            torchvision's. The configuration that the released code builds on has 0.0 and 0.3.
    """

    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    scales: tuple[float, ...] = (8.0, 16.0, 32.0)
    inside_only: bool = False
    rpn_channels: int = 512
    rpn_batch: int = 256
    proposals: tuple[int, int] = (2000, 300)
    proposals_before_nms: tuple[int, int] = (12000, 6000)
    roi_size: int = 7
    roi_batch: int = 256
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100

    def __post_init__(self):
        for name in ("ratios", "scales", "proposals", "proposals_before_nms"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if not values or min(values) <= 0:
                raise ValueError(f"{name} must be positive numbers, not {values}")
            if name.startswith("proposals") and len(values) != 2:
                raise ValueError(f"{name} must be (training, evaluation), not {values}")
        for name in ("rpn_channels", "rpn_batch", "roi_size", "roi_batch", "max_detections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, not {getattr(self, name)}")

    @property
    def canonical(self) -> float:
        """Of a pyramid, the side of the finest level's boxes in pixels, see `assign_levels`.

        56 at scale 8, as in the pyramid paper. In proportion to the scales' geometric mean: where
        anchors are made smaller for smaller pictures, the boxes of a level become smaller, too.
        """
        return CANONICAL / 8 * math.prod(self.scales) ** (1 / len(self.scales))


def full_precision(x: Tensor) -> Tensor:
    """Half types as float32: pixel coordinates beyond 256 have no room in bfloat16."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def cell_anchors(base: int, ratios: Sequence[float], scales: Sequence[float]) -> Tensor:
    """(R * S, 4) anchors of the first cell as released, ratio slow and scale fast, end outside.

    The width is rounded before the height is derived from it, both before scaling: base 16 and
    ratio 0.5 give 23 x 12, times the scale. The released ends are the last pixel inside; here they
    lie one further, so that width = x2 - x1. Fact sheet feature_imitation section 1.
    """
    centre = (base - 1) / 2
    anchors = []
    for ratio in ratios:
        # Python rounds halves to even, as numpy does in the released code
        width = round((base * base / ratio) ** 0.5)
        height = round(width * ratio)
        for scale in scales:
            half_w, half_h = (width * scale - 1) / 2, (height * scale - 1) / 2
            low = (centre - half_w, centre - half_h)
            anchors.append((*low, centre + half_w + 1, centre + half_h + 1))
    return torch.tensor(anchors, dtype=torch.float32, device="cpu")


class ReleasedAnchors(AnchorGenerator):
    """torchvision's generator with the anchors of the released code, one base size per level.

    The base is the level's stride, as in the released code (16) and in Detectron's pyramids.
    torchvision's own differ: it rounds half sides and centres them at multiples of the stride,
    and it guesses the stride from the sizes of the image and of the map.

    Args:
        strides: pixels a cell spans, per level.
        ratios: height to width.
        scales: multiples of the base.
    """

    def __init__(self, strides: Sequence[int], ratios: Sequence[float], scales: Sequence[float]):
        sizes = tuple(tuple(stride * scale for scale in scales) for stride in strides)
        super().__init__(sizes, (tuple(ratios),) * len(strides))
        self.strides = tuple(strides)
        self.cell_anchors = [cell_anchors(stride, ratios, scales) for stride in strides]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Per image (A, 4) anchors of all levels: levels, rows, columns, anchors."""
        anchors = torch.cat(self.levels(feature_maps))
        return [anchors] * len(image_list.image_sizes)

    def levels(self, feature_maps: list[Tensor]) -> list[Tensor]:
        """Per level (H * W * K, 4) anchors: rows, columns, anchors."""
        dtype = torch.promote_types(feature_maps[0].dtype, torch.float32)
        device = feature_maps[0].device
        with torch.inference_mode(False):  # kept for later calls, also those of training
            self.set_cell_anchors(dtype, device)
        sizes = [list(map_.shape[-2:]) for map_ in feature_maps]
        strides = [[stride, stride] for stride in self.strides]
        return self.grid_anchors(sizes, strides)


class RpnHead(RPNHead):
    """torchvision's proposal head with a choice of channels; its answers are never half types."""

    def __init__(self, inputs: int, channels: int, anchors: int):
        super().__init__(channels, anchors)
        if inputs != channels:
            first = nn.Conv2d(inputs, channels, 3, padding=1)
            nn.init.normal_(first.weight, std=0.01)
            nn.init.zeros_(first.bias)
            self.conv[0][0] = first

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [full_precision(map_) for map_ in logits], [full_precision(map_) for map_ in deltas]


class Proposals(RegionProposalNetwork):
    """torchvision's proposal network, on request trained on the anchors inside the image only."""

    def __init__(self, config: RCNNConfig, channels: int, strides: Sequence[int]):
        anchors = ReleasedAnchors(strides, config.ratios, config.scales)
        modes = ("training", "testing")  # torchvision's names
        per_cell = len(config.ratios) * len(config.scales)
        super().__init__(
            anchors,
            RpnHead(channels, config.rpn_channels, per_cell),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=config.rpn_batch,
            positive_fraction=0.5,
            pre_nms_top_n=dict(zip(modes, config.proposals_before_nms, strict=True)),
            post_nms_top_n=dict(zip(modes, config.proposals, strict=True)),
            nms_thresh=0.7,
        )
        self.inside_only = config.inside_only

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per image labels (A,) 1 object, 0 background, -1 left out, and boxes (A, 4) to find."""
        if not self.inside_only:
            return super().assign_targets_to_anchors(anchors, targets)
        height, width = targets[0]["image_hw"]
        low, high = anchors[0][:, :2], anchors[0][:, 2:]  # the same in every image
        inside = (low >= 0).all(1) & (high[:, 0] <= width) & (high[:, 1] <= height)
        inside = torch.where(inside)[0]
        if len(inside) == 0:
            raise ModelError(
                f"no anchor lies inside an image of {height} x {width} pixels: take smaller scales "
                "or inside_only: false"
            )
        labels, boxes = super().assign_targets_to_anchors([a[inside] for a in anchors], targets)
        return (
            [label.new_full((len(low),), -1).index_copy(0, inside, label) for label in labels],
            # a left out anchor is its own target: no change, and no logarithm of 0
            [a.index_copy(0, inside, b.to(a)) for a, b in zip(anchors, boxes, strict=True)],
        )


def assign_levels(
    boxes: Tensor,
    *,
    rule: Literal["area", "every"] = "area",
    levels: int = 4,
    canonical: float = CANONICAL,
) -> Tensor:
    """Which boxes belong to which level of a pyramid, for the imitation region of each level.

    The paper's rule was never given (fact sheet feature_imitation sections 2 and 8):

    - "area": one level for each box, floor(log2(sqrt(area) / canonical)) above the finest, held
      within the pyramid. DeFeat's rule, and equation 1 of the pyramid paper, where a box of
      224 x 224 pixels belongs to P4.
    - "every": each box on all levels, as in todd's re-implementation.

    Args:
        boxes: (..., 4) x1, y1, x2, y2, pixels of the image, end outside.
        rule: "area" or "every".
        levels: levels L of the pyramid, finest first: P2 to P5.
        canonical: side in pixels from which a square box leaves the finest level is twice this;
            `RCNNConfig.canonical` follows the anchors.

    Returns:
        (..., L) bool; a box without area, such as the rows that fill up `Targets`, has no level.
    """
    if rule not in LEVEL_RULES:
        raise ValueError(f"rule must be one of {LEVEL_RULES}, not {rule!r}")
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"boxes must be (..., 4), not {tuple(boxes.shape)}")
    if levels < 1 or not canonical > 0:
        raise ValueError(f"levels and canonical must be positive: {levels}, {canonical}")
    size = area(boxes)[..., None]
    present = size > 0
    if rule == "every":
        return present.expand(*size.shape[:-1], levels).clone()
    index = torch.arange(levels, device=boxes.device)
    # sqrt(area) / canonical >= 2^k without the root and the logarithm: exact at the borders
    borders = (canonical * 2.0 ** index[1:].to(torch.float64)) ** 2
    level = (size.double() >= borders).sum(-1, keepdim=True)
    return present & (level == index)
