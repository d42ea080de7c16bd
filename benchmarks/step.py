"""What a training step costs beyond its networks: `python -m benchmarks.step [STEPS]`.

The whole loop (reading, views, teacher, student, loss, optimiser, bookkeeping) at sample size,
against a bare forward of the teacher plus a bare forward and backward of the student on one fixed
batch. Prints process CPU time and wall time a step, their ratio, and the peak memory. In a process
of its own, on one thread, in turns, so that a busy machine disturbs both alike.
"""

import dataclasses
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

from kdlib import config, methods, preparing, runtime, training
from kdlib.config import load_run
from kdlib.data import loader
from kdlib.teacher import Teacher

ROUNDS = 3


class Noise:
    """A source of random pictures: what a step costs does not depend on what it sees."""

    def __init__(self, size_hw: tuple[int, int], count: int = 512):
        shape = (count, *size_hw, 3)
        self.images = torch.randint(0, 256, shape, dtype=torch.uint8).numpy()

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int):
        return self.images[index], None


def clocks() -> tuple[float, float]:
    """CPU seconds of this process, and wall seconds."""
    return time.process_time(), time.perf_counter()


def whole(run: config.Run, source: loader.Source, teacher: Teacher, fabric) -> tuple[float, float]:
    """CPU and wall seconds a step of the training loop."""
    network = preparing.build_network(run).to(fabric.device)
    method = methods.build(run.method, None)
    with tempfile.TemporaryDirectory() as folder:
        before = clocks()
        training.train(
            run, network, method, source, fabric=fabric, resume=Path(folder), teacher=teacher
        )
        return tuple((b - a) / run.schedule.steps for a, b in zip(before, clocks(), strict=True))


def bare(run: config.Run, source: loader.Source, teacher: Teacher, fabric) -> tuple[float, float]:
    """CPU and wall seconds of the networks alone."""
    network = preparing.build_network(run).to(fabric.device, memory_format=torch.channels_last)
    network.train()
    images, _ = loader.Batches(source, run.schedule.batch, 0)[0]
    images = (images / 255).to(fabric.device, memory_format=torch.channels_last)
    before = clocks()
    for _ in range(run.schedule.steps):
        with fabric.autocast():
            with torch.inference_mode():
                teacher(images)
            out = network(images).logits
        out.sum().backward()
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()
    return tuple((b - a) / run.schedule.steps for a, b in zip(before, clocks(), strict=True))


def main() -> None:
    """Print the table."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    torch.set_num_threads(1)
    run = load_run("funmatch-seg-matching", scale="sample")
    plan = dataclasses.replace(run.schedule, steps=steps)
    run = dataclasses.replace(run, schedule=plan)
    plain = dataclasses.replace(run.method, class_weights="none")
    run = dataclasses.replace(run, method=plain)
    fabric = runtime.fabric(plan.precision)
    taught = load_run(run.teacher, scale="sample")
    teacher = Teacher(preparing.build_network(taught), name="random", score=0.0)
    teacher = teacher.to(fabric.device, memory_format=torch.channels_last)
    source = Noise(run.data.size)
    rows = {"loop": [], "networks": []}
    for _ in range(ROUNDS):
        rows["networks"].append(bare(run, source, teacher, fabric))
        rows["loop"].append(whole(run, source, teacher, fabric))
    best = {name: tuple(map(min, zip(*times, strict=True))) for name, times in rows.items()}
    for name, (cpu, wall) in best.items():
        print(f"{name:9} {1000 * cpu:7.1f} ms CPU  {1000 * wall:7.1f} ms wall  a step")
    cpu, wall = (best["loop"][i] / best["networks"][i] for i in (0, 1))
    print(f"ratio     {cpu:7.2f}         {wall:7.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process: {peak:.0f} MiB, on {fabric.device}")


if __name__ == "__main__":
    main()
