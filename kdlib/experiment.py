"""From the name of a run to its files: what the notebooks call, one function per step.

    run = load_run("funmatch-seg-distil", scale="smoke")
    parts = prepare(run)          # data, network, teacher, method
    trained = fit(parts)          # the training loop; goes on where a killed run stopped
    scores = score(parts)         # on the reported split, and agreement with the teacher
    finish(parts, trained, scores)  # weights and history under runs/

At `smoke` scale everything upstream that is missing (data, frames, teacher), or was made with other
settings, is made on the spot, so that a notebook runs by itself; at the other scales a missing part
is an error that names its stage.
"""

import dataclasses
import hashlib
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from kdlib import (
    checkpoint,
    config,
    evaluation,
    files,
    methods,
    models,
    resuming,
    runtime,
    training,
)
from kdlib.config import Run, load_run
from kdlib.data import layouts, loader
from kdlib.data.layouts.sample import Sample
from kdlib.models import espnet
from kdlib.teacher import Teacher
from kdlib.unlabelled import MissingError, extract_frames, require_data

HELDOUT_FRAMES = 400  # unseen unlabelled frames on which agreement is measured
TEACHER_SAMPLE = 40  # stills on which a teacher must reach its recorded score before it teaches


@dataclass(frozen=True)
class Parts:
    """A run made ready."""

    run: Run
    root: Path  # the repository
    fabric: Fabric
    labelled: list[Sample]  # stills whose labels may be used
    report: list[Sample]  # stills of the reported split
    source: loader.Source  # what training draws from
    network: nn.Module
    start: dict[str, torch.Tensor]  # the network's weights before training
    method: methods.Method
    teacher: Teacher | None
    data_hash: str  # of the stills that every seed and every method draws from
    samples_hash: str  # of what this seed and this method drew
    resume: Path


def prepare(run: Run) -> Parts:
    """Data, network, teacher and method of a run, on the device; checks before work starts."""
    root = config.repository()
    require_data(run, root)
    if run.teacher is not None:  # wanted for the scores too, where the method does without
        _require_run(load_run(run.teacher, scale=run.scale, seed=run.seed), root)
    fabric = runtime.fabric(run.schedule.precision)
    data = run.data
    labelled = loader.select(data.layout, root / data.root, data.labelled, run.seed)
    report = loader.select(data.layout, root / data.root, data.report, run.seed)
    _check_report(run, root, report)
    labels = _remembered(run, loader.Stills(data.layout, labelled, data.size, labels=True))

    reader = layouts.get(data.layout)
    weights = _class_weights(run, labels)
    method = methods.build(run.method, weights, len(reader.CLASSES), reader.TASK)
    source, pool_hash = _source(run, root, labels, method)
    torch.manual_seed(runtime.seed_for(run.seed, "weights", run.model.architecture))
    network = build_network(run)
    start_hash = _start(run, root, network)
    teacher, teacher_hash = None, ""
    if method.needs_teacher:
        teacher, teacher_hash = load_teacher(run, root, fabric)

    everything = dataclasses.replace(data.labelled, draw=0)
    offered = loader.select(data.layout, root / data.root, everything, run.seed)
    data_hash = _hash_files(offered, report)
    samples_hash = _hash_files(labelled, extra=pool_hash)
    resume = resuming.folder_of(run, root, data_hash, samples_hash, start_hash, teacher_hash)
    network = network.to(fabric.device)
    return Parts(
        run=run,
        root=root,
        fabric=fabric,
        labelled=labelled,
        report=report,
        source=source,
        network=network,
        start={key: value.clone() for key, value in network.state_dict().items()},
        method=method,
        teacher=teacher,
        data_hash=data_hash,
        samples_hash=samples_hash,
        resume=resume,
    )


def fit(parts: Parts) -> training.Trained:
    """Train; afterwards `parts.network` holds the result.

    Begins at the resume point or at the start's weights, so a second call (a cell run again) gives
    the same result and does not train the trained network further.
    """
    parts.network.load_state_dict(parts.start)
    trained = training.train(
        parts.run,
        parts.network,
        parts.method,
        parts.source,
        fabric=parts.fabric,
        resume=parts.resume,
        teacher=parts.teacher,
        live=parts.root / parts.run.folder / "live",
    )
    parts.network.load_state_dict(trained.weights)
    return trained


def score(parts: Parts) -> dict[str, Any]:
    """Scores on the reported split and, for a student, agreement there and on unseen frames."""
    run, fabric = parts.run, parts.fabric
    data, teacher = run.data, parts.teacher
    if teacher is None and run.teacher is not None:
        teacher, _ = load_teacher(run, parts.root, fabric)
    scores = {
        "val": evaluation.evaluate(
            parts.network,
            data.layout,
            parts.report,
            data.size,
            fabric=fabric,
            teacher=teacher,
            title=f"{run.name}: reported split",
        )
    }
    clipped = load_run(data.frames, scale=run.scale) if data.frames else None
    if teacher is not None and clipped is not None and clipped.frames.heldout:
        folder = parts.root / clipped.folder
        scores["heldout"] = {
            "agreement": evaluation.agreement_on(
                parts.network,
                teacher,
                loader.ClippedFrames(folder, "heldout", data.size),
                data.layout,
                fabric=fabric,
                count=HELDOUT_FRAMES,
                title=f"{run.name}: unseen frames",
            )
        }
    return scores


def finish(parts: Parts, trained: training.Trained, scores: dict[str, Any]) -> None:
    """Write weights, notes and history, then drop the resume point."""
    run = parts.run
    folder = parts.root / run.folder
    sample = _teacher_sample(run, parts.root)
    reached = evaluation.evaluate(
        parts.network, run.data.layout, sample, run.data.size, fabric=parts.fabric, title="score"
    )
    notes = {
        "run": run.name,
        "scale": run.scale,
        "seed": run.seed,
        "settings_hash": run.settings_hash(),
        "data_hash": parts.data_hash,
        "score": scores["val"][evaluation.headline(run.data.layout)],
        "sample_score": reached[evaluation.headline(run.data.layout)],
        "parameters": parameter_count(parts.network),
    }
    if parts.fabric.is_global_zero:
        training.write_history(folder / "history.csv", trained.history)
        checkpoint.save(folder / "model.safetensors", trained.weights, notes)
        shutil.rmtree(parts.resume, ignore_errors=True)
    parts.fabric.barrier()


def facts(parts: Parts, trained: training.Trained, scores: dict[str, Any]) -> dict[str, Any]:
    """The run's part of a result record; `kdlib.report.records` adds where it was made."""
    run = parts.run
    # How many labels released weights have seen is not ours to know.
    labels = {} if run.released else {"labels": len(parts.labelled)}
    return labels | {
        "run": run.name,
        "title": run.title,
        "scale": run.scale,
        "seed": run.seed,
        "method": run.method.name,
        "settings_hash": run.settings_hash(),
        "data_hash": parts.data_hash,
        "samples_hash": parts.samples_hash,
        "device": runtime.device_name(parts.fabric.device),
        "precision": parts.fabric._precision.precision,
        "processes": parts.fabric.world_size,
        "wall_s": round(trained.seconds, 1),
        "steps": run.schedule.steps,
        "samples_seen": trained.samples,
        "images": len(parts.source),
        "parameters": parameter_count(parts.network),
        "metrics": scores,
    }


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


def load_network(run: Run, root: Path, fabric: Fabric) -> tuple[nn.Module, dict[str, Any]]:
    """A finished run's network in evaluation mode, and the notes saved with its weights."""
    path = _require_run(run, root) / "model.safetensors"
    tensors, notes = checkpoint.load(path)
    network = build_network(dataclasses.replace(run, init=None))  # no ImageNet to be overwritten
    checkpoint.fit(network, tensors, path)
    network = network.to(fabric.device, memory_format=torch.channels_last)
    return network.eval(), notes


def load_teacher(run: Run, root: Path, fabric: Fabric) -> tuple[Teacher, str]:
    """The run's teacher, checked against its recorded score, and the hash of its weights.

    Raises TeacherError where it scores lower than recorded.
    """
    taught = load_run(run.teacher, scale=run.scale, seed=run.seed)
    network, notes = load_network(taught, root, fabric)
    teacher = Teacher(
        network, name=f"{taught.name}, seed {taught.seed}", score=_number(notes["sample_score"])
    )
    reached = evaluation.evaluate(
        teacher,
        taught.data.layout,
        _teacher_sample(taught, root),
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


def make(run: Run) -> dict[str, Any] | None:
    """The whole of a run without its notebook's explanations; its facts, None for a frames run.

    For `kdlib run` (under torchrun too), and for what is missing upstream at smoke scale.
    """
    if run.frames is not None:
        extract_frames(run)
        return None
    parts = prepare(run)
    trained = fit(parts)
    scores = score(parts)
    finish(parts, trained, scores)
    return facts(parts, trained, scores)


def parameter_count(network: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(p.numel() for p in network.parameters())


def _source(
    run: Run, root: Path, labels: loader.Source, method: methods.Method
) -> tuple[loader.Source, str]:
    """What training draws from, and a hash of the unlabelled part."""
    data = run.data
    if not method.needs_pool:
        return labels, ""
    sources, words = [labels], [str(data.pool)]
    if data.frames:
        clipped = load_run(data.frames, scale=run.scale)
        folder = _require_run(clipped, root)
        sources.append(loader.ClippedFrames(folder, "pool", data.size, count=data.pool))
        words.append(files.content_hash(folder / "manifest.csv"))
    for subset in data.unlabelled:
        stills = loader.select(data.layout, root / data.root, subset, run.seed)
        sources.append(loader.Stills(data.layout, stills, data.size, labels=False))
        words.append(_hash_files(stills))
    return _remembered(run, loader.Joined(*sources)), "/".join(words)


def _remembered(run: Run, source: loader.Source) -> loader.Remembered:
    """Every worker of the loader keeps images of its own: they share what one may keep."""
    return loader.Remembered(source, loader.MEMORY // max(1, run.schedule.workers))


def _check_report(run: Run, root: Path, report: list[Sample]) -> None:
    """Refuse a run that would learn from stills it reports on, or choose settings by them."""
    data = run.data
    reported = {still.id for still in report}
    for subset in (data.labelled, *data.unlabelled, *filter(None, [data.tune])):
        stills = loader.select(data.layout, root / data.root, subset, run.seed)
        both = sorted(reported & {still.id for still in stills})
        if both:
            raise loader.DataError(
                f"{root / data.root}: {len(both)} reported stills ({both[0]} ...) are also in "
                f"{subset}. Make data.report and the other subsets of params.yaml disjoint."
            )


def _class_weights(run: Run, labels: loader.Source) -> torch.Tensor | None:
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


def _start(run: Run, root: Path, network: nn.Module) -> str:
    """Load the weights that this run starts from, released ones or another run's; their hash."""
    if run.released is not None:
        path = root / run.released
        checkpoint.fit(network, espnet.load_released(path).state_dict(), path)
        return files.content_hash(path)
    if run.init in (None, "imagenet"):
        return ""
    start = load_run(run.init, scale=run.scale, seed=run.seed)
    path = _require_run(start, root) / "model.safetensors"
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


def _require_run(run: Run, root: Path) -> Path:
    """The folder of a finished upstream run."""
    folder = root / run.folder
    done = folder / ("manifest.csv" if run.frames is not None else "model.safetensors")
    if run.scale == "smoke":
        if not done.is_file() or _outdated(run, done):
            make(run)
    elif not done.is_file():
        raise MissingError(
            f"{done}: not there yet. Make it first: `kdlib run {run.name} --scale {run.scale} "
            f"--seed {run.seed}`, or `dvc repro`, which makes every stage of dvc.yaml in order."
        )
    return folder


def _outdated(run: Run, done: Path) -> bool:
    """Whether weights were made with other settings than the parameters hold now."""
    if run.frames is not None:
        return False
    notes = json.loads(done.with_suffix(".json").read_text(encoding="utf-8"))
    return notes["settings_hash"] != run.settings_hash()


def _teacher_sample(run: Run, root: Path) -> list[Sample]:
    """Stills spread evenly over the split for choosing settings, or over the reported one."""
    held_out = run.data.tune or run.data.report
    stills = loader.select(run.data.layout, root / run.data.root, held_out, run.seed)
    count = min(TEACHER_SAMPLE, len(stills))
    return [stills[i * len(stills) // count] for i in range(count)]


def _hash_files(*groups: list[Sample], extra: str = "") -> str:
    words = [extra]
    for group in groups:
        for sample in group:
            paths = [path for path in (sample.image, sample.label) if path is not None]
            words += [sample.id, *map(files.content_hash, paths)]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
