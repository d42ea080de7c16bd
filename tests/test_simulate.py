"""The simulator: same bytes every time, complete layouts, valid labels, honest pins."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from kdlib.data import layouts
from kdlib.simulate import clips, dataset, files, kitti, restore
from kdlib.simulate.__main__ import build_parser
from kdlib.simulate.classes import BOXED, IGNORE, NAMES
from kdlib.simulate.dataset import PINNED, SMOKE
from kdlib.simulate.recipe import kitti_alone
from kdlib.simulate.render import Box, Renderer

COMMAND = [sys.executable, "-m", "kdlib.simulate", "data", "--preset", "smoke"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke data set, rendered in this process."""
    return dataset.render_tiny(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="module")
def hashes(tiny: Path) -> dict[str, str]:
    """MD5 of every file of the smoke data set."""
    return restore.tree_hashes(tiny)


def names(folder: Path, pattern: str) -> set[str]:
    """Stems of the files of a folder."""
    return {path.stem for path in folder.glob(pattern)}


def test_kitti_alone_keeps_the_stills_of_the_whole(tmp_path: Path, hashes: dict) -> None:
    more = dataclasses.replace(kitti_alone(5, 3), kitti_size=SMOKE.kitti_size)
    assert {job.kind for job in dataset.jobs(more)} == {"kitti"}
    dataset.make(more, tmp_path, workers=1)
    found = restore.tree_hashes(tmp_path)
    same = {name for name, value in hashes.items() if found.get(name) == value}
    lists = {f"kitti/ImageSets/{split}.txt" for split in ("train", "val")}
    assert same == {name for name in hashes if name.startswith("kitti/")} - lists
    assert len(found) == len(same) + 2 * 2 + len(lists) and dataset.complete(more, tmp_path)


def test_another_process_writes_the_same_bytes(tmp_path: Path, root: Path, hashes: dict) -> None:
    out = tmp_path / "data"
    subprocess.run([*COMMAND, "--out", out, "--workers", "2"], cwd=root, check=True)
    assert restore.compare(restore.tree_hashes(out), hashes) == []


def test_killed_and_repeated_gives_the_same_bytes(tmp_path: Path, root: Path, hashes: dict) -> None:
    out = tmp_path / "data"
    run = subprocess.Popen([*COMMAND, "--out", out, "--workers", "1"], cwd=root)
    while run.poll() is None and len(list(out.rglob("*.jpg"))) < 5:
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    torn = out / "bdd100k" / "videos" / "train" / ".half.mov.1.part"
    files.write_bytes(torn, b"half")
    dataset.make(SMOKE, out, workers=1)
    assert len(kept) >= 5
    # The still that was being written may lack its mask and is rendered again; no other is.
    assert sum(path.stat().st_mtime_ns != when for path, when in kept.items()) <= 1
    assert not torn.exists()
    assert restore.compare(restore.tree_hashes(out), hashes) == []


def test_a_complete_tree_is_left_alone(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    dataset.make(SMOKE, tiny, workers=1)
    assert "nothing to render" in capsys.readouterr().out


def test_layouts_are_complete(tiny: Path) -> None:
    bdd = tiny / "bdd100k"
    for split, count in zip(("train", "val"), SMOKE.seg, strict=True):
        images = names(bdd / "images/10k" / split, "*.jpg")
        assert len(images) == count
        assert images == names(bdd / "labels/sem_seg/masks" / split, "*.png")
    for split, count in zip(("train", "val"), SMOKE.det, strict=True):
        images = names(bdd / "images/100k" / split, "*.jpg")
        assert len(images) == count
        assert images == names(bdd / "labels/lane/masks" / split, "*.png")
        for kind, path in (("det", "det_20"), ("lane", "lane/polygons")):
            frames = json.loads((bdd / "labels" / path / f"{kind}_{split}.json").read_text())
            assert [frame["name"] for frame in frames] == sorted(f"{name}.jpg" for name in images)
    assert len(names(bdd / "videos/train", "*.mov")) == SMOKE.videos
    assert names(bdd / "videos/val", "*.mov") < names(bdd / "images/10k/val", "*.jpg")
    for split, count in zip(("train", "val"), SMOKE.elsewhere, strict=True):
        images = names(tiny / "elsewhere/bdd100k/images/10k" / split, "*.jpg")
        assert len(images) == count
        masks = tiny / "elsewhere/bdd100k/labels/sem_seg/masks" / split
        assert images == names(masks, "*.png")
    for split, count in zip(("train", "val"), SMOKE.elsewhere_det, strict=True):
        images = names(tiny / "elsewhere/bdd100k/images/100k" / split, "*.jpg")
        path = tiny / f"elsewhere/bdd100k/labels/det_20/det_{split}.json"
        assert len(images) == count
        assert path.exists() == (count > 0)
        if count:
            frames = json.loads(path.read_text())
            assert [frame["name"] for frame in frames] == sorted(f"{name}.jpg" for name in images)
    training, listed = tiny / "kitti/training", set()
    for split, count in zip(("train", "val"), SMOKE.kitti, strict=True):
        lines = (tiny / f"kitti/ImageSets/{split}.txt").read_text().split()
        assert len(lines) == count
        listed |= set(lines)
    assert len(listed) == sum(SMOKE.kitti)
    assert names(training / "image_2", "*.png") == names(training / "label_2", "*.txt") == listed
    for root, folder, counts in (
        ("llamas", "color_images/*", SMOKE.llamas),
        ("llamas", "labels/*", SMOKE.llamas),
        ("apolloscape", "ColorImage_road0?/ColorImage", SMOKE.apolloscape),
        ("apolloscape", "Labels_road0?/Label", SMOKE.apolloscape),
    ):
        found = sorted((tiny / root).glob(folder))
        assert [sum(p.is_file() for p in path.rglob("*")) for path in found] == list(counts)
    assert not (tiny / dataset.PARTS).exists()


def test_the_layouts_read_the_boxes_that_were_written(tiny: Path) -> None:
    known = {"bdd100k": "bdd100k-boxes", "elsewhere/bdd100k": "bdd100k-boxes", "kitti": "kitti"}
    for folder, name in known.items():
        module = layouts.get(name)
        assert [str(problem) for problem in module.problems(tiny / folder)] == []
        stills = module.samples(tiny / folder, "train")
        boxes = [module.read_boxes(still) for still in stills]
        assert sum(len(some.classes) for some in boxes) > 3 * len(stills)


def box(category: str, place: tuple, extent: tuple, thing: int = 1, ridden: bool = False) -> Box:
    """A visible object for the KITTI labels; places name the last column and row."""
    return Box(category, *place, False, False, "NA", extent, thing, ridden)


KITTI_LINES = {
    "seen whole": ([box("car", (10, 20, 29, 39), (10, 20, 29, 39))], "Car 0.00 0 {} 10 20 30 40"),
    "0.5 seen": ([box("car", (10, 20, 19, 39), (10, 20, 29, 39))], "Car 0.00 1 {} 10 20 30 40"),
    "0.2 seen": ([box("bus", (10, 20, 13, 39), (10, 20, 29, 39))], "Misc 0.00 2 {} 10 20 30 40"),
    "0.1 seen": ([box("car", (10, 20, 11, 39), (10, 20, 29, 39))], "Car 0.00 3 {} 10 20 30 40"),
    "over the left edge": (
        [box("truck", (0, 20, 29, 39), (-10, 20, 29, 39))],
        "Truck 0.25 0 {} 0 20 30 40",
    ),
    "over the last column and row": (
        [box("pedestrian", (90, 40, 99, 59), (90, 40, 109, 79))],
        "Pedestrian 0.75 0 {} 90 40 100 60",
    ),
    "tiny": ([box("car", (10, 20, 29, 30), (10, 20, 29, 30))], "DontCare -1 -1 {} 10 20 30 31"),
    "rider and bicycle": (
        [
            box("rider", (10, 10, 19, 29), (10, 10, 19, 29), ridden=True),
            box("bicycle", (5, 25, 24, 39), (5, 25, 24, 39), ridden=True),
        ],
        "Cyclist 0.00 0 {} 5 10 25 40",
    ),
    "a bicycle whose rider is hidden": (
        [box("bicycle", (5, 25, 24, 39), (5, 25, 24, 39), ridden=True)],
        "Cyclist 0.00 0 {} 5 25 25 40",
    ),
    "a parked bicycle": (
        [box("bicycle", (5, 25, 24, 39), (5, 25, 24, 39))],
        "Misc 0.00 0 {} 5 25 25 40",
    ),
    "a tram": ([box("train", (5, 25, 24, 39), (5, 25, 24, 39))], "Tram 0.00 0 {} 5 25 25 40"),
    "a traffic light": ([box("traffic light", (5, 25, 24, 39), (5, 25, 24, 39))], ""),
}


@pytest.mark.parametrize("name", KITTI_LINES)
def test_kitti_labels(name: str) -> None:
    boxes, expected = KITTI_LINES[name]
    line = kitti.labels(boxes, (60, 100)).split()
    wanted = expected.format(-10).split()
    assert line[:4] == wanted[:4]
    assert [float(value) for value in line[4:8]] == [float(value) for value in wanted[4:]]
    assert len(line) == (15 if wanted else 0)


def test_kitti_numbers_stay_when_the_set_grows() -> None:
    train = [int(kitti.number("train", k)) for k in range(240)]
    val = [int(kitti.number("val", k)) for k in range(120)]
    assert sorted(train + val) == list(range(360))
    assert train[:4] == [0, 1, 3, 4]
    assert val[:2] == [2, 5]


def test_the_still_of_a_smaller_set_is_in_the_larger() -> None:
    small = {job.id for job in dataset.jobs(dataclasses.replace(PINNED, det=(120, 80)))}
    large = [job.id for job in dataset.jobs(PINNED)]
    assert small < set(large)


def test_masks_hold_train_ids_and_some_ignored_pixels(tiny: Path) -> None:
    paths = sorted(tiny.glob("**/sem_seg/masks/*/*.png"))
    masks = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths]
    assert all(mask.shape == SMOKE.still_size and mask.dtype == np.uint8 for mask in masks)
    found = set(np.unique(np.stack(masks)))
    assert found <= {*range(len(NAMES)), IGNORE}
    assert IGNORE in found


def test_lane_masks_follow_the_bdd100k_code(tiny: Path) -> None:
    for path in tiny.glob("bdd100k/labels/lane/masks/*/*.png"):
        values = set(np.unique(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)).tolist())
        # Three bits of category, one of style, one of direction; bit 3 only in background (255).
        assert all(value & ~0b11_0111 == 0 for value in values - {255})
        assert 255 in values


def test_videos_hold_their_frames_and_rate(tiny: Path) -> None:
    for path in tiny.glob("bdd100k/videos/*/*.mov"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == SMOKE.rate
            assert (stream.height, stream.width) == SMOKE.video_size
            assert sum(1 for _ in container.decode(stream)) == SMOKE.frames
            assert "encoder" not in container.metadata
            assert "creation_time" not in container.metadata


def test_every_class_is_drawn_often_enough() -> None:
    counts = np.zeros(256, np.int64)
    for k in range(40):
        label = Renderer(f"test/{k}", size=(72, 128)).frame(dataset.MOMENT).label
        counts += np.bincount(label.ravel(), minlength=256)
    share = counts[: len(NAMES)] / counts.sum()
    assert {name: s for name, s in zip(NAMES, share, strict=True) if s < 0.001} == {}


def test_boxes_hug_pixels_of_their_class() -> None:
    classes = {category: label for label, category in BOXED.items()}
    seen = 0
    for k in range(6):
        frame = Renderer(f"test/{k}", size=(144, 256)).frame(dataset.MOMENT, boxes=True)
        for box in frame.boxes:
            assert 0 <= box.x1 <= box.x2 < 256
            assert 0 <= box.y1 <= box.y2 < 144
            inside = frame.label[box.y1 : box.y2 + 1, box.x1 : box.x2 + 1] == classes[box.category]
            edges = inside[0], inside[-1], inside[:, 0], inside[:, -1]
            assert all(edge.any() for edge in edges), box
            assert inside.sum() >= 12
            seen += 1
    assert seen > 20


def test_boxes_and_labels_do_not_change_the_picture() -> None:
    plain = Renderer("test/0", size=(72, 128)).frame(1.5)
    boxed = Renderer("test/0", size=(72, 128)).frame(1.5, boxes=True)
    assert np.array_equal(plain.image, boxed.image)
    assert np.array_equal(plain.label, boxed.label)


def test_worlds_differ_and_time_moves() -> None:
    home, elsewhere = (Renderer("test/1", world, (72, 128)) for world in ("home", "elsewhere"))
    assert home.clip.lens.height < elsewhere.clip.lens.height
    assert not np.array_equal(home.frame(0.0).image, elsewhere.frame(0.0).image)
    assert not np.array_equal(home.frame(0.0).label, home.frame(4.0).label)


@pytest.mark.parametrize("recipe", [PINNED, SMOKE])
def test_clips_of_different_use_never_share_a_seed(recipe: dataset.Recipe) -> None:
    jobs = list(dataset.jobs(recipe))
    val = {job.id for job in jobs if job.kind == "seg" and job.split == "val"}
    shared = [job.id for job in jobs if job.kind == "video" and job.split == "val"]
    rest = [job.id for job in jobs if not (job.kind == "video" and job.split == "val")]
    assert len(set(rest)) == len(rest)
    assert set(shared) <= val


def test_more_clips_on_demand(tmp_path: Path) -> None:
    options = [
        "clips",
        "--out",
        str(tmp_path),
        "--count",
        "1",
        "--first-seed",
        "7",
        "--frames",
        "2",
    ]
    options += ["--size", "72x128", "--fps", "4", "--world", "elsewhere", "--labels"]
    clips.make(build_parser().parse_args([*options, "--workers", "1"]))
    (video,) = tmp_path.glob("videos/*.mov")
    assert names(tmp_path / "labels" / video.stem, "*.png") == {"0000000", "0000001"}


def test_sizes_that_cannot_be_rendered_are_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        Renderer("test/0", size=(71, 128))


def test_tree_hash_is_the_one_that_dvc_computes() -> None:
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.meta import Meta
    from dvc_data.hashfile.tree import Tree

    hashes = {"b/x.png": "0" * 32, "b.txt": "1" * 32, "a/c/d.jpg": "2" * 32}
    tree = Tree()
    for name, value in hashes.items():
        tree.add(tuple(name.split("/")), Meta(), HashInfo("md5", value))
    tree.digest()
    assert restore.tree_hash(hashes) == tree.hash_info.value


def test_the_pinned_bytes_are_rendered(tmp_path: Path) -> None:
    """One clip of every kind and world: what is added to the simulator moves no older file."""
    pinned, first = restore.read_manifest(), {}
    for job in dataset.jobs(PINNED):
        first.setdefault((job.kind, job.world), job)
    for job in first.values():
        dataset.render(job, tmp_path)
    shutil.rmtree(tmp_path / dataset.PARTS)
    found = restore.tree_hashes(tmp_path)
    assert len(first) == 10
    assert restore.compare(found, {name: pinned.get(name, "none") for name in found}) == []


def test_pin_and_manifest_agree(root: Path) -> None:
    wanted, folder = restore.read_pin(root / "data.dvc")
    assert folder == root / "data"
    assert restore.tree_hash(restore.read_manifest()) == wanted


def test_restore_renders_checks_and_names_what_differs(
    tiny: Path, hashes: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pin, manifest = tmp_path / "data.dvc", tmp_path / "manifest.csv.gz"
    pin.write_text(f"outs:\n- md5: {restore.tree_hash(hashes)}\n  hash: md5\n  path: data\n")
    restore.write_manifest(tiny, manifest)
    shutil.copytree(tiny, tmp_path / "data")
    sorted((tmp_path / "data").glob("bdd100k/images/10k/train/*.jpg"))[0].unlink()
    assert restore.restore(pin, 1, SMOKE, manifest) == 0
    assert restore.restore(pin, 1, SMOKE, manifest) == 0
    assert "already" in capsys.readouterr().out
    changed = sorted((tmp_path / "data").glob("bdd100k/images/10k/val/*.jpg"))[0]
    changed.write_bytes(b"other")
    (tmp_path / "data" / "surplus.txt").write_text("?")
    assert restore.restore(pin, 1, SMOKE, manifest) == 1
    said = capsys.readouterr().err
    assert f"other bytes: bdd100k/images/10k/val/{changed.name}" in said
    assert "not pinned: surplus.txt" in said
    assert "requirements.lock" in said
