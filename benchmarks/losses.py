"""Cost of the losses as ratios, to be read on a quiet machine; nothing is asserted.

    python -m benchmarks.losses [--device cuda] [--threads 2] [--channels-last]

The matching loss is timed against the bare `kl_div` of two softmaxes and against a copy of the two
inputs; the resize of the supervised loss against `interpolate`. Forward and backward, best of
several runs, in one process.
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.losses import matching
from kdlib.resize import bilinear

SHAPES = ((8, 19, 65, 65), (8, 19, 129, 257))
SIZE = (512, 1024)


def best_ms(run: Callable[[], object], device: str, repeats: int = 15) -> float:
    """Shortest of several runs in milliseconds, after one that is not counted."""

    def once() -> float:
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start)

    once()
    return min(once() for _ in range(repeats))


def bare(student: Tensor, teacher: Tensor) -> Tensor:
    """The one-line form that most code uses (its normalisation differs)."""
    return F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    memory = torch.channels_last if options.channels_last else torch.contiguous_format

    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, {memory}")
    print(f"{'logits':<18} {'loss ms':>8} {'/ kl_div':>9} {'masked / kl_div':>16} {'/ copy':>8}")
    for shape in SHAPES:
        student, teacher = (
            torch.randn(shape, device=options.device).contiguous(memory_format=memory)
            for _ in range(2)
        )
        student.requires_grad_()
        valid = torch.rand(shape[0], *shape[2:], device=options.device) > 0.1

        def ours(student=student, teacher=teacher) -> None:
            matching.segmentation(student, teacher).backward()

        def masked(student=student, teacher=teacher, valid=valid) -> None:
            matching.segmentation(student, teacher, valid_NHW=valid).backward()

        def reference(student=student, teacher=teacher) -> None:
            bare(student, teacher).backward()

        def copy(student=student, teacher=teacher) -> None:
            student.detach().clone()
            teacher.clone()

        runs = (ours, masked, reference, copy)
        ms, ms_masked, ms_bare, ms_copy = (best_ms(run, options.device) for run in runs)
        print(
            f"{shape!s:<18} {ms:8.2f} {ms / ms_bare:9.2f} {ms_masked / ms_bare:16.2f} "
            f"{ms / ms_copy:8.1f}"
        )

    logits = torch.randn(2, 19, SIZE[0] // 8, SIZE[1] // 8, device=options.device)
    logits.requires_grad_()

    def product() -> None:
        bilinear(logits, SIZE).sum().backward()

    def interpolate() -> None:
        F.interpolate(logits, SIZE, mode="bilinear", align_corners=True).sum().backward()

    ms, ms_theirs = (best_ms(run, options.device, 5) for run in (product, interpolate))
    print(f"resize to {SIZE}: {ms:.1f} ms, {ms / ms_theirs:.2f} of interpolate")


if __name__ == "__main__":
    main()
