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
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from kdlib import checkpoint, config, evaluation, methods, preparing, resuming, runtime, training
from kdlib.config import Run, load_run
from kdlib.data import layouts, loader
from kdlib.data.layouts.sample import Sample
from kdlib.teacher import Teacher
from kdlib.unlabelled import extract_frames, require_data

HELDOUT_FRAMES = 400  # unseen unlabelled frames on which agreement is measured


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
        taught = load_run(run.teacher, scale=run.scale, seed=run.seed)
        preparing.require_run(taught, root, make)
    fabric = runtime.fabric(run.schedule.precision)
    data = run.data
    labelled = loader.select(data.layout, root / data.root, data.labelled, run.seed)
    report = loader.select(data.layout, root / data.root, data.report, run.seed)
    preparing.check_report(run, root, report)
    stills = loader.Stills(data.layout, labelled, data.size, labels=True)
    labels = preparing.remembered(run, stills)

    reader = layouts.get(data.layout)
    weights = preparing.class_weights(run, labels)
    method = methods.build(run.method, weights, len(reader.CLASSES), reader.TASK)
    source, pool_hash = preparing.source_of(run, root, labels, method, make)
    torch.manual_seed(runtime.seed_for(run.seed, "weights", run.model.architecture))
    network = preparing.build_network(run)
    start_hash = preparing.load_start(run, root, network, make)
    teacher, teacher_hash = None, ""
    if method.needs_teacher:
        teacher, teacher_hash = load_teacher(run, root, fabric)

    everything = dataclasses.replace(data.labelled, draw=0)
    offered = loader.select(data.layout, root / data.root, everything, run.seed)
    data_hash = preparing.hash_files(offered, report)
    samples_hash = preparing.hash_files(labelled, extra=pool_hash)
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
    """Write weights, notes and history. The resume point stays until the record is written, too."""
    run = parts.run
    folder = parts.root / run.folder
    sample = preparing.teacher_sample(run, parts.root)
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
        # no older weights beside newer notes, whenever it is killed
        (folder / "model.safetensors").unlink(missing_ok=True)
        checkpoint.save(folder / "model.safetensors", trained.weights, notes)
    parts.fabric.barrier()


def forget(parts: Parts) -> None:
    """Drop the resume point: all results are written."""
    if parts.fabric.is_global_zero:
        shutil.rmtree(parts.resume, ignore_errors=True)


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


def make(run: Run, keep: Callable[[dict[str, Any]], object] | None = None) -> dict[str, Any] | None:
    """The whole of a run without its notebook's explanations; its facts, None for a frames run.

    For `kdlib run` (under torchrun too), and for what is missing upstream at smoke scale. keep:
    writes the record of the facts, before the resume point goes.
    """
    if run.frames is not None:
        extract_frames(run)
        return None
    parts = prepare(run)
    trained = fit(parts)
    scores = score(parts)
    finish(parts, trained, scores)
    found = facts(parts, trained, scores)
    if keep is not None:
        keep(found)
    forget(parts)
    return found


def load_network(run: Run, root: Path, fabric: Fabric) -> tuple[nn.Module, dict[str, Any]]:
    """A finished run's network in evaluation mode, and the notes saved with its weights."""
    return preparing.load_network(run, root, fabric, make)


def load_teacher(run: Run, root: Path, fabric: Fabric) -> tuple[Teacher, str]:
    """The run's teacher, checked against its recorded score, and the hash of its weights.

    Raises TeacherError where it scores lower than recorded.
    """
    return preparing.load_teacher(run, root, fabric, make)


def parameter_count(network: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(p.numel() for p in network.parameters())
