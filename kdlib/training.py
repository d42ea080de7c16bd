"""The training loop: one flat function for every method, alone or in a process group.

What step t does depends on the run's seed and on t alone (data order, views, dropout), so a run
that is killed and started again ends with the same bits as one that was not, on the same device.
"""

import csv
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from dvclive import Live
from lightning.fabric import Fabric
from torch import nn

from kdlib import files, progress, resuming
from kdlib.config import Run, Schedule
from kdlib.data import augment, loader
from kdlib.detection import Targets, Untouched
from kdlib.methods import Method
from kdlib.runtime import generator, seed_for
from kdlib.schedule import learning_rate

LOG_EVERY = 50  # steps between two rows of the history, and between two looks at the losses


class TrainingError(RuntimeError):
    """Training can't go on; the message says at which step, why, and what to change."""


@dataclass(frozen=True)
class Trained:
    """What training leaves behind."""

    weights: dict[str, torch.Tensor]  # averaged ones where the schedule asks for averaging
    history: list[dict[str, float]]  # a row per LOG_EVERY steps
    seconds: float  # wall time of the steps, also of those before a kill
    samples: int  # images seen over the whole run, all processes


class Mark(NamedTuple):
    """From where on, between two rows of the history, which weights held."""

    weights: dict[str, float]
    sums: dict[str, torch.Tensor]  # of the terms, before


def train(
    run: Run,
    student: nn.Module,
    method: Method,
    source: loader.Source,
    *,
    fabric: Fabric,
    resume: Path,
    teacher: nn.Module | None = None,
    live: Path | None = None,
) -> Trained:
    """Train `student` by `method` on `source` for `run.schedule.steps` steps.

    resume: folder of this run's resume point; read where it exists, removed by the caller once the
    results are safe. live: folder for dvclive's running log, or None.

    Raises TrainingError on a loss that is not finite; the last resume point stays.
    """
    plan, device = run.schedule, fabric.device

    # 1. Network and optimiser, on the device.
    student = student.to(memory_format=torch.channels_last)
    if fabric.world_size > 1 and device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
    network = torch.compile(student) if plan.compile else student
    method.begin(fabric, run.seed, plan.steps, student, teacher)
    joint = nn.ModuleList() if method.joint is None else method.joint
    module, optimizer = fabric.setup(network, make_optimizer(plan, student, joint))
    averaged = {k: v.detach().clone() for k, v in student.state_dict().items()} if plan.ema else {}
    student.train()

    # 2. Where to begin.
    first, history, before = 0, [], 0.0
    if (resume / resuming.FILE).is_file():
        first, history, before, own = resuming.restore(resume, student, optimizer, averaged)
        method.restore(own)
    if fabric.broadcast(first) != first:
        raise TrainingError(
            f"{resume}: only some of the processes find the resume point here. Put the repository "
            "on a file system that all nodes share, or delete the folder to begin anew."
        )
    log = _Log(live, history) if fabric.is_global_zero else None

    # 3. Batches from there on.
    batches = loader.Batches(
        source, plan.batch, run.seed, rank=fabric.global_rank, world=fabric.world_size
    )
    pin = device.type == "cuda"
    feed = iter(loader.stream(batches, first, plan.steps, workers=plan.workers, pin=pin))
    started = saved = time.monotonic()

    # 4. Steps. Losses stay on the device between two looks: nothing in a step waits for it, but for
    # affinity with many classes, which asks what regions there are.
    sums: dict[str, torch.Tensor] = {}
    marks: list[Mark] = []
    steps = progress.bar(
        range(first, plan.steps),
        title=f"{run.name}, seed {run.seed}",
        initial=first,
        total=plan.steps,
        disable=not fabric.is_global_zero,
    )
    for step in steps:
        torch.manual_seed(seed_for(run.seed, "step", step, fabric.global_rank))  # dropout
        views = _views(next(feed), run, method, step, fabric)
        with torch.inference_mode(), fabric.autocast():
            target = teacher(views.images) if teacher is not None else None
        output = _answer(module, student, views)
        terms = method.terms(views, output, target)
        weights = dict(method.weights)
        loss = sum(weights[name] * term for name, term in terms.items())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan, step)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        if fabric.world_size > 1:
            for parameter in joint.parameters():  # the student's own are averaged by the backward
                parameter.grad = fabric.all_reduce(parameter.grad, reduce_op="mean")
        if plan.clip_norm:
            _clip(plan, module, optimizer, fabric)
        optimizer.step()
        if plan.ema:
            _average(averaged, student, plan.ema)
        beside = method.follow(views, output, target, step)

        if not marks or marks[-1].weights != weights:
            marks.append(Mark(weights, dict(sums)))
        for name, term in (terms | beside | {"loss": loss}).items():
            sums[name] = sums.get(name, 0) + term.detach()
        last = step + 1 == plan.steps
        if (step + 1) % LOG_EVERY and not last:
            continue
        row = _row(step, sums, marks, student, method, learning_rate(plan, step), fabric)
        sums, marks = {}, []
        history.append(row)
        steps.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
        if log:
            log.add(row)
        if not last and fabric.is_global_zero and time.monotonic() - saved > plan.save_every_s:
            seconds = before + time.monotonic() - started
            own = method.state()
            resuming.save(resume, step + 1, student, optimizer, averaged, own, history, seconds)
            saved = time.monotonic()

    # 5. The result.
    weights = averaged or student.state_dict()
    weights = {key: value.detach().cpu().clone() for key, value in weights.items()}
    fabric.barrier()
    seconds = before + time.monotonic() - started
    return Trained(weights, history, seconds, plan.steps * plan.batch)


def make_optimizer(plan: Schedule, *modules: nn.Module) -> torch.optim.Optimizer:
    """AdamW with decay on matrices and kernels only, or SGD with momentum 0.9 and decay on all."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if plan.optimiser == "sgd":
        return torch.optim.SGD(parameters, plan.lr, momentum=0.9, weight_decay=plan.weight_decay)
    kernels = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": plan.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, plan.lr)


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """The history as CSV, a row per logged step."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    with files.atomic(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def _views(
    batch: tuple[torch.Tensor, torch.Tensor | Targets | None],
    run: Run,
    method: Method,
    step: int,
    fabric: Fabric,
) -> augment.Views:
    """The step's batch on the device, augmented; the draw is the global batch's, then our share."""
    images, labels = batch
    random = generator(run.seed, "views", step)
    numbers = augment.draw(run.schedule.batch, run.augment, random)
    numbers = numbers.rows(slice(fabric.global_rank, None, fabric.world_size))
    move: Callable = lambda part: part.to(fabric.device, non_blocking=True)  # noqa: E731
    images = move(images).contiguous(memory_format=torch.channels_last)
    if labels is not None and method.needs_labels:
        labels = Targets(*map(move, labels)) if isinstance(labels, Targets) else move(labels)
    else:
        labels = None
    view = run.augment.crop or run.data.size
    return method.prepare(augment.apply(images, labels, numbers, view), random)


def _answer(module: nn.Module, student: nn.Module, views: augment.Views) -> NamedTuple:
    """The student's output; a network that samples its own training boxes is shown the labels.

    The labels go in a holder that Fabric leaves alone: under bf16 it rounds the other arguments.
    """
    if getattr(student, "wants_targets", False):
        return module(views.images, Untouched(views.labels))
    return module(views.images)


def _clip(
    plan: Schedule, module: nn.Module, optimizer: torch.optim.Optimizer, fabric: Fabric
) -> None:
    """Clip the gradients of all parameters together, or those of each parameter by themselves.

    A check of the norm here would wait for the device in every step; ours is in `_row`.
    """
    if not plan.clip_each:
        fabric.clip_gradients(module, optimizer, max_norm=plan.clip_norm, error_if_nonfinite=False)
        return
    # past Fabric, whose only further duty is to undo a scaling that float32 and bf16 do without
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            nn.utils.clip_grad_norm_(parameter, plan.clip_norm, error_if_nonfinite=False)


def _row(
    step: int,
    sums: dict[str, torch.Tensor],
    marks: list[Mark],
    student: nn.Module,
    method: Method,
    lr: float,
    fabric: Fabric,
) -> dict[str, float]:
    """Means since the last row over all processes; each term before and after its weight.

    Waits for the device. Raises TrainingError, in every process alike, on what is not finite: in
    the weights too, because the last step may have spoilt them after its own loss was still sound.
    """
    count = step % LOG_EVERY + 1
    zero = sums["loss"].new_zeros(())
    earlier = [mark.sums.get(name, zero) for mark in marks[1:] for name in sums]
    totals = torch.stack([total.double() for total in [*sums.values(), *earlier]]) / count
    values = fabric.all_reduce(totals, reduce_op="mean").tolist()
    means, *earlier = (
        dict(zip(sums, values[start : start + len(sums)], strict=True))
        for start in range(0, len(values), len(sums))
    )
    own = [part for part in method.state().values() if part.is_floating_point()]
    norm = float(nn.utils.get_total_norm([p.detach() for p in student.parameters()] + own))
    if not all(math.isfinite(value) for value in (norm, *means.values())):
        shown = ", ".join(f"{name} {value:g}" for name, value in means.items())
        raise TrainingError(
            f"loss or weights not finite between steps {step + 1 - count} and {step} ({shown}, "
            f"norm of the weights {norm:g}). {method.cure}Lower schedule.lr, set "
            "schedule.clip_norm, or look for broken images with `kdlib data check`. The last "
            "resume point is kept: it is from before these steps."
        )
    weighted = {f"{n}_weighted": marks[-1].weights[n] * v for n, v in means.items() if n != "loss"}
    for mark, after, at in zip(marks, marks[1:], earlier, strict=False):  # weights that changed
        for name in means.keys() - {"loss"}:
            weighted[f"{name}_weighted"] += (mark.weights[name] - after.weights[name]) * at[name]
    return {"step": step + 1, "lr": lr, **means, **weighted}


@torch.no_grad()
def _average(averaged: dict[str, torch.Tensor], student: nn.Module, decay: float) -> None:
    for key, value in student.state_dict().items():
        if value.is_floating_point():
            averaged[key].lerp_(value, 1 - decay)
        else:
            averaged[key].copy_(value)


class _Log:
    """dvclive's running log, begun anew from the history: a resumed run leaves no doubles."""

    def __init__(self, folder: Path | None, history: list[dict[str, float]]):
        self.live = None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            self.live = Live(str(folder), dvcyaml=None, save_dvc_exp=False)
        for row in history:
            self.add(row)

    def add(self, row: dict[str, float]) -> None:
        if self.live is not None:
            self.live.step = row["step"]
            for name, value in row.items():
                if name != "step":
                    self.live.log_metric(name, value)
            self.live.make_summary()
