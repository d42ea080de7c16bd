"""Faster R-CNN and its pyramid form: the two-stage detectors of fine-grained feature imitation.

Ren et al., "Faster R-CNN", 2015, and Lin et al., "Feature pyramid networks", 2017, from
torchvision's proposal network and RoI heads, with the settings and anchors of the released code of
Wang et al., "Distilling object detectors with fine-grained feature imitation", CVPR 2019 (fact
sheet feature_imitation sections 1 and 4). Where that sheet is silent, torchvision's settings hold.

Deviations: the released ResNets and "h" networks do not exist. Ours halve every width: backbone,
pyramid, proposal head and fully connected layers. Pyramids share the settings of the other
networks but for `proposals_before_nms`, which torchvision counts per level. RoIAlign is
torchvision's without the shift by half a cell, 2 x 2 samples in each cell.

Shape suffixes: N images, C channels, H x W pixels, G boxes, L levels.
Not supported: resizing (the caller's), images of different sizes in one batch. Ignored regions are
background to the proposals and to the heads.
"""

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads

from kdlib.detection import Detections, Targets, objects
from kdlib.models.inputs import IMAGENET_MEAN, IMAGENET_STD, InputNorm
from kdlib.models.outputs import ModelError
from kdlib.models.rcnn_backbones import (
    C4Backbone,
    FpnBackbone,
    Stage5Head,
    VggBackbone,
    VggHead,
    resnet_config,
    vgg_weights,
)
from kdlib.models.rcnn_regions import Predictor, Proposals, RCNNConfig, RoiAlign, assign_levels
from kdlib.models.resnet import ResNetConfig, imagenet_weights

__all__ = [
    "RCNNConfig",
    "TwoStageDetector",
    "TwoStageOutput",
    "assign_levels",
    "build_c4",
    "build_fpn",
    "build_vgg",
    "fpn_r50",
    "fpn_r50h",
    "r50",
    "r101",
    "r101h",
    "vgg11",
    "vgg16",
]

# torchvision's names of the losses and ours
LOSSES = {
    "loss_objectness": "rpn_objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "roi_class",
    "loss_box_reg": "roi_box",
}


class TwoStageOutput(NamedTuple):
    """Output of a two-stage detector.

    Attributes:
        features: the imitated maps by name: "conv5" (VGG), "c4" (ResNet), "p2" to "p6" (pyramid).
        detections: per image, in evaluation mode; None in training mode.
        losses: "rpn_objectness", "rpn_box", "roi_class", "roi_box", scalars, in training mode; None
            in evaluation mode. Classes and objectness are means over the sampled boxes of the
            batch, box terms are sums over the positives divided by that same number.
    """

    features: dict[str, Tensor]
    detections: list[Detections] | None
    losses: dict[str, Tensor] | None


class TwoStageDetector(nn.Module):
    """A backbone, torchvision's proposal network and its RoI heads.

    `forward(images_NCHW, targets)` takes RGB in [0, 1], already of the wanted size, and returns a
    `TwoStageOutput`. Training mode needs targets and draws the sampled boxes from torch's global
    generator; evaluation mode takes none into account. `maps(images_NCHW)` computes the imitated
    features alone, which is all a teacher is asked for.

    Args:
        num_classes: classes C without background, named 0 to C - 1.
        backbone: gives maps by name, with `channels`, `strides`, `pooled` and `lower`.
        box_head: regions to vectors.
        head_channels: length of those vectors.
        config: settings of both stages.
        frozen: "lower": VGG's blocks 1 and 2 or a ResNet's stem and first stage are not trained;
            "released": as the released code does, where VGG11's conv3_1 goes with them; "none".
            The builders below choose "lower" with ImageNet weights and "none" without: random
            layers are not worth keeping.
        frozen_norm: keep all batch norms of backbone and head at their stored statistics, not
            trained. What is frozen keeps them in any case.
        mean, std, bgr: input statistics of R, G, B as fractions; hand on B, G, R.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: VggBackbone | C4Backbone | FpnBackbone,
        box_head: nn.Module,
        head_channels: int,
        config: RCNNConfig | None = None,
        *,
        frozen: Literal["lower", "released", "none"] = "none",
        frozen_norm: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr: bool = False,
    ):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be positive, not {num_classes}")
        if frozen not in ("lower", "released", "none"):
            raise ValueError(f"frozen must be 'lower', 'released' or 'none', not {frozen!r}")
        self.num_classes = num_classes
        config = config or RCNNConfig()
        self.config = config
        self.input_norm = InputNorm(mean, std, bgr=bgr)
        self.backbone = backbone
        self.rpn = Proposals(config, backbone.channels, list(backbone.strides.values()))
        self.roi_heads = RoIHeads(
            RoiAlign({name: backbone.strides[name] for name in backbone.pooled}, config.roi_size),
            box_head,
            Predictor(head_channels, num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=config.roi_batch,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_threshold,
            detections_per_img=config.max_detections,
        )
        lower = [] if frozen == "none" else backbone.lower(frozen == "released")
        for module in lower:
            module.requires_grad_(False)
        candidates = [backbone.body, box_head] if frozen_norm else lower
        norms = (child for module in candidates for child in module.modules())
        self._still = tuple(norm for norm in norms if isinstance(norm, nn.BatchNorm2d))
        for norm in self._still:
            norm.requires_grad_(False)

    def train(self, mode: bool = True) -> "TwoStageDetector":
        """Training or evaluation mode; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        for norm in self._still:
            norm.eval()
        return self

    def maps(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """The imitated features (N, C, h, w) by name, finest first."""
        if min(images_NCHW.shape[-2:]) < 32:
            raise ValueError(
                f"images of {tuple(images_NCHW.shape[-2:])} pixels are too small, at least 32"
            )
        return self.backbone(self.input_norm(images_NCHW))

    def forward(self, images_NCHW: Tensor, targets: Targets | None = None) -> TwoStageOutput:
        if self.training and targets is None:
            raise ValueError("training mode needs targets; call eval() to get detections")
        features = self.maps(images_NCHW)
        size_hw = tuple(images_NCHW.shape[-2:])
        sizes = [size_hw] * len(images_NCHW)
        wanted = None
        if self.training:
            wanted = shifted_targets(targets, self.num_classes, size_hw)
            if len(wanted) != len(images_NCHW):
                raise ValueError(f"{len(images_NCHW)} images, but targets of {len(wanted)}")
        proposals, rpn_losses = self.rpn(ImageList(images_NCHW, sizes), features, wanted)
        found, roi_losses = self.roi_heads(features, proposals, sizes, wanted)
        if self.training:
            losses = {**rpn_losses, **roi_losses}
            return TwoStageOutput(features, None, {LOSSES[k]: v for k, v in losses.items()})
        detections = [Detections(f["boxes"], f["scores"], f["labels"] - 1) for f in found]
        return TwoStageOutput(features, detections, None)

    def load_imagenet(self, state: dict[str, Tensor]) -> None:
        """Load the weights of torchvision's classification network, its last layer left out.

        Fills the backbone and, of VGG and C4, the head: fc6 and fc7, or the last stage.

        Raises:
            ModelError: a tensor is missing, has another shape or belongs nowhere.
        """
        last = ("fc.", "classifier.6.")
        state = {name: value for name, value in state.items() if not name.startswith(last)}
        head = self.roi_heads.box_head
        parts = [self.backbone.body] + [head] * (not isinstance(head, TwoMLPHead))
        own = {name: value for part in parts for name, value in part.state_dict().items()}
        # the counter is absent from old files, and nothing depends on it
        counters = {name for name in own if name.endswith("num_batches_tracked")}
        wrong = sorted(own.keys() - counters - state.keys()) + sorted(state.keys() - own.keys())
        wrong += [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
        if wrong:
            raise ModelError(
                f"these are not the weights of this backbone: {wrong[0]} is missing, unknown or of "
                f"another shape ({len(wrong)} such tensors); take those of the same depth at width "
                "64 or train from scratch"
            )
        with torch.no_grad():
            for name in state:
                own[name].copy_(state[name])


def shifted_targets(
    targets: Targets, num_classes: int, size_hw: tuple[int, int]
) -> list[dict[str, Tensor]]:
    """The objects of each image as torchvision wants them: class 0 is the background.

    Raises:
        ValueError: an object has no area or a class outside 0 to `num_classes` - 1.
    """
    wanted = ~targets.ignored
    empty = wanted & ~(targets.xyxy[..., 2:] > targets.xyxy[..., :2]).all(-1)
    unknown = wanted & ((targets.classes < 0) | (targets.classes >= num_classes))
    if (empty | unknown).any():
        image, row = (empty | unknown).nonzero()[0].tolist()
        raise ValueError(
            f"box {row} of image {image} cannot be learnt: {targets.xyxy[image, row].tolist()} of "
            f"class {int(targets.classes[image, row])}, with classes 0 to {num_classes - 1}; drop "
            "it or mark it as ignored"
        )
    return [
        {"boxes": xyxy, "labels": classes + 1, "image_hw": size_hw}
        for xyxy, classes in objects(targets)
    ]


def _build(num_classes, backbone, head, head_channels, options: dict) -> TwoStageDetector:
    """A detector from flat options: those of `RCNNConfig` beside those of `TwoStageDetector`."""
    names = {field.name for field in fields(RCNNConfig)}
    config = RCNNConfig(**{key: value for key, value in options.items() if key in names})
    rest = {key: value for key, value in options.items() if key not in names}
    return TwoStageDetector(num_classes, backbone, head, head_channels, config, **rest)


def _roi_size(options: dict) -> int:
    return options.get("roi_size", RCNNConfig.roi_size)


def build_vgg(
    num_classes: int,
    *,
    depth: int = 16,
    width: int = 64,
    head_channels: int = 4096,
    dropout: float = 0.5,
    pretrained: bool = False,
    **options,
) -> TwoStageDetector:
    """Faster R-CNN on VGG16 (the teacher) or VGG11 (the student).

    Args:
        num_classes: classes C without background.
        depth: 16 or 11.
        width: channels of the first block; 64 is VGG's.
        head_channels: channels of fc6 and fc7.
        dropout: behind fc6 and fc7, probability.
        pretrained: start from torchvision's ImageNet weights, fc6 and fc7 with them.
        options: fields of `RCNNConfig` and keyword arguments of `TwoStageDetector`.
    """
    options = {"frozen": "lower" if pretrained else "none", **options}
    backbone = VggBackbone(depth, width)
    head = VggHead(backbone.channels * _roi_size(options) ** 2, head_channels, dropout)
    network = _build(num_classes, backbone, head, head_channels, options)
    if pretrained:
        network.load_imagenet(vgg_weights(depth, width))
    return network


def build_c4(
    num_classes: int,
    *,
    depth: int = 101,
    width: int = 64,
    norm: str = "batch",
    blocks: Sequence[int] | None = None,
    pretrained: bool = False,
    **options,
) -> TwoStageDetector:
    """Faster R-CNN on a ResNet: "c4" at stride 16, the last stage behind RoIAlign.

    Args:
        num_classes: classes C without background.
        depth: 101 or 50.
        width: 64; 32 for the "h" networks.
        norm: "batch" or "group".
        blocks: blocks of the four stages; None: those of `depth`.
        pretrained: start from torchvision's ImageNet weights; `frozen_norm` is then the default.
        options: fields of `RCNNConfig` and keyword arguments of `TwoStageDetector`.
    """
    whole = resnet_config(depth, width, norm, blocks)
    backbone = C4Backbone(
        ResNetConfig(depth, whole.stage_blocks[:-1], width, output_stride=16, norm=norm)
    )
    head = Stage5Head(whole)
    options = {
        "frozen": "lower" if pretrained else "none",
        "frozen_norm": pretrained,
        **options,
    }
    network = _build(num_classes, backbone, head, head.outputs, options)
    if pretrained:
        network.load_imagenet(imagenet_weights(whole))
    return network


def build_fpn(
    num_classes: int,
    *,
    depth: int = 50,
    width: int = 64,
    norm: str = "batch",
    blocks: Sequence[int] | None = None,
    pyramid_channels: int = 256,
    head_channels: int = 1024,
    pretrained: bool = False,
    **options,
) -> TwoStageDetector:
    """Faster R-CNN on a feature pyramid: "p2" to "p6", one anchor size for each level.

    Args: those of `build_c4`, and
        pyramid_channels: channels of every level; 128 for the "h" network.
        head_channels: channels of fc6 and fc7; 512 for the "h" network.
        options: as in `build_c4`; by default scale 8, 2000 and 1000 proposals of each level before
            the suppression, and a proposal head of the pyramid's channels.
    """
    whole = resnet_config(depth, width, norm, blocks)
    options = {
        "frozen": "lower" if pretrained else "none",
        "frozen_norm": pretrained,
        "scales": (8.0,),
        "proposals_before_nms": (2000, 1000),
        "rpn_channels": pyramid_channels,
        **options,
    }
    head = TwoMLPHead(pyramid_channels * _roi_size(options) ** 2, head_channels)
    backbone = FpnBackbone(whole, pyramid_channels)
    network = _build(num_classes, backbone, head, head_channels, options)
    if pretrained:
        network.load_imagenet(imagenet_weights(whole))
    return network


vgg16 = partial(build_vgg, depth=16)
vgg11 = partial(build_vgg, depth=11)
r101 = partial(build_c4, depth=101)
r101h = partial(build_c4, depth=101, width=32, rpn_channels=256)
r50 = partial(build_c4, depth=50)
fpn_r50 = partial(build_fpn, depth=50)
fpn_r50h = partial(build_fpn, depth=50, width=32, pyramid_channels=128, head_channels=512)
