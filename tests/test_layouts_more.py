"""Cityscapes and ADE20K on tiny trees in the official format, and every damage named."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from kdlib.__main__ import main
from kdlib.data import check, layouts
from kdlib.data.layouts import LayoutError, ade20k, bdd100k, cityscapes
from kdlib.data.layouts.sample import Coding

IMAGE, MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"
HEIGHT, WIDTH = 24, 70

# Label id -> train id as the data set's own table has it, all 34 ids and -1; names of the classes.
TABLE = {
    0: 255, 1: 255, 2: 255, 3: 255, 4: 255, 5: 255, 6: 255, 7: 0, 8: 1, 9: 255, 10: 255, 11: 2,
    12: 3, 13: 4, 14: 255, 15: 255, 16: 255, 17: 5, 18: 255, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10,
    24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 29: 255, 30: 255, 31: 16, 32: 17, 33: 18, -1: 255,
}  # fmt: skip


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def photo(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """BGR, as OpenCV writes it."""
    ramp = np.linspace(0, 150, width)[None, :, None] + np.zeros((height, 1, 3))
    return (ramp + number + np.arange(3) * 20).astype(np.uint8)


def mask(values, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    values = np.array(values, np.uint8)
    return np.tile(values[np.arange(width) * len(values) // width], (height, 1))


STREET = (*range(34), 255)


@pytest.fixture
def city(tmp_path) -> Path:
    """Two cities of training, one of validation and test each, extra stills and two sequences."""
    root = tmp_path / "cityscapes"
    stills = {
        "train": ("aachen_000001_000019", "hamburg_000000_000042", "aachen_000000_000019"),
        "val": ("munster_000000_000019",),
        "test": ("bonn_000003_000019",),
    }
    for split, ids in stills.items():
        for number, id in enumerate(ids):
            place = id.split("_")[0]
            write(root / "leftImg8bit" / split / place / f"{id}{IMAGE}", photo(number))
            folder = root / "gtFine" / split / place
            void = split == "test"  # as in the archive: the true masks are withheld
            write(folder / f"{id}{MASK}", mask((0, 1, 2, 3) if void else STREET))
            write(folder / f"{id}_gtFine_color.png", photo(number))
            (folder / f"{id}_gtFine_polygons.json").write_text("{}")
    for frame in (5, 6):
        id = f"bad-honnef_000000_00000{frame}"
        write(root / f"leftImg8bit/train_extra/bad-honnef/{id}{IMAGE}", photo(frame))
        for split, place in (("train", "aachen"), ("val", "munster")):
            id = f"{place}_000000_00000{frame}"
            write(root / f"leftImg8bit_sequence/{split}/{place}/{id}{IMAGE}", photo(frame))
    return root


@pytest.fixture
def ade(tmp_path) -> Path:
    """Two training images and one of validation, all of different sizes."""
    root = tmp_path / "ADEChallengeData2016"
    for split, number, height, width in (
        ("train", 1, 30, 200),
        ("train", 2, 20, 160),
        ("val", 1, 40, 155),
    ):
        folder = {"train": "training", "val": "validation"}[split]
        id = f"ADE_{split}_{number:08d}"
        write(root / f"images/{folder}/{id}.jpg", photo(number, height, width))
        write(root / f"annotations/{folder}/{id}.png", mask(range(151), height, width))
    return root


def faults(module, root: Path) -> list[str]:
    return [str(problem) for problem in module.problems(root)]


# What Cityscapes says


def test_get_knows_them():
    assert layouts.get("cityscapes") is cityscapes
    assert layouts.get("ade20k") is ade20k


def test_cityscapes_constants():
    assert cityscapes.SIZE == (1024, 2048)
    assert cityscapes.SPLITS == ("train", "val", "test")
    assert [cityscapes.COUNTS[f"leftImg8bit/{split}"] for split in cityscapes.SPLITS] == [
        2975,
        500,
        1525,
    ]
    sequences = [cityscapes.COUNTS[f"leftImg8bit_sequence/{split}"] for split in cityscapes.SPLITS]
    assert sequences == [30 * 2975, 30 * 500, 30 * 1525]
    at = {name: id for name, id in zip(cityscapes.CLASSES, cityscapes.LABEL_IDS, strict=True)}
    for name, id in {"road": 7, "pole": 17, "vegetation": 21, "sky": 23, "car": 26}.items():
        assert at[name] == id
    assert (at["bus"], at["train"], at["bicycle"], len(at)) == (28, 31, 33, 19)
    assert cityscapes.PALETTE[cityscapes.CLASSES.index("traffic light")] == (250, 170, 30)


def test_label_ids_become_train_ids(city):
    (sample,) = cityscapes.samples(city, "val")
    decode = np.vectorize(lambda value: TABLE[-1 if value == 255 else int(value)])
    label_HW = cityscapes.read_label(sample.label)
    assert label_HW.dtype == np.uint8
    assert np.array_equal(label_HW, decode(mask(STREET)))
    assert len(np.unique(label_HW)) == 20


def test_train_ids_become_label_ids():
    prediction_HW = np.arange(19).reshape(1, 19)
    found_HW = cityscapes.label_ids(prediction_HW)
    assert found_HW.dtype == np.uint8
    assert found_HW.shape == (1, 19)
    assert [TABLE[int(id)] for id in found_HW[0]] == list(range(19))
    assert cityscapes.label_ids(np.array([255], np.uint8)).tolist() == [0]
    for wrong in (19, -1, 300):
        with pytest.raises(ValueError, match=rf"predictions hold \[{wrong}\]: only train ids"):
            cityscapes.label_ids(np.array([0, wrong]))


def test_cityscapes_stills(city):
    found = cityscapes.samples(city, "train")
    ids = ["aachen_000000_000019", "aachen_000001_000019", "hamburg_000000_000042"]
    assert [sample.id for sample in found] == ids
    assert found[0].image == city / f"leftImg8bit/train/aachen/{ids[0]}{IMAGE}"
    assert found[0].label == city / f"gtFine/train/aachen/{ids[0]}{MASK}"
    assert np.array_equal(cityscapes.read_image(found[0].image), photo(2)[:, :, ::-1])

    def chosen(*drives):
        return [sample.id for sample in cityscapes.samples(city, "train", drives=drives)]

    assert chosen("hamburg") == ids[2:]
    assert chosen("aachen_000001", "hamburg") == ids[1:]
    assert chosen("aach") == []  # a city, not the beginning of its name
    assert [sample.label for sample in cityscapes.samples(city, "test")] == [None]
    assert cityscapes.videos(city, "train") == []


def test_cityscapes_stills_without_labels(city):
    extra = cityscapes.samples(city, "train_extra")
    assert [s.id for s in extra] == [f"bad-honnef_000000_00000{frame}" for frame in (5, 6)]
    frames = cityscapes.samples(city, "train_sequence", drives=("aachen",))
    assert [s.id for s in frames] == [f"aachen_000000_00000{frame}" for frame in (5, 6)]
    assert {sample.label for sample in (*extra, *frames)} == {None}
    with pytest.raises(LayoutError, match=r"has no split 'val_sequence'.*train_sequence"):
        cityscapes.samples(city, "val_sequence")


def test_cityscapes_evaluation_ids(city):
    frames = {f"munster_000000_00000{frame}" for frame in (5, 6)}
    stills = {"munster_000000_000019", "bonn_000003_000019"}
    assert cityscapes.evaluation_ids(city) == stills | frames
    with pytest.raises(LayoutError, match=r"holds no validation or test stills.*leftImg8bit/val"):
        cityscapes.evaluation_ids(city / "gtFine")


# Damage of Cityscapes: what the error of a reader says, and that the audit says the same


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def recode(*values: int):
    return lambda path: write(path, mask(values))


def renamed(name: str):
    def move(path: Path) -> None:
        path.rename(path.parent / name)

    return move


AACHEN = "aachen/aachen_000000_000019"
A_MASK, AN_IMAGE = f"gtFine/train/{AACHEN}{MASK}", f"leftImg8bit/train/{AACHEN}{IMAGE}"
DAMAGES = {
    "missing image": (AN_IMAGE, Path.unlink, "is missing: mask .* has no image.*leftImg8bit_"),
    "missing mask": (A_MASK, Path.unlink, "is missing: image .* has no mask.*gtFine_trainvaltest"),
    "truncated image": (AN_IMAGE, cut, "is truncated .a PNG without its end"),
    "truncated mask": (A_MASK, cut, "is truncated .a PNG without its end"),
    "empty mask": (A_MASK, lambda path: path.write_bytes(b""), "is empty"),
    "colours": (A_MASK, lambda path: write(path, photo(0)), "has 3 channels: a colour map"),
    "instance ids": (
        A_MASK,
        lambda path: write(path, mask((7, 26)).astype(np.uint16) * 1000),
        "has 16 bits a pixel, not 8",
    ),
    "train ids": (A_MASK, recode(*range(19), 255), "train ids, not label ids"),
    "foreign value": (
        A_MASK,
        recode(7, 34, 100),
        r"holds the value\(s\) 34, 100 .* 0..33, 255 are known\.",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_cityscapes_damage_is_named(city, name):
    file, damage, text = DAMAGES[name]
    damage(city / file)
    with pytest.raises(LayoutError, match=text) as caught:
        for sample in cityscapes.samples(city, "train"):
            cityscapes.read_image(sample.image)
            cityscapes.read_label(sample.label)
    assert file in str(caught.value)
    assert "Cure: unpack the official" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert faults(cityscapes, city) == [str(caught.value)]


def test_masks_that_only_look_like_train_ids(city):
    """Few classes are no fault: label ids below 19 without -1, or with a class above 18."""
    for values in ((0, 7, 8, 11, 17), (0, 7, 26, 255), (7, 8, 255)):
        write(city / A_MASK, mask(values))
        assert faults(cityscapes, city) == []
        want = [TABLE[-1 if value == 255 else value] for value in values]
        assert np.array_equal(cityscapes.read_label(city / A_MASK), mask(want))


def test_cityscapes_files_in_the_wrong_place(city):
    folder = city / "leftImg8bit/train/hamburg"
    write(folder / f"bochum_000000_000001{IMAGE}", photo(0))
    with pytest.raises(LayoutError, match="lies in the folder of another city, hamburg"):
        cityscapes.samples(city, "train")
    write(folder / f"hamburg_1_2{IMAGE}", photo(0))
    write(city / "gtFine/train/aachen" / f"aachen{MASK}", mask((7,)))
    write(city / "leftImg8bit/train_extra/bad-honnef" / f"x{IMAGE}", photo(0))
    found = faults(cityscapes, city)
    texts = [
        "aachen_<sequence>_<frame>_gtFine_labelIds.png",
        "of another city",
        "hamburg_<sequence>_<frame>_leftImg8bit.png",
        "bad-honnef_<sequence>_<frame>_leftImg8bit.png",
    ]
    assert len(found) == len(texts)
    for text, line in zip(texts, found, strict=True):
        assert text in line
        assert "Cure: " in line


def test_damage_that_only_an_audit_sees(city):
    write(city / A_MASK, mask(STREET, HEIGHT // 2))
    extra = city / f"leftImg8bit/train_extra/bad-honnef/bad-honnef_000000_000005{IMAGE}"
    frame = city / f"leftImg8bit_sequence/val/munster/munster_000000_000005{IMAGE}"
    cut(extra)
    cut(frame)
    found = faults(cityscapes, city)
    assert [line.split(": ")[0] for line in found] == [
        str(city / A_MASK),
        str(extra),
        str(frame),
    ]
    assert f"is 12x{WIDTH}, but its image is 24x{WIDTH} (height x width)" in found[0]


def test_cityscapes_missing_folders_are_named_once(city):
    (city / "gtFine").rename(city / "away")
    found = faults(cityscapes, city)
    assert len(found) == 2
    for split, line in zip(("train", "val"), found, strict=True):
        assert line.startswith(f"{city / 'gtFine' / split}: is missing, but ")
    with pytest.raises(LayoutError, match="gtFine/train: no such folder"):
        cityscapes.samples(city, "train")
    assert len(cityscapes.samples(city, "test")) == 1
    (city / "away").rename(city / "gtFine")
    (city / "leftImg8bit/val").rename(city / "leftImg8bit/elsewhere")
    (only,) = faults(cityscapes, city)
    assert f"{city / 'leftImg8bit/val'}: is missing, but {city / 'gtFine/val'} is there" in only
    (only,) = faults(cityscapes, city.parent)
    assert "holds nothing of Cityscapes. Cure: give the folder that holds leftImg8bit/" in only


# ADE20K


def test_ade_constants():
    """Places in the official list that every shift or gap before them would move."""
    names = ade20k.CLASSES
    assert len(names) == len(set(names)) == 150
    official = {
        1: "wall", 3: "sky", 7: "road", 8: "bed", 13: "person", 21: "car", 32: "seat", 44:
        "signboard", 57: "pool table", 66: "toilet", 75: "computer", 81: "bus", 84: "truck",
        91: "airplane", 100: "buffet", 103: "van", 108: "washer", 117: "minibike", 124:
        "trade name", 128: "bicycle", 131: "screen", 137: "traffic light", 142: "crt screen",
        146: "shower", 150: "flag",
    }  # fmt: skip
    assert {number: names[number - 1] for number in official} == official
    assert ade20k.COUNTS == {"images/training": 20210, "images/validation": 2000}
    assert [len(group) for group in ade20k.CATEGORIES.values()] == [35, 115]
    assert {"wall", "sky", "pier"} <= {names[i] for i in ade20k.CATEGORIES["stuff"]}
    assert {"tree", "person", "flag"} <= {names[i] for i in ade20k.CATEGORIES["objects"]}
    assert ade20k.PALETTE[:3] == ((128, 0, 0), (0, 128, 0), (128, 128, 0))  # Pascal's first
    assert ade20k.PALETTE[19] == (0, 64, 128)  # and its twentieth


def test_ade_stills(ade):
    found = ade20k.samples(ade, "train")
    assert [sample.id for sample in found] == ["ADE_train_00000001", "ADE_train_00000002"]
    assert found == ade20k.samples(ade, "training") == ade20k.samples(ade.parent, "train")
    assert ade20k.samples(ade, "train", drives=("ADE_train_00000002",)) == found[1:]
    assert ade20k.evaluation_ids(ade) == {"ADE_val_00000001"}
    assert ade20k.videos(ade, "train") == []
    assert ade20k.read_image(found[0].image).shape == (30, 200, 3)
    raw = mask(range(151), 30, 200).astype(int)
    assert np.array_equal(ade20k.read_label(found[0].label), np.where(raw == 0, 255, raw - 1))
    with pytest.raises(LayoutError, match=r"has no split 'test'. Cure: use one of train, val"):
        ade20k.samples(ade, "test")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_ade_images_of_every_kind_are_read_as_rgb(tmp_path, mode):
    colour_HWC = photo(3)[:, :, ::-1]
    path = tmp_path / "x.jpg"
    Image.fromarray(colour_HWC).convert(mode).save(path, quality=98)
    with Image.open(path) as stored:
        assert stored.mode == mode
        want_HWC = np.asarray(stored.convert("RGB")).astype(int)
    found_HWC = ade20k.read_image(path)
    assert found_HWC.shape == (HEIGHT, WIDTH, 3)
    assert found_HWC.dtype == np.uint8
    assert np.abs(found_HWC - want_HWC).max() <= 2


ADE_MASK, ADE_IMAGE = "annotations/training/ADE_train_00000002.png", "ADE_train_00000002.jpg"
ADE_DAMAGES = {
    "missing image": (f"images/training/{ADE_IMAGE}", Path.unlink, "is missing: mask .* no image"),
    "missing mask": (ADE_MASK, Path.unlink, "is missing: image .* has no mask"),
    "truncated image": (f"images/training/{ADE_IMAGE}", cut, "is truncated .a JPEG without"),
    "moved classes": (
        ADE_MASK,
        recode(0, 149, 255),
        r"value\(s\) 255 where only 1..150 and 0 are classes: .* moved to 0..149",
    ),
    "full ADE20K": (ADE_MASK, lambda path: write(path, photo(0)), "has 3 channels: a colour map"),
    "foreign value": (ADE_MASK, recode(1, 151, 200), r"value\(s\) 151, 200 .* are classes\."),
}


@pytest.mark.parametrize("name", ADE_DAMAGES)
def test_ade_damage_is_named(ade, name):
    file, damage, text = ADE_DAMAGES[name]
    damage(ade / file)
    with pytest.raises(LayoutError, match=text) as caught:
        for sample in ade20k.samples(ade, "train"):
            ade20k.read_image(sample.image)
            ade20k.read_label(sample.label)
    assert file in str(caught.value)
    assert "Cure: unpack the official ADEChallengeData2016.zip" in str(caught.value)
    (told,) = [line for line in faults(ade20k, ade) if "but its image is" not in line]
    assert told == str(caught.value)


def test_ade_masks_have_the_size_of_their_image(ade):
    write(ade / ADE_MASK, mask(range(151), 30, 160))
    (only,) = faults(ade20k, ade)
    assert only.startswith(f"{ade / ADE_MASK}: is 30x160, but its image is 20x160")


def test_ade_missing_folders_are_named_once(ade):
    (ade / "annotations/validation").rename(ade / "away")
    (only,) = faults(ade20k, ade)
    assert only.startswith(f"{ade / 'annotations/validation'}: is missing, but ")
    (ade / "away").rename(ade / "annotations/validation")
    (ade / "images/training").rename(ade / "away")
    (only,) = faults(ade20k, ade)
    assert only.startswith(f"{ade / 'images/training'}: is missing, but ")
    (only,) = faults(ade20k, ade / "away")
    assert "holds nothing of ADE20K. Cure: give the folder ADEChallengeData2016" in only


def test_the_list_of_classes_that_comes_with_the_data(ade):
    rows = [f"{n} \t0.1\t5\t5\t{name}, other name " for n, name in enumerate(ade20k.CLASSES, 1)]
    info = ade / "objectInfo150.txt"
    info.write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows, ""]))
    assert faults(ade20k, ade) == []
    rows[7], rows[149] = rows[7].replace("bed", "cot"), "151\t0.1\t5\t5\tflag"
    info.write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
    found = faults(ade20k, ade)
    assert [line.split(": ")[1].split(". Cure")[0] for line in found] == [
        "class 8 is not 'bed' there",
        "class 150 is not 'flag' there",
        "names 1 more classes than 150",
    ]
    info.write_text("Idx\nno number\n")
    (only,) = faults(ade20k, ade)
    assert "cannot be read as the list of classes" in only


# The audit and the command line


def test_check_counts_classes(city, ade):
    audit = check.check("cityscapes", city, workers=2)
    assert audit.errors == 0
    assert audit.seen == {
        "leftImg8bit/train": 3,
        "leftImg8bit/val": 1,
        "leftImg8bit/test": 1,
        "leftImg8bit/train_extra": 2,
        "leftImg8bit_sequence/train": 2,
        "leftImg8bit_sequence/val": 2,
    }
    one = HEIGHT * WIDTH // len(STREET)  # every value of a mask has that many pixels
    assert audit.pixels.tolist() == [4 * one] * 19 + [4 * one * 16]
    audit = check.check("ade20k", ade, workers=2)
    assert audit.errors == 0
    assert audit.seen == {"images/training": 2, "images/validation": 1}
    assert audit.pixels.sum() == 30 * 200 + 20 * 160 + 40 * 155
    assert audit.images.tolist() == [3] * 151
    assert [problem for problem in audit.problems if "not" in problem.what] == []


def test_check_asks_for_one_size_of_cityscapes_only(city):
    other = f"leftImg8bit/train/{AACHEN}{IMAGE}"
    write(city / other, photo(0, HEIGHT, WIDTH + 2))
    write(city / A_MASK, mask(STREET, HEIGHT, WIDTH + 2))
    (only,) = [p for p in check.check("cityscapes", city).problems if p.severity == "error"]
    assert only.path == city / other
    assert only.what.startswith(f"is 24x{WIDTH + 2}, not 24x{WIDTH} ")


def test_command_line(city, ade, capsys):
    assert main(["data", "check", "cityscapes", str(city), "--size", f"{HEIGHT}x{WIDTH}"]) == 0
    told = capsys.readouterr().out
    assert "leftImg8bit/train" in told
    assert "motorcycle" in told
    assert "0 errors, 0 warnings" in told
    assert main(["data", "check", "ade20k", str(ade)]) == 0
    told = capsys.readouterr().out
    assert "swimming pool" in told
    assert "0 errors" in told
    cut(city / A_MASK)
    assert main(["data", "check", "cityscapes", str(city), "--workers", "1"]) == 1
    assert f"{A_MASK}: is truncated" in capsys.readouterr().out


# The coding that both need


def test_coding_tables():
    assert cityscapes.CODING.table.tolist() == [
        TABLE[-1 if value == 255 else value] if value < 34 or value == 255 else 254
        for value in range(256)
    ]
    assert ade20k.CODING.table[[0, 1, 150, 151, 255]].tolist() == [255, 0, 149, 254, 254]
    assert bdd100k.CODING.table[[0, 18, 19, 255]].tolist() == [0, 18, 254, 255]
    assert bdd100k.CODING.known == "0..18 and 255 are classes"
    assert ade20k.CODING.known == "1..150 and 0 are classes"
    assert cityscapes.CODING.known == "0..33, 255 are known"
    with pytest.raises(ValueError, match="shorter"):
        Coding(("a", "b"), 255, "", (range(0), ""), values=(3,))
