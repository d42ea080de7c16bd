"""Rendering a data set: which files come from each clip, and the lists that name them."""

import json
import shutil
import time
from functools import partial
from pathlib import Path

from kdlib.simulate import kitti, lanes
from kdlib.simulate.files import (
    remove_parts,
    write_bytes,
    write_jpeg,
    write_json,
    write_png,
    write_video,
)
from kdlib.simulate.parallel import progress, spread
from kdlib.simulate.recipe import PINNED as PINNED
from kdlib.simulate.recipe import SMOKE, Job, Recipe, jobs
from kdlib.simulate.render import Frame, Renderer

MOMENT = 5.0  # seconds into a clip at which its still is taken
PARTS = ".parts"


def outputs(job: Job, out: Path) -> list[Path]:
    """The files that a job writes; the last one marks it as done."""
    root, part = out / job.root, out / PARTS / f"{job.kind}-{job.split}-{job.id}.json"
    match job.kind:
        case "video":
            return [root / "videos" / job.split / f"{job.id}.mov"]
        case "seg":
            return [
                root / "images/10k" / job.split / f"{job.id}.jpg",
                root / "labels/sem_seg/masks" / job.split / f"{job.id}.png",
            ]
        case "det":
            return [
                root / "images/100k" / job.split / f"{job.id}.jpg",
                root / "labels/lane/masks" / job.split / f"{job.id}.png",
                part,
            ]
        case "boxes":
            return [root / "images/100k" / job.split / f"{job.id}.jpg", part]
        case "kitti":
            name = job.seed.removeprefix("kitti/")
            return [
                root / "training/image_2" / f"{name}.png",
                root / "training/label_2" / f"{name}.txt",
            ]
        case "culane":
            name = lanes.culane_name(job.seed)
            return [
                root / f"{name}.jpg",
                root / "laneseg_label_w16" / f"{name}.png",
                root / f"{name}.lines.txt",
                part,
            ]
    raise ValueError(f"no kind of job is called {job.kind!r}")


def render(job: Job, out: Path) -> int:
    """Render one job, unless its files are there, and return the number of frames rendered."""
    paths = outputs(job, out)
    if all(path.exists() for path in paths):
        return 0
    seconds = 10.0 if job.frames == 1 else float(job.frames / job.rate)
    renderer = Renderer(job.seed, job.world, job.size, max(seconds, 10.0))
    if job.kind == "video":
        times = [float(k / job.rate) for k in range(job.frames)]
        return write_video(paths[0], (renderer.frame(t).image for t in times), job.rate)
    frame = renderer.frame(MOMENT, boxes=job.kind != "seg")
    if job.kind == "kitti":
        write_png(paths[0], kitti.coarse(frame.image))
        write_bytes(paths[1], kitti.labels(frame.boxes, job.size).encode())
        return 1
    write_jpeg(paths[0], frame.image)
    if job.kind == "seg":
        write_png(paths[1], frame.label)
    elif job.kind == "boxes":
        write_json(paths[1], {"det": detections(job, renderer, frame)})
    elif job.kind == "det":
        write_png(paths[1], lanes.bdd_mask(frame.lanes, job.size))
        write_json(
            paths[2],
            {
                "det": detections(job, renderer, frame),
                "lane": lanes.bdd_labels(job.id, frame.lanes),
            },
        )
    else:
        four = lanes.four_lanes(frame.lanes, job.size)
        write_png(paths[1], lanes.culane_mask(four, job.size))
        write_bytes(paths[2], lanes.culane_lines(four).encode())
        write_json(
            paths[3],
            {
                "name": lanes.culane_name(job.seed),
                "split": job.split,
                "exists": [int(bool(lane)) for lane in four],
            },
        )
    return 1


def detections(job: Job, renderer: Renderer, frame: Frame) -> dict:
    """One frame of det_20 in Scalabel's form; boxes include their last row and column."""
    clip = renderer.clip
    return {
        "name": f"{job.id}.jpg",
        "attributes": {"weather": clip.weather, "scene": clip.scene, "timeofday": clip.time},
        "timestamp": int(MOMENT * 1000),
        "labels": [
            {
                "id": f"{job.id}-{k}",
                "category": box.category,
                "attributes": {
                    "occluded": box.occluded,
                    "truncated": box.truncated,
                    "trafficLightColor": {"red": "R", "green": "G", "yellow": "Y"}.get(
                        box.light, "NA"
                    ),
                    "crowd": False,
                },
                "box2d": {"x1": box.x1, "y1": box.y1, "x2": box.x2, "y2": box.y2},
            }
            for k, box in enumerate(frame.boxes)
        ],
    }


def make(recipe: Recipe, out: Path, workers: int | None = None) -> None:
    """Render a data set into `out`; finished files are kept, so a killed run can be repeated."""
    todo = list(jobs(recipe))
    if complete(recipe, out):
        print(f"{out}: complete already, nothing to render")
        return
    remove_parts(out)
    started, frames = time.perf_counter(), 0
    with progress(len(todo), "clips") as bar:
        for done in spread(partial(render, out=out), todo, workers):
            frames += done
            bar.set_postfix_str(f"{frames / (time.perf_counter() - started):.0f} frames/s", False)
            bar.update()
    collect(recipe, out)
    seconds = time.perf_counter() - started
    print(f"{out}: {frames} frames rendered in {seconds:.1f} s, {frames / seconds:.0f} frames/s")


def complete(recipe: Recipe, out: Path) -> bool:
    """Whether all files of a data set are there and gathered."""
    parts = out / PARTS
    wanted = (path for job in jobs(recipe) for path in outputs(job, out) if path.parent != parts)
    paths = (*wanted, *gathered(recipe, out))
    return not parts.exists() and all(path.exists() for path in paths)


def gathered(recipe: Recipe, out: Path) -> list[Path]:
    """The label files and lists that `collect` writes."""
    labels, lists = out / "bdd100k" / "labels", out / "culane" / "list"
    boxed = {(job.root, job.split) for job in jobs(recipe) if job.kind in ("det", "boxes")}
    return [
        *(_boxes_file(out, root, split) for root, split in sorted(boxed)),
        *(labels / "lane" / "polygons" / f"lane_{split}.json" for split in ("train", "val")),
        *(
            lists / name
            for name in ("train.txt", "train_gt.txt", "val.txt", "val_gt.txt", "test.txt")
        ),
        *(_kitti_list(out, split) for split in ("train", "val")),
    ]


def render_tiny(out: Path) -> Path:
    """Render the preset `smoke` in this process, a few seconds; the folder, to stand for data/."""
    make(SMOKE, out, workers=1)
    return out


def collect(recipe: Recipe, out: Path) -> None:
    """Gather the parts of all clips into the label files and lists of their layouts."""
    parts: dict[tuple[str, str], list[dict]] = {}
    numbers: dict[str, list[str]] = {}
    for job in jobs(recipe):
        if job.kind in ("det", "boxes", "culane"):
            value = json.loads(outputs(job, out)[-1].read_text())
            parts.setdefault((job.root, job.split), []).append(value)
        elif job.kind == "kitti":
            numbers.setdefault(job.split, []).append(outputs(job, out)[0].stem)
    for (root, split), found in parts.items():
        if root == "culane":
            continue
        rows = sorted(found, key=lambda row: row["det"]["name"])
        write_json(_boxes_file(out, root, split), [row["det"] for row in rows])
        if all("lane" in row for row in rows):
            path = out / root / "labels" / "lane" / "polygons" / f"lane_{split}.json"
            write_json(path, [row["lane"] for row in rows])
    for split in ("train", "val", "test"):
        rows = sorted(parts.get(("culane", split), []), key=lambda row: row["name"])
        plain, full = lanes.culane_lists(rows)
        write_bytes(out / "culane" / "list" / f"{split}.txt", plain.encode())
        if split != "test":
            write_bytes(out / "culane" / "list" / f"{split}_gt.txt", full.encode())
    for split in ("train", "val"):
        lines = "".join(f"{name}\n" for name in sorted(numbers.get(split, [])))
        write_bytes(_kitti_list(out, split), lines.encode())
    shutil.rmtree(out / PARTS, ignore_errors=True)


def _boxes_file(out: Path, root: str, split: str) -> Path:
    return out / root / "labels" / "det_20" / f"det_{split}.json"


def _kitti_list(out: Path, split: str) -> Path:
    return out / "kitti" / "ImageSets" / f"{split}.txt"
