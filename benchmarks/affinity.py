"""Cost of inter-region affinity's losses as ratios, for a quiet machine; nothing is asserted.

    python -m benchmarks.affinity [--device cuda] [--threads 1] [--repeats 7] [--slow 3] [--quick]
        [--channels-last]

The affinity loss, forward and backward, is timed against two loops over images and classes: one
that multiplies the whole map by each mask, as the formulas are written, and one that takes each
mask's pixels out first. The teacher's moments are timed against reads of its feature (`sum`), the
areas against max-pooling of one-hot labels. What is compared is run in turn, and the shortest of
`--repeats` runs of each counts, of `--slow` runs where loops or pooling are among them. `--quick`
leaves the masked loop out, which takes seconds a run. `--channels-last` gives both sides features
in the memory format of training. Labels are 8 times the feature's size: four lanes, or blobs of
every class.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.lanes import best_seconds
from kdlib.losses import affinity

STRIDE, LANE_WIDTH = 8, 16
EPS = 1e-10


class Case(NamedTuple):
    images: int
    student: int  # channels
    teacher: int
    size: tuple[int, int]
    regions: int


CASES = (
    Case(8, 128, 128, (65, 105), 5),
    Case(8, 128, 128, (62, 186), 37),
    Case(12, 128, 2048, (26, 122), 5),
)


def lanes(images: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(N, H, W) labels: four lines from the bottom to a point near the top's middle."""
    height, width = size
    rows_H1, columns_W = torch.arange(height)[:, None] / height, torch.arange(width)
    labels_NHW = torch.zeros(images, *size, dtype=torch.long)
    for n in range(images):
        top = width * (0.4 + 0.2 * torch.rand(1, generator=generator))
        for lane in range(4):
            middle_H1 = top + ((lane + 0.5) * width / 4 - top) * rows_H1
            labels_NHW[n][(columns_W - middle_H1).abs() < LANE_WIDTH / 2] = lane + 1
    return labels_NHW


def blobs(images: int, size: tuple[int, int], classes: int, generator: torch.Generator) -> Tensor:
    """(N, H, W) labels: every pixel has the class of the nearest of two random points a class."""
    pixels_P2 = torch.cartesian_prod(*(torch.arange(side).float() for side in size))
    labels = []
    for _ in range(images):
        points = torch.rand(2 * classes, 2, generator=generator) * torch.tensor(size)
        labels.append(torch.cdist(pixels_P2, points).argmin(1).view(size) % classes)
    return torch.stack(labels)


def masked(x_CP: Tensor, inside_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments with the whole map times the mask."""
    inside_P = inside_P.to(x_CP.dtype)
    n = inside_P.sum()
    mean_C1 = (x_CP * inside_P).sum(1, keepdim=True) / n
    z_CP = (x_CP - mean_C1) * inside_P
    variance_C1 = (z_CP**2).sum(1, keepdim=True) / n
    skewness_C = ((z_CP / (variance_C1 + EPS)) ** 3).sum(1) / n
    return mean_C1.squeeze(1), variance_C1.squeeze(1), skewness_C


def taken(x_CP: Tensor, inside_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the mask's pixels."""
    x_CK = x_CP[:, inside_P]
    mean_C1 = x_CK.mean(1, keepdim=True)
    z_CK = x_CK - mean_C1
    variance_C1 = (z_CK**2).mean(1, keepdim=True)
    skewness_C = ((z_CK / (variance_C1 + EPS)) ** 3).mean(1)
    return mean_C1.squeeze(1), variance_C1.squeeze(1), skewness_C


def loop(student: Tensor, teacher: Tensor, areas: Tensor, moments: Callable) -> Tensor:
    """The affinity loss, one image and one class after the other."""
    total = student.new_zeros(())
    for n, areas_RP in enumerate(areas.flatten(2)):
        graphs = []
        for features in (student, teacher):
            x_CP = features[n].flatten(1)
            zero = x_CP.new_zeros(len(x_CP))
            found = [moments(x_CP, a_P) if a_P.any() else (zero,) * 3 for a_P in areas_RP]
            vectors_3RC = torch.stack([torch.stack(each) for each in zip(*found, strict=True)])
            units_3RC = F.normalize(vectors_3RC, dim=2)
            graphs.append(units_3RC @ units_3RC.transpose(1, 2))
        total = total + (graphs[0] - graphs[1]).square().mean()
    return total / len(areas)


def pooled_areas(labels: Tensor, classes: int, size: tuple[int, int], kernel: int = 5) -> Tensor:
    """Areas by max-pooling the one-hot labels."""
    one_hot = F.one_hot(labels, classes).permute(0, 3, 1, 2).float()
    return F.interpolate(F.max_pool2d(one_hot, kernel, 1, kernel // 2), size) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--slow", type=int, default=3, help="repeats beside a slow form")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--channels-last", action="store_true", help="the format of training")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, repeats, slow = options.device, options.repeats, options.slow
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    generator = torch.Generator().manual_seed(0)

    def best(*runs: Callable[[], object], times: int) -> list[float]:
        runs[0]()  # ours once before: it is compiled at its first call
        return [1e3 * seconds for seconds in best_seconds(runs, times, device)]

    print(f"torch {torch.__version__}, {device}, {options.threads} threads")
    for case in CASES:
        full = tuple(STRIDE * side for side in case.size)
        if case.regions == 5:
            labels = lanes(case.images, full, generator)
        else:
            labels = blobs(case.images, full, case.regions, generator)
        labels = labels.to(device)
        areas = affinity.areas_of_interest(labels, case.regions, size=case.size)
        if not torch.equal(areas, pooled_areas(labels, case.regions, case.size)):
            raise SystemExit(f"{case}: the forms' areas differ")
        ms, ms_pooled = best(
            lambda y=labels, c=case: affinity.areas_of_interest(y, c.regions, size=c.size),
            lambda y=labels, c=case: pooled_areas(y, c.regions, c.size),
            times=slow,
        )
        print(
            f"{case.images} images, {case.size[0]} x {case.size[1]}, {case.regions} regions: "
            f"areas {ms:.1f} ms, pooling / ours {ms_pooled / ms:.1f}, "
            f"regions per pixel {float(areas.float().mean()) * case.regions:.2f}"
        )

        student, teacher = (
            torch.randn(case.images, channels, *case.size, device=device)
            .relu()
            .contiguous(memory_format=layout)
            for channels in (case.student, case.teacher)
        )
        student.requires_grad_()

        def run(function: Callable, *arguments: object, student: Tensor = student) -> None:
            student.grad = None
            function(student, *arguments).backward()

        with torch.no_grad():
            value = float(affinity.affinity_loss(student, teacher, areas))
            expected = float(loop(student, teacher, areas, taken))
        if abs(value - expected) > 1e-3 * abs(expected):
            raise SystemExit(f"{case}: {value} is not the loop's {expected}")
        loops = {"taken": taken} if options.quick else {"masked": masked, "taken": taken}
        ms, *ms_loops = best(
            lambda r=run, t=teacher, a=areas: r(affinity.affinity_loss, t, a),
            *(
                lambda r=run, t=teacher, a=areas, m=moments: r(loop, t, a, m)
                for moments in loops.values()
            ),
            times=slow,
        )
        line = f"  loss, {case.student} and {case.teacher} channels: {ms:.1f} ms"
        for name, ms_loop in zip(loops, ms_loops, strict=True):
            line += f", loop of {name} pixels / ours {ms_loop / ms:.1f}"
        print(line)
        with torch.no_grad():
            ms, ms_read = best(
                lambda t=teacher, a=areas: affinity.moment_pooling(t, a),
                lambda t=teacher: t.sum(),
                times=repeats,
            )
        print(f"  teacher's moments: {ms:.1f} ms, {ms / ms_read:.1f} reads of its feature")
        ms, ms_read = best(
            lambda r=run, t=teacher: r(affinity.attention_transfer, t),
            lambda s=student, t=teacher: (s.sum(), t.sum()),
            times=repeats,
        )
        print(f"  attention: {ms:.1f} ms, {ms / ms_read:.1f} reads of both features", flush=True)


if __name__ == "__main__":
    main()
