"""Inter-region affinity distillation as tables: published beside ours, and what of it is what.

Scores are percentages, differences are points and paired by seed, spread is the sample standard
deviation over seeds; see `affinity`. What has no record is shown as "not run".
"""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from kdlib.report import arms, measure, notes, rows, starts
from kdlib.report.affinity import (
    BENCHMARKS,
    FAMILY,
    PRINTED,
    ROWS,
    STUDENTS,
    VARIANTS,
    of_student,
    published_of,
    ran,
    scores,
)
from kdlib.report.arms import Spread, spread_text
from kdlib.report.published import Published
from kdlib.report.render import Table
from kdlib.report.rows import BASELINE
from kdlib.report.tables import NOT_RUN


def student_table(
    records: pd.DataFrame,
    published: Published | None = None,
    *,
    benchmark: str = "culane",
    student: str = "erfnet",
    scale: str | None = None,
) -> Table:
    """Teacher, labels alone and the four ways to use a teacher: published beside ours.

    Gap recovered is (row - labels alone) / (teacher - labels alone), taken for each seed; it is
    "not meaningful" where the gap is below 1 point in some seed or changes its sign.
    """
    known, table = BENCHMARKS[benchmark], published_of(published, benchmark, student)
    own, prefix = of_student(arms.one_scale(records, scale), benchmark, student)
    found = rows.scores(own, prefix, tuple(ROWS))
    labels = {"teacher": "teacher", **ROWS}
    printed = {name: table.rows.get(name) for name in labels} if table else {}
    frame, shown = rows.numbers_and_text(
        own, found, labels, printed, prefix, {}, known.score, FAMILY.over
    )
    _add_gaps(frame, shown, found, printed, list(labels))
    title = f"{STUDENTS[student]} in {known.name}'s form"
    title += f" (published: {table.title})" if table else ""
    lines = _notes(own, found, prefix, ROWS, "All five rows")
    return Table(title, frame, shown, notes.footnotes(lines, shown, own, table, labels))


def overview_table(
    records: pd.DataFrame,
    published: Published | None = None,
    *,
    benchmark: str = "culane",
    scale: str | None = None,
) -> Table:
    """The rows of all students that were run, side by side; published figures first."""
    known, records = BENCHMARKS[benchmark], arms.one_scale(records, scale)
    students = ran(records, benchmark)
    table = published.tables[known.table] if published else None
    name = known.score.name
    numbers = [{"row": row} for row in ("teacher", *ROWS)]
    shown = [{"": label} for label in ("teacher", *ROWS.values())]
    for row, text in zip(numbers, shown, strict=True) if table else ():
        figure = table.rows.get(row["row"])
        points = rows.published_points(table.rows, row["row"])
        row |= {"published": figure.value if figure else math.nan, "published_points": points}
        text[f"published {name}: ERFNet"] = figure.text if figure else "–"
        text["published: points"] = rows.points_text(points)
    seeds, levels, counted = [], [], []
    for student in students:
        found, who = scores(records, benchmark, student), STUDENTS[student]
        made = found | {"teacher": 100 * arms.by_seed(records, f"affinity-{benchmark}-teacher")}
        for row, text in zip(numbers, shown, strict=True):
            lead = Spread.of(found[row["row"]] - found[BASELINE])
            own = Spread.of(made[row["row"]])  # a teacher that was made once has no spread
            row |= {student: own.mean, f"{student}_sd": own.sd, f"{student}_n": own.n}
            row |= {f"{student}_points": lead.mean, f"{student}_points_sd": lead.sd}
            text[f"ours: {who}, {name} %"] = spread_text(own, sign=False) if own.n else NOT_RUN
            over = row["row"] != BASELINE
            text[f"{who}: points"] = spread_text(lead) if over else "–"
        levels.append(notes.levels(len(found[row]) for row in ROWS))
        counts = sorted({len(found[row]) for row in ROWS if len(found[row])})
        counted += counts[-1:]
        seeds.append(f"{who} {' or '.join(map(str, counts)) or 0}")
    lines = [
        "Points are over labels alone, taken seed by seed; ours: mean ± standard deviation over "
        f"seeds ({', '.join(seeds)}).",
        *levels,
        *(_budget(records, benchmark, student) for student in students),
        *(_early(records, benchmark, student) for student in students),
        _one_teacher(len(arms.by_seed(records, f"affinity-{benchmark}-teacher")), counted),
        *(_other_means(records, benchmark, student) for student in students),
    ]
    used = records[measure.of_family(records, f"affinity-{benchmark}")]
    shown = pd.DataFrame(shown)
    lines = notes.footnotes(dict.fromkeys(lines), shown, used, table, ("teacher", *ROWS))
    title = f"Inter-region affinity distillation in {known.name}'s form"
    return Table(title, pd.DataFrame(numbers), shown, lines)


def ablation_table(
    records: pd.DataFrame,
    *,
    benchmark: str = "culane",
    student: str = "erfnet",
    scale: str | None = None,
) -> Table:
    """IntRA-KD whole, one term at a time, one level at a time. The published values of this are a
    bar figure, and not known.
    """
    own, prefix = of_student(arms.one_scale(records, scale), benchmark, student)
    found = rows.scores(own, prefix, tuple(VARIANTS))
    labels = dict(VARIANTS)
    frame, shown = rows.numbers_and_text(
        own, found, labels, {}, prefix, {}, BENCHMARKS[benchmark].score, FAMILY.over
    )
    whole = {name: Spread.of((found[name] - found["intra"]).dropna()) for name in labels}
    frame["over_intra"] = [whole[name].mean for name in labels]
    frame["over_intra_sd"] = [whole[name].sd for name in labels]
    place = list(shown).index(f"points over {FAMILY.over}") + 1
    apart = [spread_text(whole[name]) if name != "intra" else "–" for name in labels]
    shown.insert(place, "points over the whole of it", apart)
    lines = _notes(own, found, prefix, VARIANTS, f"All {len(VARIANTS)} rows")
    title = f"What of IntRA-KD is it: {STUDENTS[student]} in {BENCHMARKS[benchmark].name}'s form"
    return Table(title, frame, shown, notes.footnotes(lines, shown, own))


def printed_table(published: Published) -> Table:
    """What is published of ERFNet on the three benchmarks, side by side, with the gap recovered."""
    tables = {known.name: published.tables[known.table] for known in BENCHMARKS.values()}
    held = {n: text for n, text in PRINTED.items() if any(n in t.rows for t in tables.values())}
    one = rows.printed_table(tables, held, FAMILY.over)
    shown = one.shown.copy()
    for name, table in tables.items():
        gaps = [printed_gap(table.rows, row) for row in held]
        one.frame[f"{name}: gap"] = gaps
        place = list(shown).index(f"{name}: points") + 1
        shown.insert(place, f"{name}: gap recovered", [_percent(gap) for gap in gaps])
    title = "Published: ERFNet on three benchmarks, points over labels alone, gap recovered"
    return Table(title, one.frame, shown, one.notes)


def printed_gap(printed: Mapping, name: str) -> float:
    """(row - baseline) / (teacher - baseline) in percent, of printed values; NaN where unknown."""
    points = rows.published_points(printed, name)
    teacher, baseline = (printed.get(each) for each in ("teacher", BASELINE))
    if teacher is None or baseline is None or teacher.value <= baseline.value:
        return math.nan
    return 100 * points / (teacher.value - baseline.value)


def _add_gaps(
    frame: pd.DataFrame,
    shown: pd.DataFrame,
    found: Mapping[str, pd.Series],
    printed: Mapping,
    names: list[str],
) -> None:
    """Columns of the gap recovered, ours and where printed theirs, behind those of the points."""
    gaps = {
        name: arms.gap_recovered(found["teacher"], found[BASELINE], found[name])
        for name in names
        if name not in ("teacher", BASELINE)
    }
    theirs = [printed_gap(printed, name) for name in names]
    frame["published_gap"] = theirs
    frame["gap"] = [gaps[name].spread.mean if name in gaps else math.nan for name in names]
    frame["gap_sd"] = [gaps[name].spread.sd if name in gaps else math.nan for name in names]
    frame["gap_note"] = [gaps[name].why if name in gaps else "" for name in names]
    texts = [_gap_text(gaps[name]) if name in gaps else "–" for name in names]
    place = list(shown).index(f"points over {FAMILY.over}") + 1
    shown.insert(place, "gap recovered", texts)
    if printed:
        place = list(shown).index(f"published: points over {FAMILY.over}") + 1
        shown.insert(place, "published: gap recovered", [_percent(gap) for gap in theirs])


def _gap_text(gap: arms.Gap) -> str:
    if gap.why:
        return "–" if gap.why == "not run" else "not meaningful"
    return f"{spread_text(gap.spread, 0, sign=False)} %"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f} %"


def _notes(
    own: pd.DataFrame,
    found: Mapping[str, pd.Series],
    prefix: str,
    labels: Mapping[str, str],
    noun: str,
) -> list[str]:
    made = len(arms.by_seed(own, f"{prefix}-teacher"))
    return [
        "Ours: mean ± standard deviation over n seeds; points are taken seed by seed.",
        notes.levels(len(found[name]) for name in labels),
        starts.budget(own, prefix, dict(labels), noun),
        starts.early(own, prefix, labels),
        _one_teacher(made, [len(found.get("teacher", ()))]),
    ]


def _one_teacher(made: int, seeds: Sequence[int]) -> str:
    """That one teacher taught all, if so; made: teachers; seeds: of each student's rows."""
    return "One teacher for all seeds and students." if made == 1 < sum(seeds) else ""


def _other_means(records: pd.DataFrame, benchmark: str, student: str) -> str:
    """ApolloScape's other means of IoU, see `metrics.lanes.apolloscape_means`; else empty."""
    names = {"teacher": f"affinity-{benchmark}-teacher"}
    names |= {label: f"affinity-{benchmark}-{student}-{row}" for row, label in ROWS.items()}
    told, equal = [], True
    for column, which in (
        ("val.miou36", "the 36 without noise"),
        ("val.miou18", "the 18 evaluated"),
    ):
        each = {label: 100 * arms.by_seed(records, run, column) for label, run in names.items()}
        found = [f"{n} {spread_text(v, sign=False)}" for n, v in each.items() if len(v)]
        told += [f"over {which}: {', '.join(found)}"] if found else []
        own = {label: 100 * arms.by_seed(records, run) for label, run in names.items()}
        equal &= all(v.equals(own[label]) for label, v in each.items())
    if not told:
        return ""
    mean = f"{STUDENTS[student]}'s mean is over all training ids that occur"
    if equal:
        return f"{mean}; all that occur are among the 36 without noise and the 18 evaluated."
    return f"{mean}; {'; '.join(told)}."


def _budget(records: pd.DataFrame, benchmark: str, student: str) -> str:
    own, prefix = of_student(records, benchmark, student)
    said = starts.budget(own, prefix, dict(ROWS), "All rows")
    return f"{STUDENTS[student]}: {said}" if said.startswith("Warning") else said


def _early(records: pd.DataFrame, benchmark: str, student: str) -> str:
    own, prefix = of_student(records, benchmark, student)
    return starts.early(own, prefix, ROWS, STUDENTS[student])
