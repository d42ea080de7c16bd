"""Function matching with boxes: which cells count, our rule beside two published neighbours'.

Fact sheet function_matching, section 2.3; the paper's own is not known. `<prefix>-matching` weighs
cells by the teacher's evidence of an object; `<prefix>-matching-top` and `-difference` take the
neighbours' rules. Scores are percentages, differences are points and paired by seed.
"""

from types import MappingProxyType

import pandas as pd

from kdlib.report import arms, measure, notes
from kdlib.report.arms import Spread, each_text
from kdlib.report.render import Table
from kdlib.report.tables import NOT_RUN

ROWS = MappingProxyType(
    {
        "supervised": "(1) supervised",
        "matching": "the teacher's evidence of an object (ours, of the table)",
        "matching-top": "its surest 1 % of cells (Dense Teacher)",
        "matching-difference": "how far the two differ (BCKD)",
    }
)
OVER, BESIDE = "points over (1)", "points over the first rule"


def weighting_table(
    records: pd.DataFrame, *, prefix: str = "funmatch-det", scale: str | None = None
) -> Table:
    """One line for each rule by which cells count, below the supervised student."""
    records = arms.one_scale(records, scale)
    score = measure.of(records, prefix)
    agreement = {
        column: facts
        for column, facts in score.shown_agreement(records, prefix).items()
        if column.startswith("val.")
    }
    found = {name: 100 * arms.by_seed(records, f"{prefix}-{name}") for name in ROWS}
    nothing = pd.Series(dtype=float)
    numbers, shown = [], []
    for name, label in ROWS.items():
        spread = Spread.of(found[name])
        row = {"rule": name, score.key: spread.mean, f"{score.key}_sd": spread.sd, "n": spread.n}
        ran = each_text(found[name], sign=False) if spread.n else NOT_RUN
        text = {"which cells count": label, f"ours: {score.name} %": ran, "n": str(spread.n)}
        for key, heading, rival in (("points", OVER, "supervised"), ("beside", BESIDE, "matching")):
            apart = name not in (rival, "supervised")
            values = found[name] - found[rival] if apart else nothing
            lead = Spread.of(values)
            row |= {key: lead.mean, f"{key}_sd": lead.sd}
            text[heading] = each_text(values)
        for column, (heading, factor, digits) in agreement.items():
            values = factor * arms.by_seed(records, f"{prefix}-{name}", column)
            alike = Spread.of(values)
            row |= {column: alike.mean, f"{column}_sd": alike.sd}
            text[heading] = each_text(values, digits, sign=False)
        numbers.append(row)
        shown.append(text)
    used = records[records["run"].isin([f"{prefix}-{name}" for name in ROWS])]
    lines = [
        "Two seeds are told one by one." if 2 in {row["n"] for row in numbers} else "",
        "Both neighbours with our three terms at equal weight and the teacher of this table; their "
        "papers weigh the terms otherwise, and BCKD learns from labels as well.",
        notes.budget(records, prefix, ROWS, noun="All four"),
        notes.levels(row["n"] for row in numbers),
    ]
    shown = pd.DataFrame(shown)
    title = "Function matching with boxes: which cells count"
    return Table(title, pd.DataFrame(numbers), shown, notes.footnotes(lines, shown, used))


def weighting_finding(
    records: pd.DataFrame, *, prefix: str = "funmatch-det", scale: str | None = None
) -> str:
    """What each neighbour's rule is worth against ours."""
    records = arms.one_scale(records, scale)
    ours = 100 * arms.by_seed(records, f"{prefix}-matching")
    told = []
    for name, said in (
        ("matching-top", "the surest 1 % of cells"),
        ("matching-difference", "how far the two differ"),
    ):
        own = 100 * arms.by_seed(records, f"{prefix}-{name}")
        if len((own - ours).dropna()):
            told.append(f"{said} {arms.change_text(own, ours, len(ours))}")
    if not told:
        return "Which cells count: no other rule was run"
    return f"Points against the teacher's evidence as the weight: {', '.join(told)}"
