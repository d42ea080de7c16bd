"""What the records show, in words that follow the numbers whichever way they fall.

Titles of figures come from here, so that no title can claim what its figure does not show.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kdlib.report import arms
from kdlib.report.arms import ARMS, LABELS, SHORT


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
    tail = " (one seed)" if n == 1 else ""
    lead = (matching - supervised).dropna()
    if not gap.meaningful:
        text = f"function matching {arms.spread_text(lead)} points over supervised training"
        return f"No gap to recover: {gap.why}; {text}{tail}"
    if arms.limited_by_training(found):
        share = arms.control_share(found).mean
        return f"Not a fair test: longer supervised training alone closes {share:.0f} % of the gap"
    if arms.compare(matching, supervised) < 0:
        return f"Function matching ends {-lead.mean():.1f} points below supervised training{tail}"
    if arms.compare(matching, supervised) == 0:
        return (
            f"Function matching and supervised training tie ({arms.spread_text(lead)} points){tail}"
        )
    recovered = f"Function matching recovers {gap.spread.mean:.0f} % of the gap"
    other = arms.gap_recovered(teacher, supervised, distil)
    if not other.meaningful:
        return recovered + tail
    share = f"{other.spread.mean:.0f} %".replace("-", "−")
    if arms.compare(matching, distil) > 0:
        return f"{recovered}; distillation on the labelled images alone {share}{tail}"
    if arms.compare(matching, distil) < 0:
        return f"{recovered}, but distillation on the labelled images alone {share}{tail}"
    return f"{recovered}, no clear lead over distillation on labelled images ({share}){tail}"


def agreement_finding(agreement: Mapping[str, pd.Series]) -> str:
    """Who agrees most with the teacher, as far as the seeds tell."""
    known = [name for name in ARMS if len(agreement.get(name, ()))]
    if len(known) < 2:
        return "Agreement with the teacher"
    if "matching" in known:
        others = [name for name in known if name != "matching"]
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
                factor = table.columns[-1] / table.columns[0]
                changes[arm] = (ends.iloc[:, -1], ends.iloc[:, 0], factor)
    if not changes:
        return "Nothing to compare yet: fewer than two points were run"
    if kind == "pool":
        last, first, _ = changes["matching"]
        rows = points[points["arm"] == "matching"]
        low, high = (rows.loc[rows["seed"].isin(last.index), "x"].agg(f) for f in ("min", "max"))
        change = arms.spread_text(last - first)
        sign = arms.compare(last, first)
        span = f"from {low:.3g}× to {high:.3g}× the labelled images"
        words = {
            1: f"More unlabelled frames help: {change} {score} points {span}",
            0: f"More unlabelled frames do not clearly help: {change} {score} points {span}",
            -1: f"More unlabelled frames hurt: {change} {score} points {span}",
        }
        return words[sign] + (" (one seed)" if len(last) == 1 else "")
    factor = max(f for _, _, f in changes.values())
    listed = [
        f"{SHORT[arm]} {arms.spread_text(last - first)}"
        for arm, (last, first, _) in reversed(changes.items())
    ]
    one = " (one seed)" if all(len(last) == 1 for last, _, _ in changes.values()) else ""
    return f"{factor:g}× the steps change {score} by: {', '.join(listed)} points{one}"


def _same_lengths(points: pd.DataFrame) -> pd.DataFrame:
    """Only the lengths that every arm with a curve was run at, so that one factor fits them all."""
    lengths = [set(rows["nominal"]) for _, rows in points.groupby("arm")]
    curves = [of for of in lengths if len(of) > 1]
    common = set.intersection(*curves) if curves else set()
    return points[points["nominal"].isin(common)] if len(common) > 1 else points


def class_finding(means: pd.DataFrame, each: str = "IoU") -> str:
    """In how many classes function matching is above labels alone."""
    both = means[["supervised", "matching"]].dropna()
    if both.empty:
        return f"{each} of each class: not run yet"
    better = int((both["matching"] > both["supervised"]).sum())
    return f"Function matching is above supervised training in {better} of {len(both)} classes"


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
