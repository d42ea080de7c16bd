"""Lanes matched and counted as CULane's official tool does (fact sheet inter_region_affinity 4).

The rules were read in the tool (C++) and written anew on arrays. A lane is (P, 2), x and y in
pixels of the whole picture. `size` is (width, height), the order OpenCV uses.

>>> truth = [np.array([[100.0, 589], [100, 300]]), np.array([[900.0, 589], [700, 300]])]
>>> predicted = [np.array([[110.0, 589], [110, 300]])]  # ten pixels aside: an IoU of 0.51
>>> culane_match(predicted, truth)
Counts(tp=1, fp=0, fn=1)

`kdlib.metrics.lanes` has the public names of this room. Not supported: lane categories.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kdlib.metrics.culane_pixels import Lanes, culane_iou

TOLERANCE = 0.01  # slack below which the tool takes an edge as tight
CROSSROADS = "cross"  # the scenario without labelled lanes, of which only the errors are reported


class Counts(NamedTuple):
    """Lanes found, found wrongly, and missed."""

    tp: int
    fp: int
    fn: int


def culane_match(
    predicted: Lanes,
    truth: Lanes,
    *,
    width: int = 30,
    iou_threshold: float = 0.5,
    size: tuple[int, int] = (1640, 590),
    exact: bool = False,
) -> Counts:
    """Count the lanes of one picture as CULane's tool does.

    Each labelled lane is paired with at most one predicted lane by the algorithm of Kuhn and
    Munkres on the IoU of `culane_iou`. A pair whose IoU is above (>) the threshold is a hit, all
    other lanes are errors or misses. Lanes of fewer than two points overlap nothing, and count.

    The tool takes an edge as tight when its slack is below 0.01, so its assignment may be short of
    the best by up to 0.01 a pair, and depends on the order of the lanes: it grows from the smaller
    side (the labels if both have the same number), in their order.

    Args:
        predicted: lanes (P, 2), x and y in pixels of the whole picture.
        truth: labelled lanes in the same form.
        width: of the drawn lanes, in pixels. Scale it with a picture of another size.
        iou_threshold: an IoU has to be greater for a hit.
        size: (width, height) of the picture.
        exact: True takes the best assignment (to 1e-9 a pair), as the Python ports of the tool do.

    Returns:
        (tp, fp, fn). Where one side has no lane, all lanes of the other are fp, or fn.

    Raises:
        ValueError: a lane that is not (P, 2), values that are no pixels, width or size below one.
    """
    found = culane_hits(
        predicted, truth, width=width, iou_threshold=iou_threshold, size=size, exact=exact
    )
    hits = int(found.sum())
    return Counts(hits, len(predicted) - hits, len(truth) - hits)


def culane_hits(
    predicted: Lanes,
    truth: Lanes,
    *,
    width: int = 30,
    iou_threshold: float = 0.5,
    size: tuple[int, int] = (1640, 590),
    exact: bool = False,
) -> np.ndarray:
    """(predicted,) bool: which predicted lanes are hits; see `culane_match`, also for errors."""
    hits = np.zeros(len(predicted), bool)
    overlap = culane_iou(predicted, truth, width=width, size=size)
    if overlap.size:
        # rows are the smaller side, the labels if equal
        fewer = len(predicted) < len(truth)
        weights = overlap if fewer else overlap.T
        columns = _assignment(weights.tolist(), 1e-9 if exact else TOLERANCE)
        for row, column in enumerate(columns):
            hits[row if fewer else column] = weights[row, column] > iou_threshold
    return hits


def culane_scores(counts_by_scenario: Mapping[str, Sequence[int]]) -> dict:
    """Precision, recall and F1 of each scenario and of their sum.

    Args:
        counts_by_scenario: {name: (tp, fp, fn)}, added up over the pictures of the scenario.
            "cross" are the crossroads, where no lane is labelled.

    Returns:
        {"precision", "recall", "f1", "tp", "fp", "fn", "scenarios": {name: the same}} with the
        sums of all scenarios, errors at crossroads included, at the top; "cross" has only "fp".
        Fractions from 0 to 1, None where there is nothing to divide by. F1 is
        2 tp / (2 tp + fp + fn), the harmonic mean of the two, which is 0 where both are.

    Raises:
        ValueError: counts that are not three whole numbers from zero on.
    """
    scenarios: dict[str, dict] = {}
    total = np.zeros(3, np.int64)
    for name, counts in counts_by_scenario.items():
        array = np.asarray(counts)
        if array.shape != (3,) or array.dtype.kind not in "iu" or (array < 0).any():
            raise ValueError(f"{name}: (tp, fp, fn) must be three counts from 0 on, not {counts!r}")
        total += array
        scores = _scores(*array.tolist())
        scenarios[name] = {"fp": scores["fp"]} if name == CROSSROADS else scores
    return {**_scores(*total.tolist()), "scenarios": scenarios}


def _scores(tp: int, fp: int, fn: int) -> dict[str, float | int | None]:
    return {
        "precision": tp / (tp + fp) if tp + fp else None,
        "recall": tp / (tp + fn) if tp + fn else None,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None,
        "tp": tp,
        "fp": fp,
        "fn": fn,
    }


def _assignment(weights: list[list[float]], tolerance: float) -> list[int]:
    """The column of each row, no column twice, by the algorithm of Kuhn and Munkres.

    Rows and columns have labels whose sum is no less than the weight; an edge is tight where the
    slack between them is below `tolerance`. Rows are taken in order and each is given a column
    along tight edges, columns in order, where rows before it may move to other columns.

    Args:
        weights: (M, N), M no greater than N.
        tolerance: the sum falls short of the greatest by at most this for each row. Above the
            rounding error, or an edge that has been made tight would not be seen so.
    """
    rows, columns = range(len(weights)), range(len(weights[0]))
    row_label = [max(row) for row in weights]
    column_label = [0.0 for _ in columns]
    owner = [-1 for _ in columns]

    def slack(row: int, column: int) -> float:
        return row_label[row] + column_label[column] - weights[row][column]

    def settles(row: int) -> bool:
        seen_rows.add(row)
        for column in columns:
            if column not in seen_columns and abs(slack(row, column)) < tolerance:
                seen_columns.add(column)
                if owner[column] < 0 or settles(owner[column]):
                    owner[column] = row
                    return True
        return False

    for row in rows:
        seen_rows: set[int] = set()
        seen_columns: set[int] = set()
        while not settles(row):
            free = [column for column in columns if column not in seen_columns]
            step = min(slack(r, column) for r in seen_rows for column in free)
            for r in seen_rows:
                row_label[r] -= step
            for column in seen_columns:
                column_label[column] += step
            seen_rows, seen_columns = set(), set()
    return [owner.index(row) for row in rows]
