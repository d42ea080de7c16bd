"""Feature imitation, letter by letter: tables, the finding, the sweep over psi.

Fact sheet feature_imitation, sections 3 and 6. A row is a run: `<prefix>-baseline` is the student
alone, `-i`, `-f`, `-g`, `-d`, `-id` the letters; `-i-psi02` imitates with psi = 0.2. Scores are
percentages, differences are points and paired by seed, spread is the sample standard deviation over
seeds. What has no record is shown as "not run".
"""

import math
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import pandas as pd

from kdlib.report import arms, measure, notes, rows
from kdlib.report.arms import Spread, spread_text
from kdlib.report.figures import class_scores
from kdlib.report.measure import Measure
from kdlib.report.published import Figure, PublishedTable
from kdlib.report.render import Table
from kdlib.report.rows import BASELINE, Family
from kdlib.report.tables import NOT_RUN

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
RIVALS = MappingProxyType({"f": "the whole map", "g": "the boxes", "d": "the scores"})
LETTERS = {"teacher": "teacher", **ROWS}
LEVELS = ("easy", "moderate", "hard")  # KITTI's difficulties
OWN_PSI = 0.5  # of the run `i`
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


# The letters -------------------------------------------------------------------------------------


def finding(
    records: pd.DataFrame, *, prefix: str = "imitation-kitti", scale: str | None = None
) -> str:
    """What the records show, in one sentence that follows the numbers, whichever way they fall.

    The region (I) against the student alone, then against whole map, boxes and scores, then what
    the scores add to it (ID); "tie" where the seeds do not agree (`arms.compare`).
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
    against = [_against(found, name) for name in RIVALS]
    if any(against):
        text += f"; the region against {', '.join(filter(None, against))}"
    if len((found["id"] - found["i"]).dropna()):
        text += f"; scores added to the region {_change(found['id'], found['i'])}"
    gap = found["teacher"] - found[BASELINE]
    if len(gap.dropna()) and arms.compare(found["teacher"], found[BASELINE]) < 1:
        text += f"; the teacher is not clearly above the student ({spread_text(gap)})"
    return text + (" (one seed)" if len(lead) == 1 else "")


def _against(found: Mapping[str, pd.Series], name: str) -> str:
    if not len((found["i"] - found[name]).dropna()):
        return ""
    return f"{RIVALS[name]} {_change(found['i'], found[name])}"


def _change(one: pd.Series, other: pd.Series) -> str:
    tie = " (tie)" if arms.compare(one, other) == 0 else ""
    return f"{spread_text((one - other).dropna())}{tie}"


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
        notes.budget(records, prefix, dict(ROWS), "All six students"),
    ]
    if len(arms.by_seed(records, f"{prefix}-teacher")) == 1 and len(found["teacher"]) > 1:
        lines.append("One teacher for all seeds.")
    used = records[records["run"].isin([f"{prefix}-{name}" for name in LETTERS])]
    title = "Feature imitation, letter by letter"
    title += f" (published: {published.title})" if published else ""
    return Table(title, frame, shown, rows.footnotes(lines, used, published))


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
                text[f"{class_}: {who}"] = _slashed(own.values())
        numbers.append(row)
        shown.append(text)
    parted = any("." in part for part in _parts(records, prefix, published, score))
    lines = [f"{score.each} in percent" + (f", {' / '.join(LEVELS)}." if parted else ".")]
    used = records[records["run"].isin([f"{prefix}-{name}" for name in LETTERS])]
    lines = rows.footnotes(lines, used, published)
    return Table("Class by class", pd.DataFrame(numbers), pd.DataFrame(shown), lines)


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


# The sweep over psi ------------------------------------------------------------------------------


def psi_points(
    records: pd.DataFrame, *, prefix: str = "imitation-kitti", scale: str | None = None
) -> pd.DataFrame:
    """One row for each psi and seed that was run: psi, run, seed, score, points.

    `<prefix>-i` stands at psi = 0.5, `<prefix>-baseline` at 1, where the region is empty; points
    are over the baseline of the same seed.
    """
    records = arms.one_scale(records, scale)
    runs = set(records["run"])
    places = {run: p for run, p in _own_places(prefix).items() if run in runs}
    for run in sorted(runs):
        named = re.fullmatch(re.escape(prefix) + r"-i-psi(\d)(\d)", run)
        psi = int(named[1]) + int(named[2]) / 10 if named else None
        if psi is not None and psi not in places.values():  # the rows of the table go first
            places[run] = psi
    baseline = 100 * arms.by_seed(records, f"{prefix}-{BASELINE}")
    found = []
    for run, psi in sorted(places.items(), key=lambda item: item[1]):
        for seed, score in (100 * arms.by_seed(records, run)).items():
            row = {"psi": psi, "run": run, "seed": seed, "score": score}
            found.append(row | {"points": score - baseline.get(seed, math.nan)})
    return pd.DataFrame(found, columns=["psi", "run", "seed", "score", "points"])


def _own_places(prefix: str) -> dict[str, float]:
    return {f"{prefix}-i": OWN_PSI, f"{prefix}-{BASELINE}": 1.0}


def psi_finding(points: pd.DataFrame) -> str:
    """Which psi scores highest, as far as the seeds tell, and what it is worth."""
    by_psi = {psi: own.set_index("seed")["score"] for psi, own in points.groupby("psi")}
    baseline = by_psi.pop(1.0, pd.Series(dtype=float))
    means = {psi: (own - baseline).dropna().mean() for psi, own in by_psi.items()}
    means = {psi: mean for psi, mean in means.items() if not math.isnan(mean)}
    if len(means) < 2:
        return "ψ: nothing to compare yet, fewer than two values were run"
    best, second = sorted(means, key=means.get, reverse=True)[:2]
    lead = (by_psi[best] - baseline).dropna()
    tail = " (one seed)" if len(lead) == 1 else ""
    if arms.compare(by_psi[best], baseline) < 1:
        most = f"best ψ = {best:g}, {spread_text(lead)} points"
        return f"No ψ is clearly above the student alone: {most}{tail}"
    clear = len(lead) > 1 and arms.compare(by_psi[best], by_psi[second]) == 1
    text = f"ψ = {best:g} is best with {spread_text(lead)} points over the student"
    return f"{text}, {'' if clear else 'not '}clearly above ψ = {second:g}{tail}"


def printed_psi(table: PublishedTable) -> dict[float, Figure]:
    """A published sweep by psi; the student alone at 1. Its 0 is the whole map, unlike ours."""
    named = {name: re.fullmatch(r"psi(\d)(\d)", name) for name in table.rows}
    sweep = {int(m[1]) + int(m[2]) / 10: table.rows[name] for name, m in named.items() if m}
    return sweep | ({1.0: table.rows[BASELINE]} if BASELINE in table.rows else {})


def psi_table(
    records: pd.DataFrame,
    published: Mapping[str, PublishedTable] | None = None,
    *,
    prefix: str = "imitation-kitti",
    scale: str | None = None,
) -> Table:
    """The sweep over psi: published beside ours. published: name of a student -> its table."""
    records = arms.one_scale(records, scale)
    points, printed = psi_points(records, prefix=prefix), published or {}
    score = measure.of(records, prefix, next(iter(printed.values()), None))
    sweeps = {name: printed_psi(table) for name, table in printed.items()}
    places = {psi for sweep in sweeps.values() for psi in sweep} | set(points["psi"])
    numbers, shown = [], []
    for psi in sorted(places | {OWN_PSI, 1.0}):
        here = points[points["psi"] == psi]
        own, lead = Spread.of(here["score"]), Spread.of(here["points"])
        row = {"psi": psi}
        text = {"ψ": f"{psi:g}" + (" (student alone)" if psi == 1 else "")}
        for name, sweep in sweeps.items():
            figure = sweep.get(psi)
            row[f"published: {name}"] = figure.value if figure else math.nan
            text[f"published: {name}"] = figure.text if figure else "–"
        row |= {score.key: own.mean, f"{score.key}_sd": own.sd, "n": own.n}
        row |= {"points": lead.mean, "points_sd": lead.sd}
        ours = spread_text(own, sign=False) if own.n else NOT_RUN
        text |= {f"ours: {score.name} %": ours, "n": str(own.n)}
        text[f"points over {FAMILY.over}"] = spread_text(lead) if psi < 1 else "–"
        numbers.append(row)
        shown.append(text)
    lines = ["Published at ψ = 0: the whole map. Ours: the cells of which an anchor touches a box."]
    lines += [note for table in printed.values() for note in table.notes()]
    used = records[records["run"].isin(set(points["run"]))]
    lines = tuple(dict.fromkeys([*lines, f"Records: {notes.origin(used)}"]))
    title = "Width of the region: share ψ of the best overlap"
    return Table(title, pd.DataFrame(numbers), pd.DataFrame(shown), lines)
