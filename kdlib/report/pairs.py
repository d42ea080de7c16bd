"""Feature imitation's larger detectors, a pair of teacher and student per row.

Fact sheet feature_imitation, section 6: what the paper prints for Faster R-CNN on VOC07 and COCO
beside what was run here; a pair without records says "not run". The rule that gives boxes to the
levels of a pyramid was never told, so that pair has a row for each of ours, the published figures
beside the default. Scores are percentages, points are paired by seed, spread is the sample standard
deviation over seeds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd

from kdlib.report import arms, notes, rows
from kdlib.report.arms import Spread, spread_text
from kdlib.report.measure import MAP
from kdlib.report.published import PublishedTable
from kdlib.report.render import Table
from kdlib.report.tables import NOT_RUN

STEPS = MappingProxyType({"teacher": "teacher", "baseline": "student alone", "i": "with I"})


@dataclass(frozen=True)
class Pair:
    """A row.

    label: of the row; prefix: of its runs; taught_by: the run that teaches, where another's;
    variant: what the imitating run's name ends with, where the pair has several.
    """

    label: str
    prefix: str
    taught_by: str = ""
    variant: str = ""

    def run(self, step: str) -> str:
        """The run of a step of `STEPS`."""
        if step == "teacher" and self.taught_by:
            return self.taught_by
        return f"{self.prefix}-{step}" + self.variant * (step == "i")


# by the names of the published tables; variants of our own have none
PAIRS = MappingProxyType(
    {
        "voc07-vgg11": Pair("VOC07: VGG16 → VGG11", "imitation-voc-vgg11"),
        "voc07-res101h": Pair("VOC07: R101 → R101, half the channels", "imitation-voc-r101h"),
        "voc07-res50": Pair(
            "VOC07: R101 → R50", "imitation-voc-r50", "imitation-voc-r101h-teacher"
        ),
        "coco-res101h": Pair("COCO: R101 → R101, half the channels", "imitation-coco-r101h"),
        "coco-res50h-fpn": Pair("COCO: FPN R50 → R50, half the channels", "imitation-coco-r50h"),
        "coco-res50h-fpn-anchors": Pair(
            "the same, boxes to the levels whose anchors see them best",
            "imitation-coco-r50h",
            variant="-anchors",
        ),
        "coco-res50h-fpn-every": Pair(
            "the same, boxes to every level", "imitation-coco-r50h", variant="-every"
        ),
    }
)


def pairs_table(
    records: pd.DataFrame,
    published: Mapping[str, PublishedTable],
    *,
    scale: str | None = None,
    pairs: Mapping[str, Pair] = PAIRS,
) -> Table:
    """Every pair: teacher, student alone and student with I, published and ours.

    Args:
        records: of `read_records`.
        published: the paper's tables by name; those of `pairs` are read.
        scale: whose records; None where there is only one.
        pairs: name of a published table, or of a variant without one -> its runs.
    """
    records = arms.one_scale(records, scale)
    lines = [_row(records, n, p, None if p.variant else published[n]) for n, p in pairs.items()]
    used = records[records["run"].isin({pair.run(s) for pair in pairs.values() for s in STEPS})]
    said = ["Ours: mean ± standard deviation over n seeds; points are taken seed by seed."]
    if used.empty:
        said = ["None of these pairs was run here; the README says how (Real data)."]
    elif not (used["scale"] == "paper").all():
        said.append("Ours: on simulated KITTI, not on VOC07 or COCO.")
    for name, pair in pairs.items():
        said += () if pair.variant else published[name].notes(STEPS)
    frame, shown = (pd.DataFrame(part) for part in zip(*lines, strict=True))
    said.append(notes.levels([*frame["baseline_n"], *frame["i_n"]]))
    said = notes.footnotes(dict.fromkeys(said), shown, used)
    return Table("Pairs of Faster R-CNN", frame, shown, said)


def _row(
    records: pd.DataFrame, name: str, pair: Pair, table: PublishedTable | None
) -> tuple[dict, dict]:
    """Numbers and text of a pair."""
    printed = {} if table is None else table.rows
    found = {step: 100 * arms.by_seed(records, pair.run(step)) for step in STEPS}
    row, text = {"pair": name}, {"": pair.label}
    for step, label in STEPS.items():
        figure = printed.get(step)
        row[f"published_{step}"] = figure.value if figure else math.nan
        text[f"published: {label}"] = figure.text if figure else "–"
    row["published_points"] = rows.published_points(printed, "i")
    text["published: points"] = rows.points_text(row["published_points"])
    for step, label in STEPS.items():
        own = Spread.of(found[step])
        row |= {step: own.mean, f"{step}_sd": own.sd, f"{step}_n": own.n}
        text[f"ours: {label}, {MAP.name} %"] = spread_text(own, sign=False) if own.n else NOT_RUN
    points = Spread.of(found["i"] - found["baseline"])
    row |= {"points": points.mean, "points_sd": points.sd, "points_n": points.n}
    text |= {"ours: points": spread_text(points), "n": str(points.n)}
    return row, text
