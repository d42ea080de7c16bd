"""Cost of the lane scores as ratios, for a quiet machine; the figures compared must be the same.

    python -m benchmarks.lanes [--pictures 100] [--slow 5] [--repeats 3]

CULane matching: `culane_match` against the plain form (each pair of lanes drawn anew on two whole
pictures, one line at a time, the spline in a loop over its points, then the best of all pairings),
four lanes by four at the density of CULane (18 points). LLAMAS: `llamas_average_precision` against
101 comparisons of a map of 1276 x 717. In turn, best of several runs, in one process, on one
thread.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch

from kdlib.metrics.lanes import culane_iou, culane_match, llamas_average_precision

SIZE, LANES, POINTS, WIDTH, THRESHOLD = (1640, 590), 4, 18, 30, 0.5


def picture(rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Four lanes that meet far away, as a network would find them and as they are labelled."""
    y = np.linspace(589, 249, POINTS)
    far = (589 - y) / 340
    bend, centre = rng.normal(0, 60), rng.normal(820, 60)
    truth = []
    for k in range(LANES):
        near = centre + 420 * (k - 1.5)
        truth.append(np.stack([near + (centre - near) * 0.85 * far + bend * far**2, y], 1))
    predicted = [lane + rng.normal(0, 5) + rng.normal(0, 1, lane.shape) for lane in truth]
    return predicted, truth


def plain_curve(lane: np.ndarray) -> list[tuple[int, int]]:
    """The rounded points of the natural spline, one after the other."""
    points = [tuple(float(np.float32(v)) for v in point) for point in lane]
    gaps = [math.dist(a, b) for a, b in itertools.pairwise(points)]
    bends = []
    for axis in range(2):
        pairs = zip(itertools.pairwise(points), gaps, strict=True)
        slopes = [(b[axis] - a[axis]) / h for (a, b), h in pairs]
        share, value = [0.0], [0.0]
        for k in range(len(gaps) - 1):
            pivot = 2 * (gaps[k] + gaps[k + 1]) - gaps[k] * share[-1]
            share.append(gaps[k + 1] / pivot)
            value.append((6 * (slopes[k + 1] - slopes[k]) - gaps[k] * value[-1]) / pivot)
        bend = [0.0] * len(points)
        for k in range(len(gaps) - 1, 0, -1):
            bend[k] = value[k] - share[k] * bend[k + 1]
        bends.append(bend)
    curve = []
    for k, h in enumerate(gaps):
        for step in range(50):
            t = h / 50 * step
            place = []
            for axis in range(2):
                m0, m1, start = bends[axis][k], bends[axis][k + 1], points[k][axis]
                slope = (points[k + 1][axis] - start) / h - (2 * h * m0 + h * m1) / 6
                place.append(start + slope * t + m0 / 2 * t**2 + (m1 - m0) / (6 * h) * t**3)
            curve.append((round(np.float32(place[0]).item()), round(np.float32(place[1]).item())))
    curve.append((round(points[-1][0]), round(points[-1][1])))
    return curve


def plain_mask(lane: np.ndarray) -> np.ndarray:
    """The lane on a whole picture."""
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    for start, end in itertools.pairwise(plain_curve(lane)):
        cv2.line(mask, start, end, 1, WIDTH)
    return mask


def plain_iou(predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> list[list[float]]:
    """Both lanes of each pair drawn anew, as the official tool does."""
    table = []
    for one in predicted:
        row = []
        for other in truth:
            first, second = plain_mask(one), plain_mask(other)
            common = int((first * second).sum())
            row.append(common / (int(first.sum()) + int(second.sum()) - common))
        table.append(row)
    return table


def plain_match(
    predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray]
) -> tuple[int, int, int]:
    """Hits, errors and misses of the best of all pairings; rows are the smaller side."""
    table = plain_iou(predicted, truth)
    if len(predicted) > len(truth):
        table = list(zip(*table, strict=True))
    pairings = itertools.permutations(range(max(len(predicted), len(truth))), len(table))
    paired = ([row[k] for row, k in zip(table, order, strict=True)] for order in pairings)
    hits = sum(iou > THRESHOLD for iou in max(paired, key=sum))
    return hits, len(predicted) - hits, len(truth) - hits


def plain_precision(probability: np.ndarray, label: np.ndarray) -> float:
    """Average precision from 101 comparisons."""
    area, before = 0.0, (1.0, 0.0)
    for k in range(100, -1, -1):
        predicted = probability >= k / 100
        right = int(np.sum(predicted & label))
        wrong, missed = int(np.sum(predicted & ~label)), int(np.sum(~predicted & label))
        precision = right / (right + wrong) if right + wrong else 0.0
        recall = right / (right + missed) if right + missed else 0.0
        area += (recall - before[1]) * before[0]
        before = precision, recall
    return area


def best_seconds(
    runs: Sequence[Callable[[], object]], repeats: int, device: str = "cpu"
) -> list[float]:
    """Shortest of several runs of each, in turn, so that a busy spell meets all of them."""
    times = []
    for _ in range(repeats):
        row = []
        for run in runs:
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            row.append(time.perf_counter() - start)
        times.append(row)
    return np.min(times, axis=0).tolist()


def matching(pictures: int, slow: int, repeats: int) -> None:
    """CULane matching, in lanes (predicted and labelled) a second."""
    rng = np.random.default_rng(0)
    cases = [picture(rng) for _ in range(pictures)]
    for predicted, truth in cases[:slow]:
        if culane_iou(predicted, truth).tolist() != plain_iou(predicted, truth):
            raise SystemExit("culane_iou differs from the plain form")
        counts, expected = culane_match(predicted, truth), plain_match(predicted, truth)
        if counts != expected:
            raise SystemExit(f"culane_match: {counts} are not the plain form's {expected}")
    plain, ours = best_seconds(
        [
            lambda: [plain_match(*case) for case in cases[:slow]],
            lambda: [culane_match(*case) for case in cases],
        ],
        repeats,
    )
    rates = {
        "each pair drawn anew": 2 * LANES * slow / plain,
        "culane_match": 2 * LANES * pictures / ours,
    }
    title = "CULane matching, four lanes by four; the same counts, and IoU to the bit"
    table(title, "lanes / s", rates)


def precision(repeats: int) -> None:
    """LLAMAS' average precision, in maps a second."""
    rng = np.random.default_rng(0)
    label = np.zeros((717, 1276), bool)
    label[400:, 600:620] = True
    values = np.clip(rng.random(label.shape) ** 4 + 0.5 * label, 0, 1).astype(np.float32)
    wide, stored = values.astype(np.float64), (values * 255).astype(np.uint8)
    map_, bytes_, truth = (torch.from_numpy(array) for array in (values, stored, label))
    worst = abs(llamas_average_precision(map_, truth).auc - plain_precision(wide, label))
    if not worst <= 1e-12:
        raise SystemExit(f"llamas_average_precision differs from the comparisons by {worst}")
    times = best_seconds(
        [
            lambda: plain_precision(wide, label),
            lambda: llamas_average_precision(map_, truth),
            lambda: llamas_average_precision(bytes_, truth),
        ],
        repeats,
    )
    names = ("101 comparisons", "histogram, float32", "histogram, uint8")
    rates = {name: 1 / seconds for name, seconds in zip(names, times, strict=True)}
    table(f"LLAMAS average precision; equal to {worst:.0e}", "maps / s", rates)


def table(title: str, unit: str, rates: dict[str, float]) -> None:
    """Rates beside that of the first row."""
    first = next(iter(rates.values()))
    print(f"{title}\n{'':<24} {unit:>10} {'x plain':>9}")
    for name, rate in rates.items():
        print(f"{name:<24} {rate:10.1f} {rate / first:9.3g}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--slow", type=int, default=5, help="pictures that the plain form draws")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    matching(options.pictures, options.slow, options.repeats)
    precision(options.repeats)


if __name__ == "__main__":
    main()
