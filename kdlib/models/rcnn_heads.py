"""The second stage of the two-stage detectors: regions of the maps to classes and boxes.

Torchvision's RoIAlign and RoI heads, taken apart so that a teacher can score the regions that its
student was trained on. Heads and RoIAlign compute in float32 at least, whatever autocast gives
them.

Shape suffixes: C channels, H x W cells, K regions, P x P cells of a region, S samples.
"""

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from kdlib.detection import Detections
from kdlib.models.rcnn_regions import CANONICAL, RCNNConfig, full_precision

SAMPLES = 2  # RoIAlign reads 2 x 2 points in each cell of a region


class Predictor(FastRCNNPredictor):
    """torchvision's class scores and per-class box changes, never half types.

    Initialised as in Fast R-CNN: standard deviations 0.01 (classes) and 0.001 (boxes).
    """

    def __init__(self, inputs: int, num_outputs: int):
        super().__init__(inputs, num_outputs)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return full_precision(scores), full_precision(deltas)


class RoiAlign(MultiScaleRoIAlign):
    """torchvision's RoIAlign over levels of known strides, regions of `size` x `size` cells.

    torchvision guesses the strides from the first image and keeps the guess. And where torch is
    set to deterministic algorithms on a GPU, it gathers each sample for itself; there the same
    function is computed as matrix products (`roi_align_products`).

    A region of a pyramid is read from the level of its area; `canonical` as in `assign_levels`, of
    a pyramid that begins at stride 4.
    """

    def __init__(self, strides: dict[str, int], size: int, canonical: float = CANONICAL):
        super().__init__(list(strides), size, SAMPLES)
        each = list(strides.values())
        self.scales = [1 / stride for stride in each]
        lowest, highest = each[0].bit_length() - 1, each[-1].bit_length() - 1
        self.map_levels = LevelMapper(lowest, highest, canonical_scale=4 * canonical)

    def forward(
        self,
        x: dict[str, Tensor],
        boxes: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> Tensor:
        maps = {name: full_precision(x[name]) for name in self.featmap_names}
        if not (boxes[0].is_cuda and torch.are_deterministic_algorithms_enabled()):
            return super().forward(maps, boxes, image_shapes)
        return self.products(maps, boxes)

    def products(self, maps: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        """The same regions as matrix products, level by level and image by image."""
        levels = self.map_levels(boxes).split([len(of_image) for of_image in boxes])
        parts, order, start = [], [], 0
        for image, (of_image, level_of) in enumerate(zip(boxes, levels, strict=True)):
            for level, (name, scale) in enumerate(zip(maps, self.scales, strict=True)):
                here = torch.where(level_of == level)[0]
                map_CHW = maps[name][image]
                size = self.output_size[0]
                parts.append(roi_align_products(map_CHW, of_image[here] * scale, size))
                order.append(here + start)
            start += len(of_image)
        return torch.cat(parts)[torch.cat(order).argsort()]


def roi_align_products(map_CHW: Tensor, boxes_K4: Tensor, size: int) -> Tensor:
    """RoIAlign of one map as two matrix products: (K, C, size, size).

    Each cell is the mean of 2 x 2 bilinear samples. That is linear in the map and separable:
    cell = sum over rows and columns of weight_y * map * weight_x. Equals torchvision's
    `roi_align(sampling_ratio=2, aligned=False)`, and its gradient adds in a fixed order.

    Args:
        map_CHW: feature map.
        boxes_K4: x1, y1, x2, y2 in cells of the map.
        size: cells a side of each region.
    """
    low, high = boxes_K4[:, :2], boxes_K4[:, 2:]
    step = (high - low).clamp(min=1) / size  # K2; regions span at least one cell of the map
    # the centres of the samples, as fractions of a region's cell
    at = torch.arange(size * SAMPLES, device=boxes_K4.device, dtype=boxes_K4.dtype)
    points_KS2 = low[:, None] + (at[:, None] + 0.5) / SAMPLES * step[:, None]
    channels, height, width = map_CHW.shape
    across_KPW = _bilinear_weights(points_KS2[..., 0], width, size).to(map_CHW.dtype)
    down_KPH = _bilinear_weights(points_KS2[..., 1], height, size).to(map_CHW.dtype)
    with torch.autocast(map_CHW.device.type, enabled=False):
        rows = down_KPH.flatten(0, 1) @ map_CHW.transpose(0, 1).flatten(1)  # (K P, C W)
        rows_KPCW = rows.view(len(boxes_K4), size, channels, width)
        return torch.einsum("kpcw,kqw->kcpq", rows_KPCW, across_KPW)


def _bilinear_weights(points_KS: Tensor, cells: int, size: int) -> Tensor:
    """(K, size, cells) mean weight of every cell of the map in a region's cell, along one axis."""
    inside = (points_KS >= -1) & (points_KS <= cells)  # beyond, torchvision reads zeros
    points_KS = points_KS.clamp(0, cells - 1)
    centres = torch.arange(cells, device=points_KS.device, dtype=points_KS.dtype)
    weights = (1 - (points_KS[..., None] - centres).abs()).clamp(min=0) * inside[..., None]
    return weights.unflatten(1, (size, SAMPLES)).mean(dim=2)


class RegionHeads(RoIHeads):
    """torchvision's RoI heads, its two ways through them as methods of their own.

    Args:
        roi_align: cuts the regions out of the maps.
        box_head: regions to vectors of `head_channels`.
        head_channels: length of those vectors.
        num_outputs: classes with the background, which is 0.
        config: settings.
    """

    def __init__(
        self,
        roi_align: RoiAlign,
        box_head: nn.Module,
        head_channels: int,
        num_outputs: int,
        config: RCNNConfig,
    ):
        super().__init__(
            roi_align,
            box_head,
            Predictor(head_channels, num_outputs),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=config.roi_batch,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_threshold,
            detections_per_img=config.max_detections,
        )

    def score(
        self, features: dict[str, Tensor], regions: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Class logits (K, outputs) and box changes (K, 4 outputs) of all images' regions."""
        cut_KCPP = self.box_roi_pool(features, regions, sizes)
        return self.box_predictor(self.box_head(cut_KCPP))

    def learn(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
        """The drawn regions, their class logits and the losses of the batch.

        An image without any proposal offers itself whole: the mean over no region is not a number.
        """
        proposals = [
            own if len(own) else own.new_tensor([[0, 0, width, height]])
            for own, (height, width) in zip(proposals, sizes, strict=True)
        ]
        regions, _, labels, wanted = self.select_training_samples(proposals, targets)
        logits, deltas = self.score(features, regions, sizes)
        class_loss, box_loss = fastrcnn_loss(logits, deltas, labels, wanted)
        return regions, logits, {"roi_class": class_loss, "roi_box": box_loss}

    def find(
        self, features: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Detections]:
        """What is found among the proposals of each image, best first; classes from 0."""
        logits, deltas = self.score(features, proposals, sizes)
        found = self.postprocess_detections(logits, deltas, proposals, sizes)
        return [
            Detections(boxes, scores, labels - 1)
            for boxes, scores, labels in zip(*found, strict=True)
        ]
