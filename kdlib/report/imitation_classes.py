"""Feature imitation with one class left out: whether a verdict hangs on that class.

A mean over three classes moves by a third of what one of them does, and on a small split one
detection may move a class by much: see `kdlib.metrics.kitti.kitti_ap`. Scores are percentages,
differences are points over the student alone and paired by seed.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from kdlib.report import arms, measure, notes
from kdlib.report.arms import Spread
from kdlib.report.figures import class_scores
from kdlib.report.imitation_psi import psi_points
from kdlib.report.imitation_size import PREFIXES, sample_name
from kdlib.report.render import Table
from kdlib.report.rows import BASELINE


def without(
    records: pd.DataFrame, run: str, baseline: str
) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Scores of a run and of its baseline in percent, indexed by seed: under "" the mean over all
    classes, under each class the mean over the others. Empty where a run has no record."""
    score = measure.of(records, baseline.removesuffix(f"-{BASELINE}"))
    own, alone = (class_scores(records, name, score) for name in (run, baseline))
    if not len(own) or not len(alone):
        return {}
    kept = {"": list(own)} | {left: [name for name in own if name != left] for left in own}
    return {left: (own[some].mean(axis=1), alone[some].mean(axis=1)) for left, some in kept.items()}


def without_table(
    records: pd.DataFrame,
    labels: Mapping[str, str],
    *,
    prefixes: Sequence[str] = PREFIXES,
    scale: str | None = None,
) -> Table:
    """One row a letter and sample that was run: its points with all classes, and without each.

    labels: row -> label. Widths of the region that were run follow.
    """
    records = arms.one_scale(records, scale)
    numbers, shown, used = [], [], []
    for prefix in prefixes:
        baseline = f"{prefix}-{BASELINE}"
        for run, label in _rows(records, prefix, labels).items():
            found = without(records, run, baseline)
            if not found:
                continue
            row = {"sample": prefix, "run": run}
            text = {"": label, "learns from": sample_name(records, prefix)}
            for left, (own, alone) in found.items():
                spread, key = Spread.of(own - alone), f"without.{left}" if left else "points"
                row |= {key: spread.mean, f"{key}_sd": spread.sd, "n": spread.n}
                text[f"without {left}" if left else "all classes"] = arms.change_text(own, alone)
            numbers.append(row)
            shown.append(text | {"n": str(row["n"])})
            used += [run, baseline]
    lines = [
        "Points over the student alone, taken seed by seed, in the mean over the classes.",
        "Without a class: the mean over the others, of the same records.",
        notes.levels(row["n"] for row in numbers),
    ]
    title, shown = "One class left out", pd.DataFrame(shown)
    lines = notes.footnotes(lines, shown, records[records["run"].isin(used)])
    return Table(title, pd.DataFrame(numbers), shown, lines)


def _rows(records: pd.DataFrame, prefix: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Run -> label: the letters without the baseline, then widths of the region of no letter."""
    rows = {f"{prefix}-{name}": label for name, label in labels.items()}
    points = psi_points(records, prefix=prefix)
    for psi, run in zip(points["psi"], points["run"], strict=True):
        rows.setdefault(run, f"I: ψ = {psi:g}")
    rows.pop(f"{prefix}-{BASELINE}", None)
    return rows


def without_finding(
    records: pd.DataFrame, *, prefix: str = "imitation-kitti", scale: str | None = None
) -> str:
    """What is left of the region's points over the student where one class is left out."""
    records = arms.one_scale(records, scale)
    found = without(records, f"{prefix}-i", f"{prefix}-{BASELINE}")
    if not any(len((own - alone).dropna()) for own, alone in found.values()):
        return "One class left out: nothing to compare yet"
    told = [
        f"without {left} {arms.change_text(own, alone)}"
        for left, (own, alone) in found.items()
        if left
    ]
    return f"One class left out, I over the student in points: {', '.join(told)}"
