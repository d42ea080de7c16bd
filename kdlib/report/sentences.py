"""What the records show, in words that follow the numbers whichever way they fall.

Titles of figures come from here, so that no title can claim what its figure does not show.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kdlib.report import arms
from kdlib.report.arms import ARMS, LABELS, SHORT

NOTHING = "Nothing to compare yet"


def finding(found: dict[str, pd.Series]) -> str:
    """What the records show, in one sentence that follows the numbers, whichever way they fall."""
    missing = [
        LABELS[name] for name in ("teacher", "supervised", "matching") if not len(found[name])
    ]
    if missing:
        return f"No finding yet: not run: {', '.join(missing)}"
    teacher, supervised, distil, matching = (found[n] for n in ("teacher", *ARMS))
    gap = arms.gap_recovered(teacher, supervised, matching)
    n = len((teacher - supervised + matching).dropna())
    if n == 0:
        return "No finding yet: teacher, (1) and (3) have no seed in common"
    few = arms.seeds_note(n)
    lead = (matching - supervised).dropna()
    if not gap.meaningful:
        text = f"function matching {arms.spread_text(lead)} points over supervised training"
        return f"No gap to recover: {gap.why}; {text}{few}"
    if arms.limited_by_training(found):
        share = arms.control_gap(found).spread
        closes = f"longer supervised training alone closes {_percent(share)} of the gap"
        sure = "Not" if share.n >= arms.VERDICT else "Perhaps not"
        return f"{sure} a fair test: {closes}{arms.seeds_note(share.n)}"
    below = arms.spread_text(-lead, sign=False)
    if arms.compare(matching, supervised) < 0:
        return f"Function matching ends {below} points below supervised training{few}"
    if n >= arms.VERDICT and arms.compare(matching, supervised) == 0:
        return (
            f"Function matching and supervised training tie ({arms.spread_text(lead)} points){few}"
        )
    recovered = f"Function matching recovers {_percent(gap.spread)} of the gap"
    other = arms.gap_recovered(teacher, supervised, distil)
    if not other.meaningful:
        return recovered + few
    share = _percent(other.spread)
    if other.spread.n < n and other.spread.n in arms.FEW:
        share += f", {arms.FEW[other.spread.n]}"
    if other.spread.n >= arms.VERDICT and arms.compare(distil, supervised) == 0:
        share += ", a tie with (1)"
    if min(n, other.spread.n) < arms.VERDICT or arms.compare(matching, distil) > 0:
        return f"{recovered}; distillation on the labelled images alone {share}{few}"
    if arms.compare(matching, distil) < 0:
        return f"{recovered}, but distillation on the labelled images alone {share}{few}"
    return f"{recovered}, no clear lead over distillation on labelled images ({share}){few}"


def _percent(share: arms.Spread) -> str:
    return f"{arms.spread_text(share, 0, sign=False)} %"


def agreement_finding(agreement: Mapping[str, pd.Series]) -> str:
    """Who agrees most with the teacher, as far as the seeds tell."""
    known = [name for name in ARMS if len(agreement.get(name, ()))]
    others = [name for name in known if name != "matching"]
    if len(known) < 2:
        return "Agreement with the teacher"
    if "matching" in known:
        alike = [(agreement["matching"] - agreement[name]).dropna() for name in others]
        if min(map(len, alike)) < arms.VERDICT:
            return "Agreement with the teacher"
        signs = {arms.compare(agreement["matching"], agreement[name]) for name in others}
        if signs == {1}:
            return "Function matching agrees most"
        if 1 not in signs:
            return "Function matching does not agree more"
    return "Agreement: no clear order"


def curve_finding(points: pd.DataFrame, kind: str, score: str = "mIoU") -> str:
    """What the ends of the curve tell, judged seed by seed."""
    if kind == "schedule":
        points = _same_lengths(points)
    changes = {}
    for arm, rows in points.groupby("arm", sort=False):
        table = rows.pivot_table(index="seed", columns="nominal", values="score").sort_index(axis=1)
        table = table.dropna(axis=1, how="all")
        if table.shape[1] > 1:
            ends = table[[table.columns[0], table.columns[-1]]].dropna()
            if len(ends):
                lengths = (table.columns[0], table.columns[-1])
                changes[arm] = (ends.iloc[:, -1], ends.iloc[:, 0], lengths)
    if not changes:
        return f"{NOTHING}: fewer than two points were run"
    if kind == "pool":
        last, first, _ = changes["matching"]
        rows = points[points["arm"] == "matching"]
        low, high = (rows.loc[rows["seed"].isin(last.index), "x"].agg(f) for f in ("min", "max"))
        change = arms.spread_text(last - first)
        sign = arms.compare(last, first)
        span = f"from {low:.3g}× to {high:.3g}× the labelled images"
        few = arms.seeds_note(len(last))
        if len(last) < arms.VERDICT:
            return f"{span.capitalize()}: {change} {score} points{few}"
        words = {
            1: f"More unlabelled frames help: {change} {score} points {span}",
            0: f"More unlabelled frames do not clearly help: {change} {score} points {span}",
            -1: f"More unlabelled frames hurt: {change} {score} points {span}",
        }
        return words[sign] + few
    factor = max(most / least for _, _, (least, most) in changes.values())
    listed = [
        f"{SHORT[arm]} {arms.spread_text(last - first)}"
        for arm, (last, first, _) in reversed(changes.items())
    ]
    few = arms.seeds_note(max(len(last) for last, _, _ in changes.values()))
    return f"{factor:g}× the steps change {score} by: {', '.join(listed)} points{few}"


def _same_lengths(points: pd.DataFrame) -> pd.DataFrame:
    """Only the lengths that every arm with a curve was run at, so that one factor fits them all."""
    lengths = [set(rows["nominal"]) for _, rows in points.groupby("arm")]
    curves = [of for of in lengths if len(of) > 1]
    common = set.intersection(*curves) if curves else set()
    return points[points["nominal"].isin(common)] if len(common) > 1 else points


def class_finding(matching: pd.DataFrame, supervised: pd.DataFrame, each: str = "IoU") -> str:
    """In how many classes function matching is above labels alone, below, or neither.

    matching, supervised: a line for each seed, a column for each class.
    """
    change = (matching - supervised).dropna(axis=1, how="all").mean()
    if change.empty:
        return f"{each} of each class: not run yet"
    if told := arms.parts_text(matching, supervised, "supervised training"):
        return f"Function matching is {told}"
    better = f"{int((change > 0).sum())} of {len(change)} classes"
    return f"Function matching is above supervised training in {better}"


def scatter_finding(points: pd.DataFrame, score: str = "mIoU") -> str:
    """Whether students that agree more score higher: Pearson's r over all students shown."""
    if len(points) < 3 or points["score"].nunique() < 2 or points["agreement"].nunique() < 2:
        return f"Agreement and {score}: too few students to relate them"
    r = float(np.corrcoef(points["agreement"], points["score"])[0, 1])
    text = f"r = {r:.2f}, {len(points)} students".replace("-", "−")
    if r > 0.5:
        return f"Students that agree more with the teacher score higher ({text})"
    if r < -0.5:
        return f"Students that agree more with the teacher score lower ({text})"
    return f"Agreement with the teacher does not tell the score ({text})"
