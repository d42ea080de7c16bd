"""Networks, one file per architecture, each with typed outputs and its own input normalisation."""

from dataclasses import fields

from torch import nn

from kdlib.models.espnet import ESPNet, ESPNetC
from kdlib.models.outputs import ModelError, SegmentationOutput
from kdlib.models.pspnet import PSPNet
from kdlib.models.resnet import ResNetConfig

__all__ = ["ARCHITECTURES", "ModelError", "SegmentationOutput", "build"]


def _pspnet(num_classes: int, **options) -> PSPNet:
    # the backbone's options are given flat, beside those of the head
    names = {field.name for field in fields(ResNetConfig)}
    backbone = ResNetConfig(**{key: value for key, value in options.items() if key in names})
    head = {key: value for key, value in options.items() if key not in names}
    return PSPNet(num_classes, backbone, **head)


ARCHITECTURES = {"pspnet": _pspnet, "espnet": ESPNet, "espnet-c": ESPNetC}


def build(architecture: str, num_classes: int, **options) -> nn.Module:
    """Build a network by name, with random weights unless an option says otherwise.

    Args:
        architecture: a key of `ARCHITECTURES`.
        num_classes: classes C.
        options: keyword arguments of the network; for "pspnet" those of `ResNetConfig` as well.

    Raises:
        ModelError: an unknown name, an unknown option or an option of a wrong value.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(f"unknown architecture {architecture!r}, known: {sorted(ARCHITECTURES)}")
    try:
        return ARCHITECTURES[architecture](num_classes, **options)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{architecture} cannot be built from {options}: {error}") from error
