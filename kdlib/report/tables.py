"""Tables of function matching: published beside replicated, and the points of the curves.

Scores are percentages, differences are points, KL is in nats, spread is the sample standard
deviation over seeds. What has no record is shown as "not run".
"""

import math
from collections.abc import Iterable, Mapping

import pandas as pd

from kdlib.report import arms, measure, notes, starts
from kdlib.report.arms import ARMS, LABELS, Spread, spread_text
from kdlib.report.measure import Measure
from kdlib.report.published import PublishedTable
from kdlib.report.render import Table

NOT_RUN = "not run"
COMPACT = (
    "",
    "published {name}",
    "published gap recovered",
    "ours: {name} %",
    "n",
    "points over (1)",
    "gap recovered",
    "agreement, reported split: pixels %",
    "agreement, reported split: {name} %",
)
POOL_SIZES = (0, 4, 16, 64, 400)  # unlabelled images, as multiples of the labelled ones
# Families of runs whose data the paper has no table of -> the title of ours.
TITLES = {
    "funmatch-camvid": "CamVid, a released ESPNet as the teacher",
    "funmatch-camvidown": "CamVid, a teacher of our own that knows the same labels",
}
# Name -> share of the arms' own steps.
SCHEDULES = {"quarter": 0.25, "half": 0.5, "one": 1.0, "double": 2.0}


def function_matching_table(
    records: pd.DataFrame,
    published: PublishedTable | None = None,
    *,
    prefix: str = "funmatch-seg",
    scale: str | None = None,
    compact: bool = False,
    title: str | None = None,
) -> Table:
    """Teacher, supervised, distilled, function matching: published beside ours.

    records: of `read_records`. published: None where nothing is published (CamVid). prefix: the
    runs are `<prefix>-teacher`, `-start`, `-supervised`, `-distil`, `-matching` and, as controls,
    `-supervised-double`, `-supervised-triple`. compact: four rows and the columns of the finding.

    Gap recovered is (student - supervised) / (teacher - supervised), taken for each seed; it is
    "not meaningful" where the gap is below 1 point in some seed or changes its sign.
    """
    records = arms.one_scale(records, scale)
    found = arms.scores(records, prefix)
    score = measure.of(records, prefix, published)
    agreement = score.shown_agreement(records, prefix)
    # Three times the steps is a further control that no run of params.yaml makes by itself.
    full = [name for name in LABELS if name != "supervised-triple" or len(found[name])]
    names = ("teacher", *ARMS) if compact else tuple(full)
    frame = pd.DataFrame(
        [_row(records, found, name, prefix, published, score, agreement) for name in names]
    )
    shown = pd.DataFrame([_shown(row, score, agreement) for row in frame.to_dict("records")])
    if published is None:
        shown = shown.drop(columns=[f"published {score.name}", "published gap recovered"])
    if compact:
        columns = [column.format(name=score.name) for column in COMPACT]
        shown = shown[[column for column in columns if column in shown]]
    used = records[records["run"].isin([f"{prefix}-{name}" for name in names])]
    if not title:
        title = f"{published.title}: published and replicated" if published else TITLES.get(prefix)
    lines = [
        "Ours: mean ± standard deviation over n seeds. Gap recovered = (student − (1)) / "
        "(teacher − (1)), taken for each seed; over 100 % means above the teacher.",
        notes.levels(len(found[name]) for name in names if name not in arms.SHARED),
        *_notes(records, found, prefix),
    ]
    lines = notes.footnotes(lines, shown, used, published, names)
    return Table(title or prefix, frame, shown, lines)


def _row(
    records: pd.DataFrame,
    found: dict[str, pd.Series],
    name: str,
    prefix: str,
    published: PublishedTable | None,
    score: Measure,
    agreement: Mapping[str, tuple[str, int, int]],
) -> dict:
    run = f"{prefix}-{name}"
    figure = published.rows.get(name) if published else None
    own = Spread.of(100 * arms.by_seed(records, run))
    row = {
        "row": name,
        f"published_{score.key}": figure.value if figure else math.nan,
        "published_gap": published.gap_recovered(name) if figure else math.nan,
        "published_text": figure.text if figure else "–",
        score.key: own.mean,
        f"{score.key}_sd": own.sd,
        "n": own.n,
    }
    student = name not in ("teacher", "supervised")
    lead = found[name] - found["supervised"] if name != "supervised" else pd.Series(dtype=float)
    lead = Spread.of(lead)
    gap = arms.gap_recovered(found["teacher"], found["supervised"], found[name])
    row |= {"points": lead.mean, "points_sd": lead.sd, "points_n": lead.n}
    row |= {"gap": math.nan, "gap_sd": math.nan, "gap_n": 0, "gap_note": ""}
    if student:
        row |= {"gap": gap.spread.mean, "gap_sd": gap.spread.sd, "gap_n": gap.spread.n}
        row["gap_note"] = gap.why
    for column, (_, factor, _) in agreement.items():
        value = Spread.of(factor * arms.by_seed(records, run, column))
        row |= {column: value.mean, f"{column}_sd": value.sd, f"{column}_n": value.n}
    row["wall_min"] = Spread.of(arms.by_seed(records, run, "wall_s") / 60).mean
    row["steps"] = Spread.of(arms.by_seed(records, run, "steps")).mean
    row["samples_seen"] = Spread.of(arms.by_seed(records, run, "samples_seen")).mean
    return row


def _shown(
    row: dict, score: Measure, agreement: Mapping[str, tuple[str, int, int]]
) -> dict[str, str]:
    own = Spread(row[score.key], row[f"{score.key}_sd"], row["n"])
    ran = row["n"] > 0
    gap = spread_text(Spread(row["gap"], row["gap_sd"], row["gap_n"]), 0, sign=False)
    if row["gap_note"]:
        gap = NOT_RUN if row["gap_note"] == "not run" else "not meaningful"
    published_gap = row["published_gap"]
    derived = row["row"] in ("distil", "matching") and not pd.isna(published_gap)
    shown = {
        "": LABELS[row["row"]],
        f"published {score.name}": row["published_text"],
        "published gap recovered": f"{published_gap:.0f} %" if derived else "–",
        f"ours: {score.name} %": spread_text(own, sign=False),
        "n": str(row["n"]),
        "points over (1)": spread_text(Spread(row["points"], row["points_sd"], row["points_n"])),
        "gap recovered": f"{gap} %" if gap[-1:].isdigit() else gap,
    }
    for column, (heading, _, digits) in agreement.items():
        value = Spread(row[column], row[f"{column}_sd"], row[f"{column}_n"])
        shown[heading] = spread_text(value, digits, sign=False)
    shown[notes.WALL_HEADING] = f"{row['wall_min']:.1f}" if ran else "–"
    shown["steps"] = f"{row['steps']:,.0f}" if ran else "–"
    shown["samples seen"] = f"{row['samples_seen']:,.0f}" if ran else "–"
    if not ran:
        shown |= {f"ours: {score.name} %": NOT_RUN, "gap recovered": "–"}
    return shown


def _notes(records: pd.DataFrame, found: dict[str, pd.Series], prefix: str) -> list[str]:
    """Whether the comparison is fair, and what stands for several seeds."""
    lines = []
    gap = arms.gap_recovered(found["teacher"], found["supervised"], found["supervised"])
    if not gap.meaningful and gap.why != "not run":
        lines.append(f"Gap recovered is not meaningful here: {gap.why}.")
    lines += [starts.budget(records, prefix), notes.validity(found)]
    for name in arms.SHARED:
        seeds = len(arms.by_seed(records, f"{prefix}-{name}"))
        if seeds == 1 and len(found[name]) > 1:
            lines.append(f"One {LABELS[name]} for all seeds.")
    return lines


def curve_runs(kind: str, prefix: str) -> list[tuple[str, float, str]]:
    """(arm, x, run) of every point of a curve: kind "pool" or "schedule".

    pool: x = unlabelled images as a multiple of the labelled ones; 0 is distillation on the
    labelled images, the largest is function matching on the whole pool. schedule: x = multiple of
    the arms' steps.
    """
    if kind == "pool":
        middle = [("matching", float(x), f"{prefix}-matching-x{x}") for x in POOL_SIZES[1:-1]]
        first = ("matching", float(POOL_SIZES[0]), f"{prefix}-distil")
        return [first, *middle, ("matching", float(POOL_SIZES[-1]), f"{prefix}-matching")]
    if kind == "schedule":
        return [
            (arm, x, f"{prefix}-{arm}" + ("" if name == "one" else f"-{name}"))
            for arm in ARMS
            for name, x in SCHEDULES.items()
        ]
    raise ValueError(f"unknown curve {kind!r}; known: pool, schedule")


def curve_points(
    records: pd.DataFrame, kind: str, *, prefix: str = "funmatch-seg", scale: str | None = None
) -> pd.DataFrame:
    """The points of a curve, one row for each seed that was run: arm, x, run, seed, and metrics.

    Metrics: `score` and the measures of agreement, in shown units. Where the records tell how many
    images were drawn from, x of the pool curve is their ratio, not the one that a run is named for.
    """
    records = arms.one_scale(records, scale)
    agreement = measure.of(records, prefix).agreement
    rows = []
    for arm, x, run in curve_runs(kind, prefix):
        for record in records[records["run"] == run].to_dict("records"):
            row = {"arm": arm, "x": _pool_ratio(record, x) if kind == "pool" else x, "nominal": x}
            row |= {"run": run, "seed": record["seed"], "steps": record["steps"]}
            row["score"] = 100 * record.get("score", math.nan)
            for column, (_, factor, _) in agreement.items():
                row[column] = factor * record.get(column, math.nan)
            rows.append(row)
    columns = ["arm", "x", "nominal", "run", "seed", "steps", "score", *agreement]
    return pd.DataFrame(rows, columns=columns)


def _pool_ratio(record: dict, nominal: float) -> float:
    labels, images = record.get("labels", math.nan), record.get("images", math.nan)
    return nominal if pd.isna(labels) or pd.isna(images) else (images - labels) / labels


def curve_table(
    records: pd.DataFrame, kind: str, *, prefix: str = "funmatch-seg", scale: str | None = None
) -> Table:
    """The points of a curve as a table: score, points over (1) of the same seed, agreement, KL."""
    records = arms.one_scale(records, scale)
    points = curve_points(records, kind, prefix=prefix)
    measured = measure.of(records, prefix)
    agreement = measured.shown_agreement(records, prefix)
    supervised = 100 * arms.by_seed(records, f"{prefix}-supervised")
    rows, shown = [], []
    for arm, x, run in curve_runs(kind, prefix):
        here = points[(points["run"] == run) & (points["arm"] == arm)].set_index("seed")
        score, lead = Spread.of(here["score"]), Spread.of((here["score"] - supervised).dropna())
        row = {"arm": arm, "x": here["x"].iloc[0] if len(here) else x, "run": run}
        row |= {"n": score.n, measured.key: score.mean, f"{measured.key}_sd": score.sd}
        row |= {"points": lead.mean, "points_sd": lead.sd, "steps": here["steps"].mean()}
        unit = f"{row['x']:.3g}×"
        text = {"": LABELS["distil" if run.endswith("-distil") else arm], _heading(kind): unit}
        text[f"{measured.name} %"] = spread_text(score, sign=False) if score.n else NOT_RUN
        text |= {"n": str(score.n), "points over (1)": spread_text(lead)}
        for column, (heading, _, digits) in agreement.items():
            value = Spread.of(here[column])
            row |= {column: value.mean, f"{column}_sd": value.sd}
            text[heading] = spread_text(value, digits, sign=False)
        text["steps"] = f"{row['steps']:,.0f}" if score.n else "–"
        rows.append(row)
        shown.append(text)
    used = records[records["run"].isin(_runs(kind, prefix))]
    lines = [
        "Mean ± standard deviation over n seeds; (1) = supervised at the arms' own length.",
        notes.levels(row["n"] for row in rows),
    ]
    title = {"pool": "Number of unlabelled images", "schedule": "Length of training"}[kind]
    shown = pd.DataFrame(shown)
    return Table(title, pd.DataFrame(rows), shown, notes.footnotes(lines, shown, used))


def _heading(kind: str) -> str:
    return "unlabelled / labelled images" if kind == "pool" else "length of training"


def _runs(kind: str, prefix: str) -> Iterable[str]:
    return [run for _, _, run in curve_runs(kind, prefix)] + [f"{prefix}-supervised"]
