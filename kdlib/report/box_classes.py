"""FCOS under function matching, class by class and size by size, as a table.

BDD100K's mean over ten classes jumps with its rarest, the train, so the mean without it stands
beside the mean with it. Scores are percentages, spread is the sample standard deviation over seeds.
"""

import pandas as pd

from kdlib.report import arms, notes
from kdlib.report.arms import ARMS, LABELS, Spread, spread_text
from kdlib.report.render import Table

WITHOUT = "val.map_without_"
SIZES = {  # COCO's measures of one record -> heading
    "val.map": "mAP",
    "val.map_50": "mAP at IoU 0.5",
    "val.map_small": "small",
    "val.map_medium": "medium",
    "val.map_large": "large",
}
CLASSES = "val.ap."


def class_table(
    records: pd.DataFrame, *, prefix: str = "funmatch-det", scale: str | None = None
) -> Table:
    """A line for each measure and class, a column for the teacher and each way.

    What no record of these runs has is left out.
    """
    records = arms.one_scale(records, scale)
    names = ("teacher", *ARMS)
    used = records[records["run"].isin([f"{prefix}-{name}" for name in names])]
    found = used.dropna(axis=1, how="all")
    lines = {column: text for column, text in SIZES.items() if column in found}
    without = {c: f"mAP without {c.removeprefix(WITHOUT)}" for c in found if c.startswith(WITHOUT)}
    place = 1 if "val.map" in lines else 0  # behind the mean over all
    lines = dict([*list(lines.items())[:place], *without.items(), *list(lines.items())[place:]])
    lines |= {c: c.removeprefix(CLASSES) for c in found if c.startswith(CLASSES)}
    numbers, shown = [], []
    for column, label in lines.items():
        row, text = {"measure": column.removeprefix("val.")}, {"": label}
        for name in names:
            own = Spread.of(100 * arms.by_seed(found, f"{prefix}-{name}", column))
            row |= {name: own.mean, f"{name}_sd": own.sd, f"{name}_n": own.n}
            text[LABELS[name]] = spread_text(own, sign=False)
        numbers.append(row)
        shown.append(text)
    said = [
        "mAP and AP in %: mean ± standard deviation over seeds. Small, medium, large: boxes below "
        "32 x 32 pixels of the stored picture, up to 96 x 96, and above.",
    ]
    shown = pd.DataFrame(shown)
    return Table(
        "Class by class, size by size",
        pd.DataFrame(numbers),
        shown,
        notes.footnotes(said, shown, used),
    )
