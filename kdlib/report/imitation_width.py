"""Feature imitation on students of different width, published beside ours.

One teacher, 1x; the students have a quarter (`imitation-kitti-*`) and half (`imitation-half-*`) of
its channels. Scores are percentages, differences are points and paired by seed, spread is the
sample standard deviation over seeds.
"""

import math
from collections.abc import Mapping

import pandas as pd

from kdlib.report import arms, measure, notes, starts
from kdlib.report.arms import Spread, spread_text
from kdlib.report.published import PublishedTable
from kdlib.report.render import Table
from kdlib.report.rows import BASELINE, points_text, published_points, scores
from kdlib.report.tables import NOT_RUN

TEACHER = "imitation-kitti-teacher"
STUDENTS = {"0.25x": "imitation-kitti", "0.5x": "imitation-half"}  # width -> the runs' prefix
ROWS = {BASELINE: "student alone", "i": "I: region by anchors"}


def width_table(
    records: pd.DataFrame,
    published: Mapping[str, PublishedTable] | None = None,
    *,
    scale: str | None = None,
) -> Table:
    """One row a student: alone, its teacher's lead, and what the region adds; printed first.

    published: width -> its table.
    """
    records, published = arms.one_scale(records, scale), published or {}
    score = measure.of(records, STUDENTS["0.25x"], published.get("0.25x"))
    numbers, shown, lines = [], [], []
    for width, prefix in STUDENTS.items():
        found = _scores(records, prefix)
        printed = published[width].rows if width in published else {}
        alone, region = printed.get(BASELINE), published_points(printed, "i")
        row = {"student": width, "published": alone.value if alone else math.nan}
        row |= {"published_points": region}
        text = {"": width, f"published {score.name}": alone.text if alone else "–"}
        text["published: points by the region"] = points_text(region)
        own = Spread.of(found[BASELINE])
        row |= {"alone": own.mean, "alone_sd": own.sd, "alone_n": own.n}
        text[f"ours: {score.name} %"] = spread_text(own, sign=False) if own.n else NOT_RUN
        for name, heading in (("teacher", "teacher's lead"), ("i", "points by the region")):
            lead = Spread.of(found[name] - found[BASELINE])
            row |= {name: lead.mean, f"{name}_sd": lead.sd, f"{name}_n": lead.n}
            text[heading] = spread_text(lead)
        text["n"] = str(row["i_n"])
        numbers.append(row)
        shown.append(text)
        budget = starts.budget(records, prefix, ROWS, "Both rows")
        lines.append(f"{width}: {budget}" if budget else "")
    lines = [
        "Ours: points are over the student alone, taken seed by seed; one teacher for both.",
        *lines,
    ]
    runs = [f"{prefix}-{name}" for prefix in STUDENTS.values() for name in ROWS]
    used, shown = records[records["run"].isin([TEACHER, *runs])], pd.DataFrame(shown)
    first, *others = [*published.values()] or [None]
    lines += [line for one in others for line in one.notes([BASELINE, "i"])]
    lines = dict.fromkeys(notes.footnotes(lines, shown, used, first, [BASELINE, "i"]))
    return Table("Students of different width", pd.DataFrame(numbers), shown, tuple(lines))


def width_finding(records: pd.DataFrame, *, scale: str | None = None) -> str:
    """What the region is worth to each student over being alone."""
    records, told = arms.one_scale(records, scale), []
    for width, prefix in STUDENTS.items():
        found = _scores(records, prefix)
        if n := len((found["i"] - found[BASELINE]).dropna()):
            lead = arms.change_text(found["i"], found[BASELINE], n)
            room = spread_text(found["teacher"] - found[BASELINE])
            told.append(f"{width} {lead} (teacher's lead {room}){arms.seeds_note(n)}")
    if len(told) < len(STUDENTS):
        return "Width of the student: nothing to compare yet"
    return f"Width of the student, points by the region: {', '.join(told)}"


def _scores(records: pd.DataFrame, prefix: str) -> dict[str, pd.Series]:
    """Score in percent of the one teacher and of a student's rows, indexed by seed."""
    named = records["run"].replace(TEACHER, f"{prefix}-teacher")
    return scores(records.assign(run=named), prefix, tuple(ROWS))
