"""Feature imitation on samples of different size: what region and boxes are worth on each.

`imitation-kitti-*` and `imitation-large-*` differ in the number of labelled stills, in what is
scored and in the length of the teacher's training. Scores are percentages, differences are points
and paired by seed.
"""

from collections.abc import Sequence

import pandas as pd

from kdlib.report import arms, measure, notes
from kdlib.report.arms import Spread, spread_text
from kdlib.report.render import Table
from kdlib.report.rows import BASELINE, scores
from kdlib.report.tables import NOT_RUN

PREFIXES = ("imitation-kitti", "imitation-large")
NAMES = (BASELINE, "i", "g")
# One minus the other -> heading.
DIFFERENCES = {
    ("teacher", BASELINE): "teacher over the student",
    ("i", BASELINE): "I: region over the student",
    ("g", BASELINE): "G: boxes over the student",
    ("i", "g"): "region over boxes",
}


def sample_name(records: pd.DataFrame, prefix: str) -> str:
    """`1,260 labels`: the labelled stills that a sample's networks learn from."""
    runs = (f"{prefix}-{name}" for name in (*NAMES, "teacher"))
    known = [labels for run in runs for labels in arms.by_seed(records, run, "labels")]
    if known:
        return f"{known[0]:,.0f} labels"
    return prefix if measure.of_family(records, prefix).any() else NOT_RUN


def size_table(
    records: pd.DataFrame, *, prefixes: Sequence[str] = PREFIXES, scale: str | None = None
) -> Table:
    """One row a sample: teacher and student alone, and the differences that the letters make."""
    records = arms.one_scale(records, scale)
    ran = [prefix for prefix in prefixes if measure.of_family(records, prefix).any()]
    score = measure.of(records, [*ran, prefixes[0]][0])
    numbers, shown = [], []
    for prefix in prefixes:
        found = scores(records, prefix, NAMES)
        row, text = {"sample": prefix}, {"": sample_name(records, prefix)}
        for name, said in (("teacher", "teacher"), (BASELINE, "student alone")):
            spread = Spread.of(100 * arms.by_seed(records, f"{prefix}-{name}"))
            row |= {name: spread.mean, f"{name}_sd": spread.sd}
            text[f"{said}: {score.name} %"] = spread_text(spread, sign=False)
        for (one, other), heading in DIFFERENCES.items():
            spread = Spread.of(found[one] - found[other])
            key = f"{one}_over_{other}"
            row |= {key: spread.mean, f"{key}_sd": spread.sd, f"{key}_n": spread.n}
            text[heading] = spread_text(spread)
        n = [row[f"{name}_over_{BASELINE}_n"] for name in ("i", "g")]
        numbers.append(row)
        shown.append(text | {"n": " / ".join(map(str, n))})
    lines = [
        "Points, taken seed by seed; n: seeds of region / boxes.",
        "The larger sample has all stills of the smaller. The stills that are scored and the "
        "length of the teacher's training differ as well: compare within a row.",
        notes.levels(n for row in numbers for n in (row["i_over_baseline_n"], row["i_over_g_n"])),
    ]
    used = records[records["run"].isin([f"{p}-{n}" for p in prefixes for n in ("teacher", *NAMES)])]
    title, shown = "Region and boxes on samples of different size", pd.DataFrame(shown)
    return Table(title, pd.DataFrame(numbers), shown, notes.footnotes(lines, shown, used))


def size_finding(
    records: pd.DataFrame, *, prefixes: Sequence[str] = PREFIXES, scale: str | None = None
) -> str:
    """What the region is worth over the student and over the boxes, sample by sample."""
    records = arms.one_scale(records, scale)
    told = []
    for prefix in prefixes:
        found = scores(records, prefix, NAMES)
        n = len((found["i"] - found[BASELINE]).dropna())
        if not n:
            continue
        text = f"with {sample_name(records, prefix)} the region "
        text += f"{arms.change_text(found['i'], found[BASELINE], n)} over the student"
        if len((found["i"] - found["g"]).dropna()):
            text += f" and {arms.change_text(found['i'], found['g'], n)} over the boxes"
        told.append(text + arms.seeds_note(n))
    if len(told) < 2:
        return "Size of the sample: nothing to compare yet"
    return f"Size of the sample, in points: {'; '.join(told)}"
