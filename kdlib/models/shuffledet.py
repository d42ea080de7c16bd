"""The small detector that fine-grained feature imitation is studied on: ShuffleNet under one head.

Wang et al., "Distilling object detectors with fine-grained feature imitation", CVPR 2019; fact
sheet feature_imitation, sections 1 and 4, after the paper's TensorFlow code: a ShuffleNet (Zhang et
al., CVPR 2018) of stride 16 with the head of SqueezeDet (Wu et al., CVPRW 2017). The teacher has
width 1, the students 0.5 and 0.25: 1,602,312, 535,656 and 202,776 parameters for 3 classes.

Deviations: decoded boxes end outside and are clipped to the image; the original adds a pixel to
them, and clips one pixel earlier. The students of the paper start from ImageNet; here all weights
are random, drawn as the original draws those it does not load. The unit of the ShuffleNet is in
`kdlib.models.shuffle_unit`.

Shape suffixes: N images, C classes, K anchors of a cell, h x w cells, A = h w K anchors in the
order rows, columns, anchors.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from kdlib.detection import Detections
from kdlib.models.inputs import InputNorm
from kdlib.models.shuffle_unit import GROUPS, Unit, odd

MEAN = tuple(value / 255 for value in (123.68, 116.779, 103.939))  # R, G, B
STD = (1 / 255,) * 3  # the network wants 0 ... 255, only shifted
STAGES = ((240, 4), (480, 6), (960, 4))  # channels at width 1, units
NECK = 768
CUT = 0.87962566
# width and height in pixels of a 1248 x 384 image, the clusters of KITTI's boxes
ANCHOR_SHAPES = (
    (36, 37),
    (366, 174),
    (115, 59),
    (162, 87),
    (38, 90),
    (258, 173),
    (224, 108),
    (78, 170),
    (72, 43),
)


class AnchorOutput(NamedTuple):
    """Output of a detector with anchors and a confidence, before any activation.

    Attributes:
        classes: (N, K, C, h, w) logits of the classes, for a softmax over C; none is background.
        confidence: (N, K, h, w) logits of the confidence, which is to be the box's IoU.
        deltas: (N, K, 4, h, w) the box seen from its anchor: shift of the centre in x and y as
            shares of the anchor's sides, logarithms of the factors of width and height.
        anchors: (A, 4) x1, y1, x2, y2 in pixels, ends outside.
        size_hw: height and width of the images, pixels.
        features: intermediate maps by name: "neck", what the head reads, before dropout.
    """

    classes: Tensor
    confidence: Tensor
    deltas: Tensor
    anchors: Tensor
    size_hw: tuple[int, int]
    features: dict[str, Tensor]

    def boxes(self) -> Tensor:
        """(N, A, 4) the boxes in pixels, clipped to the image.

        A factor of the sides grows exponentially up to e and linearly beyond.
        """
        dtype = torch.promote_types(self.deltas.dtype, torch.float32)
        deltas_NA4 = self.deltas.to(dtype).permute(0, 3, 4, 1, 2).flatten(1, 3)
        low_A2, high_A2 = self.anchors.to(dtype).split(2, dim=1)
        sides_A2 = high_A2 - low_A2
        shift_NA2, growth_NA2 = deltas_NA4.split(2, dim=2)
        centre_NA2 = (low_A2 + high_A2) / 2 + shift_NA2 * sides_A2
        factor_NA2 = torch.where(growth_NA2 > 1, math.e * growth_NA2, growth_NA2.clamp(max=1).exp())
        half_NA2 = factor_NA2 * sides_A2 / 2
        x_NA2, y_NA2 = torch.stack([centre_NA2 - half_NA2, centre_NA2 + half_NA2], 3).unbind(2)
        x_NA2, y_NA2 = x_NA2.clamp(0, self.size_hw[1]), y_NA2.clamp(0, self.size_hw[0])
        return torch.stack([x_NA2, y_NA2], 3).flatten(2)


def anchors(
    feature_hw: tuple[int, int], size_hw: tuple[int, int], shapes_K2: Tensor | Sequence
) -> Tensor:
    """The detector's anchors: fixed shapes around points that divide the image evenly.

    Column i of w, counted from 1, is at x = i * width / (w + 1), rows likewise: at 1248 x 384
    pixels every 15.80 and 15.36, not 16.

    Args:
        feature_hw: h and w, cells.
        size_hw: height and width of the image, pixels.
        shapes_K2: widths and heights, pixels.

    Returns:
        (h * w * K, 4) x1, y1, x2, y2, ends outside; rows, then columns, then anchors.
    """
    shapes_K2 = torch.as_tensor(shapes_K2, dtype=torch.float32)
    y_h1, x_w1 = (
        (torch.arange(1, cells + 1, device=shapes_K2.device) * side / (cells + 1))[:, None]
        for cells, side in zip(feature_hw, size_hw, strict=True)
    )
    half_K2 = shapes_K2 / 2
    edges = (
        (x_w1 - half_K2[:, 0])[None],
        (y_h1 - half_K2[:, 1])[:, None],
        (x_w1 + half_K2[:, 0])[None],
        (y_h1 + half_K2[:, 1])[:, None],
    )
    shape = (*feature_hw, len(shapes_K2))
    return torch.stack([edge.expand(shape) for edge in edges], dim=-1).reshape(-1, 4)


@torch.no_grad()
def detections(
    output: AnchorOutput, *, top: int = 64, overlap: float = 0.4, min_score: float = 0.0
) -> list[Detections]:
    """What the detector found in each image.

    Fact sheet feature_imitation, section 4: an anchor's score is its best class probability times
    its confidence, the `top` anchors stay, and of those of one class that overlap by an IoU above
    `overlap` the best one.

    Args:
        output: of the network.
        top: anchors kept before suppression.
        overlap: IoU, 0 ... 1.
        min_score: lowest score kept. The original has none.

    Returns:
        One `Detections` per image, highest score first.
    """
    boxes_NA4 = output.boxes()
    dtype = boxes_NA4.dtype
    p_NAC = output.classes.to(dtype).permute(0, 3, 4, 1, 2).flatten(1, 3).softmax(2)
    confidence_NA = output.confidence.to(dtype).permute(0, 2, 3, 1).flatten(1).sigmoid()
    p_NA, class_NA = p_NAC.max(2)
    found = []
    for boxes_A4, score_A, class_A in zip(boxes_NA4, p_NA * confidence_NA, class_NA, strict=True):
        score_D, best_D = score_A.topk(min(top, len(score_A)))
        best_D = best_D[score_D >= min_score]
        boxes_D4, score_D, class_D = boxes_A4[best_D], score_A[best_D], class_A[best_D]
        kept = torchvision.ops.batched_nms(boxes_D4, score_D, class_D, overlap)
        found.append(Detections(boxes_D4[kept].float(), score_D[kept].float(), class_D[kept]))
    return found


class ShuffleDet(nn.Module):
    """The detector. `forward(images_NCHW)` takes RGB in [0, 1] and gives an `AnchorOutput`.

    Args:
        num_classes: C, objects only.
        width: factor of the channels: 1 (teacher), 0.5 or 0.25 (students); others that the groups
            divide work as well.
        stem: channels of the first convolution. None: 16 at width 1, else 24. Where it is 16 the
            first unit's last 1x1 is not grouped.
        anchor_scale: factor of the anchors' sides, for images that are smaller than the original's
            1248 x 384.
        anchor_shapes: (K, 2) widths and heights in pixels, before that factor.
        dropout: share of the neck's values dropped in training.

    Raises:
        ValueError: a width or stem whose channels the groups do not divide, a bad anchor shape.
    """

    output_stride = 16

    def __init__(
        self,
        num_classes: int,
        *,
        width: float = 1.0,
        stem: int | None = None,
        anchor_scale: float = 1.0,
        anchor_shapes: Sequence[Sequence[float]] = ANCHOR_SHAPES,
        dropout: float = 0.5,
    ):
        super().__init__()
        if not all(len(sides) == 2 and min(sides) * anchor_scale > 0 for sides in anchor_shapes):
            raise ValueError(
                f"anchors must have two positive sides each, not {anchor_shapes} x {anchor_scale}"
            )
        shapes_K2 = torch.tensor(anchor_shapes, dtype=torch.float32) * anchor_scale
        if not width > 0:
            raise ValueError(f"width must be positive, not {width}")
        stem = stem if stem is not None else (16 if width == 1 else 24)
        self.num_classes = num_classes
        self.input_norm = InputNorm(MEAN, STD, bgr=True)
        self.stem = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem)

        stages, inputs = [], stem
        for channels, units in STAGES:
            outputs = round(channels * width)
            groups = (GROUPS, GROUPS) if stages else (1, 1 if stem == 16 else GROUPS)
            stage = [Unit(inputs, outputs, "halving", groups)]
            grouped = (GROUPS, GROUPS)
            stage += [Unit(outputs, outputs, "residual", grouped) for _ in range(units - 1)]
            stages.append(nn.Sequential(*stage))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.neck_channels = round(NECK * width)
        self.added = nn.Sequential(
            Unit(inputs, inputs, "residual", (GROUPS, GROUPS)),
            Unit(inputs, self.neck_channels, "plain", (GROUPS, GROUPS)),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(self.neck_channels, len(shapes_K2) * (num_classes + 5), 3, padding=1)
        self.register_buffer("shapes_K2", shapes_K2, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # a normal cut at two deviations keeps CUT of its deviation
                he = math.sqrt(2 / module.weight[0].numel()) / CUT
                std = 1e-4 if module is self.head else he
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        nn.init.zeros_(self.head.bias)

    def forward(self, images_NCHW: Tensor) -> AnchorOutput:
        x = self.stem_norm(self.stem(self.input_norm(images_NCHW)))
        # the largest of rectified values is the rectified largest, on a quarter of the values
        x = F.relu(F.max_pool2d(x, 3, 2, odd(x), ceil_mode=True))
        neck = self.added(self.stages(x))
        scores = self.head(self.dropout(neck))

        # channels of the head: K x C classes, K confidences, K x 4 deltas
        k, c = len(self.shapes_K2), self.num_classes
        classes, confidence, deltas = scores.split([k * c, k, k * 4], dim=1)
        size_hw = tuple(images_NCHW.shape[-2:])
        return AnchorOutput(
            classes.unflatten(1, (k, c)),
            confidence,
            deltas.unflatten(1, (k, 4)),
            anchors(tuple(neck.shape[-2:]), size_hw, self.shapes_K2),
            size_hw,
            {"neck": neck},
        )

    def detections(self, output: AnchorOutput, size_hw: tuple[int, int]) -> list[Detections]:
        """The boxes that an output of this network holds, see `detections`."""
        return detections(output)
