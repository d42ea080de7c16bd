"""Cost of structured distillation's losses as ratios, for a quiet machine; nothing is asserted.

    python -m benchmarks.structured [--device cuda] [--threads 2] [--repeats 5] [--large]

Each loss is timed against a plain form of it (einsum, one tensor per step of the formula) and
against a copy of its inputs. Batch 8, 19 classes, 512 features; forward and backward, best of
several runs, in one process. `--large` adds what needs much memory (the plain forms: up to 12 GB):
hard pixels at 1024 x 2048 labels, and pairs of every position of the 65 x 65 map.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.losses import best_ms
from kdlib.losses import structured
from kdlib.losses.supervised import ohem_ce

BATCH, CLASSES, FEATURES = 8, 19, 512
MAPS = ((65, 65), (129, 257))
# the window leaves 33 x 33 and 33 x 65 nodes, the released ratio 3 x 3
WINDOWS = {(65, 65): 2, (129, 257): 4}
LABELS = {(65, 65): (512, 512), (129, 257): (1024, 2048)}


def plain_pixelwise(student: Tensor, teacher: Tensor) -> Tensor:
    """The journal's cross entropy in one einsum."""
    total = torch.einsum("nchw,nchw->", teacher.softmax(1), student.log_softmax(1))
    return -total / (student.shape[2] * student.shape[3])


def plain_pairwise(student: Tensor, teacher: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Whole affinity matrices, then their squared difference."""
    matrices = []
    for features in (student, teacher):
        nodes = F.max_pool2d(features, kernel, kernel, ceil_mode=True).flatten(2)
        nodes = nodes / (nodes.norm(dim=1, keepdim=True).detach() + 1e-8)
        matrices.append(torch.einsum("ncm,nck->nmk", nodes, nodes))
    return ((matrices[0] - matrices[1]) ** 2).mean()


def plain_ohem(logits: Tensor, labels: Tensor, threshold: float, k: int) -> Tensor:
    """Every class sampled, the k-th smallest of the true ones, the mean over the hard pixels."""
    size = tuple(labels.shape[1:])
    z = F.interpolate(logits, size, mode="bilinear", align_corners=True)
    p = z.detach().softmax(1)
    grid = tuple(round(side / 8) for side in size)
    sampled = F.interpolate(p, grid, mode="bilinear", align_corners=True)
    rows, columns = (
        torch.linspace(0, side - 1, points, device=labels.device).add(0.5).long()
        for side, points in zip(size, grid, strict=True)
    )
    small = labels[:, rows[:, None], columns]
    true = sampled.gather(1, small.unsqueeze(1)).flatten()
    limit = max(threshold, float(true.sort().values[k - 1])) if k < true.numel() else 1.0
    kept = p.gather(1, labels.unsqueeze(1)).squeeze(1) <= limit
    return F.cross_entropy(z, labels, reduction="none")[kept].mean()


def report(
    name: str,
    ours: Callable[[], Tensor],
    plain: Callable[[], Tensor],
    inputs: tuple[Tensor, ...],
    device: str,
    repeats: int,
) -> None:
    """One line: milliseconds, and ratios to the plain form and to a copy of the inputs."""

    def copy() -> None:
        for tensor in inputs:
            tensor.detach().clone()

    with torch.no_grad():
        value, expected = float(ours()), float(plain())
    if abs(value - expected) > 1e-3 * abs(expected):
        raise SystemExit(f"{name}: {value} is not the plain form's {expected}")
    ms, ms_plain = (
        best_ms(lambda run=run: run().backward(), device, repeats) for run in (ours, plain)
    )
    ms_copy = best_ms(copy, device, repeats)
    print(
        f"{name:<44} {ms:9.2f} {ms / ms_plain:8.2f} {ms / ms_copy:8.1f} {ms_copy / ms:9.4f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, repeats = options.device, options.repeats

    def random(channels: int, size: tuple[int, int]) -> Tensor:
        return torch.randn(BATCH, channels, *size, device=device)

    print(f"torch {torch.__version__}, {device}, {options.threads} threads, batch {BATCH}")
    print(f"{'':<44} {'ms':>9} {'/ plain':>8} {'/ copy':>8} {'of copy':>9}")
    for size in MAPS:
        title = f"{size[0]} x {size[1]}"
        student, teacher = random(CLASSES, size).requires_grad_(), random(CLASSES, size)

        report(
            f"pixel-wise, {CLASSES} classes, {title}",
            lambda s=student, t=teacher: structured.pixelwise(s, t),
            lambda s=student, t=teacher: plain_pixelwise(s, t),
            (student, teacher),
            device,
            repeats,
        )

        if size == MAPS[0] or options.large:
            labels = torch.randint(0, CLASSES, (BATCH, *LABELS[size]), device=device)
            report(
                f"OHEM, {title} to {LABELS[size][0]} x {LABELS[size][1]}",
                lambda s=student, y=labels: ohem_ce(s, y),
                lambda s=student, y=labels: plain_ohem(s, y, 0.7, 100_000 // 64),
                (student, labels),
                device,
                min(repeats, 3),
            )
            del labels

        student, teacher = random(FEATURES, size).requires_grad_(), random(FEATURES, size)
        cases = [
            ("ratio 0.5", {}, (size[0] // 2, size[1] // 2)),
            (f"window {WINDOWS[size]}", {"window": WINDOWS[size]}, (WINDOWS[size],) * 2),
        ]
        if options.large and size == MAPS[0]:
            cases.append(("window 1", {"window": 1}, (1, 1)))
        for name, arguments, kernel in cases:
            report(
                f"pair-wise, {FEATURES} features, {title}, {name}",
                lambda s=student, t=teacher, a=arguments: structured.pairwise(s, t, **a),
                lambda s=student, t=teacher, k=kernel: plain_pairwise(s, t, k),
                (student, teacher),
                device,
                min(repeats, 3),
            )


if __name__ == "__main__":
    main()
