"""Networks, each with typed outputs and its own input normalisation.

A file holds one architecture; the two-stage detectors are ``rcnn`` with ``rcnn_detector``,
``rcnn_backbones``, ``rcnn_regions`` and ``rcnn_heads``, and ``shuffledet`` is built of
``shuffle_unit``. ``structured`` names the PSPNets of a paper; ``critic`` is trained beside a
student and has no name here. Shared: ``resnet``, ``weights``, ``inputs``, ``decode``, ``outputs``.
"""

from torch import nn

from kdlib.models import rcnn, structured
from kdlib.models.context import build_context
from kdlib.models.enet import ENet
from kdlib.models.erfnet import ERFNet
from kdlib.models.espnet import ESPNet, ESPNetC
from kdlib.models.fcos import FCOS
from kdlib.models.mobilenet import MobileNetV2Plus
from kdlib.models.outputs import DetectionOutput, ModelError, SegmentationOutput
from kdlib.models.pspnet import build_pspnet
from kdlib.models.shuffledet import ShuffleDet

__all__ = ["ARCHITECTURES", "DetectionOutput", "ModelError", "SegmentationOutput", "build"]


ARCHITECTURES = {
    "pspnet": build_pspnet,
    "espnet": ESPNet,
    "espnet-c": ESPNetC,
    "skd-pspnet-r101": structured.pspnet_r101,
    "skd-resnet18-journal": structured.resnet18_journal,
    "skd-resnet18": structured.resnet18,
    "skd-resnet18-half": structured.resnet18_half,
    "mobilenetv2plus": MobileNetV2Plus,
    "erfnet": ERFNet,
    "enet": ENet,
    "context-resnet": build_context,
    "fcos": FCOS,
    "shuffledet": ShuffleDet,
    "rcnn-vgg16": rcnn.vgg16,
    "rcnn-vgg11": rcnn.vgg11,
    "rcnn-r101": rcnn.r101,
    "rcnn-r101h": rcnn.r101h,
    "rcnn-r50": rcnn.r50,
    "rcnn-fpn-r50": rcnn.fpn_r50,
    "rcnn-fpn-r50h": rcnn.fpn_r50h,
}


def build(architecture: str, num_classes: int, **options) -> nn.Module:
    """Build a network by name, with random weights unless an option says otherwise.

    Args:
        architecture: a key of `ARCHITECTURES`.
        num_classes: classes C.
        options: keyword arguments of what `ARCHITECTURES` names; for the PSPNets ("pspnet",
            "skd-...") and "context-resnet" those of `ResNetConfig` as well, for the two-stage
            detectors ("rcnn-...") those of `RCNNConfig` and `TwoStageDetector`.

    Raises:
        ModelError: an unknown name, an unknown option or an option of a wrong value.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(f"unknown architecture {architecture!r}, known: {sorted(ARCHITECTURES)}")
    try:
        return ARCHITECTURES[architecture](num_classes, **options)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{architecture} cannot be built from {options}: {error}") from error
