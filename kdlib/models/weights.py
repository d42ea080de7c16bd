"""torchvision's ImageNet weights, from torch.hub's cache or downloaded into it."""

import hashlib
import pickle
import urllib.error
from pathlib import Path

import torch
from torch import Tensor

from kdlib.models.outputs import ModelError


def imagenet(network: str) -> dict[str, Tensor]:
    """The weights of a network by torchvision's name for it, "VGG16" or "ResNet18".

    Raises:
        ModelError: they can be neither found nor downloaded, or the file in the cache is not the
        published one. Nothing in a file is run.
    """
    from torchvision.models import get_weight  # slow to import, and needed only here

    weights = get_weight(f"{network}_Weights.IMAGENET1K_V1")
    name = weights.url.rsplit("/", 1)[-1]
    place = Path(torch.hub.get_dir()) / "checkpoints" / name
    options = {"progress": True, "check_hash": True, "weights_only": True, "map_location": "cpu"}
    try:
        _check(place)
        return dict(weights.get_state_dict(**options))
    except (
        urllib.error.URLError,
        OSError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        raise ModelError(
            f"ImageNet weights of {network} could not be had ({error}). Download {weights.url} "
            f"elsewhere and place it as {place}, or train from scratch (no `init: imagenet`)"
        ) from error


def _check(place: Path) -> None:
    """torch.hub compares the hash in a file's name with what it downloads, not with its cache."""
    if not place.is_file():
        return
    told = place.stem.rsplit("-", 1)[-1]
    with open(place, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(told):
        raise OSError(f"{place} is damaged or another file: delete it")
