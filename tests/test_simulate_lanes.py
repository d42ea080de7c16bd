"""Simulated CULane, LLAMAS and ApolloScape: labels lie on the paint, and the layouts read them."""

import dataclasses
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdlib.data import layouts
from kdlib.data.layouts import apolloscape_colours
from kdlib.simulate import apolloscape, culane, dataset, llamas, paint
from kdlib.simulate.classes import ARROWS, FIRST_MARK, IGNORE, MARKS, ROAD
from kdlib.simulate.dataset import SMOKE
from kdlib.simulate.lines import Lane
from kdlib.simulate.recipe import PINNED, Job, lane_jobs
from kdlib.simulate.render import Frame, Renderer, unmarked
from kdlib.simulate.style import CULANE
from kdlib.simulate.world import draw_up

FEW = dataclasses.replace(
    SMOKE,
    culane=(4, 2, 8),
    culane_size=(147, 409),
    llamas=(4, 2),
    llamas_size=(119, 213),
    apolloscape=(4, 2),
    apolloscape_size=(169, 211),
)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three trees and the drive, of odd sizes."""
    out, rows = tmp_path_factory.mktemp("trees"), []
    for job in lane_jobs(FEW):
        dataset.render(job, out)
        if job.kind == "culane":
            rows.append(json.loads(dataset.outputs(job, out)[-1].read_text()))
    for name, text in culane.lists(rows).items():
        (out / "culane/list" / name).parent.mkdir(parents=True, exist_ok=True)
        (out / "culane/list" / name).write_text(text)
    return out


def frames(kind: str) -> Iterator[tuple[Job, Renderer, Frame]]:
    """The first four stills of a kind, rendered again."""
    for job in [job for job in lane_jobs(FEW) if job.kind == kind][:4]:
        height, width = job.size
        renderer = Renderer(job.seed, job.world, (height + 1, width + 1))
        frame = renderer.frame(dataset.MOMENT, boxes=True)
        yield job, renderer, dataset.trimmed(frame, job.size)


# -- What is painted ------------------------------------------------------------------------------


def test_paint_is_road_among_the_classes() -> None:
    codes = np.array([[0, 3, FIRST_MARK, FIRST_MARK + len(MARKS) - 1, IGNORE]], np.uint8)
    label, marks = unmarked(codes)
    assert label.tolist() == [[0, 3, ROAD, ROAD, IGNORE]]
    assert marks.tolist() == [[0, 0, 1, len(MARKS), 0]]
    assert label.dtype == marks.dtype == np.uint8


def test_only_the_worlds_of_lanes_have_arrows_and_stop_lines() -> None:
    later = set(range(MARKS.index("stop line") + 1, len(MARKS) + 1))
    later.remove(MARKS.index("crosswalk") + 1)
    for world in ("home", "elsewhere", "llamas"):
        for k in range(2):
            frame = Renderer(f"test/{k}", world, (72, 128)).frame(5.0, boxes=True)
            assert not later & set(np.unique(frame.marks).tolist())
    found = set()
    for _, _, frame in frames("apolloscape"):
        found |= set(np.unique(frame.marks).tolist())
    assert later & found


def test_arrows_to_the_left_mirror_those_to_the_right() -> None:
    for kind in ("{}", "through {}"):
        left, right = (paint.SHAPES[kind.format(side)] for side in ("left", "right"))
        mirrored = {tuple(sorted((s, -u) for s, u in polygon)) for polygon in right}
        assert {tuple(sorted(polygon)) for polygon in left} == mirrored
        assert left != right
    assert set(paint.SHAPES) == set(ARROWS)


def test_arrows_lie_in_their_lanes_and_off_crossings() -> None:
    seen = 0
    for k in range(8):
        ground = draw_up(f"test/{k}", CULANE, 10.0)[0].ground
        for mark in ground.marks:
            end = mark.s + max(s for polygon in mark.polygons for s, _ in polygon)
            assert all(end <= low or mark.s >= high for low, high in ground.crossings)
            if mark.kind in ARROWS:
                assert all(end <= zebra or mark.s >= zebra + 3 for zebra in ground.zebras)
                offsets = [line.offset for line in ground.lines]
                reach = [mark.u + u for polygon in mark.polygons for _, u in polygon]
                assert not any(min(reach) < offset < max(reach) for offset in offsets)
                seen += 1
    assert seen > 20


def test_worn_lines_have_nearly_the_colour_of_the_asphalt() -> None:
    worn = []
    for k in (0, 1, 24, 27):
        clip, _ = draw_up(f"test/{k}", CULANE, 10.0)
        gaps = [
            max(abs(a - b) for a, b in zip(line.color, clip.ground.asphalt, strict=True))
            for line in clip.ground.lines
        ]
        assert (max(gaps) < 35) == clip.worn
        worn.append(clip.worn)
    assert worn == [False, False, True, True]


# -- CULane ---------------------------------------------------------------------------------------


def test_culane_lists_name_files_that_exist(trees: Path) -> None:
    root = trees / "culane"
    for split, count in zip(("train", "val"), FEW.culane, strict=False):
        rows = (root / f"list/{split}_gt.txt").read_text().splitlines()
        assert len(rows) == count
        assert [row.split()[0] for row in rows] == (root / f"list/{split}.txt").read_text().split()
        for row in rows:
            image, mask, *exists = row.split()
            lines = (root / image[1:]).with_suffix(".lines.txt").read_text().splitlines()
            label = cv2.imread(str(root / mask[1:]), cv2.IMREAD_UNCHANGED)
            assert cv2.imread(str(root / image[1:])).shape[:2] == label.shape == FEW.culane_size
            assert len(lines) == sum(map(int, exists))
            assert set(np.unique(label)) <= {0, *(k + 1 for k in range(4) if exists[k] == "1")}
    test = (root / "list/test.txt").read_text().split()
    named = [
        line
        for path in sorted((root / "list/test_split").iterdir())
        for line in path.read_text().split()
    ]
    assert len(test) == FEW.culane[2]
    assert sorted(named) == sorted(name.removeprefix("/") for name in test)


def test_scenario_lists_have_the_official_names() -> None:
    names = [name for name in culane.lists([]) if "/" in name]
    assert names == [
        f"test_split/test{k}_{kind}.txt" for k, kind in enumerate(layouts.get("culane").SCENARIOS)
    ]


def test_the_layout_reads_culane(trees: Path) -> None:
    module, root = layouts.get("culane"), trees / "culane"
    wrong = [problem for problem in module.problems(root) if problem.severity != "warning"]
    assert [str(problem) for problem in wrong] == []
    for sample in module.samples(root, "train"):
        lanes = module.read_lanes(sample)
        label = module.read_label(sample.label)
        assert (len(np.unique(label)) - 1) == len(lanes)
        for lane in lanes:
            rows = lane[:, 1]
            assert set(np.abs(np.diff(rows))) == {147 * 10 // 590}
            assert (lane[:, 0] >= 0).all() and (lane[:, 0] < 409).all()
    kinds = {module.scenario(sample) for sample in module.samples(root, "test")}
    assert "" not in kinds and len(kinds) > 2


def test_culane_lines_lie_on_the_paint() -> None:
    """Where a solid line's road can be seen, its points are on it; dashes are hit in part."""
    hits = solid = 0
    for _, _, frame in frames("culane"):
        near = cv2.dilate((frame.marks > 0).astype(np.uint8), np.ones((3, 5), np.uint8))
        for line in frame.lanes:
            if line.dashed or line.category.startswith("double"):
                continue
            for x, y in culane.sample_rows(line.points, frame.label.shape):
                row, column = min(y, frame.label.shape[0] - 1), int(x)
                if frame.label[row, column] == ROAD and y > 0.6 * frame.label.shape[0]:
                    solid += 1
                    hits += int(near[row, column])
    assert solid > 20
    assert hits > 0.9 * solid


def line(offset: float, near: float = 3.0) -> Lane:
    """A straight lane line from (50, 20) to the bottom, leaning as its offset has it."""
    return Lane("single white", False, ((50.0, 20.0), (50.0 + 10 * offset, 80.0)), offset, near)


def test_places_count_from_the_camera_outwards() -> None:
    found = [line(offset) for offset in (4.0, -1.5, -8.0, 2.0, -4.5)]
    four = culane.places(found, (80, 120))
    ends = [lane[0] for lane in four]
    assert ends == [(5.0, 80), (35.0, 80), (70.0, 80), (90.0, 80)]
    assert [bool(lane) for lane in culane.places(found[:1], (80, 120))] == [0, 0, 1, 0]


def test_a_crossroads_has_no_lines() -> None:
    far = [line(-1.5, 20.0), line(2.0, 17.0)]
    assert culane.places(far, (80, 120)) == [[], [], [], []]
    assert any(culane.places([*far, line(5.0, 15.0)], (80, 120)))
    assert culane.places([], (80, 120)) == [[], [], [], []]


def test_rows_are_ten_of_590() -> None:
    points = ((100.0, 0.0), (100.0, 700.0))
    assert [y for _, y in culane.sample_rows(points, (590, 1640))][:3] == [590, 580, 570]
    assert [y for _, y in culane.sample_rows(points, (295, 820))][:3] == [295, 290, 285]
    assert culane.sample_rows(((100.0, 0.0), (100.0, 4.0)), (295, 820)) == []


def test_lines_and_mask_of_two_lanes() -> None:
    four = [[], [(10.5, 295), (20.0, 290)], [(400.0, 295), (400.0, 100)], []]
    assert culane.lines(four) == "10.5 295 20.0 290\n400.0 295 400.0 100\n"
    mask = culane.mask(four, (295, 820))
    assert set(np.unique(mask)) == {0, 2, 3}
    assert 8 <= (mask[200] == 3).sum() <= 9


def scene(**more) -> tuple:
    """A still without anything special, and what `more` makes of it."""
    renderer = Renderer("test/1", "culane", (74, 206))
    frame = renderer.frame(0.0, boxes=True)
    clip = dataclasses.replace(renderer.clip, time="daytime", worn=False)
    frame = dataclasses.replace(frame, boxes=[], marks=np.zeros_like(frame.marks))
    given = {name: value for name, value in more.items() if name in ("time", "worn")}
    rest = {name: value for name, value in more.items() if name not in given}
    return dataclasses.replace(clip, **given), dataclasses.replace(frame, **rest)


def test_scenarios_are_told_by_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    four = [[], [(1.0, 2), (2.0, 1)], [], []]
    monkeypatch.setattr(culane, "bend", lambda clip, frame: 0.0)
    monkeypatch.setattr(culane, "shade", lambda frame: 0.0)
    plain = scene()
    assert culane.scenario(*plain, four) == "normal"
    assert culane.scenario(*plain, [[]] * 4) == "cross"
    assert culane.scenario(*scene(time="night", worn=True), four) == "night"
    assert culane.scenario(*scene(worn=True), four) == "noline"
    marks = np.zeros_like(plain[1].marks)
    marks[40:50, 50:60] = MARKS.index("left") + 1
    assert culane.scenario(*scene(marks=marks), four) == "arrow"
    renderer = Renderer("test/1", "culane", (74, 206))
    box = next(b for k in range(5) for b in renderer.frame(float(k), boxes=True).boxes)
    box = dataclasses.replace(box, category="bus", x1=0, y1=0, x2=49, y2=19)
    assert culane.scenario(*scene(boxes=[box] * 6), four) == "crowd"
    assert culane.scenario(*scene(boxes=[box] * 5), four) == "normal"
    people = dataclasses.replace(box, category="pedestrian")
    assert culane.scenario(*scene(boxes=[people] * 6), four) == "normal"
    monkeypatch.setattr(culane, "shade", lambda frame: 0.5)
    assert culane.scenario(*plain, four) == "shadow"
    monkeypatch.setattr(culane, "bend", lambda clip, frame: 0.2)
    assert culane.scenario(*plain, four) == "curve"


def test_bend_and_shade_measure_the_road() -> None:
    for _, renderer, frame in frames("culane"):
        s, road = frame.painter.view.s, renderer.clip.road
        (*_, ax, az), (*_, bx, bz) = road.at(s), road.at(s + culane.AHEAD)
        angle = np.arctan2(bx, bz) - np.arctan2(ax, az)
        assert culane.bend(renderer.clip, frame) == pytest.approx(abs(np.sin(angle)), abs=1e-5)
        assert 0.0 <= culane.shade(frame) <= 1.0
        canvas = frame.painter.canvas
        canvas.shadow = 0, np.ones(canvas.pixels.shape[:2], bool)
        assert culane.shade(frame) == 1.0
        canvas.shadow = None
        assert culane.shade(frame) == 0.0


def test_the_drive_is_one_clip_in_no_list(trees: Path) -> None:
    root = trees / "culane"
    (folder,) = root.glob("driver_3_06frame/*")
    assert sorted(p.name for p in folder.glob("*.jpg")) == ["00000.jpg", "00006.jpg", "00012.jpg"]
    assert sorted(p.name[:5] for p in folder.glob("*.lines.txt")) == ["00000", "00006", "00012"]
    listed = "".join(p.read_text() for p in root.glob("list/**/*.txt"))
    assert listed and "driver_3" not in listed
    pictures = [cv2.imread(str(p)).astype(int) for p in sorted(folder.glob("*.jpg"))]
    assert all(picture.shape == (*FEW.culane_size, 3) for picture in pictures)
    steps = [np.abs(a - b).mean() for a, b in pairwise(pictures)]
    assert 0 < max(steps) < np.abs(pictures[0] - pictures[0][:, ::-1]).mean()


# -- LLAMAS ---------------------------------------------------------------------------------------


def test_the_layout_reads_llamas(trees: Path) -> None:
    module, root = layouts.get("llamas"), trees / "llamas"
    assert [str(problem) for problem in module.problems(root)] == []
    assert len(module.samples(root, "train")) == FEW.llamas[0]
    for sample in module.samples(root, "train"):
        assert module.read_whole(sample.image).shape[:2] == FEW.llamas_size
        assert module.read_label(sample.label).max() > 0
        assert len(module.read_lanes(sample)) >= 2


def test_llamas_numbers_are_strings_and_ends_are_projected(trees: Path) -> None:
    for path in trees.glob("llamas/labels/*/*/*.json"):
        label = json.loads(path.read_text())
        matrix = np.array(label["projection_matrix"])
        assert matrix[2].tolist() == [0, 0, 1]
        assert matrix[0, 1] == matrix[1, 0] == 0 and matrix[0, 0] == matrix[1, 1]
        assert {lane["lane_id"] for lane in label["lanes"]} <= {"l1", "l0", "r0", "r1"}
        for lane in label["lanes"]:
            depths = []
            for marker in lane["markers"]:
                for end in ("start", "end"):
                    world, pixel = marker[f"world_{end}"], marker[f"pixel_{end}"]
                    assert all(isinstance(v, str) for v in (*world.values(), *pixel.values()))
                    x, y, z = matrix @ [float(world[axis]) for axis in "xyz"]
                    assert abs(x / z - int(pixel["x"])) <= 0.51
                    assert abs(y / z - int(pixel["y"])) <= 0.51
                    assert 0 <= int(pixel["x"]) < FEW.llamas_size[1]
                    assert 0 <= int(pixel["y"]) < FEW.llamas_size[0]
                    depths.append(z)
            assert depths == sorted(depths)


def test_llamas_markers_lie_on_the_paint() -> None:
    """Dashes whose middle can be seen; paint under cars has no such pixel."""
    seen = hits = 0
    for _, _, frame in frames("llamas"):
        label = llamas.label(frame, "stamp")
        kinds = llamas.four_lines(list(frame.painter.ground.lines), frame.painter.view.u)
        for lane in label["lanes"]:
            if not kinds[lane["lane_id"]].dashed:
                continue
            for marker in lane["markers"]:
                ends = [
                    [int(marker[f"pixel_{e}"][axis]) for axis in "xy"] for e in ("start", "end")
                ]
                x, y = (sum(values) // 2 for values in zip(*ends, strict=True))
                if frame.label[y, x] == ROAD and abs(ends[0][1] - ends[1][1]) > 2:
                    seen += 1
                    hits += bool(frame.marks[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any())
    assert seen > 10
    assert hits >= 0.95 * seen


def test_llamas_recordings_keep_to_one_split() -> None:
    names = {split: {llamas.name(f"{split}/{k}") for k in range(120)} for split in llamas.FOLDERS}
    assert all(len(found) == 120 for found in names.values())
    folders = [{name.split("/")[1] for name in found} for found in names.values()]
    assert not folders[0] & folders[1]
    assert len(folders[0]) == 3


# -- ApolloScape ----------------------------------------------------------------------------------


def test_colours_are_those_of_the_layout() -> None:
    known = {marking.name: marking.colour for marking in apolloscape_colours.MARKINGS}
    assert set(apolloscape.CLASSES) == set(MARKS)
    assert dict(apolloscape.CLASSES.values()).items() <= known.items()
    assert known["void"] == apolloscape.VOID
    assert len({name for name, _ in apolloscape.CLASSES.values()}) == len(MARKS)


def test_the_layout_reads_apolloscape(trees: Path) -> None:
    module, root = layouts.get("apolloscape"), trees / "apolloscape"
    assert [str(problem) for problem in module.problems(root)] == []
    for split, count in zip(("train", "val"), FEW.apolloscape, strict=True):
        samples = module.samples(root, split)
        assert len(samples) == count
        for sample in samples:
            image, label = module.read_image(sample.image), module.read_label(sample.label)
            assert image.shape[:2] == label.shape
            assert label.any()


def test_apolloscape_masks_hold_what_is_painted(trees: Path) -> None:
    decode = apolloscape_colours.decode
    for job, _, frame in frames("apolloscape"):
        path = dataset.outputs(job, trees)[1]
        label = decode(path, cv2.imread(str(path), cv2.IMREAD_UNCHANGED), "")
        assert label.shape == FEW.apolloscape_size
        names = np.array(["void", *(apolloscape.CLASSES[kind][0] for kind in MARKS)])
        assert (np.array(apolloscape_colours.CLASSES)[label] == names[frame.marks]).all()


# -- All three ------------------------------------------------------------------------------------


def test_odd_sizes_lose_the_last_row_and_column() -> None:
    _, renderer, frame = next(frames("culane"))
    whole = renderer.frame(dataset.MOMENT, boxes=True)
    assert frame.image.shape == (147, 409, 3) and whole.image.shape == (148, 410, 3)
    assert np.array_equal(frame.image, whole.image[:-1, :-1])
    assert np.array_equal(frame.label, whole.label[:-1, :-1])
    assert np.array_equal(frame.marks, whole.marks[:-1, :-1])


def test_pinned_sizes_are_a_half_a_third_and_an_eighth() -> None:
    assert tuple(2 * n for n in PINNED.culane_size) == layouts.get("culane").FULL
    for name, share in (("llamas", 3), ("apolloscape", 8)):
        size = getattr(PINNED, f"{name}_size")
        full = layouts.get(name).FULL
        assert all(abs(n * share - whole) < share for n, whole in zip(size, full, strict=True))


def test_a_larger_set_keeps_the_stills_of_a_smaller_one() -> None:
    large = {(job.kind, job.seed) for job in lane_jobs(PINNED)}
    assert {(job.kind, job.seed) for job in lane_jobs(SMOKE)} <= large
