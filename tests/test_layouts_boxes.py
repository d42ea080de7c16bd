"""Detection layouts on tiny trees in the official format: read as they are, every damage named."""

import dataclasses
import json
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdlib import config, preparing
from kdlib.__main__ import main
from kdlib.data import check, layouts, loader
from kdlib.data.layouts import (
    LayoutError,
    bdd100k,
    bdd100k_boxes,
    box_files,
    coco,
    kitti,
    scalabel,
    voc,
)
from kdlib.detection import ANY_CLASS, Boxes
from kdlib.notebook import inputs

HEIGHT, WIDTH = 60, 100
DETECTION = ("bdd100k-boxes", "kitti", "voc07", "coco")


def photo(path: Path, height: int = HEIGHT, width: int = WIDTH) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 200, width)[None, :, None] + np.zeros((height, 1, 3))
    assert cv2.imwrite(str(path), ramp.astype(np.uint8))
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def label(category: str, x1: float, y1: float, x2: float, y2: float, **attributes) -> dict:
    box = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return {"id": "0", "category": category, "attributes": attributes, "box2d": box}


def frames(root: Path, split: str, content: list[dict] | dict) -> Path:
    return text(root / f"labels/det_20/det_{split}.json", json.dumps(content))


@pytest.fixture
def bdd(tmp_path) -> Path:
    """Four training stills, of which the JSON lists three: with objects, labels null, none."""
    root = tmp_path / "bdd100k"
    for split, ids in {"train": "cabd", "val": "e", "test": "f"}.items():
        for id in ids:
            photo(root / f"images/100k/{split}/{id}.jpg")
    labels = [
        label("car", 10, 5, 19, 9.5, crowd=False),
        label("person", 0, 0, 99, 59),
        label("trailer", 1, 1, 2, 2),
        label("bicycle", 3, 3, 3, 3, crowd=True),
    ]
    train = [{"name": "b.jpg", "labels": labels}, {"name": "a.jpg", "labels": None}]
    frames(root, "train", [*train, {"name": "c.jpg"}])
    frames(root, "val", {"frames": [{"name": "e.jpg", "labels": []}], "config": None})
    return root


REST = "-1 -1 -1 -1000 -1000 -1000 -10"
LINES = f"""Car 0.00 0 1.55 10.50 5.00 40.00 45.00 1.5 1.6 3.7 -2.7 1.7 9.4 1.62
Van 0.00 0 -10 1 1 20 20 {REST}
Pedestrian 0.00 1 -10 50.00 5.00 60.00 35.00 {REST}
Person_sitting 0.00 0 -10 50 5 60 35 {REST}
Cyclist 0.50 2 -10 70.00 5.00 80.00 30.00 {REST}
Cyclist 0.51 0 -10 70.00 5.00 80.00 55.00 {REST}
Truck 0.00 0 -10 1 1 20 20 {REST}
Misc 0.00 0 -10 1 1 20 20 {REST}
DontCare -1 -1 -10 80.00 1.00 99.00 9.00 {REST}
"""


@pytest.fixture
def kit(tmp_path) -> Path:
    """Three training images, one of them empty, one of test, and the lists of the halves."""
    root = tmp_path / "kitti"
    for number in ("000000", "000002", "000001"):
        photo(root / f"training/image_2/{number}.png")
        text(root / f"training/label_2/{number}.txt", "" if number == "000001" else LINES)
    photo(root / "testing/image_2/000000.png", 58, 98)
    text(root / "ImageSets/train.txt", "000002\n000000\n")
    text(root / "ImageSets/val.txt", "000001\n")
    return root


def thing(name: str, box: str, more: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True)
    corners = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def annotation(*things: str) -> str:
    return f"<annotation><filename>x.jpg</filename>{''.join(things)}</annotation>"


PART = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"


@pytest.fixture
def pascal(tmp_path) -> Path:
    """VOCdevkit with two training stills, one of val, one of test."""
    inner = tmp_path / "VOCdevkit/VOC2007"
    ids = {"train": ["000012", "000007"], "val": ["000009"], "test": ["000001"]}
    things = [
        thing("dog", "1 1 100 60", "<difficult>0</difficult>"),
        thing("person", "11 6 20 10", f"<difficult>1</difficult>{PART}"),
    ]
    for split, names in ids.items():
        for name in names:
            photo(inner / f"JPEGImages/{name}.jpg")
            found = things if split == "train" else ()
            text(inner / f"Annotations/{name}.xml", annotation(*found))
        text(inner / f"ImageSets/Main/{split}.txt", "\n".join(names) + "\n")
    text(inner / "ImageSets/Main/trainval.txt", "\n".join(ids["train"] + ids["val"]) + "\n")
    return tmp_path / "VOCdevkit"


def instances(annotations: list[dict], names: tuple[str, ...] = ("2.jpg", "1.jpg")) -> str:
    images = [{"id": 10 + k, "file_name": name} for k, name in enumerate(names)]
    categories = [{"id": id, "name": name} for id, name in zip(coco.IDS, coco.CLASSES, strict=True)]
    return json.dumps({"images": images, "categories": categories, "annotations": annotations})


def instance(category: int, *bbox: float, image: int = 10, iscrowd: int = 0) -> dict:
    return {
        "id": 7,
        "image_id": image,
        "category_id": category,
        "bbox": list(bbox),
        "iscrowd": iscrowd,
    }


@pytest.fixture
def cocos(tmp_path) -> Path:
    """Two stills of train2017 and one of val2017; 1.jpg of train shows nothing."""
    root = tmp_path / "coco"
    found = [
        instance(13, 10.5, 5, 20, 10.25),
        instance(90, 0, 0, 100, 60, iscrowd=1),
        instance(1, 30, 30, 0, 5),
    ]
    for split, names, content in (("train", ("2.jpg", "1.jpg"), found), ("val", ("3.jpg",), [])):
        for name in names:
            photo(root / f"{split}2017" / name)
        text(root / f"annotations/instances_{split}2017.json", instances(content, names))
    return root


def faults(module, root: Path) -> list[str]:
    return [str(problem) for problem in module.problems(root) if problem.severity == "error"]


def by_id(module, root: Path, split: str = "train") -> dict[str, Boxes]:
    return {sample.id: module.read_boxes(sample) for sample in module.samples(root, split)}


def assert_boxes(boxes: Boxes, *rows: tuple) -> None:
    """Each row: x1, y1, x2, y2, class, ignored, difficulty."""
    assert [values.dtype for values in boxes] == [np.float32, np.int64, bool, np.int64]
    assert boxes.xyxy.shape == (len(rows), 4)
    for k, (*xyxy, class_, ignored, difficulty) in enumerate(rows):
        assert boxes.xyxy[k].tolist() == xyxy
        assert boxes.classes[k] == class_
        assert boxes.ignored[k] == ignored
        assert boxes.difficulty[k] == difficulty


# Reading


def test_get_knows_them():
    modules = {"bdd100k-boxes": bdd100k_boxes, "kitti": kitti, "voc07": voc, "coco": coco}
    assert {name: layouts.get(name) for name in modules} == modules
    tasks = {name: module.TASK for name, module in layouts.LAYOUTS.items()}
    assert {name for name, task in tasks.items() if task == "detection"} == set(modules)
    assert set(tasks.values()) == {"detection", "lanes", "segmentation"}
    for module in modules.values():
        assert module.METRIC in ("coco", "voc", "kitti")
        assert len(module.CLASSES) == len(module.PALETTE) == len(set(module.PALETTE))
    assert [len(module.CLASSES) for module in modules.values()] == [10, 3, 20, 80]


def test_bdd100k_boxes_end_outside(bdd):
    found = by_id(bdd100k_boxes, bdd)
    assert list(found) == ["a", "b", "c"]
    assert_boxes(
        found["b"],
        (10, 5, 20, 10.5, 2, False, 0),
        (0, 0, 100, 60, 0, False, 0),
        (1, 1, 3, 3, 3, True, 0),
        (3, 3, 4, 4, 7, True, 0),
    )
    assert_boxes(found["a"])  # listed with labels null: no objects
    assert_boxes(found["c"])
    assert list(by_id(bdd100k_boxes, bdd, "val")) == ["e"]


@pytest.mark.parametrize(
    ("category", "class_", "ignored"),
    [
        *((name, k, False) for k, name in enumerate(scalabel.CLASSES)),
        ("person", 0, False),
        ("bike", 7, False),
        ("motor", 6, False),
        ("caravan", 2, False),
        ("van", 2, False),
        ("other person", 0, True),
        ("other vehicle", 2, True),
        ("trailer", 3, True),
    ],
)
def test_bdd100k_categories(bdd, category, class_, ignored):
    frames(bdd, "train", [{"name": "b.jpg", "labels": [label(category, 1, 1, 5, 5)]}])
    assert_boxes(by_id(bdd100k_boxes, bdd)["b"], (1, 1, 6, 6, class_, ignored, 0))


@pytest.mark.parametrize("attribute", ["crowd", "ignored"])
def test_bdd100k_attributes_that_ignore(bdd, attribute):
    flagged = label("bus", 1, 1, 5, 5, **{attribute: True})
    frames(bdd, "train", [{"name": "b.jpg", "labels": [flagged]}])
    assert by_id(bdd100k_boxes, bdd)["b"].ignored.tolist() == [True]


def test_images_missing_from_the_json_are_unlabelled(bdd):
    ids = [sample.id for sample in bdd100k_boxes.samples(bdd, "train", drives=("b", "d"))]
    assert ids == ["b"]
    unlisted = bdd100k_boxes.unlisted(bdd, "train")
    assert [(sample.id, sample.label) for sample in unlisted] == [("d", None)]
    assert bdd100k_boxes.unlisted(bdd, "train", drives=("b", "c")) == []
    with pytest.raises(LayoutError, match=r"d.jpg: has no labels, which is not the same as no ob"):
        bdd100k_boxes.read_boxes(unlisted[0])
    for stills in (bdd100k_boxes.samples, bdd100k_boxes.unlisted):
        assert [(sample.id, sample.label) for sample in stills(bdd, "test")] == [("f", None)]
    assert bdd100k_boxes.unlisted(bdd, "val") == []
    assert check.check("bdd100k-boxes", bdd).notes["stills without labels"] == 2


def test_images_missing_from_the_json_can_join_the_pool(bdd):
    few = config.Subset("train", unlisted=True)
    listed, report = config.Subset("train"), config.Subset("val")
    data = config.Data("bdd100k-boxes", ".", (30, 50), listed, report, unlabelled=(few,))
    run = config.Run("p", "smoke", 0, data, schedule=config.Schedule(1, 1, 0.1))
    stills = loader.select(data.layout, bdd, listed, 0)
    labels = loader.Stills(data.layout, stills, data.size, labels=True)
    pool = type("Method", (), {"needs_pool": True})
    source, _ = preparing.source_of(run, bdd, labels, pool, make=None)
    read = [source.read(i)[1] for i in range(len(source))]
    assert [boxes is None for boxes in read] == [False, False, False, True]
    assert inputs.data_hashes(run, bdd).keys() == {"train", "val", "train/unlisted"}
    with pytest.raises(config.ConfigError, match="kitti has none, only bdd100k-boxes"):
        loader.select("kitti", bdd, few, 0)
    with pytest.raises(config.ConfigError, match=r"data\.report\.unlisted: such stills have no"):
        dataclasses.replace(data, report=few)


def test_bdd100k_boxes_share_the_ids_and_clips_of_bdd100k(bdd):
    assert bdd100k_boxes.evaluation_ids(bdd) == bdd100k.evaluation_ids(bdd) == {"e", "f"}
    (bdd / "videos/val").mkdir(parents=True)
    assert bdd100k_boxes.videos(bdd, "val") == []


def test_the_json_is_parsed_once_for_each_state_of_the_file(bdd, monkeypatch):
    reads = []
    real = scalabel.read
    monkeypatch.setattr(scalabel, "read", lambda path: reads.append(path) or real(path))
    by_id(bdd100k_boxes, bdd)
    by_id(bdd100k_boxes, bdd)
    assert len(reads) == 1
    path = frames(bdd, "train", [{"name": "a.jpg"}])
    os.utime(path, ns=(1, 1))
    assert list(by_id(bdd100k_boxes, bdd)) == ["a"]
    assert len(reads) == 2


def test_what_a_caller_does_to_boxes_stays_with_him(bdd):
    by_id(bdd100k_boxes, bdd)["b"].xyxy[:] = 0
    assert by_id(bdd100k_boxes, bdd)["b"].xyxy[0].tolist() == [10, 5, 20, 10.5]


def test_kitti_boxes(kit):
    found = by_id(kitti, kit)
    assert list(found) == ["000000", "000002"]
    assert_boxes(
        found["000000"],
        (10.5, 5, 40, 45, 0, False, 0),  # 40 high, seen whole
        (1, 1, 20, 20, 0, True, 0),
        (50, 5, 60, 35, 1, False, 1),  # 30 high, partly occluded
        (50, 5, 60, 35, 1, True, 0),
        (70, 5, 80, 30, 2, False, 2),  # 25 high, occlusion 2, truncation 0.5
        (70, 5, 80, 55, 2, False, 3),
        (80, 1, 99, 9, ANY_CLASS, True, 0),
    )
    assert_boxes(by_id(kitti, kit, "val")["000001"])
    assert [sample.id for sample in kitti.samples(kit, "trainval")] == [
        "000000",
        "000001",
        "000002",
    ]
    assert [sample.label for sample in kitti.samples(kit, "test")] == [None]
    assert kitti.evaluation_ids(kit) == {"000001"}
    assert kitti.videos(kit, "train") == []
    assert kitti.read_image(kit / "training/image_2/000000.png").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("height", "occlusion", "truncation", "level"),
    [
        (40, 0, 0.15, 0),
        (39.9, 0, 0.0, 1),
        (100, 1, 0.0, 1),
        (100, 0, 0.16, 1),
        (25, 1, 0.30, 1),
        (100, 2, 0.0, 2),
        (100, 0, 0.31, 2),
        (25, 2, 0.50, 2),
        (24.9, 0, 0.0, 3),
        (100, 3, 0.0, 3),
        (100, 0, 0.51, 3),
    ],
)
def test_kitti_difficulty(height, occlusion, truncation, level):
    assert kitti.difficulty(height, occlusion, truncation) == level


@pytest.mark.parametrize(
    ("values", "level"),
    [("0 0", 0), ("0.00 1.0", 1), ("0.4 2.00", 2), ("1 0", 3), ("-1 -1", 0), ("-1.00 3", 3)],
)
def test_kitti_numbers_in_any_spelling(kit, values, level):
    line = f"Car {values} -10 10 5 40 45 {REST}\n"
    text(kit / "training/label_2/000001.txt", line)
    assert_boxes(by_id(kitti, kit, "val")["000001"], (10, 5, 40, 45, 0, False, level))
    assert faults(kitti, kit) == []


def test_kitti_without_lists_has_one_labelled_split(kit):
    for split in ("train", "val"):
        (kit / f"ImageSets/{split}.txt").unlink()
        with pytest.raises(LayoutError, match=rf"{split}.txt: is missing .*or use 'trainval'"):
            kitti.samples(kit, split)
    assert len(kitti.samples(kit, "trainval")) == 3
    assert faults(kitti, kit) == []


def test_voc_boxes_count_pixels_from_one(pascal):
    found = by_id(voc, pascal)
    assert list(found) == ["000007", "000012"]
    assert voc.CLASSES[11] == "dog"
    expected = ((0, 0, 100, 60, 11, False, 0), (10, 5, 20, 10, 14, True, 0))
    assert_boxes(found["000007"], *expected)
    assert_boxes(by_id(voc, pascal / "VOC2007")["000012"], *expected)
    assert_boxes(by_id(voc, pascal, "test")["000001"])
    assert len(voc.samples(pascal, "trainval")) == 3
    assert voc.evaluation_ids(pascal) == {"000001"}
    assert voc.videos(pascal, "train") == []
    assert voc.read_image(voc.samples(pascal, "val")[0].image).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("mark", "ignored"),
    [("", False), ("<difficult> 0\n</difficult>", False), ("<difficult> 1\n</difficult>", True)],
)
def test_voc_objects_without_a_mark_are_not_difficult(pascal, mark, ignored):
    content = annotation(thing("dog", "1 1 100 60", mark))
    text(pascal / "VOC2007/Annotations/000009.xml", content)
    assert_boxes(by_id(voc, pascal, "val")["000009"], (0, 0, 100, 60, 11, ignored, 0))
    assert faults(voc, pascal) == []


def test_coco_boxes(cocos):
    found = by_id(coco, cocos)
    assert list(found) == ["1", "2"]
    assert_boxes(
        found["2"],
        (10.5, 5, 30.5, 15.25, 11, False, 0),  # id 13 is the twelfth class: no class has id 12
        (0, 0, 100, 60, 79, True, 0),
        (30, 30, 30, 35, 0, True, 0),  # no area: kept, ignored, noted
    )
    assert coco.CLASSES[11] == "stop sign"
    assert_boxes(found["1"])
    assert coco.evaluation_ids(cocos) == {"3"}
    assert coco.videos(cocos, "train") == []
    assert coco.read_image(cocos / "val2017/3.jpg").shape == (HEIGHT, WIDTH, 3)
    (cocos / "images").mkdir()
    (cocos / "train2017").rename(cocos / "images/train2017")
    assert list(by_id(coco, cocos)) == ["1", "2"]


# Damage: what the error of a reader says, and that the audit says the same


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def scalabel_of(*labels: dict):
    return written(json.dumps([{"name": "b.jpg", "labels": labels}]))


def written(content: str):
    return lambda path: path.write_text(content)


def lines(line: str):
    return lambda path: path.write_text(f"{LINES}\n{line}\n")


DET, TXT, XML = "labels/det_20/det_train.json", "training/label_2/000002.txt", "Annotations/"
INSTANCES = "annotations/instances_train2017.json"
NAN = float("nan")
DAMAGES = {
    "bdd100k-boxes": {
        "truncated image": ("images/100k/train/b.jpg", cut, "is truncated .a JPEG"),
        "missing image": (
            "images/100k/train/b.jpg",
            Path.unlink,
            "b.jpg: is missing, but det_train.json describes it",
        ),
        "truncated JSON": (DET, cut, "is not whole JSON"),
        "missing JSON": (DET, Path.unlink, "det_train.json: is missing"),
        "another JSON": (DET, written('{"a": 1}'), "is no list of Scalabel frames"),
        "a frame twice": (
            DET,
            written('[{"name": "a.jpg"}, {"name": "a.jpg"}]'),
            "describes a.jpg twice",
        ),
        "unknown category": (
            DET,
            scalabel_of(label("cat", 1, 1, 5, 5)),
            "image b: unknown category 'cat'",
        ),
        "inverted": (DET, scalabel_of(label("car", 9, 1, 5, 5)), "image b: a box ends before it"),
        "outside": (
            DET,
            scalabel_of(label("car", 100, 1, 120, 5)),
            r"image b: a box lies outside the 60x100 image \(100, 1, 121, 6\)",
        ),
        "not finite": (DET, scalabel_of(label("car", NAN, 1, 5, 5)), "image b: .* not finite"),
        "no numbers": (
            DET,
            scalabel_of({"category": "car", "box2d": {"x1": 1}}),
            "image b: a box is not four numbers",
        ),
        "labels of another form": (
            DET,
            written('[{"name": "b.jpg", "labels": ["car"]}]'),
            "image b: its labels are no list of objects",
        ),
        "labels without a list": (
            DET,
            written('[{"name": "b.jpg", "labels": {}}]'),
            "image b: its labels are no list of objects",
        ),
        "an empty box": (
            DET,
            scalabel_of({"category": "car", "box2d": {}}),
            "image b: a box is not four numbers",
        ),
        "attributes in a list": (
            DET,
            scalabel_of(label("car", 1, 1, 5, 5) | {"attributes": ["crowd"]}),
            r"image b: the attributes are no names with values \(\['crowd'\]\)",
        ),
        "categories in a list": (
            DET,
            scalabel_of(label(["car"], 1, 1, 5, 5)),
            r"image b: unknown category \['car'\]",
        ),
        "an image under two names": (
            DET,
            written('[{"name": "b.jpg"}, {"name": "b.png"}]'),
            "describes one image as b.jpg and as b.png",
        ),
    },
    "kitti": {
        "truncated image": ("training/image_2/000002.png", cut, "is truncated .a PNG"),
        "missing image": ("training/image_2/000002.png", Path.unlink, "000002.png: is missing"),
        "missing labels": (TXT, Path.unlink, "000002.txt: is missing"),
        "cut line": (TXT, cut, "image 000002: line 5 is not a type and 14 numbers"),
        "a result file": (TXT, lines(f"Car 0 0 0 1 1 9 9 {REST} 0.9"), "line 11 is not a type"),
        "words": (TXT, lines(f"Car 0 0 0 1 one 9 9 {REST}"), "line 11 is not a type"),
        "words at the end": (
            TXT,
            lines("Car 0 0 0 1 1 9 9 1 1 1 x y z t"),
            "line 11 is not a type",
        ),
        "truncation": (
            TXT,
            lines(f"Car nan 0 0 1 1 9 9 {REST}"),
            "line 11: truncation nan is neither -1 nor from 0 to 1",
        ),
        "truncation in percent": (
            TXT,
            lines(f"Car 1.01 0 0 1 1 9 9 {REST}"),
            "image 000002: line 11: truncation 1.01 is neither",
        ),
        "negative truncation": (
            TXT,
            lines(f"Van -0.50 0 0 1 1 9 9 {REST}"),
            "line 11: truncation -0.50 is neither",
        ),
        "occlusion": (
            TXT,
            lines(f"Car 0 4 0 1 1 9 9 {REST}"),
            "image 000002: line 11: occlusion 4 is none of -1, 0, 1, 2 and 3",
        ),
        "part of an occlusion": (
            TXT,
            lines(f"Car 0 2.9 0 1 1 9 9 {REST}"),
            "line 11: occlusion 2.9 is none of",
        ),
        "negative occlusion": (
            TXT,
            lines(f"Truck 0 -2 0 1 1 9 9 {REST}"),
            "line 11: occlusion -2 is none of",
        ),
        "no occlusion": (
            TXT,
            lines(f"Car 0 nan 0 1 1 9 9 {REST}"),
            "line 11: occlusion nan is none of",
        ),
        "binary": (TXT, lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read"),
        "unknown type": (TXT, lines(f"Bus 0 0 0 1 1 9 9 {REST}"), "line 11: unknown type 'Bus'"),
        "inverted": (TXT, lines(f"Car 0 0 0 9 1 1 9 {REST}"), "a box ends before it starts"),
        "outside": (TXT, lines(f"Car 0 0 0 1 60 9 99 {REST}"), "lies outside the 60x100 image"),
        "twice in a list": ("ImageSets/train.txt", written("000002 000002"), "an image twice"),
        "listed, not there": ("ImageSets/train.txt", written("000009"), "000009.png: is missing"),
    },
    "voc07": {
        "truncated image": ("JPEGImages/000012.jpg", cut, "is truncated .a JPEG"),
        "missing image": ("JPEGImages/000012.jpg", Path.unlink, "12.jpg: is missing"),
        "missing XML": (XML + "000012.xml", Path.unlink, "12.xml: is missing"),
        "truncated XML": (XML + "000012.xml", cut, "is not whole XML"),
        "a web page": (XML + "000012.xml", written("<html></html>"), "is no annotation but <html>"),
        "unknown class": (
            XML + "000012.xml",
            written(annotation(thing("yak", "1 1 9 9"))),
            "image 000012: object 1: unknown class 'yak'",
        ),
        "no box": (
            XML + "000012.xml",
            written(annotation("<object><name>dog</name></object>")),
            "image 000012: object 1 has no box of four numbers",
        ),
        "inverted": (
            XML + "000012.xml",
            written(annotation(thing("dog", "9 1 2 9"))),
            "image 000012: object 1: a box ends before it starts",
        ),
        "inverted by a pixel": (
            XML + "000012.xml",
            written(annotation(thing("dog", "5 5 4 20"))),
            "image 000012: object 1: a box ends before it starts",
        ),
        "difficult in words": (
            XML + "000012.xml",
            written(annotation(thing("dog", "1 1 9 9", "<difficult>yes</difficult>"))),
            "image 000012: object 1: difficult is 'yes', neither 0 nor 1",
        ),
        "difficult without a value": (
            XML + "000012.xml",
            written(annotation(thing("dog", "1 1 9 9", "<difficult/>"))),
            "image 000012: object 1: difficult is '', neither 0 nor 1",
        ),
        "outside": (
            XML + "000012.xml",
            written(annotation(thing("dog", "101 1 120 9"))),
            "image 000012: a box lies outside",
        ),
        "missing list": ("ImageSets/Main/train.txt", Path.unlink, "train.txt: is missing"),
        "listed twice": ("ImageSets/Main/train.txt", written("000012\n000012"), "an image twice"),
    },
    "coco": {
        "truncated image": ("train2017/2.jpg", cut, "is truncated .a JPEG"),
        "missing image": ("train2017/2.jpg", Path.unlink, "2.jpg: is missing, but instances_train"),
        "truncated JSON": (INSTANCES, cut, "is not whole JSON"),
        "missing JSON": (INSTANCES, Path.unlink, "instances_train2017.json: is missing"),
        "another JSON": (INSTANCES, written("[]"), "has no images, categories and annotations"),
        "another image": (
            INSTANCES,
            written(instances([instance(1, 1, 1, 9, 9, image=3)])),
            "has an annotation of image 3, which it omits",
        ),
        "several images": (
            INSTANCES,
            written(instances([instance(1, 1, 1, 9, 9, image=[10])])),
            r"has an annotation of image \[10\], which it omits",
        ),
        "several categories": (
            INSTANCES,
            written(instances([instance([1], 1, 1, 9, 9)])),
            r"image 2: annotation 7: unknown category \[1\]",
        ),
        "listed twice": (INSTANCES, written(instances([], ("2.jpg", "2.jpg"))), "an image twice"),
        "another category": (
            INSTANCES,
            written(instances([]).replace('"bicycle"', '"unicycle"')),
            "has a category 2 'unicycle' that COCO does not have",
        ),
        "unknown category": (
            INSTANCES,
            written(instances([instance(12, 1, 1, 9, 9)])),
            "image 2: annotation 7: unknown category 12",
        ),
        "inverted": (
            INSTANCES,
            written(instances([instance(1, 20, 1, -9, 9)])),
            "image 2: a box ends before it starts",
        ),
        "outside": (
            INSTANCES,
            written(instances([instance(1, 20, 60, 9, 9)])),
            "image 2: a box lies outside",
        ),
        "no box": (
            INSTANCES,
            written(instances([{"id": 7, "image_id": 10, "category_id": 1}])),
            "image 2: annotation 7 has no box of four numbers",
        ),
    },
}
CASES = [(layout, name) for layout, damages in DAMAGES.items() for name in damages]


@pytest.fixture
def trees(bdd, kit, pascal, cocos) -> dict[str, Path]:
    return {
        "bdd100k-boxes": bdd,
        "kitti": kit,
        "voc07": pascal / "VOC2007",
        "coco": cocos,
    }


@pytest.mark.parametrize("layout", DETECTION)
def test_whole_trees_have_no_faults(trees, layout):
    assert faults(layouts.get(layout), trees[layout]) == []


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_damage_is_named(trees, layout, name):
    module, root = layouts.get(layout), trees[layout]
    file, damage, words = DAMAGES[layout][name]
    damage(root / file)
    with pytest.raises(LayoutError, match=words) as caught:
        for sample in module.samples(root, "train"):
            module.read_image(sample.image)
            module.read_boxes(sample)
    assert "Cure: " in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    found = faults(module, root)
    assert caught.value.problem.path.name in " ".join(found)
    if not name.startswith("missing"):
        assert str(caught.value) in found


@pytest.mark.parametrize("layout", DETECTION)
def test_a_split_that_is_not_one(trees, layout):
    with pytest.raises(LayoutError, match=r"has no split 'dev'.*Cure: use one of train, val"):
        layouts.get(layout).samples(trees[layout], "dev")


def test_files_that_nothing_names(trees):
    photo(trees["coco"] / "train2017/9.jpg")
    (fault,) = faults(coco, trees["coco"])
    assert "train2017/9.jpg: is not listed in instances_train2017.json" in fault
    photo(trees["voc07"] / "JPEGImages/9.jpg")
    (found,) = voc.problems(trees["voc07"])
    assert found.severity == "warning"
    assert "9.jpg: is in no list" in str(found)
    text(trees["kitti"] / "training/label_2/000009.txt", "")
    (fault,) = faults(kitti, trees["kitti"])
    assert "000009.png: is missing: label file" in fault
    with pytest.raises(LayoutError, match=r"000009.png: is missing: label file"):
        kitti.samples(trees["kitti"], "trainval")
    text(trees["kitti"] / "ImageSets/val.txt", "000000\n")
    found = faults(kitti, trees["kitti"])
    assert any("lists 000000, which train.txt lists too" in fault for fault in found)


@pytest.mark.parametrize("layout", ["bdd100k-boxes", "kitti", "coco"])
def test_an_empty_folder_is_told(tmp_path, layout):
    (fault,) = faults(layouts.get(layout), tmp_path)
    assert "holds no" in fault


def test_boxes_over_the_edge_are_kept_and_noted(bdd, caplog):
    frames(bdd, "train", [{"name": "b.jpg", "labels": [label("car", -5, 1, 5, 5)]}])
    assert_boxes(by_id(bdd100k_boxes, bdd)["b"], (-5, 1, 6, 6, 2, False, 0))
    assert caplog.messages == []
    audit = check.check("bdd100k-boxes", bdd)
    assert audit.errors == 0
    (what,) = (note for note in audit.notes if "edge" in note)
    assert audit.notes[what] == 1


def test_what_training_leaves_out_is_told_once(bdd, caplog):
    labels = [label("car", 1, 1, 5, 5), {"category": "car"}]
    frames(bdd, "train", [{"name": "b.jpg", "labels": labels}])
    box_files._tell.cache_clear()
    for _ in range(2):
        assert_boxes(by_id(bdd100k_boxes, bdd)["b"], (1, 1, 6, 6, 2, False, 0))
    (told,) = caplog.messages
    assert "det_20: labels without a box, left out; `kdlib data check` counts them" in told


def test_kittis_types_that_take_no_part_are_told_once(kit, caplog):
    box_files._tell.cache_clear()
    for _ in range(2):
        by_id(kitti, kit)
    assert caplog.messages == [
        f"{kit}/training/label_2: boxes of {kind}, left out; `kdlib data check` counts them"
        for kind in ("Truck", "Misc")
    ]


def test_boxes_without_area_are_told_once(cocos, caplog):
    box_files._tell.cache_clear()
    for _ in range(2):
        assert by_id(coco, cocos)["2"].ignored.tolist() == [False, True, True]
    (told,) = caplog.messages
    assert "annotations: boxes without area, kept as ignored; `kdlib data check` counts" in told


# The audit


def test_check_counts_boxes(trees, capsys):
    audit = check.check("kitti", trees["kitti"], workers=2)
    assert audit.errors == 0
    assert audit.unit == "boxes"
    assert audit.pixels.tolist() == [2, 2, 4, 6]  # of two images; the last are ignored
    assert audit.images.tolist() == [2, 2, 2, 2]
    assert dict(audit.notes) == {
        "boxes of Truck, left out": 2,
        "boxes of Misc, left out": 2,
        "stills without labels": 1,
    }
    assert audit.seen == {"training/image_2": 3, "testing/image_2": 1, "ImageSets": 2}
    assert main(["data", "check", "kitti", str(trees["kitti"])]) == 0
    told = capsys.readouterr().out
    assert "boxes" in told
    assert "note: 2 boxes of Truck, left out" in told
    assert main(["data", "check", "coco", str(trees["coco"])]) == 0
    told = capsys.readouterr().out
    assert "note: 1 boxes without area, kept as ignored" in told
    assert "class 'person' occurs in no file" in told
    assert check.check("voc07", trees["voc07"]).pixels[[11, 14, 20]].tolist() == [2, 0, 2]
