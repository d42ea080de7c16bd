"""What a training step costs beyond its networks.

    python -m benchmarks.step [RUN] [--scale sample] [--steps 200] [--threads 1] [--peak 989]

The whole loop (reading, views, teacher, student, loss, optimiser, bookkeeping) of any run of
params.yaml, against a bare forward of the teacher plus a bare forward and backward of the student
on one fixed batch; random weights and random pictures. Prints process CPU time and wall time a
step, their ratio, images a second, what the networks compute, and the peak memory. In turns, so
that a busy machine disturbs both alike. --peak, in TFLOP/s of the device's number format, adds the
share of it that the loop keeps busy (model FLOP utilisation).
"""

import argparse
import dataclasses
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdlib import config, methods, preparing, runtime, training
from kdlib.config import load_run
from kdlib.data import layouts, loader
from kdlib.detection import Boxes, Untouched
from kdlib.teacher import Teacher

ROUNDS = 3
OBJECTS = 10  # labelled boxes of a picture


class Noise:
    """A source of random pictures and labels: what a step costs hardly depends on what it sees."""

    def __init__(self, run: config.Run, count: int = 64):
        random = np.random.default_rng(0)
        reader, size = layouts.get(run.data.layout), run.data.size
        self.images = random.integers(0, 256, (count, *size, 3), dtype=np.uint8)
        self.labels = [_label(reader, size, random) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int):
        return self.images[index], self.labels[index]


def _label(reader, size_hw: tuple[int, int], random: np.random.Generator):
    """A mask in blocks of a sixteenth of each side, or boxes, as the layout's task has them."""
    if reader.TASK != "detection":
        blocks = random.integers(0, len(reader.CLASSES), (16, 16), dtype=np.uint8)
        rows, columns = (np.arange(side) * 16 // side for side in size_hw)
        return blocks[rows][:, columns]
    height, width = size_hw
    start = random.random((OBJECTS, 2)) * (0.7 * width, 0.7 * height)
    end = start + (0.05 + 0.25 * random.random((OBJECTS, 2))) * (width, height)
    return Boxes(
        np.concatenate([start, end], 1).astype(np.float32),
        random.integers(0, len(reader.CLASSES), OBJECTS),
        np.zeros(OBJECTS, bool),
        np.zeros(OBJECTS, np.int64),
    )


def clocks(fabric) -> tuple[float, float]:
    """CPU seconds of this process, and wall seconds, with nothing left to do on the device."""
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()
    return time.process_time(), time.perf_counter()


def whole(run: config.Run, source: Noise, teacher: Teacher | None, fabric) -> tuple[float, float]:
    """CPU and wall seconds a step of the training loop."""
    reader = layouts.get(run.data.layout)
    network = preparing.build_network(run).to(fabric.device)
    method = methods.build(run.method, None, len(reader.CLASSES), reader.TASK)
    with tempfile.TemporaryDirectory() as folder:
        before = clocks(fabric)
        training.train(
            run, network, method, source, fabric=fabric, resume=Path(folder), teacher=teacher
        )
        after = clocks(fabric)
    return tuple((b - a) / run.schedule.steps for a, b in zip(before, after, strict=True))


def bare(
    run: config.Run, source: Noise, teacher: Teacher | None, fabric
) -> tuple[float, float, float]:
    """CPU and wall seconds of the networks alone a step, and the operations of one."""
    network = preparing.build_network(run).to(fabric.device, memory_format=torch.channels_last)
    network.train()
    images, labels = loader.Batches(source, run.schedule.batch, 0)[0]
    images = (images / 255).to(fabric.device, memory_format=torch.channels_last)
    shown = [images]
    if getattr(network, "wants_targets", False):
        shown.append(Untouched(type(labels)(*(part.to(fabric.device) for part in labels))))

    def step() -> None:
        with fabric.autocast():
            if teacher is not None:
                with torch.inference_mode():
                    teacher(images)
            answer = network(*shown)
        sum(part.float().sum() for part in _tensors(answer) if part.requires_grad).backward()

    with FlopCounterMode(display=False) as counter:
        step()
    before = clocks(fabric)
    for _ in range(run.schedule.steps):
        step()
    after = clocks(fabric)
    cpu, wall = ((b - a) / run.schedule.steps for a, b in zip(before, after, strict=True))
    return cpu, wall, counter.get_total_flops()


def _tensors(answer) -> list[torch.Tensor]:
    """What a network answers with, apart from the features that the answer was made of."""
    fields = answer._asdict() if hasattr(answer, "_asdict") else dict(enumerate(answer))
    found = []
    for name, part in fields.items():
        if isinstance(part, torch.Tensor):
            found.append(part)
        elif isinstance(part, dict) and name != "features":
            found += part.values()
        elif isinstance(part, tuple):
            found += [one for one in part if isinstance(one, torch.Tensor)]
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="funmatch-seg-matching")
    parser.add_argument("--scale", default="sample")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", type=float, help="TFLOP/s that the device could do at most")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = load_run(options.run, scale=options.scale)
    run = dataclasses.replace(
        run,
        init=None,
        method=dataclasses.replace(run.method, class_weights="none"),
        schedule=dataclasses.replace(run.schedule, steps=options.steps),
    )
    fabric = runtime.fabric(run.schedule.precision)
    teacher = None
    if methods.build(run.method, None, 2, layouts.get(run.data.layout).TASK).needs_teacher:
        taught = dataclasses.replace(load_run(run.teacher, scale=options.scale), init=None)
        teacher = Teacher(preparing.build_network(taught), name="random", score=0.0)
        teacher = teacher.to(fabric.device, memory_format=torch.channels_last)
    source = Noise(run)
    rows = {"loop": [], "networks": []}
    for _ in range(ROUNDS):
        *seconds, operations = bare(run, source, teacher, fabric)
        rows["networks"].append(seconds)
        rows["loop"].append(whole(run, source, teacher, fabric))
    best = {name: tuple(map(min, zip(*times, strict=True))) for name, times in rows.items()}
    print(f"{run.name}, scale {run.scale}, {run.schedule.batch} images a step, {fabric.device}")
    for name, (cpu, wall) in best.items():
        print(f"{name:9} {1000 * cpu:7.1f} ms CPU  {1000 * wall:7.1f} ms wall  a step")
    cpu, wall = (best["loop"][i] / best["networks"][i] for i in (0, 1))
    print(f"ratio     {cpu:7.2f}         {wall:7.2f}")
    seconds = best["loop"][1]
    rate = operations / seconds / 1e12
    share = f", {100 * rate / options.peak:.1f} % of {options.peak:g}" if options.peak else ""
    print(f"{run.schedule.batch / seconds:.1f} images a second; {operations / 1e9:,.1f} GFLOP of")
    print(f"convolutions and products a step in the networks: {rate:.3f} TFLOP/s{share}")
    if fabric.device.type == "cuda":
        peak, of = torch.cuda.max_memory_allocated() / 2**20, "tensors on the device"
    else:
        peak, of = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "the process"
    print(f"peak memory of {of}: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
