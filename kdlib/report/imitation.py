"""Feature imitation, letter by letter: tables and the finding.

Fact sheet feature_imitation, sections 3 and 6. A row is a run: `<prefix>-baseline` is the student
alone, `-i`, `-f`, `-g`, `-d`, `-id` the letters. Scores are percentages, differences are points and
paired by seed, spread is the sample standard deviation over seeds. What has no record is shown as
"not run". The sweep over psi is in `kdlib.report.imitation_psi`; its functions are names of this
module too.
"""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import pandas as pd

from kdlib.report import arms, measure, notes, rows, starts
from kdlib.report.arms import Spread, spread_text
from kdlib.report.figures import class_scores
from kdlib.report.imitation_psi import compared as compared
from kdlib.report.imitation_psi import printed_psi as printed_psi
from kdlib.report.imitation_psi import psi_finding as psi_finding
from kdlib.report.imitation_psi import psi_points as psi_points
from kdlib.report.imitation_psi import psi_table as psi_table
from kdlib.report.measure import Measure
from kdlib.report.published import TRUST, PublishedTable
from kdlib.report.render import Table
from kdlib.report.rows import BASELINE, Family

ROWS = MappingProxyType(
    {
        "baseline": "student alone",
        "i": "I: region by anchors",
        "f": "F: whole map",
        "g": "G: boxes",
        "d": "D: scores",
        "id": "ID: region and scores",
    }
)
TICKS = MappingProxyType(
    {
        "baseline": "student\nalone",
        "i": "I\nregion",
        "f": "F\nwhole map",
        "g": "G\nboxes",
        "d": "D\nscores",
        "id": "ID\nboth",
    }
)
FAMILY = Family(ROWS, TICKS, "the student")
# What the region is measured against, and how the sentence names it.
RIVALS = MappingProxyType(
    {"f": "the whole map with the same λ", "g": "the boxes", "d": "the scores"}
)
LETTERS = {"teacher": "teacher", **ROWS}
LEVELS = ("easy", "moderate", "hard")  # KITTI's difficulties
COMPACT = (
    "",
    "published {name}",
    "published: points over the student",
    "ours: {name} %",
    "n",
    "points over the student",
)


def scores(
    records: pd.DataFrame, prefix: str = "imitation-kitti", names: tuple[str, ...] = tuple(ROWS)
) -> dict[str, pd.Series]:
    """Score in percent of the teacher and of each row, indexed by seed."""
    return rows.scores(records, prefix, names)


def finding(
    records: pd.DataFrame, *, prefix: str = "imitation-kitti", scale: str | None = None
) -> str:
    """What the records show, in one sentence that follows the numbers, whichever way they fall.

    The region (I) against the student alone, then against whole map, boxes and scores, then what
    the scores add to it (ID); "tie" by the rule of `arms.compare`. Of fewer than three seeds
    no verdict.
    """
    found = scores(arms.one_scale(records, scale), prefix)
    lead = (found["i"] - found[BASELINE]).dropna()
    if not len(lead):
        missing = [ROWS[name] for name in (BASELINE, "i") if not len(found[name])]
        why = f"not run: {', '.join(missing)}" if missing else "no seed in common"
        return f"No finding yet: {why}"
    sign = arms.compare(found["i"], found[BASELINE])
    points = spread_text(sign * lead, sign=False)
    text = {
        1: f"Imitating the region lifts the student by {points} points",
        0: f"Imitating the region ties with the student alone ({spread_text(lead)} points)",
        -1: f"Imitating the region costs the student {points} points",
    }[sign]
    if len(lead) < arms.VERDICT:
        text = f"Imitating the region: {spread_text(lead)} points over the student alone"
    if against := rows.against_text(found, "i", RIVALS):
        text += f"; the region against {against}"
    if len((found["id"] - found["i"]).dropna()):
        added = arms.change_text(found["id"], found["i"], len(lead))
        text += f"; scores added to the region {added}"
    return text + rows.room_text(found, FAMILY.over) + arms.seeds_note(len(lead))


def imitation_table(
    records: pd.DataFrame,
    published: PublishedTable | None = None,
    *,
    prefix: str = "imitation-kitti",
    scale: str | None = None,
    compact: bool = False,
) -> Table:
    """Teacher, student alone and the letters: published beside ours.

    records: of `read_records`. The columns of single classes are the mean over what the measure
    tells apart (KITTI's difficulties); `class_table` has all of it. compact: the columns of the
    finding.
    """
    records = arms.one_scale(records, scale)
    found, score = scores(records, prefix), measure.of(records, prefix, published)
    printed = {name: published.rows.get(name) for name in LETTERS} if published else {}
    frame, shown = rows.numbers_and_text(
        records, found, LETTERS, printed, prefix, {}, score, FAMILY.over
    )
    classes = {n: class_scores(records, f"{prefix}-{n}", score) for n in LETTERS}
    for name in dict.fromkeys(column for table in classes.values() for column in table):
        spreads = [Spread.of(table[name]) if name in table else None for table in classes.values()]
        frame[name] = [spread.mean if spread else math.nan for spread in spreads]
        frame[f"{name}_sd"] = [spread.sd if spread else math.nan for spread in spreads]
        shown[f"{name}: {score.each} %"] = [
            spread_text(spread, sign=False) if spread else "–" for spread in spreads
        ]
    if compact:
        columns = [column.format(name=score.name) for column in COMPACT]
        shown = shown[[column for column in columns if column in shown]]
    lines = [
        "Ours: mean ± standard deviation over n seeds; points are taken seed by seed.",
        notes.levels(len(found[name]) for name in ROWS),
        starts.budget(records, prefix, dict(ROWS), "All six students"),
    ]
    if len(arms.by_seed(records, f"{prefix}-teacher")) == 1 and len(found["teacher"]) > 1:
        lines.append("One teacher for all seeds.")
    used = records[records["run"].isin([f"{prefix}-{name}" for name in LETTERS])]
    title = "Feature imitation, letter by letter"
    title += f" (published: {published.title})" if published else ""
    lines = notes.footnotes(lines, shown, used, published, LETTERS)
    return Table(title, frame, shown, lines)


def class_table(
    records: pd.DataFrame,
    published: PublishedTable | None = None,
    *,
    prefix: str = "imitation-kitti",
    scale: str | None = None,
) -> Table:
    """Every class, on KITTI easy / moderate / hard: published beside the mean over our seeds."""
    records = arms.one_scale(records, scale)
    score = measure.of(records, prefix, published)
    numbers, shown = [], []
    for name, label in LETTERS.items():
        figure = published.rows.get(name) if published else None
        theirs = dict(figure.parts) if figure else {}
        ours = _class_means(records, f"{prefix}-{name}", score)
        row, text = {"row": name}, {"": label}
        for class_ in _classes(records, prefix, published, score):
            for who, values in (("published", theirs), ("ours", ours)):
                if who == "published" and published is None:
                    continue
                keys = [class_, *(f"{class_}.{level}" for level in LEVELS)]
                own = {key: values[key] for key in keys if key in values}
                row |= {f"{who}.{key}": value for key, value in own.items()}
                mark = TRUST[figure.trust][0] if who == "published" and own else ""
                text[f"{class_}: {who}"] = _slashed(own.values()) + mark
        numbers.append(row)
        shown.append(text)
    parted = any("." in part for part in _parts(records, prefix, published, score))
    lines = [f"{score.each} in percent" + (f", {' / '.join(LEVELS)}." if parted else ".")]
    used = records[records["run"].isin([f"{prefix}-{name}" for name in LETTERS])]
    lines.append(notes.levels(len(arms.by_seed(records, f"{prefix}-{name}")) for name in ROWS))
    shown = pd.DataFrame(shown)
    lines = notes.footnotes(lines, shown, used, published, LETTERS)
    return Table("Class by class", pd.DataFrame(numbers), shown, lines)


def printed_table(tables: Mapping[str, PublishedTable]) -> Table:
    """What is published, side by side: name of a column -> its table. Rows that some table has."""
    held = [name for name in LETTERS if any(name in table.rows for table in tables.values())]
    return rows.printed_table(tables, {name: LETTERS[name] for name in held}, FAMILY.over)


def _class_means(records: pd.DataFrame, run: str, score: Measure) -> dict[str, float]:
    """Percent by class, or class and level; mean over seeds."""
    own = records[records["run"] == run]
    columns = [column for column in own if column.startswith(score.classes)]
    means = 100 * own[columns].astype(float).mean()
    return {name.removeprefix(score.classes): value for name, value in means.items()}


def _parts(
    records: pd.DataFrame, prefix: str, published: PublishedTable | None, score: Measure
) -> list[str]:
    """Names of the classes, with their levels, that ours or the published figures have."""
    family = records[measure.of_family(records, prefix)].dropna(axis=1, how="all")
    ours = [c.removeprefix(score.classes) for c in family if c.startswith(score.classes)]
    figures = published.rows.values() if published else ()
    theirs = [part for figure in figures for part in figure.parts]
    return list(dict.fromkeys([*theirs, *ours]))


def _classes(
    records: pd.DataFrame, prefix: str, published: PublishedTable | None, score: Measure
) -> list[str]:
    parts = _parts(records, prefix, published, score)
    return list(dict.fromkeys(part.split(".")[0] for part in parts))


def _slashed(values: Iterable[float]) -> str:
    """`60.4 / 54.9 / 46.6`; an en dash where nothing is known."""
    known = ["–" if math.isnan(value) else f"{value:.1f}" for value in values]
    return " / ".join(known) if any(text != "–" for text in known) else "–"
