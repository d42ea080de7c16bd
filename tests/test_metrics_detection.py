"""Scores of detection: cases worked out by hand, and slow loops written from the rules."""

import numpy as np
import pytest
import torch

from kdlib.detection import ANY_CLASS, Boxes, Detections, no_boxes
from kdlib.metrics.detection import against_teacher, coco_map, kitti_ap, voc_ap

CAR, PERSON = 0, 1
NAMES = ["car", "person"]
SQUARE, FAR = [0, 0, 50, 50], [200, 200, 250, 250]
PYCOCOTOOLS = {
    "map": 0.184007022922,
    "map_50": 0.320761515170,
    "map_75": 0.192316623190,
    "map_small": 0.088236862148,
    "map_medium": 0.234526324669,
    "map_large": 0.219291082750,
    "ar_1": 0.240640529265,
    "ar_10": 0.410988027013,
    "ar_100": 0.411543582568,
}


def labels(*rows) -> Boxes:
    """Rows of box, class, ignored, difficulty; the last two may be left out."""
    if not rows:
        return no_boxes()
    rows = [(*row, *(False, 0)[len(row) - 2 :]) for row in rows]
    xyxy, classes, ignored, difficulty = (np.array(column) for column in zip(*rows, strict=True))
    return Boxes(xyxy.astype(np.float32), classes, ignored, difficulty)


def detections(*rows) -> Detections:
    """Rows of box, score, class."""
    return Detections(
        torch.tensor([row[0] for row in rows], dtype=torch.float32).view(-1, 4),
        torch.tensor([row[1] for row in rows], dtype=torch.float32),
        torch.tensor([row[2] for row in rows], dtype=torch.int64),
    )


def random_case(seed: int, images: int, classes: int, *, objects: int = 8, answers: int = 25):
    """Boxes of all sizes, some ignored, and detections scattered about them, with equal scores."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(images):
        count, answered = rng.integers(0, objects + 1), rng.integers(0, answers + 1)
        corner, sides = rng.uniform(0, 250, (count, 2)), rng.uniform(5, 150, (count, 2))
        xyxy = np.concatenate([corner, corner + sides], 1).astype(np.float32)
        kinds, ignored = rng.integers(0, classes, count), rng.random(count) < 0.25
        kinds = np.where(ignored & (rng.random(count) < 0.5), ANY_CLASS, kinds)
        truth.append(Boxes(xyxy, kinds, ignored, rng.integers(0, 4, count)))

        anywhere = rng.uniform(0, 150, (answered, 4)) + np.array([0, 0, 150, 150])
        near, kind = anywhere, rng.integers(0, classes, answered)
        if count:
            source = rng.integers(0, count, answered)
            near = xyxy[source] + rng.normal(0, 4, (answered, 4))
            same = (rng.random(answered) < 0.8) & (kinds[source] >= 0)
            kind = np.where(same, kinds[source], kind)
        right = rng.random(answered) < 0.7
        near = np.where(right[:, None], near, anywhere)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        scores = (rng.integers(0, 40, answered) + 20 * right) / 64
        found.append(
            Detections(torch.tensor(near).float(), torch.tensor(scores).float(), torch.tensor(kind))
        )
    return found, truth


def overlap(a, b, *, of_first=False) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return wide * high / (areas[0] if of_first else areas[0] + areas[1] - wide * high)


def plain(found, truth):
    """The images as lists of (box, score, class) and (box, class, ignored, difficulty)."""
    answers = [
        list(zip(f.xyxy.tolist(), f.scores.tolist(), f.classes.tolist(), strict=True))
        for f in found
    ]
    given = [list(zip(*(column.tolist() for column in t), strict=True)) for t in truth]
    return answers, given


# COCO


def coco_reference(found, truth, kind, *, area=(0, 1e10), limit=100):
    """AP and recall of one class from COCO's rules, a loop for each of them; -1: no truth."""
    answers, given = plain(found, truth)
    precisions, recalls = [], []
    for step in range(10):
        least, outcomes, wanted = (50 + 5 * step) / 100, [], 0
        for rows, boxes in zip(answers, given, strict=True):
            boxes = [(b, i) for b, k, i, _ in boxes if k in (kind, ANY_CLASS)]
            sizes = [(b[2] - b[0]) * (b[3] - b[1]) for b, _ in boxes]
            out = [i or not area[0] <= s <= area[1] for (_, i), s in zip(boxes, sizes, strict=True)]
            wanted += out.count(False)
            taken = set()
            rows = sorted((r for r in rows if r[2] == kind), key=lambda r: -r[1])[:limit]
            for box, score, _ in rows:
                match = None
                # boxes that count come first; those that do not are only asked without a match
                for ignoring in (False, True):
                    best = least - 1e-12
                    for g, (other, crowd) in enumerate(boxes):
                        if out[g] != ignoring or (g in taken and not crowd):
                            continue
                        shared = overlap(box, other, of_first=crowd)
                        if shared >= best:
                            best, match = shared, g
                    if match is not None:
                        break
                size = (box[2] - box[0]) * (box[3] - box[1])
                if match is not None:
                    taken.add(match)
                    if not out[match]:
                        outcomes.append((score, 1))
                elif area[0] <= size <= area[1]:
                    outcomes.append((score, 0))
        if not wanted:
            return -1, -1
        hits, curve = 0, []
        for seen, (_, hit) in enumerate(sorted(outcomes, key=lambda o: -o[0]), start=1):
            hits += hit
            curve.append((hits / wanted, hits / seen))
        for point in np.linspace(
            0, 1, 101
        ):  # in floats as COCO has it: 7/10 does not reach its 0.7
            precisions.append(max((p for r, p in curve if r >= point), default=0))
        recalls.append(hits / wanted)
    return np.mean(precisions), np.mean(recalls)


@pytest.mark.parametrize("seed", range(4))
def test_coco_is_the_slow_reference(seed):
    found, truth = random_case(seed, 12, 2)
    scores = coco_map(found, truth, NAMES)
    areas = {
        "map": (0, 1e10), "map_small": (0, 32**2), "map_medium": (32**2, 96**2),
        "map_large": (96**2, 1e10),
    }  # fmt: skip
    for name, area in areas.items():
        both = [coco_reference(found, truth, k, area=area)[0] for k in (CAR, PERSON)]
        assert min(both) >= 0, "the case shall have boxes of every size"
        assert scores[name] == pytest.approx(np.mean(both), abs=1e-12)
    for limit in (1, 10, 100):
        both = [coco_reference(found, truth, k, limit=limit)[1] for k in (CAR, PERSON)]
        assert scores[f"ar_{limit}"] == pytest.approx(np.mean(both), abs=1e-12)
    assert 0.05 < scores["map"] < 0.9


def test_coco_of_everything_right():
    truth = [labels((SQUARE, CAR), (FAR, PERSON)), labels()]
    found = [detections((SQUARE, 0.9, CAR), (FAR, 0.3, PERSON)), detections()]
    scores = coco_map(found, truth, NAMES)
    assert scores["map"] == scores["map_50"] == scores["map_75"] == scores["ar_100"] == 1
    assert scores["ap"] == {"car": 1, "person": 1}


def test_coco_of_one_missed():
    """One of two found: precision 1 at the recalls 0, .01 ... .50, which are 51 of 101, then 0."""
    truth = [labels((SQUARE, CAR), (FAR, CAR))]
    scores = coco_map([detections((SQUARE, 0.9, CAR))], truth, NAMES)
    assert scores["map"] == pytest.approx(51 / 101)
    assert scores["ar_100"] == 0.5


def test_coco_of_a_duplicate():
    """Hit, duplicate, hit: precision 1 up to recall .5 (51 points), then 2 of 3 (50 points)."""
    truth = [labels((SQUARE, CAR), (FAR, CAR))]
    found = [detections((SQUARE, 0.9, CAR), (SQUARE, 0.8, CAR), (FAR, 0.7, CAR))]
    assert coco_map(found, truth, NAMES)["map"] == pytest.approx((51 + 50 * 2 / 3) / 101)


@pytest.mark.parametrize("kind", [CAR, ANY_CLASS])
def test_coco_crowd_takes_errors(kind):
    """Two errors above the only hit: precision 1/3. In a crowd they count nowhere."""
    small = [[210, 210, 220, 220], [230, 230, 240, 240]]
    found = [detections((small[0], 0.9, CAR), (small[1], 0.8, CAR), (SQUARE, 0.7, CAR))]
    assert coco_map(found, [labels((SQUARE, CAR))], NAMES)["map"] == pytest.approx(1 / 3)
    crowd = [labels((SQUARE, CAR), (FAR, kind, True))]
    scores = coco_map(found, crowd, NAMES)
    assert scores["map"] == 1
    assert scores["ap"] == {"car": 1, "person": None}  # a crowd is nothing to be found


def test_coco_crowd_of_another_class_takes_nothing():
    found = [detections((FAR, 0.9, CAR), (SQUARE, 0.7, CAR))]
    truth = [labels((SQUARE, CAR), (FAR, PERSON, True))]
    assert coco_map(found, truth, NAMES)["map"] == pytest.approx(1 / 2)


def test_coco_error_in_an_empty_image_counts():
    """The error has the higher score: precision 1 of 2 at every recall."""
    found = [detections((SQUARE, 0.5, CAR)), detections((FAR, 0.9, CAR))]
    truth = [labels((SQUARE, CAR)), labels()]
    assert coco_map(found, truth, NAMES)["map"] == pytest.approx(0.5)


def test_coco_sizes():
    """Areas 400, 2500 and 10000, the small one missed: 2 of 3 found, precision 1 at 67 points."""
    boxes = [[0, 0, 20, 20], [100, 0, 150, 50], [200, 0, 300, 100]]
    truth = [labels(*((box, CAR) for box in boxes))]
    found = [detections(*((box, 0.9, CAR) for box in boxes[1:]))]
    scores = coco_map(found, truth, NAMES)
    assert [scores[f"map_{size}"] for size in ("small", "medium", "large")] == [0, 1, 1]
    assert scores["map"] == pytest.approx(67 / 101)


def test_coco_limits_are_by_class_and_image():
    boxes = [[100 * k, 0, 100 * k + 50, 50] for k in range(3)]
    truth = [labels(*((box, kind) for box in boxes for kind in (CAR, PERSON)))]
    found = [detections(*((box, 0.9, kind) for box in boxes for kind in (CAR, PERSON)))]
    scores = coco_map(found, truth, NAMES, max_detections=(1, 2))
    assert scores["ar_1"] == pytest.approx(1 / 3)
    assert scores["ar_2"] == pytest.approx(2 / 3)
    assert scores["map"] == pytest.approx(67 / 101)  # precision 1 up to recall 2/3
    assert "ar_100" not in scores


def test_coco_leaves_a_class_out():
    truth = [labels((SQUARE, CAR), (FAR, PERSON))]
    found = [detections((SQUARE, 0.9, CAR))]
    scores = coco_map(found, truth, NAMES, leave_out=("person",))
    assert (scores["map"], scores["map_without_person"]) == (0.5, 1)
    assert not any(key.startswith("map_without") for key in coco_map(found, truth, NAMES))
    with pytest.raises(ValueError, match="train"):
        coco_map(found, truth, NAMES, leave_out=("train",))


def test_figures_of_pycocotools():
    """What pycocotools 2.0.11 gave for this case; benchmarks/detection.py compares the two live."""
    found, truth = random_case(7, 60, 5)
    scores = coco_map(found, truth, [str(k) for k in range(5)])
    expected = PYCOCOTOOLS
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-9)


# VOC


def voc_reference(found, truth, kind, least, points):
    """VOCevaldet, detection by detection; recalls in whole numbers."""
    answers, given = plain(found, truth)
    rows = [(i, *row) for i, image in enumerate(answers) for row in image if row[2] == kind]
    boxes = [
        [{"box": b, "difficult": d, "taken": False} for b, k, d, _ in g if k in (kind, ANY_CLASS)]
        for g in given
    ]
    wanted = sum(not one["difficult"] for image in boxes for one in image)
    if not wanted:
        return None
    hits = errors = 0
    curve = []
    for i, box, _, _ in sorted(rows, key=lambda row: -row[2]):
        best, nearest = -1.0, None
        for one in boxes[i]:
            shared = overlap(box, one["box"])
            if shared > best:
                best, nearest = shared, one
        if nearest is None or best < least:
            errors += 1
        elif nearest["difficult"]:
            continue
        elif nearest["taken"]:
            errors += 1
        else:
            nearest["taken"] = True
            hits += 1
        curve.append((hits, hits / (hits + errors)))
    if points == "11":
        tops = [max((p for h, p in curve if 10 * h >= t * wanted), default=0) for t in range(11)]
        return sum(tops) / 11
    total = 0.0
    for h in range(1, wanted + 1):
        total += max((p for hit, p in curve if hit >= h), default=0) / wanted
    return total


@pytest.mark.parametrize("points", ["11", "area"])
@pytest.mark.parametrize("least", [0.5, 0.7])
def test_voc_is_the_slow_reference(points, least):
    for seed in range(5):
        found, truth = random_case(seed, 15, 2)
        scores = voc_ap(found, truth, NAMES, iou=least, points=points)
        expected = [voc_reference(found, truth, k, least, points) for k in (CAR, PERSON)]
        assert list(scores["ap"].values()) == pytest.approx(expected, abs=1e-12)
        assert scores["map"] == pytest.approx(np.mean(expected))
        assert 0.05 < scores["map"] < 0.95


@pytest.mark.parametrize(("points", "missed", "doubled"), [("11", 6, 28), ("area", 1, 5)])
def test_voc_by_hand(points, missed, doubled):
    """One of two missed: recalls 0 ... .5 are 6 of 11 points, half the area.

    Hit, duplicate, hit: precision 1 up to recall .5, then 2/3: (6 + 5 * 2/3) / 11 = 28/33; the area
    is (1 + 2/3) / 2 = 5/6.
    """
    truth = [labels((SQUARE, CAR), (FAR, CAR))]
    hit, again, other = (SQUARE, 0.9, CAR), (SQUARE, 0.8, CAR), (FAR, 0.7, CAR)

    def score(*rows):
        return voc_ap([detections(*rows)], truth, NAMES, points=points)["map"]

    assert score(hit, other) == 1
    assert score(hit) == pytest.approx(missed / (11 if points == "11" else 2))
    assert score(hit, again, other) == pytest.approx(doubled / (33 if points == "11" else 6))
    assert score() == 0


def test_voc_overlap_of_just_the_threshold_is_enough():
    """Half of the box, inside it: overlap 0.5."""
    truth, found = [labels((SQUARE, CAR))], [detections(([0, 0, 50, 25], 0.9, CAR))]
    assert voc_ap(found, truth, NAMES)["map"] == 1
    assert voc_ap(found, truth, NAMES, iou=0.51)["map"] == 0


def test_voc_taken_box_is_not_swapped_for_a_free_one():
    """The second detection overlaps the taken box by .8 and the free one by .6: an error."""
    first, second = [0, 0, 100, 100], [0, 0, 100, 48]
    found = [detections((first, 0.9, CAR), ([0, 0, 100, 80], 0.8, CAR))]
    truth = [labels((first, CAR), (second, CAR))]
    assert voc_ap(found, truth, NAMES)["map"] == pytest.approx(6 / 11)


@pytest.mark.parametrize("kind", [CAR, ANY_CLASS])
def test_voc_difficult_counts_nowhere(kind):
    """Two detections of a difficult box: no hits, no errors, and nothing was missed without."""
    truth = [labels((SQUARE, CAR), (FAR, kind, True))]
    hit = (SQUARE, 0.5, CAR)
    assert voc_ap([detections((FAR, 0.9, CAR), (FAR, 0.8, CAR), hit)], truth, NAMES)["map"] == 1
    assert voc_ap([detections(hit)], truth, NAMES)["map"] == 1
    assert voc_ap([detections((FAR, 0.9, CAR), hit)], [labels((SQUARE, CAR))], NAMES)["map"] == 0.5


def test_voc_recall_of_three_tenths():
    """3 of 10 found reach the recalls 0, .1, .2 and .3."""
    boxes = [[100 * k, 0, 100 * k + 50, 50] for k in range(10)]
    truth = [labels(*((box, CAR) for box in boxes))]
    found = [detections(*((box, 0.9, CAR) for box in boxes[:3]))]
    assert voc_ap(found, truth, NAMES)["map"] == pytest.approx(4 / 11)


# KITTI


def kitti_statistics(rows, boxes, kind, level, least, threshold):
    """computeStatistics of one image: scores of the hits, or hits and errors from a threshold."""
    heights = (40, 25, 25)
    state = []
    for box, score, k in rows:
        low = box[3] - box[1] < heights[level]
        state.append("low" if low else "mine" if k == kind else "other")
        if threshold is not None and score < threshold:
            state[-1] = "other"
    taken, scores, hits = set(), [], 0
    for box, k, ignored, difficulty in boxes:
        if k != kind:
            continue
        pairs = [(j, overlap(rows[j][0], box)) for j in range(len(rows))]
        pairs = [p for p in pairs if p[1] > least and state[p[0]] != "other" and p[0] not in taken]
        if not pairs:
            continue
        if threshold is None:
            chosen = max(pairs, key=lambda p: rows[p[0]][1])[0]
        else:
            high = [p for p in pairs if state[p[0]] == "mine"]
            chosen = max(high, key=lambda p: p[1])[0] if high else pairs[0][0]
        taken.add(chosen)
        if not ignored and difficulty <= level and state[chosen] == "mine":
            hits += 1
            scores.append(rows[chosen][1])
    regions = [box for box, k, _, _ in boxes if k == ANY_CLASS]
    errors = 0
    for j, (box, _, _) in enumerate(rows):
        if state[j] == "mine" and j not in taken:
            errors += not any(overlap(box, region, of_first=True) > least for region in regions)
    return scores if threshold is None else (hits, errors)


def kitti_reference(found, truth, kind, level, least, points):
    answers, given = plain(found, truth)
    images = list(zip(answers, given, strict=True))
    wanted = sum(k == kind and not i and d <= level for g in given for _, k, i, d in g)
    if not wanted:
        return None
    scores = []
    for rows, boxes in images:
        scores += kitti_statistics(rows, boxes, kind, level, least, None)
    scores.sort(reverse=True)
    precision, recall = [0.0] * 41, 0.0
    step = 0
    for i, score in enumerate(scores):
        left = (i + 1) / wanted
        right = (i + 2) / wanted
        if i < len(scores) - 1 and right - recall < recall - left:
            continue
        counts = [kitti_statistics(*image, kind, level, least, score) for image in images]
        hits, errors = (sum(column) for column in zip(*counts, strict=True))
        precision[step] = hits / (hits + errors) if hits + errors else 0.0
        step += 1
        recall += 1 / 40
    precision = [max(precision[i:]) for i in range(41)]
    kept = precision[::4] if points == 11 else precision[1:]
    return sum(kept) / points


@pytest.mark.parametrize("points", [11, 40])
def test_kitti_is_the_slow_reference(points):
    every = []
    for seed in range(4):
        found, truth = random_case(seed, 40, 2, answers=40)
        scores = kitti_ap(found, truth, NAMES, iou=(0.6, 0.5), points=points)
        for kind, (name, least) in enumerate(zip(NAMES, (0.6, 0.5), strict=True)):
            for level, title in enumerate(("easy", "moderate", "hard")):
                expected = kitti_reference(found, truth, kind, level, least, points)
                assert scores["ap"][name][title] == pytest.approx(expected, abs=1e-12)
                every.append(expected)
    assert 0.0 < min(every) < 0.2 < max(every) < 0.95


def many(count: int, answer=None, label=None):
    """One image as often as that: a car and its detection if not said otherwise."""
    answer, label = answer or detections((SQUARE, 0.9, CAR)), label or labels((SQUARE, CAR))
    return [answer] * count, [label] * count


def car(found, truth, **options) -> dict:
    return kitti_ap(found, truth, NAMES, iou=(0.7, 0.5), **options)["ap"]["car"]


@pytest.mark.parametrize("points", [11, 40])
def test_kitti_of_everything_right(points):
    assert car(*many(100), points=points) == {"easy": 1, "moderate": 1, "hard": 1}


@pytest.mark.parametrize(("points", "half", "alone"), [(11, 6 / 11, 1 / 11), (40, 20 / 40, 0)])
def test_kitti_of_some_missed(points, half, alone):
    """50 of 100 found: precision 1 at the recalls 0, 1/40 ... 20/40, then 0.

    A single box, found, has a single score, at recall 0: the devkit's price for few boxes.
    """
    found, truth = many(100)
    found = found[:50] + [detections()] * 50
    assert car(found, truth, points=points)["easy"] == pytest.approx(half)
    assert car(*many(1), points=points)["easy"] == pytest.approx(alone)


def test_kitti_of_duplicates():
    """Each box found twice, with one score: precision 1/2 at every recall."""
    twice = detections((SQUARE, 0.9, CAR), (SQUARE, 0.9, CAR))
    assert car(*many(100, twice))["hard"] == pytest.approx(0.5)


def test_kitti_overlap_of_just_the_threshold_is_too_little():
    """50 x 35 pixels of 50 x 50 are 0.7."""
    answer, label = detections(([0, 0, 50, 35], 0.9, CAR)), labels((SQUARE, CAR))
    assert car(*many(100, answer, label))["moderate"] == 0
    assert kitti_ap(*many(100, answer, label), NAMES, iou=(0.69, 0.5))["ap"]["car"]["hard"] == 1


@pytest.mark.parametrize("least", [0.7, 0.5])
def test_kitti_dont_care(least):
    """A third of the errors lies wholly in the region, a third by 0.6, a third beside it."""
    region = labels((SQUARE, CAR), ([200, 0, 300, 100], ANY_CLASS, True))
    inside, partly, beside = [200, 0, 250, 50], [230, 50, 280, 135], FAR
    rows = [(box, 0.9, CAR) for box in (inside, partly, beside, SQUARE)]
    # 50 x 85 pixels, of which 50 x 50 lie in the region: a share of 0.588
    score = kitti_ap(*many(100, detections(*rows), region), NAMES, iou=(least, 0.5))
    assert score["ap"]["car"]["easy"] == pytest.approx(1 / 3 if least == 0.7 else 1 / 2)


def test_kitti_neighbouring_class_takes_one_detection():
    """A van is no car to be found; the first detection of it is no error, the second is."""
    van = labels((SQUARE, CAR), (FAR, CAR, True))
    once = detections((SQUARE, 0.9, CAR), (FAR, 0.9, CAR))
    assert car(*many(100, once, van))["easy"] == 1
    twice = detections((SQUARE, 0.9, CAR), (FAR, 0.9, CAR), (FAR, 0.9, CAR))
    assert car(*many(100, twice, van))["easy"] == pytest.approx(0.5)


def test_kitti_levels():
    """Moderate boxes are found and hard ones are not: 100 of 100, 200 of 200, 200 of 300."""
    other = [400, 0, 450, 50]
    label = labels((SQUARE, CAR), (FAR, CAR, False, 1), (other, CAR, False, 2))
    answer = detections((SQUARE, 0.9, CAR), (FAR, 0.9, CAR))
    scores = car(*many(100, answer, label))
    assert (scores["easy"], scores["moderate"]) == (1, 1)
    # recall 2/3 lies between 26/40 and 27/40: of 0, 4/40 ... 40/40 the first 7 are reached
    assert scores["hard"] == pytest.approx(7 / 11)
    assert car(*many(100, answer, labels((SQUARE, CAR, False, 3))))["hard"] is None


def test_kitti_low_detections_are_no_errors():
    """39 pixels are too low at easy (40) and count at moderate (25), as 40 do at both."""
    for height, easy in ((39, 1), (40, 0.5)):
        low = [200, 0, 250, height]
        scores = car(*many(100, detections((SQUARE, 0.9, CAR), (low, 0.9, CAR))))
        assert (scores["easy"], scores["moderate"]) == pytest.approx((easy, 0.5))


def test_kitti_low_detection_of_another_class_fills_in():
    """The devkit's order of questions: a box that only a low person overlaps counts nowhere."""
    low = [0, 0, 50, 38]  # pixels; the box has 45 of them
    label = labels(([0, 0, 50, 45], CAR))
    answers = [detections((low, 0.9, PERSON))] * 50 + [detections(([0, 0, 50, 45], 0.8, CAR))] * 50
    scores = car(answers, [label] * 100)
    # the 50 hits have precision 1; they make up half of the recall, as in the case of some missed
    assert scores["easy"] == pytest.approx(6 / 11)
    both = detections((low, 0.9, PERSON), ([0, 0, 50, 45], 0.8, CAR))
    # for the scores of the hits the higher score wins, which is the low person's: no hit at easy
    scores = car([both] * 100, [label] * 100)
    assert (scores["easy"], scores["moderate"]) == (0, 1)


# all of them


@pytest.mark.parametrize("metric", [coco_map, voc_ap])
def test_nothing_to_find(metric):
    wrong = detections((SQUARE, 0.9, CAR))
    for found, truth in (([wrong], [labels()]), ([detections()], [labels()]), ([], [])):
        scores = metric(found, truth, NAMES)
        assert scores["map"] is None
        assert scores["ap"] == {"car": None, "person": None}
    # a class without truth is left out of the mean, and what is found of it costs nothing
    scores = metric([detections((SQUARE, 0.9, PERSON))], [labels((SQUARE, PERSON))], NAMES)
    assert scores["ap"] == {"car": None, "person": 1}
    both = [detections((SQUARE, 0.9, PERSON), (FAR, 0.9, CAR))]
    assert metric(both, [labels((SQUARE, PERSON))], NAMES)["map"] == 1


def test_kitti_nothing_to_find():
    none = dict.fromkeys(("easy", "moderate", "hard"))
    wrong = detections((SQUARE, 0.9, CAR))
    for found, truth in (([wrong], [labels()]), ([detections()], [labels()]), ([], [])):
        scores = kitti_ap(found, truth, NAMES, iou=(0.7, 0.5))
        assert scores == {"map": None, "ap": {"car": none, "person": none}}
    answers, truth = many(100)
    scores = kitti_ap(answers, truth, NAMES, iou=(0.7, 0.5))
    assert (scores["map"], scores["ap"]["person"]) == (1, none)


@pytest.mark.parametrize("metric", [coco_map, voc_ap])
def test_nothing_found(metric):
    truth = [labels((SQUARE, CAR)), labels((FAR, PERSON))]
    scores = metric([detections(), detections()], truth, NAMES)
    assert scores["map"] == 0
    assert scores["ap"] == {"car": 0, "person": 0}


def test_kitti_nothing_found():
    assert car([detections()] * 5, many(5)[1]) == {"easy": 0, "moderate": 0, "hard": 0}


def test_against_teacher():
    """The teacher is sure of two boxes; the student finds the first, and one that it is not."""
    taught = [detections((SQUARE, 0.9, CAR), (FAR, 0.7, CAR), ([300, 0, 350, 50], 0.2, CAR))]
    student = [detections((SQUARE, 0.8, CAR), ([300, 0, 350, 50], 0.6, CAR))]
    scores = against_teacher(student, taught, NAMES, score=0.7)
    assert scores["map"] == pytest.approx(51 / 101)
    assert scores["ap"]["person"] is None
    assert against_teacher(taught, taught, NAMES, score=0.7)["map"] == 1
    assert against_teacher(student, taught, NAMES, score=0.95)["map"] is None


def test_types_and_modes():
    """Half precision, and tensors of inference mode, with scores that both types hold."""
    found, truth = random_case(1, 5, 2)
    with torch.inference_mode():
        halves = [Detections(f.xyxy.half(), f.scores.half(), f.classes.int()) for f in found]
    same = [Detections(f.xyxy.half().float(), f.scores, f.classes) for f in found]
    for metric in (coco_map, voc_ap):
        assert metric(halves, truth, NAMES) == metric(same, truth, NAMES)
    assert against_teacher(halves, halves, NAMES, score=0.5) == against_teacher(
        same, same, NAMES, score=0.5
    )


def test_says_nothing(capfd, caplog):
    found, truth = random_case(2, 5, 2)
    with caplog.at_level("WARNING"):
        coco_map(found, truth, NAMES)
        coco_map([detections()], [labels()], NAMES)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_inputs_stay_as_they_are():
    found, truth = random_case(3, 5, 2)
    before = [(f.xyxy.clone(), t.xyxy.copy()) for f, t in zip(found, truth, strict=True)]
    for metric in (coco_map, voc_ap):
        metric(found, truth, NAMES)
    kitti_ap(found, truth, NAMES, iou=(0.7, 0.5))
    for (xyxy, corners), f, t in zip(before, found, truth, strict=True):
        assert torch.equal(xyxy, f.xyxy)
        assert np.array_equal(corners, t.xyxy)


@pytest.mark.parametrize("metric", [coco_map, voc_ap, kitti_ap])
@pytest.mark.parametrize(
    ("found", "truth", "says"),
    [
        ([detections()], [], "found has 1 images and truth 0"),
        ([detections((SQUARE, 0.9, 3))], [labels()], "found, image 0: class 3"),
        ([detections()], [labels((SQUARE, 5))], "truth, image 0: class 5"),
        ([detections((SQUARE, 0.9, ANY_CLASS))], [labels()], "found, image 0: class -1"),
        ([detections()], [labels((SQUARE, ANY_CLASS))], "not ignored"),
        ([detections((SQUARE, float("nan"), 0))], [labels()], "not finite"),
        ([detections()], [labels(([0, 0, float("inf"), 1], 0))], "not finite"),
        ([detections((SQUARE, 0.9, 0))._replace(scores=torch.ones(2))], [labels()], "must be"),
    ],
)
def test_refuses(metric, found, truth, says):
    with pytest.raises(ValueError, match=says):
        metric(found, truth, ["car", "person", "cyclist"])


def test_refuses_settings():
    found, truth = random_case(0, 2, 2)
    with pytest.raises(ValueError, match="max_detections"):
        coco_map(found, truth, NAMES, max_detections=(10, 1))
    with pytest.raises(ValueError, match="points"):
        voc_ap(found, truth, NAMES, points="101")
    with pytest.raises(ValueError, match="points"):
        kitti_ap(found, truth, NAMES, iou=(0.7, 0.5), points=41)
    with pytest.raises(ValueError, match="one by class"):
        kitti_ap(found, truth, NAMES)
