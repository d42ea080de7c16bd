"""Inter-region affinity distillation, part by part: scenarios, lanes or classes of a benchmark.

Scores are percentages, spread is the sample standard deviation over seeds; see `affinity`.
"""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from kdlib.data.layouts import culane, llamas
from kdlib.report import arms, notes
from kdlib.report.affinity import BENCHMARKS, ROWS, STUDENTS, Benchmark, of_student
from kdlib.report.arms import Spread, spread_text
from kdlib.report.published import Figure, Published
from kdlib.report.render import Table

CROSS = "cross"  # CULane's crossroads have no lanes: what is counted is lanes that are not there
NOUNS = {"culane": "scenario", "llamas": "lane", "apollo": "class"}
ORDER = {"culane": culane.SCENARIOS, "llamas": llamas.CLASSES}  # records are sorted by name


def parts(records: pd.DataFrame, run: str, benchmark: str) -> pd.DataFrame:
    """Percent of each scenario, lane or class: a line for each seed, a column for each."""
    known = BENCHMARKS[benchmark]
    own = records[records["run"] == run].set_index("seed").sort_index()
    start, end = known.score.classes, known.part
    columns = [column for column in own if column.startswith(start) and column.endswith(end)]
    named = [column.removeprefix(start).removesuffix(end) for column in columns]
    return 100 * own[columns].astype(float).set_axis(named, axis=1)


def part_table(
    records: pd.DataFrame,
    published: Published | None = None,
    *,
    benchmark: str = "culane",
    student: str = "erfnet",
    scale: str | None = None,
) -> Table:
    """One line for each scenario (CULane), lane (LLAMAS) or class (ApolloScape); a column a row.

    CULane's crossroads hold no lane: there the number of lanes is counted that are not there.
    published: networks of CULane's lane authors without this teacher, as a yardstick.
    """
    known = BENCHMARKS[benchmark]
    own, prefix = of_student(arms.one_scale(records, scale), benchmark, student)
    labels = {"teacher": "teacher", **ROWS}
    tables = {name: parts(own, f"{prefix}-{name}", benchmark) for name in labels}
    if benchmark == "culane":
        for name, table in tables.items():
            table[CROSS] = _crossroads(own, f"{prefix}-{name}")
    printed = published.tables.get(f"{known.table}-scenarios") if published else None
    theirs = {f"published: {f.model}": f for f in printed.rows.values()} if printed else {}
    numbers, shown = [], []
    for part in _names(tables, theirs, ORDER.get(benchmark, ())):
        row, text = {"part": part}, {"": _part_text(part, known)}
        for heading, figure in theirs.items():
            row[heading] = figure.parts.get(part, math.nan)
            text[heading] = _printed_text(row[heading], part)
        for name, label in labels.items():
            values = tables[name][part] if part in tables[name] else pd.Series(dtype=float)
            spread = Spread.of(values)
            row |= {name: spread.mean, f"{name}_sd": spread.sd, f"{name}_n": spread.n}
            text[label] = spread_text(spread, sign=False)
        numbers.append(row)
        shown.append(text)
    lines = [f"{known.score.each} in percent; ours: mean ± standard deviation over seeds."]
    if benchmark == "culane":
        lines += ["Crossroads have no labelled lane: the number of lanes found there is counted."]
        lines += ["hlight: dazzling light; crowd: dense traffic; noline: no line is visible."]
    noun = NOUNS[benchmark]
    title = f"{STUDENTS[student]} in {known.name}'s form, {noun} by {noun}"
    lines.append(notes.levels(len(arms.by_seed(own, f"{prefix}-{name}")) for name in ROWS))
    shown = pd.DataFrame(shown)
    lines = notes.footnotes(lines, shown, own, printed, printed.rows if printed else ())
    return Table(title, pd.DataFrame(numbers), shown, lines)


def _names(
    tables: Mapping[str, pd.DataFrame], theirs: Mapping[str, Figure], order: Sequence[str]
) -> list[str]:
    """The parts that a published network or a run of ours has a number for, crossroads last."""
    printed = [part for figure in theirs.values() for part in figure.parts]
    ours = [part for table in tables.values() for part in table if table[part].notna().any()]
    known = dict.fromkeys([*printed, *ours])
    names = dict.fromkeys([*(name for name in order if name in known), *known])
    return [name for name in names if name != CROSS] + [CROSS] * (CROSS in names)


def _crossroads(own: pd.DataFrame, run: str) -> pd.Series:
    return arms.by_seed(own, run, f"val.scenarios.{CROSS}.fp")


def _part_text(part: str, known: Benchmark) -> str:
    return "crossroads: false lanes" if part == CROSS and known.part else part


def _printed_text(value: float, part: str) -> str:
    return "–" if math.isnan(value) else f"{value:,.{0 if part == CROSS else 1}f}"
