"""The score that a task is judged by, and how tables and figures speak of it.

Pixels are judged by mIoU, boxes by mAP, lanes by F1 or, in LLAMAS, by mAP. Which one a family of
runs has is read from its records.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import pandas as pd

from kdlib.report.published import PublishedTable

SPLITS = {"val": "reported split", "heldout": "held-out frames"}


@dataclass(frozen=True)
class Measure:
    """name: in headings; key: in columns of numbers; each: the score of one class, whose columns in
    the records start with `classes`; agreement: column -> (heading, factor to the shown unit,
    digits); alike: the agreement that figures show, without its split, and `alike_text` its words;
    optional: agreement that no record of a family has is left out of the family's tables.
    """

    name: str
    key: str
    each: str
    classes: str
    agreement: Mapping[str, tuple[str, int, int]]
    alike: str
    alike_text: str
    alike_axis: str
    optional: bool

    def shown_agreement(
        self, records: pd.DataFrame, prefix: str
    ) -> dict[str, tuple[str, int, int]]:
        """The agreement that tables of this family of runs show."""
        family = records[of_family(records, prefix)]
        known = {column for column in self.agreement if _any(family, column)}
        kept = known if self.optional and known else set(self.agreement)
        return {column: facts for column, facts in self.agreement.items() if column in kept}


def _agreement(**facts: tuple[str, int, int]) -> Mapping[str, tuple[str, int, int]]:
    return MappingProxyType(
        {
            f"{split}.agreement.{name}": (heading.format(where), factor, digits)
            for split, where in SPLITS.items()
            for name, (heading, factor, digits) in facts.items()
        }
    )


MIOU = Measure(
    name="mIoU",
    key="miou",
    each="IoU",
    classes="val.iou.",
    agreement=_agreement(
        pixel=("agreement, {}: pixels %", 100, 1),
        miou=("agreement, {}: mIoU %", 100, 1),
        kl=("KL, {}: nats", 1, 3),
    ),
    alike="agreement.pixel",
    alike_text="pixels equal to the teacher's, %",
    alike_axis="pixels that agree with the teacher",
    optional=False,
)
MAP = Measure(
    name="mAP",
    key="map",
    each="AP",
    classes="val.ap.",
    agreement=_agreement(
        map=("agreement, {}: mAP %", 100, 1),
        map_50=("agreement, {}: mAP at IoU 0.5, %", 100, 1),
        box_iou=("IoU of boxes, {}: %", 100, 1),
        kl=("KL of scores, {}: nats a cell", 1, 4),
    ),
    alike="agreement.map",
    alike_text="mAP with the teacher's boxes as truth, %",
    alike_axis="mAP with the teacher's boxes as truth",
    optional=True,
)
# Lanes are found in classes of pixels, so agreement is that of pixels; `each` is of a scenario.
F1 = replace(MIOU, name="F1", key="f1", each="F1", classes="val.scenarios.", optional=True)
MEASURES = MappingProxyType({measure.name: measure for measure in (MIOU, MAP, F1)})


def of(records: pd.DataFrame, prefix: str, published: PublishedTable | None = None) -> Measure:
    """The measure of the runs `<prefix>-...`; of nothing that was run, the published table's.

    Raises ValueError where runs of one family are judged by different measures.
    """
    found = set()
    if "measure" in records:
        found = set(records.loc[of_family(records, prefix), "measure"].dropna())
    if len(found) > 1:
        raise ValueError(f"runs {prefix}-... have {' and '.join(sorted(found))}; one is needed")
    name = found.pop() if found else published.metric if published else MIOU.name
    return MEASURES[name]


def of_family(records: pd.DataFrame, prefix: str) -> pd.Series:
    """True for the runs `<prefix>-...`."""
    return records["run"].astype(str).str.startswith(f"{prefix}-")


def _any(records: pd.DataFrame, column: str) -> bool:
    return column in records and bool(records[column].notna().any())
