"""Faster R-CNN and its pyramid form: the two-stage detectors of fine-grained feature imitation.

Ren et al., "Faster R-CNN", 2015, and Lin et al., "Feature pyramid networks", 2017, from
torchvision's proposal network and RoI heads, with the settings and anchors of the released code of
Wang et al., "Distilling object detectors with fine-grained feature imitation", CVPR 2019 (fact
sheet feature_imitation sections 1 and 4). Where that sheet is silent, torchvision's settings hold.

Deviations: the released ResNets and "h" networks do not exist. Ours halve every width: backbone,
pyramid, proposal head and fully connected layers. Pyramids share the settings of the other
networks but for `proposals_before_nms`, which torchvision counts per level. RoIAlign is
torchvision's without the shift by half a cell, 2 x 2 samples in each cell.

Measured: sizes, anchors, losses and boxes against torchvision's, and that small networks learn.
None of these networks was trained here on VOC07 or COCO.

Not supported: resizing (the caller's), images of different sizes in one batch. Ignored regions are
background to the proposals and to the heads.
"""

from collections.abc import Sequence
from dataclasses import fields
from functools import partial

from torchvision.models.detection.faster_rcnn import TwoMLPHead

from kdlib.models.rcnn_backbones import (
    C4Backbone,
    FpnBackbone,
    Stage5Head,
    VggBackbone,
    VggHead,
    resnet_config,
    vgg_weights,
)
from kdlib.models.rcnn_detector import TwoStageDetector, TwoStageOutput
from kdlib.models.rcnn_regions import RCNNConfig, assign_levels
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
