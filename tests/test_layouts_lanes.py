"""CULane, LLAMAS and ApolloScape on tiny trees in the official format, and every damage named."""

import json
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdlib.__main__ import main
from kdlib.data import check, layouts, loader
from kdlib.data.layouts import LayoutError, apolloscape, culane, llamas, llamas_lines
from kdlib.data.layouts.apolloscape_colours import MARKINGS
from kdlib.data.layouts.llamas_lines import COLOURS

HEIGHT, WIDTH = 118, 164


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def photo(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """BGR, as OpenCV writes it; no two rows are alike."""
    ramp = np.arange(height)[:, None, None] + np.zeros((height, width, 3))
    return (ramp + number + np.arange(3) * 20).astype(np.uint8)


def mask(values, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    values = np.array(values, np.uint8)
    return np.tile(values[np.arange(width) * len(values) // width], (height, 1))


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def replaced(old: str, new: str):
    def change(path: Path) -> None:
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new, 1))

    return change


def faults(module, root: Path) -> list[str]:
    return [str(problem) for problem in module.problems(root)]


# CULane


TRAIN = ("driver_23_30frame/05151640_0419.MP4/00000", "driver_23_30frame/05151640_0419.MP4/00030")
VAL = ("driver_182_30frame/05312327_0001.MP4/00000",)
TEST = tuple(f"driver_37_30frame/05181432_0203.MP4/{k:05d}" for k in (0, 30, 60))
LINES = "10.5 110 20 100 30 90 \n60 110 60 90\n70 80\n"
FLAGS = {TRAIN[0]: (1, 1, 0, 1), TRAIN[1]: (0, 1, 1, 0), VAL[0]: (0, 0, 0, 0)}


@pytest.fixture
def cul(tmp_path) -> Path:
    """Two stills of training, one of validation, three of test of which two have a scenario."""
    root = tmp_path / "culane"
    for k, id in enumerate((*TRAIN, *VAL, *TEST)):
        write(root / f"{id}.jpg", photo(k))
        text(root / f"{id}.lines.txt", "" if id in VAL else LINES)
        if id in FLAGS:
            values = [lane * flag for lane, flag in enumerate(FLAGS[id], start=1)]
            write(root / f"laneseg_label_w16/{id}.png", mask([0, *values]))
    for name, ids in (("train_gt", reversed(TRAIN)), ("val_gt", VAL)):
        lines = [
            f"/{id}.jpg /laneseg_label_w16/{id}.png {' '.join(map(str, FLAGS[id]))}" for id in ids
        ]
        text(root / f"list/{name}.txt", "\n".join(lines) + "\n")
    dummy = f"/laneseg_label_w16/{TRAIN[0]}.png"  # as in the lane authors' lists
    text(root / "list/test.txt", "".join(f"/{id}.jpg {dummy}\n" for id in TEST))
    text(root / "list/test_split/test0_normal.txt", f"{TEST[0]}.jpg \n")
    text(root / "list/test_split/test7_cross.txt", f"/{TEST[2]}.jpg\n")
    return root


def test_get_knows_them():
    known = {"culane": culane, "llamas": llamas, "apolloscape": apolloscape}
    for name, module in known.items():
        assert layouts.get(name) is module
        assert module.SIZE is None
        assert len(module.CLASS_WEIGHTS) == len(module.CLASSES)
        assert module.top_of(module.FULL[0]) == module.TOP
    assert [module.TASK for module in known.values()] == ["lanes", "lanes", "segmentation"]
    assert (culane.METRIC, llamas.METRIC) == ("culane", "llamas")
    assert (culane.TOP, llamas.TOP, apolloscape.TOP) == (240, 333, 1700)
    assert (culane.FULL, llamas.FULL) == ((590, 1640), (717, 1276))
    assert apolloscape.FULL == (2710, 3384)
    # The heights that the papers train on (fact sheet section 3).
    assert [m.FULL[0] - m.TOP for m in known.values()] == [350, 384, 1010]
    assert culane.CLASS_WEIGHTS == llamas.CLASS_WEIGHTS == (0.4, 1, 1, 1, 1)
    weights = apolloscape.CLASS_WEIGHTS
    assert [k for k, weight in enumerate(weights) if weight == 0.05] == [0, 36]
    assert set(weights) == {0.05, 1}
    assert culane.top_of(288) == 117  # 288 * 240 / 590 = 117.15
    assert culane.top_of(HEIGHT) == 48


def test_culane_stills(cul):
    found = culane.samples(cul, "train")
    assert [sample.id for sample in found] == list(TRAIN)
    assert found[0].image == cul / f"{TRAIN[0]}.jpg"
    assert found[0].label == cul / f"laneseg_label_w16/{TRAIN[0]}.png"
    test = culane.samples(cul, "test")
    assert [sample.id for sample in test] == list(TEST)
    assert {sample.label for sample in test} == {None}  # the dummy column is none
    assert culane.samples(cul, "train", drives=(TRAIN[1],)) == found[1:]
    assert culane.samples(cul, "train", drives=("driver_3",)) == []
    assert culane.evaluation_ids(cul) == {*VAL, *TEST}
    assert culane.videos(cul, "train") == []
    with pytest.raises(LayoutError, match=r"no split 'dev'. Cure: use one of train, val, test"):
        culane.samples(cul, "dev")
    (cul / "list/val_gt.txt").unlink()
    assert culane.evaluation_ids(cul) == set(TEST)
    with pytest.raises(LayoutError, match=r"cannot be told apart.*list\.tar\.gz"):
        culane.evaluation_ids(cul / "list")


def test_culane_pictures_lose_their_top(cul):
    (sample, _) = culane.samples(cul, "train")
    whole_HWC = culane.read_whole(sample.image)
    assert whole_HWC.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(whole_HWC.astype(int) - photo(0)[:, :, ::-1]).max() < 12
    assert np.array_equal(culane.read_image(sample.image), whole_HWC[48:])
    label_HW = culane.read_label(sample.label)
    assert label_HW.dtype == np.uint8
    assert np.array_equal(label_HW, mask([0, 1, 2, 0, 4])[48:])


def test_culane_lanes(cul):
    for split in culane.SPLITS:  # test too, which has no masks
        for sample in culane.samples(cul, split):
            lanes = culane.read_lanes(sample)
            assert len(lanes) == (0 if split == "val" else 3)
    assert [lane.tolist() for lane in lanes] == [
        [[10.5, 110], [20, 100], [30, 90]],
        [[60, 110], [60, 90]],
        [[70, 80]],
    ]
    assert lanes[0].dtype == np.float64
    text(cul / f"{TEST[2]}.lines.txt", "\n1 2 3 4\n")  # the evaluator counts an empty line
    assert [lane.shape for lane in culane.read_lanes(sample)] == [(0, 2), (2, 2)]


def test_culane_scenarios(cul):
    for split in ("train", "val"):
        assert {culane.scenario(sample) for sample in culane.samples(cul, split)} == {""}
    test = culane.samples(cul, "test")
    assert [culane.scenario(sample) for sample in test] == ["normal", "", "cross"]
    assert len(set(culane.SCENARIOS)) == 9
    assert (culane.SCENARIOS[2], culane.SCENARIOS[8]) == ("hlight", "night")
    text(cul / "list/test_split/test8_night.txt", f"/{TEST[1]}.jpg\n")  # seen without a restart
    assert [culane.scenario(sample) for sample in test] == ["normal", "night", "cross"]
    shutil.rmtree(cul / "list/test_split")
    assert [culane.scenario(sample) for sample in test] == ["", "", ""]
    assert faults(culane, cul) == []


def test_culane_tree_is_whole(cul):
    assert faults(culane, cul) == []
    audit = check.check("culane", cul)
    assert audit.seen == {"train": 2, "val": 1, "test": 3, "scenarios": 1}
    assert audit.notes == {culane.UNNAMED: 1}
    assert (audit.images > 0).tolist() == [True] * 5 + [False]
    write(cul / f"laneseg_label_w16/{TRAIN[0]}.png", mask([0, 3]))
    text(cul / "list/test_split/test8_night.txt", f"/{TEST[1]}.jpg\n")
    audit = check.check("culane", cul)
    assert audit.notes == {culane.DISAGREE: 1}
    for frame in ("00060", "00090"):
        write(cul / f"driver_9_06frame/00000000.MP4/{frame}.jpg", photo(0))
    audit = check.check("culane", cul)
    assert audit.notes == {culane.DISAGREE: 1, culane.UNLISTED: 2}
    assert audit.errors == 0


IMAGE_0, MASK_0 = f"{TRAIN[0]}.jpg", f"laneseg_label_w16/{TRAIN[0]}.png"
LINES_0, TRAIN_LIST = f"{TRAIN[0]}.lines.txt", "list/train_gt.txt"
CULANE_DAMAGES = {
    "missing image": (IMAGE_0, Path.unlink, r"is missing(, but list/train_gt.txt lists it)?\."),
    "missing mask": (MASK_0, Path.unlink, r"is missing(, but list/train_gt.txt lists it)?\."),
    "missing lines": (LINES_0, Path.unlink, "is missing.*annotations_new"),
    "missing list": (TRAIN_LIST, Path.unlink, "is missing or no text.*list.tar.gz"),
    "truncated image": (IMAGE_0, cut, "is truncated .a JPEG without"),
    "truncated mask": (MASK_0, cut, "is truncated .a PNG without"),
    "colour mask": (MASK_0, lambda path: write(path, photo(0)), "has 3 channels: a colour map"),
    "foreign value": (
        MASK_0,
        lambda path: write(path, mask([0, 5, 9])),
        r"holds the value\(s\) 5, 9 .* 0..4 and 255",
    ),
    "odd numbers": (LINES_0, replaced("60 110 60 90", "60 110 60"), "line 2 is not x and y"),
    "word": (LINES_0, replaced("60 110", "60 x"), "line 2 holds no number"),
    "infinite": (LINES_0, replaced("60 110", "nan 110"), "line 2 is not x and y"),
    "flags missing": (TRAIN_LIST, replaced(" 1 1 0 1", " 1 1 0"), "line 2 .* four flags 0 or 1"),
    "wrong flag": (TRAIN_LIST, replaced(" 1 1 0 1", " 1 2 0 1"), "line 2 .* four flags 0 or 1"),
    "other mask": (
        TRAIN_LIST,
        replaced("_w16/" + TRAIN[0], "_w16/" + TRAIN[1]),
        f"line 2 .* its mask /laneseg_label_w16/{TRAIN[0]}",
    ),
    "no path": (TRAIN_LIST, replaced(f"/{IMAGE_0}", "/00000.jpg"), "line 2 does not start with"),
    "twice": (TRAIN_LIST, lambda p: p.write_text(p.read_text() * 2), f"line 3 lists {TRAIN[1]}"),
}


@pytest.mark.parametrize("name", CULANE_DAMAGES)
def test_culane_damage_is_named(cul, name):
    file, damage, words = CULANE_DAMAGES[name]
    damage(cul / file)
    with pytest.raises(LayoutError, match=words) as caught:
        for sample in culane.samples(cul, "train"):
            culane.read_image(sample.image)
            culane.read_label(sample.label)
            culane.read_lanes(sample)
    assert file in str(caught.value)
    assert "Cure: unpack the official" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    (told,) = faults(culane, cul)
    assert told.startswith(f"{cul / file}: ")


def test_culane_damage_that_only_an_audit_sees(cul):
    write(cul / MASK_0, mask([0, 1, 2, 4], HEIGHT // 2))
    text(cul / "list/test_split/test1_crowd.txt", f"/{TEST[0]}.jpg\n/{TRAIN[0]}.jpg\n")
    text(cul / "list/test_split/test3_shadow.txt", "shadow\n")
    with (cul / "list/test.txt").open("a") as file:
        file.write(f"/{VAL[0]}.jpg\n")
    found = faults(culane, cul)
    words = [
        f"{MASK_0}: is 59x164, but its image is 118x164",
        f"list/test.txt: lists {VAL[0]}, which list/val_gt.txt lists too",
        f"test1_crowd.txt: lists {TRAIN[0]}, which list/test.txt does not",
        f"test1_crowd.txt: lists {TEST[0]}, which belongs to the scenario 'normal' already",
        "test3_shadow.txt: line 1 does not start with /<drive>/<clip>/<frame>.jpg",
    ]
    assert len(found) == len(words)
    for line in words:
        assert sum(line in one for one in found) == 1
    with pytest.raises(LayoutError, match=r"test3_shadow.txt: line 1"):
        culane.scenario(culane.samples(cul, "test")[2])


def test_culane_goes_through_the_loader(cul):
    stills = loader.Stills("culane", culane.samples(cul, "train"), (35, 82), labels=True)
    image_HWC, label_HW = stills.read(0)
    assert image_HWC.shape == (35, 82, 3)
    assert label_HW.shape == (35, 82)
    assert set(np.unique(label_HW)) == {0, 1, 2, 4}


# LLAMAS


L_HEIGHT, L_WIDTH = 239, 426
FOCAL, CENTRE_X, CENTRE_Y = 300.0, 210.0, 100.0
MATRIX = [[FOCAL, 0, CENTRE_X], [0, FOCAL, CENTRE_Y], [0, 0, 1]]
RECORDING = "images-2014-12-22-13-22-35_mapping_280S_2nd_lane"


def place(x: float, z: float, y: float = 1.5) -> tuple[dict, dict]:
    """World and pixel of a point on the road."""
    world = {"x": str(x), "y": str(y), "z": str(z)}
    column, row = FOCAL * x / z + CENTRE_X, FOCAL * y / z + CENTRE_Y
    return world, {"x": str(round(column)), "y": str(round(row))}


def marker(x: float, start: float, end: float, far_x: float | None = None) -> dict:
    (world_start, pixel_start), (world_end, pixel_end) = (
        place(x, start),
        place(x if far_x is None else far_x, end),
    )
    return {
        "lane_marker_id": "m",
        "world_start": world_start,
        "world_end": world_end,
        "pixel_start": pixel_start,
        "pixel_end": pixel_end,
    }


def dashes(x: float, *depths: float, lean: float = 0.05) -> list[dict]:
    """Dashes of 2 m, leaning to the right, as (start) depths say."""
    return [marker(x + lean * k, z, z + 2, x + lean * (k + 1)) for k, z in enumerate(depths)]


def street() -> dict:
    """Renamed: l1 was l2, r0 was r1. Of the rest one is short, one has a single marker."""
    lanes = {
        "l2": dashes(-4, 6, 10, 14),
        "l0": dashes(-1.7, 4, 8, 12, 20),
        "r0": dashes(0.1, 30, 40),  # rows 115 and 111
        "r1": dashes(1.9, 4.5, 8.5),
        "r3": dashes(5.5, 8, 14),
        "r4": dashes(9, 9),
    }
    return {
        "image_name": "x",
        "projection_matrix": MATRIX,
        "lanes": [{"lane_id": name, "markers": markers} for name, markers in lanes.items()],
    }


@pytest.fixture
def lla(tmp_path) -> Path:
    """Two stills of training, one of validation, one of test."""
    root = tmp_path / "llamas"
    stamps = {"train": ("1419283521_0", "1419283520_7"), "valid": ("14_1",), "test": ("15_1",)}
    for folder, names in stamps.items():
        for number, stamp in enumerate(names):
            place = f"{folder}/{RECORDING}/{stamp}"
            write(root / f"color_images/{place}_color_rect.png", photo(number, L_HEIGHT, L_WIDTH))
            if folder != "test":
                text(root / f"labels/{place}.json", json.dumps(street()))
    return root


def drawn_slowly(content: dict, height: int, width: int) -> np.ndarray:
    """(5, H, W) by the fact sheet's rules, in plain Python up to the filling."""
    kept = []
    for lane in content["lanes"]:
        rows = [int(m["pixel_start"]["y"]) for m in lane["markers"]]
        if len(rows) >= 2 and max(rows) - min(rows) >= 20:
            kept.append(lane)
    names = sorted(lane["lane_id"] for lane in kept)
    sides = {side: [name for name in names if name[0] == side] for side in "lr"}
    canvas = np.zeros((height, width, 3), np.uint8)
    for lane in kept:
        side = lane["lane_id"][0]
        name = f"{side}{sides[side].index(lane['lane_id'])}"
        for m in lane["markers"]:
            corners = []
            for point, signs in ((m["world_start"], (-1, 1)), (m["world_end"], (1, -1))):
                x, y, z = (float(point[axis]) for axis in "xyz")
                for sign in signs:
                    column = FOCAL * x / z + CENTRE_X + sign * FOCAL * 0.05 / z
                    corners.append((round(column), round(FOCAL * y / z + CENTRE_Y)))
            if corners[0][1] != corners[3][1]:
                for _ in range(2):
                    polygon = np.array(corners, np.int32)
                    cv2.fillConvexPoly(canvas, polygon, COLOURS[name], cv2.LINE_AA)
    lanes = [(canvas == COLOURS[name]).all(axis=2) for name in ("l1", "l0", "r0", "r1")]
    return np.stack([~np.any(lanes, axis=0), *lanes]).astype(np.uint8)


def test_llamas_stills(lla):
    found = llamas.samples(lla, "train")
    assert [sample.id for sample in found] == [
        f"{RECORDING}/1419283520_7",
        f"{RECORDING}/1419283521_0",
    ]
    at = f"train/{RECORDING}/1419283520_7"
    assert found[0].image == lla / f"color_images/{at}_color_rect.png"
    assert found[0].label == lla / f"labels/{at}.json"
    assert llamas.samples(lla, "valid") == llamas.samples(lla, "val")
    assert llamas.samples(lla, "val", drives=("other",)) == []
    (test,) = llamas.samples(lla, "test")
    assert test.label is None
    assert llamas.evaluation_ids(lla) == {f"{RECORDING}/14_1", f"{RECORDING}/15_1"}
    assert llamas.videos(lla, "train") == []
    assert np.array_equal(llamas.read_whole(found[0].image), photo(1, L_HEIGHT, L_WIDTH)[..., ::-1])
    assert llamas.top_of(L_HEIGHT) == 111
    assert llamas.read_image(found[0].image).shape == (L_HEIGHT - 111, L_WIDTH, 3)
    with pytest.raises(LayoutError, match=r"no split 'dev'. Cure: use one of train, val, test"):
        llamas.samples(lla, "dev")
    with pytest.raises(LayoutError, match="has no label, as all of test"):
        llamas.read_lanes(test)
    with pytest.raises(LayoutError, match="has no label, as all of test"):
        llamas.read_whole_label(test)
    with pytest.raises(LayoutError, match="cannot be told apart"):
        llamas.evaluation_ids(lla / "labels")


def test_llamas_reads_grey_pictures_where_there_are_no_others(lla):
    for path in sorted((lla / "color_images").rglob("*.png")):
        name = path.name.replace("color", "gray")
        folder = lla / "grayscale_images" / path.relative_to(lla / "color_images").parent
        write(folder / name, photo(0, L_HEIGHT, L_WIDTH)[:, :, 0])
    before = llamas.samples(lla, "train")
    shutil.rmtree(lla / "color_images")
    after = llamas.samples(lla, "train")
    assert [s.id for s in before] == [s.id for s in after]
    assert llamas.read_image(after[0].image).shape == (L_HEIGHT - 111, L_WIDTH, 3)
    assert llamas.read_label(after[0].label).shape == (L_HEIGHT - 111, L_WIDTH)
    assert faults(llamas, lla) == []
    assert "grayscale_images/test" in check.check("llamas", lla).seen


def test_llamas_mask_is_the_official_drawing(lla):
    sample = llamas.samples(lla, "train")[0]
    want = drawn_slowly(street(), L_HEIGHT, L_WIDTH)
    found = llamas.read_whole_label(sample)
    assert found.dtype == np.uint8
    assert np.array_equal(found, want.argmax(axis=0))
    assert np.array_equal(llamas.read_whole_label(sample.label), found)
    assert np.array_equal(llamas.read_label(sample.label), want.argmax(axis=0)[111:])
    assert (want.sum(axis=0) == 1).all()
    assert (want[1:].sum(axis=(1, 2)) > 20).all()  # r3 is r1 now
    assert want[0, :115].all()


def test_llamas_marker_by_hand(lla):
    """A marker straight ahead: 300 * 0.05 / 2.5 = 6 and 300 * 0.05 / 5 = 3 pixels each way."""
    sample = llamas.samples(lla, "train")[0]
    lane = {"lane_id": "l4", "markers": [marker(0, 5, 10), marker(0, 20, 40)]}
    for m, (near, far) in zip(lane["markers"], ((2.5, 5), (20, 40)), strict=True):
        m["world_start"], m["pixel_start"] = place(0, near, 0.9)  # rows 208 and 113.5
        m["world_end"], m["pixel_end"] = place(0, far, 0.9)  # rows 154 and 106.75
    text(sample.label, json.dumps({"projection_matrix": MATRIX, "lanes": [lane]}))
    l0 = llamas.read_whole_label(sample) == 2
    # Smoothing mixes the outermost pixels, which do not count then.
    for row, half in ((207, 6), (154, 3)):
        columns = set(np.flatnonzero(l0[row]).tolist())
        assert columns >= set(range(210 - half + 1, 210 + half))
        assert columns <= set(range(210 - half, 210 + half + 1))
    assert (l0[155:208].sum(axis=1) >= 5).all()
    assert not l0[209:].any()
    assert not l0[120:153].any()


def test_llamas_names_of_a_side_are_numbered_anew():
    names = ["l3", "l2", "l0", "r0", "r2", "r10"]
    assert llamas_lines._renamed(names) == {
        "l0": "l0", "l2": "l1", "l3": "l2", "r0": "r0", "r10": "r1", "r2": "r2",
    }  # fmt: skip
    assert llamas_lines._renamed(["r1", "r1"]) == {"r1": "r1"}


def test_llamas_height_of_20_is_kept(lla):
    path = llamas.samples(lla, "train")[0].label
    for rows, count in ((20, 1), (19, 0)):
        markers = [marker(0, 5, 6), marker(0, 9, 10)]
        for m, row in zip(markers, (150, 150 - rows), strict=True):
            m["pixel_start"]["y"] = str(row)
        content = {
            "projection_matrix": MATRIX,
            "lanes": [{"lane_id": "r7", "markers": markers}, {"lane_id": "l0", "markers": []}],
        }
        label = llamas_lines.read(text(path, json.dumps(content)))
        assert [lane.name for lane in label.lanes] == ["r0"] * count
        assert label.dropped == 2 - count


def curve_slowly(markers: list[dict], height: int, width: int) -> dict[int, float]:
    """Row -> x of one line, one marker and one row at a time."""

    def at(m: dict, end: str) -> tuple[int, int]:
        return int(m[f"pixel_{end}"]["x"]), int(m[f"pixel_{end}"]["y"])

    pieces = [(at(m, "start"), at(m, "end")) for m in markers]
    sloping = [m for m, ((x, y), (u, v)) in zip(markers, pieces, strict=True) if x != u and y != v]
    if sloping:
        nearest = min(sloping, key=lambda m: float(m["world_start"]["z"]))
        (x, y), (u, v) = at(nearest, "start"), at(nearest, "end")
        low = x + (height - 1 - y) * (u - x) / (v - y)
        if low < 0:
            pieces.insert(0, ((0, round(y - x * (v - y) / (u - x))), (x, y)))
        elif low > width:
            pieces.insert(0, ((width, round(y + (width - x) * (v - y) / (u - x))), (x, y)))
        else:
            pieces.insert(0, ((round(low), height - 1), (x, y)))
    seen: dict[int, list[int]] = {}
    for (x, y), (u, v) in pieces:
        seen.setdefault(y, []).append(x)
        if y - v > 2:
            for step in range(y - v + 1):
                seen.setdefault(y - step, []).append(round(x + (u - x) / (y - v) * step))
    known = {row: sum(xs) / len(xs) for row, xs in seen.items()}
    curve = {}
    for row in range(min(known), max(known) + 1):
        above = max(r for r in known if r <= row)
        below = min(r for r in known if r >= row)
        share = 0 if above == below else (row - above) / (below - above)
        curve[row] = known[above] + share * (known[below] - known[above])
    return {row: x for row, x in curve.items() if x >= 0}


def test_llamas_curves(lla):
    sample = llamas.samples(lla, "train")[0]
    content = street()
    lanes = {lane["lane_id"]: lane["markers"] for lane in content["lanes"]}
    lanes["l0"][0]["pixel_start"]["x"] = lanes["l0"][0]["pixel_end"]["x"]  # upright: not prolonged
    text(sample.label, json.dumps(content))
    found = llamas.read_lanes(sample)
    assert len(found) == 4
    for name, curve_P2 in zip(("l2", "l0", "r1", "r3"), found, strict=True):
        want = curve_slowly(lanes[name], L_HEIGHT, L_WIDTH)
        assert curve_P2[:, 1].tolist() == list(want)
        assert np.allclose(curve_P2[:, 0], list(want.values()), rtol=0, atol=1e-9)
    assert found[2][-1, 1] == L_HEIGHT - 1  # to the lower edge
    assert found[0][-1].tolist()[0] == 0  # to the left edge
    assert found[3][-1].tolist()[0] == L_WIDTH  # to the right edge


def test_llamas_lines_that_are_not_there(lla):
    sample = llamas.samples(lla, "train")[0]
    content = street()
    content["lanes"] = [lane for lane in content["lanes"] if lane["lane_id"] in ("l0", "r1")]
    text(sample.label, json.dumps(content))
    assert len(llamas.read_lanes(sample)) == 2
    assert np.unique(llamas.read_whole_label(sample)).tolist() == [0, 2, 3]
    text(sample.label, json.dumps({"projection_matrix": MATRIX, "lanes": []}))
    assert llamas.read_lanes(sample) == []
    assert not llamas.read_whole_label(sample).any()
    assert not llamas.read_label(sample.label).any()
    lanes = [{"lane_id": f"l{k}", "markers": dashes(-1 - 2 * k, 5, 12)} for k in range(9)]
    text(sample.label, json.dumps({"projection_matrix": MATRIX, "lanes": lanes}))
    assert len(llamas.read_lanes(sample)) == 2
    assert np.unique(llamas.read_whole_label(sample)).tolist() == [0, 1, 2]


def test_llamas_tree_is_whole(lla):
    assert faults(llamas, lla) == []
    audit = check.check("llamas", lla)
    assert audit.errors == 0
    assert audit.seen == {
        "color_images/train": 2,
        "color_images/valid": 1,
        "color_images/test": 1,
    }
    want = drawn_slowly(street(), L_HEIGHT, L_WIDTH).sum(axis=(1, 2))
    assert audit.pixels.tolist() == [*(3 * want), 0]
    assert audit.notes == {llamas.DROPPED: 6}


def label_of(change):
    def damage(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


LLAMAS_AT = f"train/{RECORDING}/1419283521_0"
L_IMAGE, L_LABEL = f"color_images/{LLAMAS_AT}_color_rect.png", f"labels/{LLAMAS_AT}.json"
LLAMAS_DAMAGES = {
    "missing image": (L_IMAGE, Path.unlink, "is missing: label .* has no image"),
    "missing label": (L_LABEL, Path.unlink, "is missing: image .* has no label"),
    "truncated image": (L_IMAGE, cut, "is truncated .a PNG without"),
    "truncated label": (L_LABEL, cut, "is not whole JSON"),
    "binary label": (L_LABEL, lambda p: p.write_bytes(b"\xff\xfe\x00"), "is not whole JSON"),
    "no lanes": (L_LABEL, label_of(lambda c: c.pop("lanes")), "holds no list of lanes"),
    "a list": (L_LABEL, lambda p: p.write_text("[]"), "holds no list of lanes"),
    "no matrix": (L_LABEL, label_of(lambda c: c.pop("projection_matrix")), "no projection_matrix"),
    "2x3": (
        L_LABEL,
        label_of(lambda c: c["projection_matrix"].pop()),
        "no projection_matrix of 3x3 numbers",
    ),
    "ragged": (
        L_LABEL,
        label_of(lambda c: c["projection_matrix"][0].pop()),
        "no projection_matrix of 3x3 numbers",
    ),
    "last row": (
        L_LABEL,
        label_of(lambda c: c["projection_matrix"].__setitem__(2, [0, 0, 2])),
        "last row is not 0 0 1",
    ),
    "no lane id": (
        L_LABEL,
        label_of(lambda c: c["lanes"][1].pop("lane_id")),
        "lane 2 has no lane_id",
    ),
    "other side": (
        L_LABEL,
        label_of(lambda c: c["lanes"][1].update(lane_id="x0")),
        "lane 2 has no lane_id that starts with l or r",
    ),
    "no markers": (
        L_LABEL,
        label_of(lambda c: c["lanes"][1].pop("markers")),
        "lane l0 has no list of markers",
    ),
    "half a marker": (
        L_LABEL,
        label_of(lambda c: c["lanes"][1]["markers"][2].pop("world_end")),
        "marker 3 of lane l0 lacks a number",
    ),
    "no number": (
        L_LABEL,
        label_of(lambda c: c["lanes"][1]["markers"][0]["pixel_start"].update(x="3.5")),
        "marker 1 of lane l0 lacks a number",
    ),
    "behind": (
        L_LABEL,
        label_of(lambda c: c["lanes"][1]["markers"][0]["world_start"].update(z="-1")),
        "lane l0 has a marker that is not ahead of the camera",
    ),
    "resized image": (
        L_IMAGE,
        lambda path: write(path, photo(0, 100, 100)),
        "has a marker of l1 in row 175, but its image 100 rows",
    ),
}


@pytest.mark.parametrize("name", LLAMAS_DAMAGES)
def test_llamas_damage_is_named(lla, name):
    file, damage, words = LLAMAS_DAMAGES[name]
    damage(lla / file)
    with pytest.raises(LayoutError, match=words) as caught:
        for sample in llamas.samples(lla, "train"):
            llamas.read_image(sample.image)
            llamas.read_label(sample.label)
    blamed = L_LABEL if name == "resized image" else file
    assert blamed in str(caught.value)
    assert "Cure: unpack the official" in str(caught.value)
    assert faults(llamas, lla) == [str(caught.value)]
    for read in (llamas.read_label, llamas.read_whole_label):
        if file == L_LABEL:
            with pytest.raises(LayoutError):
                read(lla / file)
    if name == "missing image":
        with pytest.raises(LayoutError, match=f"{L_IMAGE}: is missing"):
            llamas.read_label(lla / L_LABEL)


def test_llamas_curves_ask_for_rows_inside(lla):
    sample = llamas.samples(lla, "train")[0]
    change = label_of(lambda c: c["lanes"][1]["markers"][1]["pixel_end"].update(y="-2"))
    change(sample.label)
    with pytest.raises(LayoutError, match="has a marker of l0 in row -2, but its image 239 rows"):
        llamas.read_lanes(sample)


def test_llamas_missing_folders_are_named_once(lla):
    (lla / "labels/valid").rename(lla / "away")
    (only,) = faults(llamas, lla)
    assert only.startswith(f"{lla / 'labels/valid'}: no such folder")
    (lla / "away").rename(lla / "labels/valid")
    (lla / "color_images/train").rename(lla / "away")
    (only,) = faults(llamas, lla)
    assert only.startswith(f"{lla / 'color_images/train'}: is missing, but ")
    shutil.rmtree(lla / "labels")
    shutil.rmtree(lla / "color_images")
    (only,) = faults(llamas, lla)
    assert "holds nothing of LLAMAS. Cure: give the folder that holds color_images/" in only


# ApolloScape


A_HEIGHT, A_WIDTH = 271, 380
EVERY = [marking.colour for marking in MARKINGS]


def stripes(colours=tuple(EVERY), height: int = A_HEIGHT, width: int = A_WIDTH) -> np.ndarray:
    """BGR; black above row 170, below it one stripe a colour."""
    image = np.zeros((height, width, 3), np.uint8)
    columns = np.array(colours, np.uint8)[np.arange(width) * len(colours) // width]
    image[height * 170 // 271 :] = columns[:, ::-1]
    return image


STILLS = {
    "road02/Record001/Camera_5": ("170927_063811892_Camera_5", "170927_063811893_Camera_5"),
    "road03/Record007/Camera 6": ("171206_025742295_Camera_6",),
    "road04/Record015/Camera_6": ("171206_061127409_Camera_6", "171206_061127528_Camera_6"),
    "road04/Record016/Camera_6": ("171206_061300000_Camera_6",),
    "road04/Record017/Camera_5": ("171206_061319888_Camera_5",),
}
A_TEST = ("171206_065131517_Camera_6", "171206_070047047_Camera_6")


@pytest.fixture
def apo(tmp_path) -> Path:
    """Records of three roads, one of which has its labels under the longer name; test is flat."""
    root = tmp_path / "apolloscape"
    number = 0
    for folder, stamps in STILLS.items():
        road, rest = folder.split("/", 1)
        inner = "Labels" if road == "road03" else "Label"
        for stamp in stamps:
            image = root / f"ColorImage_{road}/ColorImage/{rest}/{stamp}.jpg"
            write(image, photo(number, A_HEIGHT, A_WIDTH))
            write(root / f"Labels_{road}/{inner}/{rest}/{stamp}_bin.png", stripes())
            number += 1
    for stamp in A_TEST:
        write(root / f"ColorImage_road05/{stamp}.jpg", photo(1, A_HEIGHT, A_WIDTH))
    return root


def ids(split: str) -> list[str]:
    found = []
    for folder, stamps in STILLS.items():
        record = folder.rpartition("/")[0]
        held = record in ("road04/Record015", "road04/Record017")
        found += [f"{record}/{stamp}" for stamp in stamps if held == (split == "val")]
    return found


def test_apolloscape_table():
    """Rows of the data set's table that any slip in its order or colours would move."""
    assert len(MARKINGS) == len(set(EVERY)) == len({m.id for m in MARKINGS}) == 38
    official = {
        0: ("void", 0, (0, 0, 0)), 1: ("s_w_d", 200, (70, 130, 180)),
        4: ("ds_y_dn", 209, (255, 0, 0)), 12: ("s_w_s", 217, (220, 220, 0)),
        16: ("s_w_p", 210, (128, 64, 128)), 18: ("c_wy_z", 214, (190, 153, 153)),
        20: ("a_w_t", 220, (128, 128, 0)), 27: ("a_n_lu", 230, (0, 191, 255)),
        31: ("b_n_sr", 205, (255, 128, 0)), 35: ("om_n_n", 250, (102, 0, 204)),
        36: ("noise", 249, (0, 153, 153)), 37: ("ignored", 255, (255, 255, 255)),
    }  # fmt: skip
    assert {k: tuple(MARKINGS[k][:3]) for k in official} == official
    # The ids in the order of the released conversion of predictions.
    assert [m.id for m in MARKINGS] == [
        0, 200, 204, 213, 209, 206, 207, 201, 203, 211, 208, 216, 217, 215, 218, 219, 210, 232,
        214, 202, 220, 221, 222, 231, 224, 225, 226, 230, 228, 229, 233, 205, 212, 227, 223, 250,
        249, 255,
    ]  # fmt: skip
    # No two colours share the fact sheet's sum of channels either.
    assert len({5 * blue + 3 * green + red for red, green, blue in EVERY}) == 38
    assert len(apolloscape.CLASSES) == 37
    assert set(apolloscape.EVALUATED.values()) == {
        "void", "s_w_d", "s_y_d", "ds_y_dn", "b_w_g", "b_y_g", "s_w_s", "s_w_p", "c_wy_z", "a_w_t",
        "a_w_tl", "a_w_tr", "a_w_l", "a_w_r", "a_w_lr", "b_n_sr", "r_wy_np", "om_n_n",
    }  # fmt: skip
    assert len(apolloscape.EVALUATED) == 18
    assert all(apolloscape.CLASSES[k] == name for k, name in apolloscape.EVALUATED.items())
    assert apolloscape.CATEGORIES["thru/turn"] == tuple(range(19, 31))
    assert apolloscape.CATEGORIES["ignored"] == (36,)


def test_apolloscape_stills(apo):
    train, val = (apolloscape.samples(apo, split) for split in ("train", "val"))
    assert [sample.id for sample in train] == ids("train")
    assert [sample.id for sample in val] == ids("val")
    assert val[0].id == "road04/Record015/171206_061127409_Camera_6"
    at = "road03", "Record007/Camera 6/171206_025742295_Camera_6"
    assert train[2].image == apo / f"ColorImage_{at[0]}/ColorImage/{at[1]}.jpg"
    assert train[2].label == apo / f"Labels_{at[0]}/Labels/{at[1]}_bin.png"
    test = apolloscape.samples(apo, "test")
    assert [(s.id, s.label) for s in test] == [(f"road05/{stamp}", None) for stamp in A_TEST]
    (only,) = apolloscape.samples(apo, "val", drives=("road04/Record017",))
    assert only.id.endswith("061319888_Camera_5")
    assert apolloscape.evaluation_ids(apo) == {*ids("val"), *(s.id for s in test)}
    assert apolloscape.videos(apo, "train") == []
    with pytest.raises(LayoutError, match=r"no split 'dev'. Cure: use one of train, val, test"):
        apolloscape.samples(apo, "dev")
    shutil.rmtree(apo / "ColorImage_road03")
    assert len(apolloscape.samples(apo, "train")) == len(train) - 1  # a road may be absent
    with pytest.raises(LayoutError, match="has no folder ColorImage_road02 or ColorImage_road03"):
        apolloscape.samples(apo / "Labels_road02", "train")
    with pytest.raises(LayoutError, match="cannot be told apart"):
        apolloscape.evaluation_ids(apo / "Labels_road02")


def test_apolloscape_labels(apo):
    sample = apolloscape.samples(apo, "train")[0]
    assert apolloscape.top_of(A_HEIGHT) == 170
    image_HWC = apolloscape.read_whole(sample.image)
    assert image_HWC.shape == (A_HEIGHT, A_WIDTH, 3)
    assert np.array_equal(apolloscape.read_image(sample.image), image_HWC[170:])
    label_HW = apolloscape.read_label(sample.label)
    assert label_HW.dtype == np.uint8
    want = np.minimum(np.arange(A_WIDTH) * 38 // A_WIDTH, 36)  # noise and ignored are one class
    assert np.array_equal(label_HW, np.tile(want, (101, 1)))
    assert [apolloscape.CLASSES[k] for k in (0, 1, 35, 36)] == [
        "void",
        "s_w_d",
        "om_n_n",
        "ignored",
    ]
    # A colour above the cut is not looked at in training, but by the audit.
    odd = stripes()
    odd[3, 4] = (3, 2, 1)
    write(sample.label, odd)
    assert np.array_equal(apolloscape.read_label(sample.label), label_HW)
    (only,) = faults(apolloscape, apo)
    assert only.startswith(f"{sample.label}: holds the colour(s) (1, 2, 3) (red, green, blue)")


def test_apolloscape_ids_for_the_server():
    found = apolloscape.label_ids(np.arange(37).reshape(1, 37))
    assert found.dtype == np.uint8
    assert found.tolist() == [[m.id for m in MARKINGS[:37]]]
    for wrong in (37, -1, 255):
        with pytest.raises(ValueError, match=rf"predictions hold \[{wrong}\]: only classes 0..36"):
            apolloscape.label_ids(np.array([0, wrong]))


def line(id: str, camera: str = "Camera_6") -> str:
    road, record, stamp = id.split("/")
    image = f"ColorImage_{road}/ColorImage/{record}/{camera}/{stamp}.jpg"
    label = f"Labels_{road}/Label/{record}/{camera}/{stamp}_bin.png"
    return f"/authors/ApolloScapes/{image} /authors/ApolloScapes/{label} 1 1 1 1\n"


def test_apolloscape_lists(apo):
    one = ids("val")[1]
    text(apo / "list/val.txt", f"{line(one)}\n")
    assert [sample.id for sample in apolloscape.samples(apo, "val")] == [one]
    train = [sample.id for sample in apolloscape.samples(apo, "train")]
    # Only the record of the list is left out of train; its other still is in no split.
    assert train == sorted([*ids("train"), "road04/Record017/171206_061319888_Camera_5"])
    text(apo / "list/train.txt", line(ids("train")[0]) + line(ids("train")[2], "Camera 6"))
    found = [sample.id for sample in apolloscape.samples(apo, "train")]
    assert found == [ids("train")[0], ids("train")[2]]
    path = f"/authors/ColorImage_road05/{A_TEST[1]}.jpg"
    text(apo / "list/test_img.txt", f"{path} /authors/Labels_road04/x_bin.png\n")
    assert [sample.id for sample in apolloscape.samples(apo, "test")] == [f"road05/{A_TEST[1]}"]
    assert faults(apolloscape, apo) == []
    text(apo / "list/val.txt", line(one) + line(ids("train")[0]))
    (only,) = faults(apolloscape, apo)
    assert f"list/val.txt: lists {ids('train')[0]}, which is in train too" in only
    text(apo / "list/val.txt", line(one).replace("061127528", "061127529"))
    with pytest.raises(
        LayoutError, match=r"list/val.txt: lists road04/.*529_Camera_6, which is mi"
    ):
        apolloscape.samples(apo, "val")
    text(apo / "list/val.txt", f"\n{one}\n")
    with pytest.raises(LayoutError, match=r"list/val.txt: line 2 does not start with an image"):
        apolloscape.samples(apo, "val")
    (only,) = faults(apolloscape, apo)
    assert "list/val.txt: line 2" in only
    (apo / "list/val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(LayoutError, match=r"list/val.txt: cannot be read .*Cure: copy the list"):
        apolloscape.samples(apo, "val")
    text(apo / "list/val.txt", f"\n{one}\n")
    assert "Cure: copy the list again, or remove it" in only


def test_apolloscape_test_in_folders(apo):
    folder = apo / "ColorImage_road05/ColorImage/Record001/Camera_6"
    folder.mkdir(parents=True)
    (apo / f"ColorImage_road05/{A_TEST[0]}.jpg").rename(folder / f"{A_TEST[0]}.jpg")
    assert [s.id for s in apolloscape.samples(apo, "test")] == [f"road05/{s}" for s in A_TEST]
    assert apolloscape.samples(apo, "test")[0].image.parent == folder


def test_apolloscape_tree_is_whole(apo):
    assert faults(apolloscape, apo) == []
    audit = check.check("apolloscape", apo, workers=2)
    assert audit.errors == 0
    assert audit.seen == {"train": 4, "val": 3, "test": 2}
    assert (audit.images[:37] == 7).all()
    assert audit.pixels[36] == 7 * 101 * 20  # two stripes of ten columns
    assert audit.pixels.sum() == 7 * A_HEIGHT * A_WIDTH


A_IMAGE = "ColorImage_road02/ColorImage/Record001/Camera_5/170927_063811892_Camera_5.jpg"
A_LABEL = "Labels_road02/Label/Record001/Camera_5/170927_063811892_Camera_5_bin.png"
SMOOTH = cv2.resize(stripes(EVERY[:3]), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
APOLLO_DAMAGES = {
    "missing image": (A_LABEL, A_IMAGE, Path.unlink, "has no image"),
    "missing label": (A_IMAGE, A_LABEL, Path.unlink, "has no label"),
    "truncated image": (A_IMAGE, A_IMAGE, cut, "is truncated .a JPEG without"),
    "truncated label": (A_LABEL, A_LABEL, cut, "is truncated .a PNG without"),
    "empty label": (A_LABEL, A_LABEL, lambda path: path.write_bytes(b""), "is empty"),
    "ids": (
        A_LABEL,
        A_LABEL,
        lambda path: write(path, mask([0, 200, 204], A_HEIGHT, A_WIDTH)),
        r"has 1 channel\(s\) of 8 bits, not the three of 8 of a colour label",
    ),
    "16 bits": (
        A_LABEL,
        A_LABEL,
        lambda path: write(path, stripes().astype(np.uint16) * 257),
        r"has 3 channel\(s\) of 16 bits",
    ),
    "colours": (
        A_LABEL,
        A_LABEL,
        lambda path: write(path, stripes([(0, 0, 0), (1, 2, 3), (70, 130, 181)])),
        r"holds the colour\(s\) \(1, 2, 3\), \(70, 130, 181\) \(red, green, blue\), which no mark",
    ),
    "many colours": (
        A_LABEL,
        A_LABEL,
        lambda path: write(path, stripes([(1, k, 3) for k in range(9)])),
        r"\(1, 3, 3\) and 5 more \(red, green, blue\)",
    ),
    "wrong name": (
        "Labels_road02/Label/Record001/Camera_5/x_bin.png",
        A_LABEL,
        lambda path: shutil.copy(path, path.with_name("x_bin.png")),
        "is not named <6 digits>_<9 digits>_Camera_<N>_bin.png",
    ),
}


@pytest.mark.parametrize("name", APOLLO_DAMAGES)
def test_apolloscape_damage_is_named(apo, name):
    blamed, file, damage, words = APOLLO_DAMAGES[name]
    damage(apo / file)
    with pytest.raises(LayoutError, match=words) as caught:
        for sample in apolloscape.samples(apo, "train"):
            apolloscape.read_image(sample.image)
            apolloscape.read_label(sample.label)
    assert str(apo / blamed) in str(caught.value)
    assert "Cure: unpack the official" in str(caught.value)
    assert faults(apolloscape, apo) == [str(caught.value)]


def test_apolloscape_damage_that_only_an_audit_sees(apo):
    write(apo / A_LABEL, stripes(height=A_HEIGHT - 1))
    twin = apo / A_IMAGE.replace("Record001/Camera_5", "Record001/Camera_8")
    twin.parent.mkdir()
    shutil.copy(apo / A_IMAGE, twin)
    found = faults(apolloscape, apo)
    assert len(found) == 2
    assert f"{twin}: has the same id as {apo / A_IMAGE}. Cure: keep one of the two." in found
    assert f"{apo / A_LABEL}: is 270x380, but its image is 271x380 (height x width)" in found[1]
    with pytest.raises(LayoutError, match="has the same id as"):
        apolloscape.samples(apo, "train")


def test_apolloscape_missing_folders_are_named_once(apo):
    shutil.rmtree(apo / "Labels_road03")
    (only,) = faults(apolloscape, apo)
    assert only.startswith(f"{apo / 'Labels_road03/Label'}: is missing, but ")
    (only,) = faults(apolloscape, apo / "Labels_road02")
    assert (
        "holds nothing of ApolloScape. Cure: give the folder that holds ColorImage_road02" in only
    )


# All of them


def test_command_line(cul, lla, apo, capsys):
    for name, root in (("culane", cul), ("llamas", lla), ("apolloscape", apo)):
        assert main(["data", "check", name, str(root), "--workers", "1"]) == 0
        told = capsys.readouterr().out
        assert "0 errors" in told
        assert layouts.get(name).CLASSES[1] in told
    cut(apo / A_LABEL)
    assert main(["data", "check", "apolloscape", str(apo), "--workers", "1"]) == 1
    assert f"{A_LABEL}: is truncated" in capsys.readouterr().out
