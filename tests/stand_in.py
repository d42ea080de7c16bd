"""Steps of training on a stand-in for a GPU: its tensors have a size and a place, but no values.

`python stand_in.py SCALE RUN ...` takes two steps of each run and prints as JSON, by run, where the
second waits for the device: a value read on the host, a number of rows that depends on values, a
copy that is not asynchronous. A tensor left on the wrong device is an error, as on a real GPU. Its
own process, because torch knows one stand-in device a process, and no way back.
"""

import contextlib
import dataclasses
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from kdlib import methods, preparing, training
from kdlib.config import Run, load_run
from kdlib.data import layouts
from kdlib.detection import Targets
from kdlib.teacher import Teacher

NAME = "openreg"
HERE = str(Path(training.__file__).parent)
ROWS = 3  # made up, where their number depends on values


class Waits(TorchDispatchMode):
    """Notes where the device is waited for, and goes on with a made-up answer."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def note(self, what: str) -> None:
        frames = [f for f in traceback.extract_stack() if f.filename.startswith(HERE)]
        for frame in frames[-1:]:
            what = f"{Path(frame.filename).relative_to(HERE)}, {frame.name}: {what}"
        self.found.append(what)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = str(function).removesuffix(".default"), kwargs or {}
        first = args[0] if args and isinstance(args[0], FakeTensor) else None
        away = first is not None and first.device.type == NAME
        if name == "aten._local_scalar_dense" and (away or first.constant is None):
            if away:
                self.note("value")
            return 1.0 if first.is_floating_point() else 1
        if name == "aten.nonzero" and away:
            self.note("rows")
            return torch.zeros(ROWS, first.ndim, dtype=torch.long, device=first.device)
        if name == "aten.index.Tensor" and any(_mask(index) for index in args[1]):
            self.note("rows")
            args = (first, [_chosen(index, first.device) for index in args[1]])
        if name in ("aten._to_copy", "aten.copy_"):
            self.moved(name, args, kwargs)
        return function(*args, **kwargs)

    def listed(self, own: Tensor, data: Sequence[float]) -> Tensor:
        self.note("list")
        return own.new_empty(np.shape(data))

    def moved(self, name: str, args: tuple, kwargs: dict) -> None:
        source = args[1] if name == "aten.copy_" else args[0]
        target = args[0].device if name == "aten.copy_" else kwargs.get("device") or source.device
        source.constant = None  # torch would compute on with a value it knows
        waits = not (kwargs.get("non_blocking") or (name == "aten.copy_" and args[2:] == (True,)))
        if waits and source.device.type != torch.device(target).type:
            self.note("copy")


def _mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype == torch.bool and index.device.type == NAME


def _chosen(index: Tensor | None, device: torch.device) -> Tensor | None:
    return torch.zeros(ROWS, dtype=torch.long, device=device) if _mask(index) else index


class Alone:
    """What the steps need of Fabric, for one process."""

    global_rank, world_size, is_global_zero = 0, 1, True

    def __init__(self, device: torch.device):
        self.device = device

    def autocast(self):
        return contextlib.nullcontext()

    def setup(self, *parts):
        return parts if len(parts) > 1 else parts[0]

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_gradients(self, module, optimizer, *, max_norm, error_if_nonfinite):
        nn.utils.clip_grad_norm_(module.parameters(), max_norm)


def onto(device: torch.device, network: nn.Module) -> nn.Module:
    """The network without its values on the device; torch itself cannot move such parameters."""
    for module in network.modules():
        for key, value in module._parameters.items():
            if value is not None:
                empty = torch.empty(value.shape, dtype=value.dtype, device=device)
                module._parameters[key] = nn.Parameter(empty, value.requires_grad)
        for key, value in module._buffers.items():
            if value is not None:
                empty = torch.empty(value.shape, dtype=value.dtype, device=device)
                module._buffers[key] = empty
    return network


def batch(run: Run, task: str) -> tuple[Tensor, Tensor | Targets]:
    n, size = run.schedule.batch, run.data.size
    images = torch.zeros(n, 3, *size, dtype=torch.uint8)
    if task != "detection":
        return images, torch.zeros(n, *size, dtype=torch.long)
    classes = torch.zeros(n, 5, dtype=torch.long)
    return images, Targets(torch.rand(n, 5, 4), classes, classes.bool())


def waits(run: Run, device: torch.device) -> list[str]:
    """Where the second step of a run waits for the device."""
    reader, fabric = layouts.get(run.data.layout), Alone(device)
    runs = [run] + ([load_run(run.teacher, scale=run.scale)] if run.teacher else [])
    built = [preparing.build_network(dataclasses.replace(one, init=None)) for one in runs]
    with FakeTensorMode(allow_non_fake_inputs=True), Waits() as seen:
        # torch makes such a tensor beyond Python, where nothing can be noted
        Tensor.new_tensor = lambda own, data: seen.listed(own, data)
        classes = len(reader.CLASSES)
        weights = torch.ones(classes) if run.method.class_weights != "none" else None
        method = methods.build(run.method, weights, classes, reader.TASK)
        student, *others = (onto(device, network) for network in built)
        teacher = Teacher(others[0].eval(), name="", score=0.0) if method.needs_teacher else None
        method.begin(fabric, 0, run.schedule.steps, student.train(), teacher)
        joint = nn.ModuleList() if method.joint is None else method.joint
        optimizer = training.make_optimizer(run.schedule, student, joint)
        for step in range(2):
            seen.found.clear()
            views = training._views(batch(run, reader.TASK), run, method, step, fabric)
            with torch.inference_mode():
                target = teacher(views.images) if teacher is not None else None
            output = training._answer(student, student, views)
            terms = method.terms(views, output, target)
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(sum(method.weights[name] * term for name, term in terms.items()))
            if run.schedule.clip_norm:
                training._clip(run.schedule, student, optimizer, fabric)
            optimizer.step()
            method.follow(views, output, target, step)
    return seen.found


def prepare() -> torch.device:
    """The stand-in device, and what torch lacks to work with it."""
    _setup_privateuseone_for_python_backend(NAME)
    device = torch.device(NAME, 0)
    getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    nn.Module.to = lambda module, place=None, **format: onto(device, module) if place else module
    # draws again as long as values lie outside, and here there are none to look at
    nn.init.trunc_normal_ = lambda tensor, *args, **kwargs: tensor
    return device


if __name__ == "__main__":
    device = prepare()
    scale, *names = sys.argv[1:]
    print(json.dumps({name: waits(load_run(name, scale=scale), device) for name in names}))
