"""Structured distillation, term by term: tables, the finding, figures; published beside ours.

A row is a run: `<prefix>-baseline` learns from the labels alone, each further row adds one term.
Scores are percentages, differences are points and paired by seed, spread is the sample standard
deviation over seeds. What has no record is shown as "not run".
"""

from collections.abc import Mapping
from types import MappingProxyType

import pandas as pd

from kdlib.report import arms, notes, rows, starts
from kdlib.report.arms import spread_text
from kdlib.report.measure import MIOU
from kdlib.report.published import PublishedTable
from kdlib.report.render import Table
from kdlib.report.rows import Family

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
TICKS = MappingProxyType(
    {
        "baseline": "labels\nalone",
        "pi": "+ pixel-\nwise",
        "pi-pa": "+ pair-\nwise",
        "pi-pa-ho": "+ holistic",
    }
)
FAMILY = Family(ROWS, TICKS, "labels alone")
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
    return rows.scores(records, prefix, names)


def finding(records: pd.DataFrame, *, prefix: str = "structured", scale: str | None = None) -> str:
    """What the records show, in one sentence that follows the numbers, whichever way they fall.

    The last row that was run against the baseline, then each term against the row above it; "tie"
    by the rule of `arms.compare`. Of fewer than three seeds the numbers and no verdict.
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
    if len(lead) < arms.VERDICT:
        text = f"{who} {spread_text(lead)} points over labels alone"
    if len(ran) > 1:
        text += f": {', '.join(_step(found, name, len(lead)) for name in ran)}"
    return text + rows.room_text(found, FAMILY.over) + arms.seeds_note(len(lead))


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
    frame, shown = rows.numbers_and_text(
        records, found, labels, printed, prefix, above, MIOU, FAMILY.over
    )
    if compact:
        shown = shown[[column for column in COMPACT if column in shown]]
    lines = [
        "Ours: mean ± standard deviation over n seeds; points are taken seed by seed.",
        notes.levels(len(found[name]) for name in ROWS),
        starts.budget(records, prefix, dict(ROWS), "All four rows"),
    ]
    if len(arms.by_seed(records, f"{prefix}-teacher")) == 1 and len(found["teacher"]) > 1:
        lines.append("One teacher for all seeds.")
    used = records[records["run"].isin([f"{prefix}-{name}" for name in labels])]
    title = "Structured distillation, term by term"
    title += f" (published: {published.title})" if published else ""
    lines = notes.footnotes(lines, shown, used, published, labels)
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
    frame, shown = rows.numbers_and_text(
        records, found, labels, printed, prefix, above, MIOU, FAMILY.over
    )
    shown = shown.rename(columns={"points over the row above": "points by what the row adds"})
    used = records[records["run"].isin([f"{prefix}-{name}" for name in labels])]
    students = used[used["run"] != f"{prefix}-teacher"]
    lines = [
        "Ours: mean ± standard deviation over n seeds; points are taken seed by seed. What a row "
        "adds: a term, or in the last two rows the unlabelled images.",
        notes.levels(len(found[name]) for name in names),
        starts.budget(records, prefix, {name: labels[name] for name in names}, "All five rows"),
    ]
    if len(students):
        steps = " and ".join(f"{int(n):,}" for n in sorted(students["steps"].unique()))
        lines.append(
            f"Ours: {steps} steps (scale {', '.join(students['scale'].unique())}) from random "
            "weights, taught by a released ESPNet, unlabelled images from two clips. Theirs: "
            "length not known, taught by a PSPNet-R101, unlabelled images from Cityscapes."
        )
    lines = notes.footnotes(lines, shown, used, published, [row for row, _ in CAMVID.values()])
    return Table("CamVid, ESPNet-C", frame, shown, lines)


def printed_table(tables: Mapping[str, PublishedTable]) -> Table:
    """The published ablations side by side: name of a column -> its table."""
    return rows.printed_table(tables, {"teacher": "teacher", **ROWS}, FAMILY.over)


def _step(found: Mapping[str, pd.Series], name: str, n: int) -> str:
    """`pair-wise +0.4 ± 0.2`: what a term adds to the row above it; n: seeds of the sentence."""
    above = list(ROWS)[list(ROWS).index(name) - 1]
    if not len((found[name] - found[above]).dropna()):
        return f"{ADDED[name]} not compared"
    return f"{ADDED[name]} {arms.change_text(found[name], found[above], n)}"
