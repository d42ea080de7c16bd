"""Inter-region affinity distillation at two lengths of training: the rows of one student in each.

`affinity-<benchmark>-<student>-<row>-long` is the run without `-long`, trained for more steps; the
teacher is the same. Scores are percentages, differences are points and paired by seed.
"""

import pandas as pd

from kdlib.report import ablation_figures as panels
from kdlib.report import arms, look, notes, rows, starts
from kdlib.report.affinity import BENCHMARKS, FAMILY, RIVALS, ROWS, STUDENTS, of_student
from kdlib.report.arms import Spread, spread_text
from kdlib.report.look import Picture, style
from kdlib.report.render import Table
from kdlib.report.rows import BASELINE
from kdlib.report.tables import NOT_RUN

LONG = "-long"
LENGTHS = ("", LONG)  # how the names of the runs end


def length_table(
    records: pd.DataFrame,
    *,
    benchmark: str = "culane",
    student: str = "resnet18",
    scale: str | None = None,
) -> Table:
    """Teacher and rows of a student: score and points over labels alone at each length, and what
    the further steps are worth to the row.
    """
    own, prefix = of_student(arms.one_scale(records, scale), benchmark, student)
    found = {end: _scores(own, prefix, end) for end in LENGTHS}
    teacher = 100 * arms.by_seed(own, f"{prefix}-teacher")  # made once it has no spread
    heads = {end: _steps(own, prefix, end) for end in LENGTHS}
    name = BENCHMARKS[benchmark].score.name
    numbers, shown = [], []
    for row, label in {"teacher": "teacher", **ROWS}.items():
        number, text = {"row": row}, {"": label}
        for end, key in zip(LENGTHS, ("short", "long"), strict=True):
            score = Spread.of(teacher if row == "teacher" else found[end][row])
            lead = Spread.of(found[end][row] - found[end][BASELINE])
            number |= {key: score.mean, f"{key}_sd": score.sd, f"{key}_n": score.n}
            number |= {f"{key}_points": lead.mean, f"{key}_points_sd": lead.sd}
            ran = score.n > 0
            text[f"{heads[end]}: {name} %"] = spread_text(score, sign=False) if ran else NOT_RUN
            text[f"{heads[end]}: points"] = spread_text(lead) if row != BASELINE else "–"
        gain = Spread.of(found[LONG][row] - found[""][row])
        number |= {"gain": gain.mean, "gain_sd": gain.sd, "gain_n": gain.n}
        text["by the further steps"] = spread_text(gain) if row != "teacher" else "–"
        text["n"] = " / ".join(str(number[f"{key}_n"]) for key in ("short", "long"))
        numbers.append(number)
        shown.append(text)
    long = {f"{row}{LONG}": label for row, label in ROWS.items()}
    lines = [
        "Points are over labels alone of the same length, taken seed by seed; n: seeds of each "
        "length. The teacher is the same.",
        notes.levels(len(found[end][row]) for end in LENGTHS for row in ROWS),
        starts.budget(own, prefix, dict(ROWS), "The shorter rows"),
        starts.budget(own, prefix, long, "The longer rows"),
    ]
    used = own[own["run"].isin([f"{prefix}-{row}" for row in ("teacher", *ROWS, *long)])]
    title = f"{STUDENTS[student]} in {BENCHMARKS[benchmark].name}'s form at two lengths of training"
    shown = pd.DataFrame(shown)
    return Table(title, pd.DataFrame(numbers), shown, notes.footnotes(lines, shown, used))


def length_finding(
    records: pd.DataFrame,
    *,
    benchmark: str = "culane",
    student: str = "resnet18",
    scale: str | None = None,
) -> str:
    """What IntRA-KD is worth over labels alone and over its rivals, at each length."""
    own, prefix = of_student(arms.one_scale(records, scale), benchmark, student)
    told = []
    for end in LENGTHS:
        found = _scores(own, prefix, end)
        n = len((found["intra"] - found[BASELINE]).dropna())
        if not n:
            continue
        lead = arms.change_text(found["intra"], found[BASELINE], n)
        text = f"after {_steps(own, prefix, end)} {lead} over {FAMILY.over}"
        if against := rows.against_text(found, "intra", RIVALS):
            text += f", against {against}"
        told.append(text + arms.seeds_note(n))
    subject = f"Length of training, IntRA-KD on {STUDENTS[student]}"
    if len(told) < len(LENGTHS):
        return f"{subject}: nothing to compare yet"
    return f"{subject} in points: {'; '.join(told)}"


def length_figure(
    records: pd.DataFrame,
    *,
    benchmark: str = "culane",
    student: str = "resnet18",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Points over labels alone of the same length, a panel for each length, under the line of the
    teacher. The title is `length_finding`.
    """
    own, prefix = of_student(arms.one_scale(records, scale), benchmark, student)
    score = BENCHMARKS[benchmark].score.name
    with style():
        figure = look.figure(9, 4.4)
        axes = figure.subplots(1, len(LENGTHS), sharey=True)
        for axis, end in zip(axes, LENGTHS, strict=True):
            found = _scores(own, prefix, end)
            panels.gain_panel(axis, found, {}, FAMILY)
            room = (found["teacher"] - found[BASELINE]).dropna()
            look.reference(axis, room, "teacher", look.COLOURS["teacher"])
            alone = spread_text(found[BASELINE], sign=False)
            axis.set_title(
                f"{_steps(own, prefix, end)}, labels alone {alone} %\n(points of {score})"
            )
        finding = length_finding(records, benchmark=benchmark, student=student, scale=scale)
        look.title(figure, finding, note or panels.seeds_note(found, FAMILY))
    return figure


def _scores(own: pd.DataFrame, prefix: str, end: str) -> dict[str, pd.Series]:
    """Score in percent of the teacher and of each row whose run ends so, indexed by seed."""
    found = rows.scores(own, prefix, tuple(f"{row}{end}" for row in ROWS))
    return {name.removesuffix(end): values for name, values in found.items()}


def _steps(own: pd.DataFrame, prefix: str, end: str) -> str:
    """`2,000 steps`: of the rows whose run ends so, by their records."""
    for row in ROWS:
        for steps in arms.by_seed(own, f"{prefix}-{row}{end}", "steps"):
            return f"{steps:,.0f} steps"
    return "longer" if end else "shorter"
