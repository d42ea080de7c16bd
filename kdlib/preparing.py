"""Making a run ready: what it learns from and reports on, its network, and what other runs left it.

`kdlib.experiment.prepare` puts the pieces together. A function that needs another run finished is
handed `make`, and calls it at smoke scale only.
"""

import dataclasses
import hashlib
import json
import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from kdlib import checkpoint, config, evaluation, files, methods, models
from kdlib.config import Run, load_run
from kdlib.data import layouts, loader
from kdlib.data.layouts.sample import Sample
from kdlib.models import espnet
from kdlib.teacher import Teacher
from kdlib.unlabelled import MissingError, settings_note

TEACHER_SAMPLE = 40  # stills on which a teacher must reach its recorded score before it teaches

Make = Callable[[Run], object]  # makes the whole of a run: kdlib.experiment.make


def check_report(run: Run, root: Path, report: list[Sample]) -> None:
    """Refuse a run that would learn from stills it reports on, or choose settings by them.

    And one whose reported stills have no lanes to compare with: training would come first.
    """
    data = run.data
    reader = layouts.get(data.layout)
    if reader.TASK == "lanes":
        reader.read_lanes(report[0])
    reported = {still.id for still in report}
    for subset in (data.labelled, *data.unlabelled, *filter(None, [data.tune])):
        stills = loader.select(data.layout, root / data.root, subset, run.seed)
        both = sorted(reported & {still.id for still in stills})
        if both:
            raise loader.DataError(
                f"{root / data.root}: {len(both)} reported stills ({both[0]} ...) are also in "
                f"{subset}. Make data.report and the other subsets of params.yaml disjoint."
            )


def remembered(run: Run, source: loader.Source) -> loader.Remembered:
    """Every worker of the loader keeps images of its own: they share what one may keep."""
    return loader.Remembered(source, loader.MEMORY // max(1, run.schedule.workers))


def source_of(
    run: Run, root: Path, labels: loader.Source, method: methods.Method, make: Make
) -> tuple[loader.Source, str]:
    """What training draws from, and a hash of the unlabelled part."""
    data = run.data
    if not method.needs_pool:
        return labels, ""
    # what the labels' source remembers would be remembered twice
    alone = labels.source if isinstance(labels, loader.Remembered) else labels
    sources, words = [alone], [str(data.pool)]
    if data.frames:
        clipped = load_run(data.frames, scale=run.scale)
        folder = require_run(clipped, root, make)
        sources.append(loader.ClippedFrames(folder, "pool", data.size, count=data.pool))
        words.append(files.content_hash(folder / "manifest.csv"))
    for subset in data.unlabelled:
        stills = loader.select(data.layout, root / data.root, subset, run.seed)
        sources.append(loader.Stills(data.layout, stills, data.size, labels=False))
        words.append(hash_files(stills))
    return remembered(run, loader.Joined(*sources)), "/".join(words)


def class_weights(run: Run, labels: loader.Source) -> torch.Tensor | None:
    """Weights of the classes in the loss, as the run asks for them; None for equal ones."""
    if run.method.class_weights == "none":
        return None
    reader = layouts.get(run.data.layout)
    if reader.TASK == "detection":
        raise config.ConfigError("method.class_weights: only for masks, not for boxes")
    if run.method.class_weights == "published":
        if not hasattr(reader, "CLASS_WEIGHTS"):
            raise config.ConfigError(f"method.class_weights: none published for {run.data.layout}")
        return torch.tensor(reader.CLASS_WEIGHTS)
    classes = len(reader.CLASSES)
    return methods.inverse_sqrt_weights(evaluation.class_counts(labels, classes))


def hash_files(*groups: list[Sample], extra: str = "") -> str:
    """A hash of what stills and their labels hold, and of `extra`."""
    words = [extra]
    for group in groups:
        for sample in group:
            paths = [path for path in (sample.image, sample.label) if path is not None]
            words += [sample.id, *map(files.content_hash, paths)]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]


def build_network(run: Run) -> nn.Module:
    """The run's network with random (or, where asked for, ImageNet) weights."""
    classes = len(layouts.get(run.data.layout).CLASSES)
    options = dataclasses.asdict(run.model)
    for name, value in (options.pop("detector") or {}).items():
        options[name] = options.get(name) if value is None else value
    options = {name: value for name, value in options.items() if value is not None}
    if run.init == "imagenet":
        options["pretrained"] = True
    return models.build(options.pop("architecture"), classes, **options)


def load_start(run: Run, root: Path, network: nn.Module, make: Make) -> str:
    """Load the weights that this run starts from, released ones or another run's; their hash."""
    if run.released is not None:
        path = root / run.released
        checkpoint.fit(network, espnet.load_released(path).state_dict(), path)
        return files.content_hash(path)
    if run.init in (None, "imagenet"):
        return ""
    start = load_run(run.init, scale=run.scale, seed=run.seed)
    path = require_run(start, root, make) / "model.safetensors"
    tensors, _ = checkpoint.load(path)
    before, after = (len(layouts.get(r.data.layout).CLASSES) for r in (start, run))
    if before != after:
        tensors = _with_new_classes(tensors, network, before, after)
    checkpoint.fit(network, tensors, path)
    return files.content_hash(path)


def _with_new_classes(
    tensors: dict[str, torch.Tensor], network: nn.Module, before: int, after: int
) -> dict[str, torch.Tensor]:
    """Weights of a network for other classes; layers that score the classes stay as drawn.

    Those have a fixed number of rows for each class, and perhaps some more: for the background, for
    the box of an anchor.
    """
    own = network.state_dict()

    def scores_classes(key: str) -> bool:
        there, here = tensors[key].shape, own[key].shape if key in own else ()
        if there == here or not (there and here) or there[1:] != here[1:]:
            return False
        return (there[0] - here[0]) % (before - after) == 0

    return {key: own[key] if scores_classes(key) else tensors[key] for key in tensors}


def load_network(
    run: Run, root: Path, fabric: Fabric, make: Make
) -> tuple[nn.Module, dict[str, Any]]:
    """A finished run's network in evaluation mode, and the notes saved with its weights."""
    path = require_run(run, root, make) / "model.safetensors"
    tensors, notes = checkpoint.load(path)
    network = build_network(dataclasses.replace(run, init=None))  # no ImageNet to be overwritten
    checkpoint.fit(network, tensors, path)
    network = network.to(fabric.device, memory_format=torch.channels_last)
    return network.eval(), notes


def load_teacher(run: Run, root: Path, fabric: Fabric, make: Make) -> tuple[Teacher, str]:
    """The run's teacher, checked against its recorded score, and the hash of its weights.

    Raises TeacherError where it scores lower than recorded.
    """
    taught = load_run(run.teacher, scale=run.scale, seed=run.seed)
    network, notes = load_network(taught, root, fabric, make)
    teacher = Teacher(
        network, name=f"{taught.name}, seed {taught.seed}", score=_number(notes["sample_score"])
    )
    reached = evaluation.evaluate(
        teacher,
        taught.data.layout,
        teacher_sample(taught, root),
        run.data.size,
        fabric=fabric,
        title="teacher check",
    )
    score = _number(reached[evaluation.headline(taught.data.layout)])
    teacher.check(score, slack=evaluation.slack(taught.data.layout))
    return teacher, files.content_hash(root / taught.folder / "model.safetensors")


def _number(score: float | None) -> float:
    """A score; NaN, which no teacher passes its check with, where there was nothing to score."""
    return math.nan if score is None else score


def teacher_sample(run: Run, root: Path) -> list[Sample]:
    """Stills spread evenly over the split for choosing settings, or over the reported one."""
    held_out = run.data.tune or run.data.report
    stills = loader.select(run.data.layout, root / run.data.root, held_out, run.seed)
    count = min(TEACHER_SAMPLE, len(stills))
    return [stills[i * len(stills) // count] for i in range(count)]


def require_run(run: Run, root: Path, make: Make) -> Path:
    """The folder of a finished upstream run; at smoke scale `make` makes it where it is missing.

    Raises MissingError.
    """
    folder = root / run.folder
    done = folder / ("manifest.csv" if run.frames is not None else "model.safetensors")
    if run.scale == "smoke":
        # processes train together, but frames are for one of them to clip
        wait = files.alone(root / ".cache" / f"{run.name}.lock") if run.frames else nullcontext()
        with wait:
            if not done.is_file() or _outdated(run, root, done):
                make(run)
        return folder
    again = f"`kdlib run {run.name} --scale {run.scale} --seed {run.seed}`"
    if not done.is_file():
        raise MissingError(
            f"{done}: not there yet. Make it first: {again}, or `dvc repro`, which makes every "
            "stage of dvc.yaml in order."
        )
    if _outdated(run, root, done):
        warnings.warn(
            f"{done}: made with other settings than params.yaml holds now, and used as it is. "
            f"Where that is not meant, make it again: {again}.",
            stacklevel=2,
        )
    return folder


def _outdated(run: Run, root: Path, done: Path) -> bool:
    """Whether weights or frames were made with other settings than the parameters hold now.

    Of frames that is known at smoke scale only, see `settings_note`. Notes that are missing or
    damaged are made again there; elsewhere whoever loads the weights says what is wrong with them.
    """
    if run.frames is not None:
        note = settings_note(run, root)
        made_with = note.read_text(encoding="utf-8") if note.is_file() else ""
        return run.scale == "smoke" and made_with != run.settings_hash()
    try:
        notes = json.loads(done.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return run.scale == "smoke"
    return notes.get("settings_hash") != run.settings_hash()
