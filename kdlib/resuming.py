"""Resume points: what a killed run needs to end with the bits of one that was not killed."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from kdlib import checkpoint
from kdlib.config import Run

FILE = "state.safetensors"


class Point(NamedTuple):
    """Where a run goes on."""

    step: int  # the next one
    history: list[dict[str, float]]  # rows logged so far
    seconds: float  # wall time of the steps so far
    own: dict[str, torch.Tensor]  # state of the method


def folder_of(run: Run, root: Path, *made_from: str) -> Path:
    """Folder of a run's resume point: changes with settings, seed, code and `made_from`."""
    code = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        if path.relative_to(here).parts[0] not in ("report", "simulate"):
            code.update(path.read_bytes())
    words = (run.name, run.settings_hash(), str(run.seed), code.hexdigest(), *made_from)
    return root / ".cache" / "resume" / hashlib.sha256("/".join(words).encode()).hexdigest()[:24]


def save(
    folder: Path,
    step: int,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaged: dict[str, torch.Tensor],
    own: dict[str, torch.Tensor],
    history: list[dict[str, float]],
    seconds: float,
) -> None:
    """Write a resume point: one file, replaced in one move. own: the method's state."""
    tensors = {f"student.{k}": v for k, v in student.state_dict().items()}
    tensors |= {f"averaged.{k}": v for k, v in averaged.items()}
    tensors |= {f"method.{k}": v for k, v in own.items()}
    for number, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if value is not None:
                tensors[f"optimizer.{number}.{key}"] = torch.as_tensor(value)
    tensors["step"] = torch.tensor(step)
    tensors["seconds"] = torch.tensor(seconds, dtype=torch.float64)
    columns = list(history[0])
    rows = [[row[column] for column in columns] for row in history]
    tensors["history"] = torch.tensor(rows, dtype=torch.float64)
    checkpoint.save(folder / FILE, tensors, {"columns": columns})


def restore(
    folder: Path,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaged: dict[str, torch.Tensor],
) -> Point:
    """Fill network, optimiser and averages from a resume point; what else it holds."""
    path = folder / FILE
    tensors, notes = checkpoint.load(path)

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    checkpoint.fit(student, part("student."), path)
    for key, value in part("averaged.").items():
        averaged[key].copy_(value)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in part("optimizer.").items():
        number, name = key.split(".", 1)
        if value.ndim == 4:  # as the weights lie: other strides take another, slower path on GPUs
            value = value.contiguous(memory_format=torch.channels_last)
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    history = [dict(zip(notes["columns"], row, strict=True)) for row in tensors["history"].tolist()]
    for row in history:
        row["step"] = int(row["step"])
    return Point(int(tensors["step"]), history, float(tensors["seconds"]), part("method."))
