"""Scores of lanes: cases worked out by hand, and slow forms written from the rules."""

import doctest
import itertools

import cv2
import numpy as np
import pytest
import torch

from kdlib.metrics import culane, llamas
from kdlib.metrics.lanes import (
    apolloscape_means,
    culane_curve,
    culane_hits,
    culane_iou,
    culane_match,
    culane_scores,
    lanes_from_probabilities,
    llamas_average_precision,
    llamas_map,
    llamas_scores,
    with_top,
)
from kdlib.metrics.segmentation import mean_iou


def upright(x: float, top: float = 250, bottom: float = 589) -> np.ndarray:
    """A lane of two points straight up."""
    return np.array([[x, bottom], [x, top]], np.float64)


def road(rng: np.random.Generator, size=(1640, 590), points: int | None = None) -> np.ndarray:
    """A lane that bends, from the bottom up, as likely as not partly outside the picture."""
    count = points or int(rng.integers(2, 20))
    y = np.linspace(size[1] - 1, size[1] * rng.uniform(0.3, 0.8), count)
    far = (size[1] - y) / size[1]
    x = rng.uniform(-0.1, 1.1) + rng.uniform(-0.5, 0.5) * far + rng.uniform(-0.5, 0.5) * far**2
    return np.stack([x * size[0] + rng.normal(0, 2, count), y], 1)


# CULane: the curve


def slow_curve(points: np.ndarray) -> np.ndarray:
    """The natural spline from its conditions, all unknowns at once, step by step."""
    points = points.astype(np.float32).astype(np.float64)
    count = len(points)
    if count == 2:
        return points.astype(np.float32)
    gap = np.hypot(*np.diff(points, axis=0).T)
    matrix, right = np.eye(count), np.zeros((count, 2))
    for k in range(1, count - 1):
        matrix[k, k - 1 : k + 2] = gap[k - 1], 2 * (gap[k - 1] + gap[k]), gap[k]
        rises = points[k + 1] - points[k], points[k] - points[k - 1]
        right[k] = 6 * (rises[0] / gap[k] - rises[1] / gap[k - 1])
    bend = np.linalg.solve(matrix, right)
    curve = []
    for k in range(count - 1):
        for step in range(50):
            t = gap[k] * step / 50
            u = gap[k] - t  # what is left to the next point
            curve.append(
                (bend[k] * u**3 + bend[k + 1] * t**3) / (6 * gap[k])
                + (points[k] / gap[k] - bend[k] * gap[k] / 6) * u
                + (points[k + 1] / gap[k] - bend[k + 1] * gap[k] / 6) * t
            )
    return np.array([*curve, points[-1]], np.float32)


def test_curve_by_hand():
    """Chords of 5; y bends by -0.48 in the middle, so y = 1.2 t - 0.016 t^3 on the way up."""
    curve = culane_curve(np.array([[0, 0], [3, 4], [6, 0]]))
    assert curve.shape == (101, 2) and curve.dtype == np.float32
    assert curve[[0, 50, 100]].tolist() == [[0, 0], [3, 4], [6, 0]]
    assert curve[25].tolist() == pytest.approx([1.5, 2.75])
    assert curve[75].tolist() == pytest.approx([4.5, 2.75])


def test_curve_equals_the_slow_form():
    rng = np.random.default_rng(0)
    for count in (2, 3, 4, 5, 18, 40):
        points = road(rng, points=count)
        curve, slow = culane_curve(points), slow_curve(points)
        assert curve.shape == slow.shape
        assert np.abs(curve - slow).max() < 1e-3


def test_curve_of_points_on_a_line_stays_on_it():
    distance = np.array([0, 3, 4, 20, 21.5, 80])
    curve = culane_curve(np.stack([10 + 0.6 * distance, 50 - 0.8 * distance], 1))
    assert np.abs((curve[:, 0] - 10) * 0.8 - (50 - curve[:, 1]) * 0.6).max() < 1e-4


def test_a_point_given_twice_changes_nothing():
    points = road(np.random.default_rng(1), points=6)
    assert np.array_equal(
        culane_curve(points[[0, 0, 1, 2, 2, 2, 3, 4, 5, 5]]), culane_curve(points)
    )
    assert culane_curve(points[[0, 0, 0]]).tolist() == points[:1].astype(np.float32).tolist()


# CULane: pixels


def slow_mask(lane: np.ndarray, width: int, size: tuple[int, int]) -> np.ndarray:
    """Lines drawn one by one on a whole picture."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    points = [tuple(int(v) for v in np.rint(point)) for point in slow_curve(lane)]
    for start, end in itertools.pairwise(points):
        cv2.line(mask, start, end, 1, width)
    return mask


def slow_iou(one, other, width=30, size=(1640, 590)) -> float:
    if len(one) < 2 or len(other) < 2:
        return 0.0
    first, second = (slow_mask(lane, width, size) for lane in (one, other))
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 0.0


def test_two_lanes_ten_pixels_apart():
    """Each is 31 pixels across with round ends: less than (31 - 10) / (31 + 10) at the ends."""
    overlap = culane_iou([upright(100)], [upright(110), upright(100), upright(131), upright(900)])
    assert overlap.shape == (1, 4)
    assert overlap[0, 0] == pytest.approx(0.509, abs=0.0005)
    assert overlap[0, 1] == 1
    assert overlap[0, 2:].tolist() == [0, 0]


def test_width_one_by_hand():
    """Lines one pixel wide: 11 and 6 pixels, 6 of them common."""
    long, short = np.array([[5, 20], [5, 10]]), np.array([[5, 20], [5, 15]])
    assert culane_iou([long], [short], width=1, size=(30, 30)).tolist() == [[6 / 11]]


@pytest.mark.parametrize("given, pixel", [(100.5, 100), (101.5, 102), (100.500000001, 100)])
def test_halves_go_to_the_even_pixel(given, pixel):
    """The last is 100.5 in float32, which the tool reads."""
    assert culane_iou([upright(given)], [upright(pixel)]).tolist() == [[1]]
    assert culane_iou([upright(given)], [upright(pixel + 1)])[0, 0] < 1


@pytest.mark.parametrize("width", [1, 2, 9, 30, 31])
def test_pixels_equal_the_slow_form(width):
    """The box about a lane and the single poly-line lose no pixel, at the border neither."""
    rng = np.random.default_rng(width)
    size = (211, 97)
    lanes = [road(rng, size) for _ in range(8)]
    lanes += [rng.uniform(-80, 260, (k, 2)) for k in (2, 3, 4, 7)]  # loops, and ends far outside
    got = culane_iou(lanes, lanes, width=width, size=size)
    slow = [[slow_iou(a, b, width, size) for b in lanes] for a in lanes]
    assert got.tolist() == slow
    assert ((got > 0) & (got < 1)).any()


def test_full_pictures_equal_the_slow_form():
    rng = np.random.default_rng(5)
    predicted, truth = ([road(rng) for _ in range(3)] for _ in range(2))
    predicted.append(truth[0] + rng.normal(0, 4, truth[0].shape))
    slow = [[slow_iou(a, b) for b in truth] for a in predicted]
    assert culane_iou(predicted, truth).tolist() == slow


def test_lanes_outside_the_picture_overlap_nothing():
    outside = upright(-500)
    assert culane_iou([outside], [outside]).tolist() == [[0]]
    assert culane_match([outside], [outside]) == (0, 1, 1)


# CULane: matching


def test_matches_by_hand():
    truth = [upright(200), upright(600), upright(1000)]
    assert culane_match([upright(1010), upright(205)], truth) == (2, 0, 1)
    assert culane_match([upright(1011)], truth) == (0, 1, 3)  # an IoU of 0.47
    assert culane_match([upright(1011)], truth, iou_threshold=0.4) == (1, 0, 2)
    # two predictions on one lane: one of them is an error
    assert culane_match([upright(200), upright(203)], truth) == (1, 1, 2)
    assert culane_hits([upright(203), upright(200)], truth).sum() == 1  # though both overlap it
    assert culane_hits([upright(700), upright(200)], truth).tolist() == [False, True]


def test_nothing_predicted_and_nothing_labelled():
    lanes = [upright(200), upright(600)]
    assert culane_match([], []) == (0, 0, 0)
    assert culane_match(lanes, []) == (0, 2, 0)
    assert culane_match([], lanes) == (0, 0, 2)


def test_a_lane_of_one_point_counts_but_overlaps_nothing():
    one = np.array([[200.0, 500]])
    assert culane_match([one], [upright(200)]) == (0, 1, 1)
    assert culane_match([one], [one]) == (0, 1, 1)
    assert culane_match([upright(200)], [one, np.zeros((0, 2))]) == (0, 1, 2)
    assert culane_match([np.zeros((0, 2))], []) == (0, 1, 0)


def test_the_threshold_is_to_be_exceeded():
    overlap = culane_iou([upright(110)], [upright(100)])[0, 0]
    assert culane_match([upright(110)], [upright(100)], iou_threshold=overlap) == (0, 1, 1)
    below = np.nextafter(overlap, 0)
    assert culane_match([upright(110)], [upright(100)], iou_threshold=below) == (1, 0, 0)


def test_tolerance_by_hand():
    """An edge within 0.01 of the best is taken where it comes first, though another is a hit."""
    truth = [upright(300, top=389)]
    ends = [upright(300, top=top) for top in range(389, 589)]
    overlap = culane_iou(ends, truth)[:, 0]
    last = int((overlap > 0.5).sum()) - 1  # the shortest that is a hit
    hit, short = ends[last], ends[last + 1]
    assert overlap[last + 1] <= 0.5 < overlap[last] < overlap[last + 1] + 0.01
    assert culane_match([short, hit], truth) == (0, 2, 1)
    assert culane_match([hit, short], truth) == (1, 1, 0)
    assert culane_match([short, hit], truth, exact=True) == (1, 1, 0)
    # the smaller side grows, whichever it is
    assert culane_match(truth, [short, hit]) == (0, 1, 2)
    assert culane_match(truth, [short, hit], exact=True) == (1, 0, 1)


def test_equal_numbers_grow_from_the_labels(monkeypatch):
    """Label 0 takes prediction 0. Label 1 then asks for it too (slack 0.008) and gets it, since
    prediction 1 is within 0.008 for label 0: 0.490 and 0.496, no hit. Grown from the predictions,
    1 would not ask for label 0 (slack 0.014), and 1 with 1 would be a hit.
    """
    overlap = np.array([[0.498, 0.496], [0.490, 0.504]])  # predicted, labelled
    monkeypatch.setattr(culane, "culane_iou", lambda *_, **__: overlap)
    assert culane_match([0, 0], [0, 0]) == (0, 2, 2)
    assert culane_match([0, 0], [0, 0], exact=True) == (1, 1, 1)
    assert culane._assignment(overlap.T.tolist(), 0.01) == [1, 0]
    assert culane._assignment(overlap.tolist(), 0.01) == [0, 1]


def test_assignments_against_all_assignments():
    rng = np.random.default_rng(0)
    short = 0
    for case in range(400):
        rows = int(rng.integers(1, 6))
        columns = rows + int(rng.integers(0, 3))
        weights = rng.random((rows, columns)) * (rng.random((rows, columns)) < 0.8)
        if case % 2:
            weights = 0.5 + (weights - 0.5) * 0.02  # ties within the tolerance
        best = max(
            weights[range(rows), order].sum()
            for order in itertools.permutations(range(columns), rows)
        )
        for tolerance in (0.01, 1e-9):
            order = culane._assignment(weights.tolist(), tolerance)
            assert len(set(order)) == rows
            total = weights[range(rows), order].sum()
            assert best - rows * tolerance - 1e-12 <= total <= best + 1e-12
            short += total < best - 1e-6
    assert short > 50  # the tolerance is at work


def test_counts_of_random_pictures():
    """Both assignments against all pairings, on IoU from the slow form's pixels."""
    rng = np.random.default_rng(2)
    size = (320, 120)
    for _ in range(30):
        truth = [road(rng, size) for _ in range(int(rng.integers(0, 5)))]
        predicted = [lane + rng.normal(0, 3, lane.shape) for lane in truth[1:]]
        predicted += [road(rng, size) for _ in range(int(rng.integers(0, 3)))]
        got = culane_match(predicted, truth, width=9, size=size, exact=True)
        overlap = np.array([[slow_iou(a, b, 9, size) for b in truth] for a in predicted])
        hits = 0
        if overlap.size:
            overlap = overlap if len(predicted) <= len(truth) else overlap.T
            rows, columns = overlap.shape
            orders = itertools.permutations(range(columns), rows)
            best = max(orders, key=lambda order: overlap[range(rows), order].sum())
            hits = int((overlap[range(rows), best] > 0.5).sum())
        assert got == (hits, len(predicted) - hits, len(truth) - hits)
        tolerant = culane_match(predicted, truth, width=9, size=size)
        assert tolerant.tp + tolerant.fp == len(predicted)
        assert tolerant.tp + tolerant.fn == len(truth)


@pytest.mark.parametrize(
    "lane, cause",
    [
        (np.zeros((3, 3)), r"lane 0 of predicted must be points \(P, 2\), not \(3, 3\)"),
        (np.zeros(4), r"not \(4,\)"),
        (np.array([[0, np.nan], [1, 1]]), "values that are no pixels"),
        (np.array([[0, 0], [1e9, 1]]), "values that are no pixels"),
    ],
)
def test_lanes_that_are_none(lane, cause):
    with pytest.raises(ValueError, match=cause):
        culane_match([lane], [upright(200)])


@pytest.mark.parametrize("options", [{"width": 0}, {"size": (0, 590)}])
def test_sizes_of_nothing(options):
    with pytest.raises(ValueError, match="at least one pixel"):
        culane_match([upright(200)], [upright(200)], **options)


def test_the_examples_hold():
    result = doctest.testmod(culane)
    assert result.attempted and not result.failed


# CULane: scores


def test_scores_by_hand():
    counts = {"normal": (6, 2, 4), "night": (0, 1, 3), "cross": (0, 5, 0), "curve": (0, 0, 0)}
    scores = culane_scores(counts)
    normal = scores["scenarios"]["normal"]
    assert normal["precision"] == 6 / 8 and normal["recall"] == 6 / 10
    assert normal["f1"] == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    assert scores["scenarios"]["night"] == dict(precision=0.0, recall=0.0, f1=0.0, tp=0, fp=1, fn=3)
    assert scores["scenarios"]["cross"] == {"fp": 5}
    assert scores["scenarios"]["curve"]["f1"] is None
    assert (scores["tp"], scores["fp"], scores["fn"]) == (6, 8, 7)
    assert scores["precision"] == 6 / 14 and scores["recall"] == 6 / 13
    assert scores["f1"] == 12 / 27


def test_scores_take_what_matching_gives():
    pictures = [culane_match([upright(200)], [upright(205), upright(600)]), culane.Counts(1, 1, 0)]
    scores = culane_scores({"normal": np.sum(pictures, 0)})
    assert (scores["tp"], scores["fp"], scores["fn"]) == (2, 1, 1)
    assert culane_scores({})["f1"] is None


@pytest.mark.parametrize("counts", [(1, 2), (1, 2, -1), (0.5, 1, 1)])
def test_counts_that_are_none(counts):
    with pytest.raises(ValueError, match="normal: "):
        culane_scores({"normal": counts})


# CULane: from maps to lanes

OFFICIAL_ROWS = [208, 196, 184, 172, 160, 149, 137, 125, 113, 101, 89, 77, 65, 53, 42, 30, 18, 6]


def maps(*channels: np.ndarray) -> np.ndarray:
    return np.stack([np.zeros_like(channels[0]), *channels]).astype(np.float32)


def test_official_rows_and_points():
    """A map that has its greatest value three columns further on each row tells what was read."""
    one = np.zeros((208, 976))
    one[np.arange(208), 3 * np.arange(208)] = 1
    (lane,) = lanes_from_probabilities(maps(one), blur=1)
    columns = [3 * (row - 1) + 1 for row in OFFICIAL_ROWS]
    assert lane[:, 0].tolist() == [int(c * 1640 / 976 + 0.5) - 1 for c in columns]
    assert lane[:, 1].tolist() == list(range(589, 248, -20))


def test_halves_are_rounded_up():
    """Column 61 is at 102.5, which MATLAB takes to 103; the nearest even number is 102."""
    one = np.zeros((208, 976))
    one[:, 60] = 1
    (lane,) = lanes_from_probabilities(maps(one), blur=1)
    assert set(lane[:, 0].tolist()) == {102}


def test_the_whole_picture_at_288_rows():
    """SCNN's map of the whole picture: the step stays 20 pixels, the last row is 122."""
    one = np.zeros((288, 800))
    one[np.arange(288), 2 * np.arange(288)] = 1
    (lane,) = lanes_from_probabilities(maps(one), blur=1, top=0)
    assert lane[:, 1].tolist() == list(range(589, 248, -20))
    rows = [int(288 - i * 20 / 590 * 288 + 0.5) for i in range(18)]
    assert rows[-1] == 122
    columns = [2 * (row - 1) + 1 for row in rows]
    assert lane[:, 0].tolist() == [int(c * 1640 / 800 + 0.5) - 1 for c in columns]


def slow_lanes(probability, existence, size, top, threshold=0.3, blur=9) -> list[np.ndarray]:
    """Pixel by pixel, from the formula in the docstring."""
    count, h, w = probability.shape
    half, found = blur // 2, []

    def mirrored(k, n):  # the picture goes on as in a mirror on its last pixel
        k = abs(k)
        return 2 * (n - 1) - k if k >= n else k

    for lane in range(1, count):
        one, points = probability[lane], []
        for i in range(1, 19):
            step = 20 * size[1] / 590
            row = int(h - (i - 1) * step / (size[1] - top) * h + 0.5)
            if row < 1:
                continue
            means = []
            for column in range(w):
                window = range(-half, half + 1)
                values = [
                    int(one[mirrored(row - 1 + dy, h), mirrored(column + dx, w)] * 255)
                    for dy, dx in itertools.product(window, window)
                ]
                means.append(int(sum(values) / blur**2 + 0.5))
            column = means.index(max(means)) + 1
            if max(means) / 255 > threshold:
                x = int(column * size[0] / w + 0.5) - 1
                points.append((x, int(size[1] - (i - 1) * step + 0.5) - 1))
        if existence[lane - 1] > 0.5 and len(points) >= 2:
            found.append(np.array(points, np.float64))
    return found


def test_lanes_equal_the_slow_form():
    rng = np.random.default_rng(3)
    for size, top, (h, w), blur in [
        ((1640, 590), 240, (52, 61), 9),
        ((320, 180), 73, (40, 80), 3),
        ((213, 101), 0, (33, 47), 5),
        ((213, 101), 59, (33, 47), 1),  # the eighteen rows go above the map
    ]:
        logits = rng.normal(0, 1, (4, h, w))
        for lane, start in ((1, 0.2), (2, 0.5), (3, 0.7)):
            at = (start + 0.2 * np.arange(h) / h) * w
            logits[lane] += 9 * np.exp(-(((np.arange(w) - at[:, None]) / 3) ** 2))
        e = np.exp(logits)
        probability = (e / e.sum(0)).astype(np.float32)
        probability[3, : h // 2] = 0
        for existence in ([0.9, 0.5, 0.7], [0.1, 0.51, 1.0]):
            options = {"size": size, "top": top, "blur": blur}
            got = lanes_from_probabilities(probability, existence, **options)
            slow = slow_lanes(probability, existence, size, top, blur=blur)
            assert len(got) == len(slow) == 2
            for a, b in zip(got, slow, strict=True):
                assert a.tolist() == b.tolist()


def test_threshold_and_least_number_of_points():
    def points(value, rows):
        one = np.zeros((208, 976))
        one[rows] = value
        return [len(lane) for lane in lanes_from_probabilities(maps(one), blur=1)]

    assert points(76.9 / 255, slice(None)) == []  # cut to 76, and 76 / 255 is below 0.3
    assert points(77.1 / 255, slice(None)) == [18]
    assert points(1, [207]) == []  # one point is no lane
    assert points(1, [207, 5]) == [2]


def test_tensors_of_any_type():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 40, 60, generator=generator)
    logits[2, :, 20:26] += 8
    probability = logits.softmax(0)
    existence = torch.tensor([0.1, 0.9, 0.2, 0.3])
    options = {"size": (300, 200), "top": 60}
    lanes = lanes_from_probabilities(probability, existence, **options)
    assert len(lanes) == 1 and lanes[0].dtype == np.float64
    again = lanes_from_probabilities(probability.numpy(), existence.tolist(), **options)
    assert again[0].tolist() == lanes[0].tolist()
    assert len(lanes_from_probabilities(probability.bfloat16(), existence, **options)) == 1
    probability.requires_grad_()
    assert len(lanes_from_probabilities(probability, None, **options)) >= 1


@pytest.mark.parametrize(
    "change, cause",
    [
        ({"probability_CHW": np.ones((208, 976))}, "one picture"),
        ({"probability_CHW": 5 * np.ones((5, 20, 20))}, "after softmax"),
        ({"probability_CHW": np.full((5, 20, 20), np.nan)}, "after softmax"),
        ({"existence": [0.2, 0.3]}, r"must be \(4,\)"),
        ({"existence": [0.2, 3.0, 0.1, 0.1]}, "existence has values"),
        ({"blur": 4}, "must be odd"),
        ({"top": 590}, "top 590"),
    ],
)
def test_maps_that_are_none(change, cause):
    arguments = {"probability_CHW": np.zeros((5, 20, 20)), "existence": [0, 0, 0, 0]} | change
    with pytest.raises(ValueError, match=cause):
        lanes_from_probabilities(**arguments)


# LLAMAS


def slow_llamas(probability, label) -> list[float]:
    """101 comparisons in float64, from the rules."""
    probability, label = probability.astype(np.float64), label != 0
    area, corner, before = 0.0, (0.0, 0.0, 0.0, 0.0), (1.0, 0.0)
    for k in range(100, -1, -1):
        predicted = probability >= k / 100
        tp = int((predicted & label).sum())
        precision = tp / int(predicted.sum()) if predicted.any() else 0.0
        recall = tp / int(label.sum()) if label.any() else 0.0
        area += (recall - before[1]) * before[0]
        before = precision, recall
        if precision * recall > corner[0]:
            corner = precision * recall, precision, recall, k / 100
    return [area, *corner[1:]]


def test_llamas_by_hand():
    """At 1.00 one of two pixels is found, at 0.80 a wrong one comes in, at 0.60 the other."""
    probability = torch.tensor([[1.0, 0.8], [0.6, 0.0]])
    score = llamas_average_precision(probability, torch.tensor([[1, 0], [1, 0]]))
    assert score.auc == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    assert score[1:] == pytest.approx((2 / 3, 1, 0.6))


def test_llamas_counts_the_precision_before():
    """Nothing is predicted at 1.00, so the only step of recall is worth nothing."""
    label = torch.tensor([[1, 0], [0, 0]])
    assert llamas_average_precision(label.double() * 0.9, label) == (0, 1, 1, 0.9)
    # float32 has 0.9 a little lower, which is below the threshold
    assert llamas_average_precision(label.float() * 0.9, label) == (0, 1, 1, 0.89)
    assert llamas_average_precision(label * 1.0, label) == (1, 1, 1, 1)


def test_llamas_without_label_or_prediction():
    nothing = torch.zeros(3, 4)
    assert llamas_average_precision(nothing + 0.5, nothing) == (0, 0, 0, 0)
    # everything is predicted at 0.00, and nothing before
    assert llamas_average_precision(nothing, nothing + 1) == (0, 1, 1, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.uint8])
def test_llamas_equals_the_slow_form(dtype):
    generator = torch.Generator().manual_seed(4)
    for shape in ((1, 7), (30, 40), (97, 113)):
        label = torch.rand(shape, generator=generator) < 0.1
        probability = (torch.rand(shape, generator=generator) + 0.4 * label).clamp(0, 1)
        if dtype == torch.uint8:
            probability = (probability * 255).to(dtype)
            values = probability.numpy() / 255
        else:
            probability = probability.to(dtype)
            values = probability.numpy()
        score = llamas_average_precision(probability, label)
        assert list(score) == pytest.approx(slow_llamas(values, label.numpy()), abs=1e-14)
        assert score.auc > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_at_a_threshold_and_beside_it(dtype):
    """Just below, at and just above k / 100, in the type: >= as float64 has it."""
    exact = torch.arange(101, dtype=torch.float64) / 100
    near = exact.to(dtype)
    zero, two = torch.zeros_like(near), torch.full_like(near, 2)
    values = torch.stack([torch.nextafter(near, zero), near, torch.nextafter(near, two)]).clamp(
        0, 1
    )
    histogram = llamas._histogram(values, torch.ones_like(values, dtype=torch.bool))
    assert int(histogram[0].sum()) == 0
    counts = histogram[1].flip(0).cumsum(0).flip(0)
    slow = (values.double().flatten() >= exact[:, None]).sum(1)
    assert counts.tolist() == slow.tolist()


def test_llamas_of_a_batch():
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(3, 5, 20, 30, generator=generator)
    label = torch.randint(0, 5, (3, 20, 30), generator=generator)
    label[1][label[1] == 4] = 0  # an image without the last lane
    probability = logits.softmax(1)
    scores = llamas_scores(probability, label)
    assert scores.shape == (3, 5, 4) and scores.dtype == torch.float64
    for image, channel in itertools.product(range(3), range(5)):
        one = llamas_average_precision(probability[image, channel], label[image] == channel)
        assert scores[image, channel].tolist() == list(one)
    assert scores[1, 4].tolist() == [0, 0, 0, 0]

    parts = [llamas_scores(probability[k : k + 1], label[k : k + 1]) for k in range(3)]
    means = llamas_map(torch.cat(parts))
    assert means == llamas_map(scores)
    assert means["channels"]["r1"]["auc"] == pytest.approx(float(scores[:, 4, 0].mean()))
    assert means["map"] == pytest.approx(float(scores[:, 1:, 0].mean()))


def test_mean_of_the_lanes_by_hand():
    """ENet-SAD's published lanes, 0.266, 0.896, 0.880, 0.498, have the published mean 0.635."""
    scores = torch.zeros(1, 5, 4)
    scores[0, :, 0] = torch.tensor([0.9, 0.266, 0.896, 0.880, 0.498])
    assert llamas_map(scores)["map"] == pytest.approx(0.635)
    nothing = llamas_map(torch.zeros(0, 5, 4))
    assert nothing["map"] is None and nothing["channels"]["l1"]["auc"] is None


def test_rows_above_the_map_are_background():
    probability = torch.full((2, 3, 4, 6), 0.5)
    whole = with_top(probability, 2)
    assert whole.shape == (2, 3, 6, 6)
    assert whole[:, 0, :2].unique().tolist() == [1] and whole[:, 1:, :2].unique().tolist() == [0]
    assert torch.equal(whole[:, :, 2:], probability)
    stored = with_top(torch.full((1, 3, 4, 6), 9, dtype=torch.uint8), 1)
    assert stored[0, 0, 0].unique().tolist() == [255] and stored.dtype == torch.uint8


def test_llamas_errors():
    with pytest.raises(ValueError, match="one shape"):
        llamas_average_precision(torch.zeros(3, 4), torch.zeros(4, 3))
    for wrong in (torch.full((3, 4), 2.0), torch.full((3, 4), float("nan"))):
        with pytest.raises(ValueError, match="after the softmax"):
            llamas_average_precision(wrong, torch.zeros(3, 4))
    with pytest.raises(ValueError, match="label_NHW must be"):
        llamas_scores(torch.zeros(1, 5, 3, 4), torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="scores_NC4 must be"):
        llamas_map(torch.zeros(3, 4, 4))


# ApolloScape


def test_apolloscape_by_hand():
    confusion = torch.zeros(37, 37, dtype=torch.int64)
    confusion[0, 0], confusion[0, 5] = 6, 2  # IoU 6 / (8 + 1)
    confusion[5, 5], confusion[5, 0] = 3, 1  # 3 / (4 + 2 + 4)
    confusion[36, 36], confusion[36, 5] = 4, 4  # 4 / 8
    means = apolloscape_means(confusion, [0, 5, 7])
    assert means["miou_37"] == pytest.approx((6 / 9 + 3 / 10 + 4 / 8) / 37)
    assert means["miou_36"] == pytest.approx((6 / 9 + 3 / 10) / 36)
    # pixels of class 36 count nowhere: 5 has only two wrong ones left; 7 does not occur
    assert means["miou_evaluated"] == pytest.approx((6 / 9 + 3 / 6) / 2)
    present = apolloscape_means(confusion, [0, 5, 7], absent="skip")
    assert present["miou_37"] == pytest.approx((6 / 9 + 3 / 10 + 4 / 8) / 3)
    assert present["miou_36"] == pytest.approx((6 / 9 + 3 / 10) / 2)
    assert present["miou_evaluated"] == means["miou_evaluated"]


def test_apolloscape_agrees_with_segmentation():
    generator = torch.Generator().manual_seed(0)
    confusion = torch.randint(1, 50, (37, 37), generator=generator)
    means = apolloscape_means(confusion, range(37))
    assert means["miou_37"] == means["miou_evaluated"] == float(mean_iou(confusion, absent="zero"))
    nothing = apolloscape_means(torch.zeros(37, 37, dtype=torch.int64), [1], absent="skip")
    assert set(nothing.values()) == {None}


@pytest.mark.parametrize(
    "arguments, cause",
    [
        ((torch.zeros(36, 36), [1]), r"must be \(37, 37\)"),
        ((torch.zeros(37, 37), []), "evaluated must name"),
        ((torch.zeros(37, 37), [1, 37]), "evaluated must name"),
    ],
)
def test_apolloscape_errors(arguments, cause):
    with pytest.raises(ValueError, match=cause):
        apolloscape_means(*arguments)
    with pytest.raises(ValueError, match="absent must be"):
        apolloscape_means(torch.zeros(37, 37), [1], absent="bdd100k")
