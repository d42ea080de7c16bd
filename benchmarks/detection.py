"""Cost of detection's parts as ratios, for a quiet machine; the figures compared must be the same.

    pip install -e '.[bench]'
    python -m benchmarks.detection [--images 2000] [--repeats 3]

mAP evaluation: `coco_map` against pycocotools, with the same boxes at the density of BDD100K (10
classes, 18 objects and 100 detections an image), in turn, best of several runs, in one process.
Both start from the same arrays and end at the averages. VOC's and KITTI's averages stand beside.
Without pycocotools these are timed beside `coco_map`.
"""

import argparse
import contextlib
import importlib.util
import io
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from kdlib.detection import Boxes, Detections
from kdlib.metrics.detection import coco_map, kitti_ap, voc_ap

CLASSES = tuple("abcdefghij")
OBJECTS, ANSWERS = 18, 100
FIGURES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
RECALLS = ("ar_1", "ar_10", "ar_100")
Figures = Callable[[Sequence[Detections], Sequence[Boxes]], Sequence[float]]


def scene(rng: np.random.Generator) -> tuple[Detections, Boxes]:
    """One image: small objects more often than large ones, detections about them and elsewhere."""
    corner, sides = rng.uniform(0, 1200, (OBJECTS, 2)), np.exp(rng.uniform(2, 5.5, (OBJECTS, 2)))
    xyxy = np.concatenate([corner, corner + sides], 1).astype(np.float32)
    # a few classes have most of the objects
    kinds = np.minimum(rng.geometric(0.35, OBJECTS) - 1, len(CLASSES) - 1)
    ignored = rng.random(OBJECTS) < 0.05
    source = rng.integers(0, OBJECTS, ANSWERS)
    noise = rng.normal(0, 0.15, (ANSWERS, 4)) * np.tile(sides[source], 2)
    near = xyxy[source] + noise
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    kind = np.where(rng.random(ANSWERS) < 0.8, kinds[source], rng.integers(0, 10, ANSWERS))
    scores = np.sort(rng.random(ANSWERS))[::-1].copy()
    found = Detections(torch.tensor(near).float(), torch.tensor(scores).float(), torch.tensor(kind))
    return found, Boxes(xyxy, kinds, ignored, rng.integers(0, 4, OBJECTS))


def pycocotools_figures(found: Sequence[Detections], truth: Sequence[Boxes]) -> list[float]:
    """The same figures from the reference implementation, without what it prints."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = [], []
    for image, (one, boxes) in enumerate(zip(found, truth, strict=True)):
        corners = boxes.xyxy.astype(np.float64)
        sides = corners[:, 2:] - corners[:, :2]
        for (x, y), (w, h), kind, ignored in zip(
            corners[:, :2].tolist(),
            sides.tolist(),
            boxes.classes.tolist(),
            boxes.ignored.tolist(),
            strict=True,
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": kind,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(ignored),
                }
            )
        for (x, y, right, bottom), score, kind in zip(
            one.xyxy.double().tolist(), one.scores.tolist(), one.classes.tolist(), strict=True
        ):
            box = [x, y, right - x, bottom - y]
            results.append({"image_id": image, "category_id": kind, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO()
        labels.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(len(truth))],
            "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES)],
            "annotations": annotations,
        }
        labels.createIndex()
        run = COCOeval(labels, labels.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats[:9].tolist()


def installed() -> Figures | None:
    """The reference implementation; None, and a line that says how to get it, where it is not."""
    if importlib.util.find_spec("pycocotools") is not None:
        return pycocotools_figures
    print(
        "pycocotools is not installed, so coco_map has nothing to be measured against: "
        "pip install -e '.[bench]'"
    )
    return None


def best_seconds(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Shortest of several runs of each, in turn, so that a busy spell meets all of them."""
    times = []
    for _ in range(repeats):
        row = []
        for run in runs:
            start = time.perf_counter()
            run()
            row.append(time.perf_counter() - start)
        times.append(row)
    return np.min(times, axis=0).tolist()


def worst_difference(
    ours: dict, reference: Figures, found: Sequence[Detections], truth: Sequence[Boxes]
) -> float:
    """Between the figures of `coco_map` and those of the reference, which must be the same."""
    theirs = reference(found, truth)
    worst = np.abs(np.array([ours[name] for name in FIGURES + RECALLS]) - theirs).max()
    if not worst <= 1e-12:
        raise SystemExit(f"coco_map differs from pycocotools by {worst}")
    return worst


def evaluation(images: int, repeats: int, reference: Figures | None) -> None:
    """mAP evaluation, beside `coco_map` where there is no reference."""
    rng = np.random.default_rng(0)
    found, truth = zip(*(scene(rng) for _ in range(images)), strict=True)
    ours = coco_map(found, truth, CLASSES)
    title = f"mAP evaluation, {images} images (mAP {ours['map']:.4f})"
    runs: dict[str, Callable[[], object]] = {}
    if reference is not None:
        worst = worst_difference(ours, reference, found, truth)
        title += f"; figures equal to {worst:.0e}"
        runs["pycocotools"] = lambda: reference(found, truth)

    few = [_of_three(one, boxes) for one, boxes in zip(found, truth, strict=True)]
    seen, given = zip(*few, strict=True)
    runs |= {
        "coco_map": lambda: coco_map(found, truth, CLASSES),
        "voc_ap": lambda: voc_ap(found, truth, CLASSES),
        "kitti_ap, 3 classes": lambda: kitti_ap(seen, given, CLASSES[:3]),
    }
    times = best_seconds([*runs.values()], repeats)
    first = f"/ {next(iter(runs))}"
    print(f"{title}\n{'':<28} {'s':>8} {first:>14} {'images / s':>11}")
    for name, seconds in zip(runs, times, strict=True):
        print(f"{name:<28} {seconds:8.2f} {seconds / times[0]:14.3g} {images / seconds:11.0f}")


def _of_three(found: Detections, boxes: Boxes) -> tuple[Detections, Boxes]:
    keep, kept = found.classes < 3, boxes.classes < 3
    return Detections(*(v[keep] for v in found)), Boxes(*(v[kept] for v in boxes))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    evaluation(options.images, options.repeats, installed())


if __name__ == "__main__":
    main()
