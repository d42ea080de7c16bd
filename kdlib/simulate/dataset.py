"""Rendering a data set: which files come from each clip, and the lists that name them."""

import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from kdlib.simulate import apolloscape, culane, kitti, lanes, llamas
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
            return [*culane.files(root, job.seed), part]
        case "drive":
            return culane.drive_files(root, job.seed, job.frames, float(job.rate))
        case "llamas":
            return llamas.files(root, job.seed)
        case "apolloscape":
            return apolloscape.files(root, job.seed)
    raise ValueError(f"no kind of job is called {job.kind!r}")


def render(job: Job, out: Path) -> int:
    """Render one job, unless its files are there, and return the number of frames rendered."""
    paths = outputs(job, out)
    if all(path.exists() for path in paths):
        return 0
    seconds = 10.0 if job.frames == 1 else float(job.frames / job.rate)
    height, width = job.size
    renderer = Renderer(
        job.seed, job.world, (height + height % 2, width + width % 2), max(seconds, 10.0)
    )
    times = [float(k / job.rate) for k in range(job.frames)]
    if job.kind == "video":
        return write_video(paths[0], (renderer.frame(t).image for t in times), job.rate)
    if job.kind == "drive":
        frames = (trimmed(renderer.frame(t, boxes=True), job.size) for t in times)
        culane.write_drive(paths, frames)
        return job.frames
    frame = trimmed(renderer.frame(MOMENT, boxes=job.kind != "seg"), job.size)
    match job.kind:
        case "kitti":
            write_png(paths[0], kitti.coarse(frame.image))
            write_bytes(paths[1], kitti.labels(frame.boxes, job.size).encode())
        case "culane":
            culane.write(paths, job.seed, renderer.clip, frame)
        case "llamas":
            llamas.write(paths, job.seed, frame)
        case "apolloscape":
            apolloscape.write(paths, frame)
        case _:
            write_bdd(job, paths, renderer, frame)
    return 1


def trimmed(frame: Frame, size: tuple[int, int]) -> Frame:
    """A frame without the last row or column where it was rendered one larger, to be even."""
    height, width = size
    marks = frame.marks if frame.marks is None else frame.marks[:height, :width]
    image, label = frame.image[:height, :width], frame.label[:height, :width]
    return replace(frame, image=image, label=label, marks=marks)


def write_bdd(job: Job, paths: list[Path], renderer: Renderer, frame: Frame) -> None:
    """Write a still and its labels in BDD100K's layout."""
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
    lane_labels = out / "bdd100k" / "labels" / "lane" / "polygons"
    kinds = {job.kind for job in jobs(recipe)}
    boxed = {(job.root, job.split) for job in jobs(recipe) if job.kind in ("det", "boxes")}
    paths = [_boxes_file(out, root, split) for root, split in sorted(boxed)]
    if "det" in kinds:
        paths += [lane_labels / f"lane_{split}.json" for split in ("train", "val")]
    if "culane" in kinds:
        paths += [out / "culane" / "list" / name for name in culane.lists([])]
    if "kitti" in kinds:
        paths += [_kitti_list(out, split) for split in ("train", "val")]
    return paths


def render_tiny(out: Path) -> Path:
    """Render the preset `smoke` in this process, a few seconds; the folder, to stand for data/."""
    make(SMOKE, out, workers=1)
    return out


def collect(recipe: Recipe, out: Path) -> None:
    """Gather the parts of all clips into the label files and lists of their layouts."""
    parts: dict[tuple[str, str], list[dict]] = {}
    rows_culane: list[dict] = []
    numbers: dict[str, list[str]] = {}
    for job in jobs(recipe):
        if job.kind == "culane":
            rows_culane.append(json.loads(outputs(job, out)[-1].read_text()))
        elif job.kind in ("det", "boxes"):
            value = json.loads(outputs(job, out)[-1].read_text())
            parts.setdefault((job.root, job.split), []).append(value)
        elif job.kind == "kitti":
            numbers.setdefault(job.split, []).append(outputs(job, out)[0].stem)
    for (root, split), found in parts.items():
        rows = sorted(found, key=lambda row: row["det"]["name"])
        write_json(_boxes_file(out, root, split), [row["det"] for row in rows])
        if all("lane" in row for row in rows):
            path = out / root / "labels" / "lane" / "polygons" / f"lane_{split}.json"
            write_json(path, [row["lane"] for row in rows])
    if rows_culane:
        for name, text in culane.lists(rows_culane).items():
            write_bytes(out / "culane" / "list" / name, text.encode())
    if numbers:
        for split in ("train", "val"):
            lines = "".join(f"{name}\n" for name in sorted(numbers.get(split, [])))
            write_bytes(_kitti_list(out, split), lines.encode())
    shutil.rmtree(out / PARTS, ignore_errors=True)


def _boxes_file(out: Path, root: str, split: str) -> Path:
    return out / root / "labels" / "det_20" / f"det_{split}.json"


def _kitti_list(out: Path, split: str) -> Path:
    return out / "kitti" / "ImageSets" / f"{split}.txt"
