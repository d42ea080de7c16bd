"""Structured distillation, term by term: tables, the finding, figures; published beside ours.

A row is a run: `<prefix>-baseline` learns from the labels alone, each further row adds one term.
Scores are percentages, differences are points and paired by seed, spread is the sample standard
deviation over seeds. What has no record is shown as "not run".
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import pandas as pd

from kdlib.report import arms, notes
from kdlib.report.arms import Spread, spread_text
from kdlib.report.measure import MIOU
from kdlib.report.published import PublishedTable
from kdlib.report.render import Table
from kdlib.report.tables import NOT_RUN

ROWS = MappingProxyType(
    {
        "baseline": "labels alone",
        "pi": "+ pixel-wise",
        "pi-pa": "+ pixel-wise + pair-wise",
        "pi-pa-ho": "+ pixel-wise + pair-wise + holistic",
    }
)
ADDED = MappingProxyType({"pi": "pixel-wise", "pi-pa": "pair-wise", "pi-pa-ho": "holistic"})
CAMVID = MappingProxyType(  # run -> (row of the published table, label)
    {
        "teacher": ("espnet_ours", "teacher: released ESPNet"),
        "baseline": ("espnetc_baseline", "ESPNet-C, labels alone"),
        "pi": ("espnetc_pi", "+ pixel-wise"),
        "pi-pa": ("espnetc_ours", "+ pixel-wise + pair-wise (published: the paper's terms)"),
        "pi-unlabelled": ("espnetc_pi_unlabelled", "+ pixel-wise, unlabelled images join"),
        "pi-pa-unlabelled": (
            "espnetc_ours_unlabelled",
            "+ pixel-wise + pair-wise, unlabelled images join (published: the paper's terms)",
        ),
    }
)
WHO = MappingProxyType(
    {
        "pi": "With the pixel-wise term",
        "pi-pa": "With the pixel-wise and pair-wise terms",
        "pi-pa-ho": "With all three terms",
    }
)
SHOWN_AGREEMENT = {k: facts for k, facts in MIOU.agreement.items() if k.startswith("val.")}
COMPACT = (
    "",
    "published mIoU",
    "published: points over labels alone",
    "ours: mIoU %",
    "n",
    "points over labels alone",
    "points over the row above",
    "agreement, reported split: pixels %",
)


def scores(
    records: pd.DataFrame, prefix: str = "structured", names: tuple[str, ...] = tuple(ROWS)
) -> dict[str, pd.Series]:
    """mIoU in percent of the teacher and of each row, indexed by seed.

    A teacher that was trained once stands for every seed of the rows.
    """
    found = {name: 100 * arms.by_seed(records, f"{prefix}-{name}") for name in ("teacher", *names)}
    seeds = sorted({seed for name in names for seed in found[name].index})
    if len(found["teacher"]) == 1 and seeds:
        found["teacher"] = pd.Series(found["teacher"].iloc[0], index=seeds)
    return found


def finding(records: pd.DataFrame, *, prefix: str = "structured", scale: str | None = None) -> str:
    """What the records show, in one sentence that follows the numbers, whichever way they fall.

    The last row that was run against the baseline, then each term against the row above it; "tie"
    where the seeds do not agree (`arms.compare`).
    """
    found = scores(arms.one_scale(records, scale), prefix)
    baseline = found["baseline"]
    ran = [name for name in ADDED if len((found[name] - baseline).dropna())]
    if not ran:
        missing = [ROWS[name] for name in ROWS if not len(found[name])]
        why = f"not run: {', '.join(missing)}" if missing else "no seed in common"
        return f"No finding yet: {why}"
    lead = (found[ran[-1]] - baseline).dropna()
    sign = arms.compare(found[ran[-1]], baseline)
    points = spread_text(sign * lead, sign=False)
    who = WHO[ran[-1]]
    text = {
        1: f"{who} the student ends {points} points above labels alone",
        0: f"{who} the student ties with labels alone ({spread_text(lead)} points)",
        -1: f"{who} the student ends {points} points below labels alone",
    }[sign]
    if len(ran) > 1:
        text += f": {', '.join(_step(found, name) for name in ran)}"
    gap = found["teacher"] - baseline
    if len(gap.dropna()) and arms.compare(found["teacher"], baseline) < 1:
        text += f"; the teacher is not clearly above labels alone ({spread_text(gap)})"
    return text + (" (one seed)" if len(lead) == 1 else "")


def ablation_table(
    records: pd.DataFrame,
    published: PublishedTable | None = None,
    *,
    prefix: str = "structured",
    scale: str | None = None,
    compact: bool = False,
) -> Table:
    """Teacher, labels alone, and the terms one after the other: published beside ours.

    records: of `read_records`; the runs are `<prefix>-teacher` and `<prefix>-<row>` for ROWS.
    compact: the columns of the finding, footnotes in two lines.
    """
    records = arms.one_scale(records, scale)
    found = scores(records, prefix)
    labels = {"teacher": "teacher", **ROWS}
    above = {name: list(ROWS)[i] for i, name in enumerate(ADDED)}
    printed = {name: published.rows.get(name) for name in labels} if published else {}
    frame, shown = _rows(records, found, labels, printed, prefix, above)
    if compact:
        shown = shown[[column for column in COMPACT if column in shown]]
    lines = [
        "Ours: mean ± standard deviation over n seeds; points are taken seed by seed.",
        notes.budget(records, prefix, dict(ROWS), "All four rows"),
    ]
    if len(arms.by_seed(records, f"{prefix}-teacher")) == 1 and len(found["teacher"]) > 1:
        lines.append("One teacher for all seeds.")
    used = records[records["run"].isin([f"{prefix}-{name}" for name in labels])]
    title = "Structured distillation, term by term"
    title += f" (published: {published.title})" if published else ""
    lines = _notes(lines, used, published)
    if compact:
        lines = (" ".join(lines[:-1]), lines[-1])
    return Table(title, frame, shown, lines)


def camvid_table(
    records: pd.DataFrame,
    published: PublishedTable | None = None,
    *,
    prefix: str = "structured-camvid",
    scale: str | None = None,
) -> Table:
    """ESPNet-C on CamVid, taught by a released ESPNet: published beside ours."""
    records = arms.one_scale(records, scale)
    names = tuple(name for name in CAMVID if name != "teacher")
    found = scores(records, prefix, names)
    labels = {name: label for name, (_, label) in CAMVID.items()}
    printed = {n: published.rows.get(row) for n, (row, _) in CAMVID.items()} if published else {}
    above = {"pi": "baseline", "pi-pa": "pi", "pi-unlabelled": "pi", "pi-pa-unlabelled": "pi-pa"}
    frame, shown = _rows(records, found, labels, printed, prefix, above)
    shown = shown.rename(columns={"points over the row above": "points by what the row adds"})
    used = records[records["run"].isin([f"{prefix}-{name}" for name in labels])]
    students = used[used["run"] != f"{prefix}-teacher"]
    lines = [
        "Ours: mean ± standard deviation over n seeds; points are taken seed by seed. What a row "
        "adds: a term, or in the last two rows the unlabelled images.",
        notes.budget(records, prefix, {name: labels[name] for name in names}, "All five rows"),
    ]
    if len(students):
        steps = " and ".join(f"{int(n):,}" for n in sorted(students["steps"].unique()))
        lines.append(
            f"Ours: {steps} steps (scale {', '.join(students['scale'].unique())}) from random "
            "weights, taught by a released ESPNet, unlabelled images from two clips. Theirs: "
            "length not known, taught by a PSPNet-R101, unlabelled images from Cityscapes."
        )
    return Table("CamVid, ESPNet-C", frame, shown, _notes(lines, used, published))


def printed_table(tables: Mapping[str, PublishedTable]) -> Table:
    """The published ablations side by side: name of a column -> its table."""
    rows, shown = [], []
    for name, label in {"teacher": "teacher", **ROWS}.items():
        row, text = {"row": name}, {"": label}
        for column, table in tables.items():
            figure = table.rows[name]
            row |= {column: figure.value, f"{column}: points": _over(table.rows, name)}
            text |= {column: figure.text, f"{column}: points": _points(row[f"{column}: points"])}
        rows.append(row)
        shown.append(text)
    lines = list(dict.fromkeys(note for table in tables.values() for note in table.notes()))
    title = "Published: mIoU % and points over labels alone"
    return Table(title, pd.DataFrame(rows), pd.DataFrame(shown), tuple(lines))


# Rows --------------------------------------------------------------------------------------------


def _rows(
    records: pd.DataFrame,
    found: dict[str, pd.Series],
    labels: Mapping[str, str],
    printed: Mapping,
    prefix: str,
    above: Mapping[str, str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The numbers of each row, and their text."""
    rows = [_row(records, found, name, printed, prefix, above.get(name)) for name in labels]
    shown = pd.DataFrame([_shown(row, labels[row["row"]]) for row in rows])
    if not printed:
        published = [column for column in shown if column.startswith("published")]
        shown = shown.drop(columns=published)
    return pd.DataFrame(rows), shown


def _row(
    records: pd.DataFrame,
    found: dict[str, pd.Series],
    name: str,
    printed: Mapping,
    prefix: str,
    above: str | None,
) -> dict:
    run, figure = f"{prefix}-{name}", printed.get(name)
    row = {
        "row": name,
        "published_miou": figure.value if figure else math.nan,
        "published_points": _over(printed, name),
        "published_text": figure.text if figure else "–",
    }
    row |= _spread("miou", 100 * arms.by_seed(records, run))
    nothing = pd.Series(dtype=float)
    row |= _spread("points", nothing if name == "baseline" else found[name] - found["baseline"])
    row |= _spread("step", found[name] - found[above] if above else nothing)
    for column, (_, factor, _) in SHOWN_AGREEMENT.items():
        row |= _spread(column, factor * arms.by_seed(records, run, column))
    row["wall_min"] = Spread.of(arms.by_seed(records, run, "wall_s") / 60).mean
    for column in ("steps", "samples_seen"):
        row[column] = Spread.of(arms.by_seed(records, run, column)).mean
    return row


def _spread(name: str, values: pd.Series) -> dict:
    spread = Spread.of(values)
    return {name: spread.mean, f"{name}_sd": spread.sd, f"{name}_n": spread.n}


def _shown(row: dict, label: str) -> dict[str, str]:
    def text(name: str, digits: int = 1, sign: bool = False) -> str:
        spread = Spread(row[name], row[f"{name}_sd"], row[f"{name}_n"])
        return spread_text(spread, digits, sign)

    ran = row["miou_n"] > 0
    shown = {
        "": label,
        "published mIoU": row["published_text"],
        "published: points over labels alone": _points(row["published_points"]),
        "ours: mIoU %": text("miou") if ran else NOT_RUN,
        "n": str(row["miou_n"]),
        "points over labels alone": text("points", sign=True),
        "points over the row above": text("step", sign=True),
    }
    for column, (heading, _, digits) in SHOWN_AGREEMENT.items():
        shown[heading] = text(column, digits)
    shown["wall, min"] = f"{row['wall_min']:.1f}" if ran else "–"
    shown["steps"] = f"{row['steps']:,.0f}" if ran else "–"
    shown["samples seen"] = f"{row['samples_seen']:,.0f}" if ran else "–"
    return shown


def _over(printed: Mapping, name: str) -> float:
    """Published points over labels alone; NaN for these, the teacher, and where one is unknown."""
    baseline = printed.get("baseline")
    figure = printed.get(name)
    if figure is None or baseline is None or name in ("baseline", "teacher"):
        return math.nan
    return figure.value - baseline.value


def _points(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.1f}".replace("-", "−")


def _notes(
    lines: list[str], used: pd.DataFrame, published: PublishedTable | None
) -> tuple[str, ...]:
    if published is not None:
        lines = [*lines, *published.notes()]
        if not (used["scale"] == "paper").all():
            lines.append(
                "Published and ours differ in data, networks and length of training: compare the "
                "pattern, not the level."
            )
    lines.append(f"Records: {notes.origin(used)}")
    return tuple(line for line in lines if line)


def _step(found: Mapping[str, pd.Series], name: str) -> str:
    """`pair-wise +0.4 ± 0.2`: what a term adds to the row above it."""
    above = list(ROWS)[list(ROWS).index(name) - 1]
    change = (found[name] - found[above]).dropna()
    if not len(change):
        return f"{ADDED[name]} not compared"
    tie = " (tie)" if arms.compare(found[name], found[above]) == 0 else ""
    return f"{ADDED[name]} {spread_text(change)}{tie}"
