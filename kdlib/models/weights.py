"""torchvision's ImageNet weights, from torch.hub's cache or downloaded into it."""

import urllib.error

import torch
from torch import Tensor

from kdlib.models.outputs import ModelError


def imagenet(network: str) -> dict[str, Tensor]:
    """The weights of a network by torchvision's name for it, "VGG16" or "ResNet18".

    Raises:
        ModelError: they can be neither found nor downloaded.
    """
    from torchvision.models import get_weight  # slow to import, and needed only here

    weights = get_weight(f"{network}_Weights.IMAGENET1K_V1")
    name = weights.url.rsplit("/", 1)[-1]
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (urllib.error.URLError, OSError, RuntimeError, EOFError) as error:
        raise ModelError(
            f"ImageNet weights of {network} could not be had ({error}). Download {weights.url} "
            f"elsewhere and place it as {torch.hub.get_dir()}/checkpoints/{name}, or train from "
            "scratch (no `init: imagenet`)"
        ) from error
