"""Weights and resume points on disk: safetensors plus JSON, written atomically, never unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from kdlib.files import atomic


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged or does not fit; the message names file and cure."""


def save(path: Path, tensors: dict[str, torch.Tensor], notes: dict[str, Any]) -> None:
    """Tensors to `path` (safetensors) and notes to the same name with `.json`."""
    flat = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    # The notes first: where the tensors exist, so do the notes.
    with atomic(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(notes, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    with atomic(path) as temporary:
        save_file(flat, temporary)


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and notes that `save` wrote. Raises CheckpointError."""
    for part in (path, path.with_suffix(".json")):
        if not part.is_file():
            raise CheckpointError(f"{part}: no such checkpoint. Run the stage that makes it first.")
    try:
        tensors = load_file(path)
        notes = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged ({error}). Delete it and run the stage that makes it again."
        ) from None
    return tensors, notes


def load_foreign(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a `.pth` file from elsewhere, read without running code from it.

    A wrapping `state_dict` key and a `module.` prefix are removed. Raises CheckpointError.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # torch raises many kinds here; all mean that it can't be read
        raise CheckpointError(f"{path}: not a file of plain tensors ({error})") from None
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        found = list(content) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: expected tensors by name, found {str(found)[:200]}")
    return {key.removeprefix("module."): value for key, value in content.items()}


def fit(module: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Load tensors into a module, strictly. Raises CheckpointError that names what does not fit."""
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: made for another network than params.yaml asks for. "
            f"Run its stage again or restore the settings. {error}"
        ) from None
