"""Cost of inter-region affinity's losses as ratios, for a quiet machine; nothing is asserted.

    python -m benchmarks.affinity [--device cuda] [--threads 1] [--repeats 7] [--slow 3] [--quick]
        [--contiguous]

The losses are timed forward and backward, against plain forms that must give the same value. The
affinity loss: two loops over images and classes, one that multiplies the whole map by each mask, as
the formulas are written, and one that takes each mask's pixels out first. Attention: a loop over
images, and reads (`sum`) of both features. Soft targets, of logits of the feature's size: a loop
over images and classes. Existence: a loop over images and lanes, as many as there are classes
beside the background. The teacher's moments are timed against reads of its feature, the areas
against max-pooling of one-hot labels.

What is compared is run in turn, and the shortest of `--repeats` runs of each counts, of `--slow`
runs where the affinity's loops or pooling are among them. `--quick` leaves the masked loop out,
which takes seconds a run. Features and logits have the memory format of training, channels last;
`--contiguous` gives both sides the other. Labels are 8 times the feature's size: four lanes, or
blobs of every class.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.lanes import best_seconds
from kdlib.losses import affinity

STRIDE, LANE_WIDTH = 8, 16
TEMPERATURE = 4.0
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


def plain_attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Attention transfer, one image after the other."""
    total = student.new_zeros(())
    for features in zip(student, teacher, strict=True):
        maps = [x_CHW.square().sum(0) for x_CHW in features]
        units = [map_HW / map_HW.square().sum().sqrt() for map_HW in maps]
        total = total + (units[0] - units[1]).square().sum()
    return total / len(student)


def plain_soft_targets(student: Tensor, teacher: Tensor) -> Tensor:
    """The divergence of the softened distributions, one image and one class after the other."""
    total = student.new_zeros(())
    for logits in zip(student / TEMPERATURE, teacher / TEMPERATURE, strict=True):
        logs = [z_CHW - z_CHW.exp().sum(0).log() for z_CHW in logits]
        for log_q_HW, log_p_HW in zip(*logs, strict=True):
            total = total + (log_p_HW.exp() * (log_p_HW - log_q_HW)).sum()
    return TEMPERATURE**2 * total / student[:, 0].numel()


def plain_existence(logits: Tensor, exists: Tensor) -> Tensor:
    """Cross entropy of the lanes' existence, one image and one lane after the other."""
    total = logits.new_zeros(())
    for z_L, y_L in zip(logits, exists.to(logits.dtype), strict=True):
        for z, y in zip(z_L, y_L, strict=True):
            p = z.sigmoid()
            total = total - y * p.log() - (1 - y) * (1 - p).log()
    return total / logits.numel()


def best(runs: Sequence[Callable[[], object]], times: int, device: str) -> list[float]:
    """Milliseconds of the shortest of several runs of each."""
    runs[0]()  # ours once before: it is compiled at its first call
    return [1e3 * seconds for seconds in best_seconds(runs, times, device)]


def best_losses(
    title: str,
    forms: Sequence[Callable[..., Tensor]],
    inputs: Sequence[Tensor],
    times: int,
    beside: Sequence[Callable[[], object]] = (),
) -> list[float]:
    """The same of the forms of a loss, forward and backward, and of what runs `beside` them.

    The first form is ours, and all must give its value; the first input is the student's.
    """
    with torch.no_grad():
        value, *others = (float(form(*inputs)) for form in forms)
    for expected in others:
        if not abs(value - expected) <= 1e-3 * abs(expected):  # not, for NaN is no value either
            raise SystemExit(f"{title}: {value} is not the plain form's {expected}")
    student = inputs[0].detach().requires_grad_()

    def run(form: Callable[..., Tensor]) -> None:
        student.grad = None
        form(student, *inputs[1:]).backward()

    return best([*(partial(run, form) for form in forms), *beside], times, student.device.type)


def compare_areas(case: Case, labels: Tensor, slow: int) -> Tensor:
    """The line of the areas, which are returned."""
    runs = [
        partial(affinity.areas_of_interest, labels, case.regions, size=case.size),
        partial(pooled_areas, labels, case.regions, case.size),
    ]
    areas, expected = (run() for run in runs)
    if not torch.equal(areas, expected):
        raise SystemExit(f"{case}: the forms' areas differ")
    ms, ms_pooled = best(runs, slow, labels.device.type)
    print(
        f"{case.images} images, {case.size[0]} x {case.size[1]}, {case.regions} regions: "
        f"areas {ms:.1f} ms, pooling / ours {ms_pooled / ms:.3g}, "
        f"regions per pixel {float(areas.float().mean()) * case.regions:.2f}"
    )
    return areas


def compare_features(
    student: Tensor, teacher: Tensor, areas: Tensor, options: argparse.Namespace
) -> None:
    """The lines of what is made of features: affinity, moments, attention."""
    loops = {"taken": taken} if options.quick else {"masked": masked, "taken": taken}
    forms = [affinity.affinity_loss, *(partial(loop, moments=each) for each in loops.values())]
    ms, *ms_loops = best_losses("loss", forms, (student, teacher, areas), options.slow)
    line = f"  loss, {student.shape[1]} and {teacher.shape[1]} channels: {ms:.1f} ms"
    for name, ms_loop in zip(loops, ms_loops, strict=True):
        line += f", loop of {name} pixels / ours {ms_loop / ms:.3g}"
    print(line)
    with torch.no_grad():
        runs = [partial(affinity.moment_pooling, teacher, areas), teacher.sum]
        ms, ms_read = best(runs, options.repeats, options.device)
    print(f"  teacher's moments: {ms:.1f} ms, {ms / ms_read:.3g} reads of its feature")
    ms, ms_loop, ms_read = best_losses(
        "attention",
        [affinity.attention_transfer, plain_attention],
        (student, teacher),
        options.repeats,
        beside=[lambda: (student.sum(), teacher.sum())],
    )
    print(
        f"  attention: {ms:.1f} ms, loop / ours {ms_loop / ms:.3g}, "
        f"{ms / ms_read:.3g} reads of both features"
    )


def compare_logits(case: Case, options: argparse.Namespace) -> None:
    """The lines of what is made of logits: soft targets, existence."""
    shape = (case.images, case.regions, *case.size)
    ms, ms_loop = best_losses(
        "soft targets",
        [partial(affinity.soft_targets, temperature=TEMPERATURE), plain_soft_targets],
        [random(shape, options) for _ in range(2)],
        options.repeats,
    )
    print(f"  soft targets: {ms:.2f} ms, loop / ours {ms_loop / ms:.3g}")
    logits_NL, teacher_NL = torch.randn(2, case.images, case.regions - 1, device=options.device)
    ms, ms_loop = best_losses(
        "existence",
        [affinity.existence_bce, plain_existence],
        (logits_NL, teacher_NL > 0),
        options.repeats,
    )
    print(f"  existence: {ms:.3f} ms, loop / ours {ms_loop / ms:.3g}", flush=True)


def random(shape: tuple[int, ...], options: argparse.Namespace) -> Tensor:
    """Normal numbers in the chosen memory format."""
    layout = torch.contiguous_format if options.contiguous else torch.channels_last
    return torch.randn(shape, device=options.device).contiguous(memory_format=layout)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--slow", type=int, default=3, help="repeats beside a slow form")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--contiguous", action="store_true", help="not the format of training")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    layout = "contiguous" if options.contiguous else "channels last"
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, {layout}")
    for case in CASES:
        full = tuple(STRIDE * side for side in case.size)
        if case.regions == 5:
            labels = lanes(case.images, full, generator)
        else:
            labels = blobs(case.images, full, case.regions, generator)
        areas = compare_areas(case, labels.to(options.device), options.slow)
        student, teacher = (
            random((case.images, channels, *case.size), options).relu()
            for channels in (case.student, case.teacher)
        )
        compare_features(student, teacher, areas, options)
        compare_logits(case, options)


if __name__ == "__main__":
    main()
