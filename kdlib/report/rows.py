"""Rows of a table that stands on one baseline: its numbers, its text, its footnotes.

Structured distillation, imitation and affinity share them. Scores are percentages, differences are
points and paired by seed, spread is the sample standard deviation over seeds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from kdlib.report import arms, notes
from kdlib.report.arms import Spread, spread_text
from kdlib.report.measure import Measure
from kdlib.report.published import PublishedTable
from kdlib.report.render import Table
from kdlib.report.tables import NOT_RUN

BASELINE = "baseline"


@dataclass(frozen=True)
class Family:
    """Runs that differ in what is added to one baseline.

    rows: name of a row (its run is `<prefix>-<name>`) -> label, the baseline first; ticks: the same
    for the axis of a figure; over: the baseline in "points over ...".
    """

    rows: Mapping[str, str]
    ticks: Mapping[str, str]
    over: str

    @property
    def added(self) -> tuple[str, ...]:
        """The rows but for the baseline."""
        return tuple(name for name in self.rows if name != BASELINE)


def scores(records: pd.DataFrame, prefix: str, names: tuple[str, ...]) -> dict[str, pd.Series]:
    """Score in percent of the teacher and of each row, indexed by seed.

    A teacher that was trained once stands for every seed of the rows.
    """
    found = {name: 100 * arms.by_seed(records, f"{prefix}-{name}") for name in ("teacher", *names)}
    seeds = sorted({seed for name in names for seed in found[name].index})
    if len(found["teacher"]) == 1 and seeds:
        found["teacher"] = pd.Series(found["teacher"].iloc[0], index=seeds)
    return found


def against_text(found: Mapping[str, pd.Series], name: str, rivals: Mapping[str, str]) -> str:
    """`soft targets +1.5 ± 2.3 (tie), attention +1.8 ± 0.4`: a row minus each rival that was run.

    rivals: row -> what the sentence calls it. Seeds are told where the rival has fewer than the row
    has in common with the baseline.
    """
    n = len((found[name] - found[BASELINE]).dropna())
    return ", ".join(
        f"{said} {arms.change_text(found[name], found[rival], n)}"
        for rival, said in rivals.items()
        if len((found[name] - found[rival]).dropna())
    )


def room_text(found: Mapping[str, pd.Series], over: str) -> str:
    """The end of a finding whose teacher is hardly above the baseline; empty where it is.

    over: the baseline in words. Of few seeds only the size of the room is told, where it is small.
    """
    room = (found["teacher"] - found[BASELINE]).dropna()
    if len(room) < arms.VERDICT and room.mean() < arms.SMALLEST_GAP:
        return f"; little room: the teacher is {spread_text(room)} points over {over}"
    if len(room) >= arms.VERDICT and arms.compare(found["teacher"], found[BASELINE]) < 1:
        return f"; the teacher is not clearly above {over} ({spread_text(room)})"
    return ""


def printed_table(
    tables: Mapping[str, PublishedTable], labels: Mapping[str, str], over: str
) -> Table:
    """Published tables of one measure side by side: name of a column -> its table.

    labels: row -> label, the teacher's included; over: see `Family`.
    """
    numbers, shown = [], []
    for name, label in labels.items():
        row, text = {"row": name}, {"": label}
        for column, table in tables.items():
            figure, points = table.rows.get(name), published_points(table.rows, name)
            row |= {column: figure.value if figure else math.nan, f"{column}: points": points}
            text |= {column: figure.text if figure else "–"}
            text |= {f"{column}: points": points_text(points)}
        numbers.append(row)
        shown.append(text)
    said = (note for table in tables.values() for note in table.notes(labels))
    lines = list(dict.fromkeys(said))
    metric = " and ".join(dict.fromkeys(table.metric for table in tables.values()))
    title = f"Published: {metric} % and points over {over}"
    return Table(title, pd.DataFrame(numbers), pd.DataFrame(shown), tuple(lines))


def numbers_and_text(
    records: pd.DataFrame,
    found: Mapping[str, pd.Series],
    labels: Mapping[str, str],
    published: Mapping,
    prefix: str,
    above: Mapping[str, str],
    score: Measure,
    over: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The numbers of each row, and their text.

    labels: row -> label, the teacher's included; published: row -> `Figure`, empty for no column;
    above: row -> the row that it adds to, empty for no column; over: see `Family`.
    """
    agreement = {
        column: facts
        for column, facts in score.shown_agreement(records, prefix).items()
        if column.startswith("val.")
    }
    rows = [
        _row(records, found, name, published, prefix, above.get(name), score, agreement)
        for name in labels
    ]
    shown = pd.DataFrame([_shown(row, labels[row["row"]], score, agreement, over) for row in rows])
    if not above:
        shown = shown.drop(columns="points over the row above")
    if not published:
        printed = [column for column in shown if column.startswith("published")]
        shown = shown.drop(columns=printed)
    return pd.DataFrame(rows), shown


def _row(
    records: pd.DataFrame,
    found: dict[str, pd.Series],
    name: str,
    printed: Mapping,
    prefix: str,
    above: str | None,
    score: Measure,
    agreement: Mapping[str, tuple[str, int, int]],
) -> dict:
    run, figure = f"{prefix}-{name}", printed.get(name)
    row = {
        "row": name,
        f"published_{score.key}": figure.value if figure else math.nan,
        "published_points": published_points(printed, name),
        "published_text": figure.text if figure else "–",
    }
    row |= _spread(score.key, 100 * arms.by_seed(records, run))
    nothing = pd.Series(dtype=float)
    row |= _spread("points", nothing if name == "baseline" else found[name] - found["baseline"])
    row |= _spread("step", found[name] - found[above] if above else nothing)
    for column, (_, factor, _) in agreement.items():
        row |= _spread(column, factor * arms.by_seed(records, run, column))
    row["wall_min"] = Spread.of(arms.by_seed(records, run, "wall_s") / 60).mean
    for column in ("steps", "samples_seen"):
        row[column] = Spread.of(arms.by_seed(records, run, column)).mean
    return row


def _spread(name: str, values: pd.Series) -> dict:
    spread = Spread.of(values)
    return {name: spread.mean, f"{name}_sd": spread.sd, f"{name}_n": spread.n}


def _shown(
    row: dict,
    label: str,
    score: Measure,
    agreement: Mapping[str, tuple[str, int, int]],
    over: str,
) -> dict[str, str]:
    def text(name: str, digits: int = 1, sign: bool = False) -> str:
        spread = Spread(row[name], row[f"{name}_sd"], row[f"{name}_n"])
        return spread_text(spread, digits, sign)

    ran = row[f"{score.key}_n"] > 0
    shown = {
        "": label,
        f"published {score.name}": row["published_text"],
        f"published: points over {over}": points_text(row["published_points"]),
        f"ours: {score.name} %": text(score.key) if ran else NOT_RUN,
        "n": str(row[f"{score.key}_n"]),
        f"points over {over}": text("points", sign=True),
        "points over the row above": text("step", sign=True),
    }
    for column, (heading, _, digits) in agreement.items():
        shown[heading] = text(column, digits)
    shown[notes.WALL_HEADING] = f"{row['wall_min']:.1f}" if ran else "–"
    shown["steps"] = f"{row['steps']:,.0f}" if ran else "–"
    shown["samples seen"] = f"{row['samples_seen']:,.0f}" if ran else "–"
    return shown


def published_points(printed: Mapping, name: str) -> float:
    """Published points over the baseline; NaN for it, the teacher, and where one is unknown."""
    baseline = printed.get("baseline")
    figure = printed.get(name)
    if figure is None or baseline is None or name in ("baseline", "teacher"):
        return math.nan
    return figure.value - baseline.value


def points_text(value: float) -> str:
    """`+1.2`; an en dash for NaN."""
    return "–" if math.isnan(value) else arms.signed(value)
