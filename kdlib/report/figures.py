"""Figures of function matching. Every title is a sentence computed from the records it stands over.

Scores are percentages, spread is the standard deviation over seeds; see `look` for the marks. What
fills the single axes is in `kdlib.report.matching_panels`.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns

from kdlib.report import arms, look, matching_panels, measure, sentences
from kdlib.report.arms import ARMS, SHORT
from kdlib.report.look import Picture, style
from kdlib.report.measure import Measure
from kdlib.report.published import PublishedTable
from kdlib.report.tables import curve_points


def headline(
    records: pd.DataFrame,
    published: PublishedTable | None = None,
    *,
    prefix: str = "funmatch-seg",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Scores of the three ways under the teacher's line; gap recovered, published beside ours;
    agreement with the teacher. The title is `sentences.finding`.
    """
    records = arms.one_scale(records, scale)
    found = arms.scores(records, prefix)
    score = measure.of(records, prefix, published)
    widths = [1.25, 1.0, 1.25] if published else [1.25, 1.25]
    with style():
        figure = look.figure(11.5 if published else 8.6, 4.5)
        axes = figure.subplots(1, len(widths), width_ratios=widths)
        matching_panels.score_panel(axes[0], found, score)
        if published:
            matching_panels.gap_panel(axes[1], found, published)
        matching_panels.agreement_panel(axes[-1], records, prefix, score)
        look.title(figure, sentences.finding(found), note or _seeds(found))
    return figure


def curve(
    records: pd.DataFrame,
    kind: str,
    *,
    prefix: str = "funmatch-seg",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Score and agreement against the number of unlabelled images (kind "pool", logarithmic) or
    against the length of training (kind "schedule"). Of fewer than two points it is not saved.
    """
    records = arms.one_scale(records, scale)
    points = curve_points(records, kind, prefix=prefix)
    found = arms.scores(records, prefix)
    score = measure.of(records, prefix)
    panels = {
        "score": f"{score.name} on the reported split, %",
        f"val.{score.alike}": f"{score.alike_axis}, %",
    }
    with style():
        figure = look.figure(10.5, 4.3)
        for axis, (column, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            lines = list(points.groupby("arm", sort=False))
            for place, (arm, rows) in enumerate(lines):
                look.line(axis, rows, column, arm, shift=1.08 ** (place - (len(lines) - 1) / 2))
            matching_panels.x_axis(axis, points, kind)
            axis.set_title(label)
            sns.despine(ax=axis)
            if kind == "pool":
                own = matching_panels.by_arm(records, prefix, "supervised", column)
                colour = look.COLOURS["supervised"]
                look.reference(axis, own, SHORT["supervised"], colour, beside=True)
            if column == "score":
                colour = look.COLOURS["teacher"]
                look.reference(axis, found["teacher"], "teacher", colour, beside=True)
            look.empty(axis, points[column].notna().any())
        if kind == "schedule" and len(points):
            figure.axes[1].legend(loc="best", fontsize=9)  # the other panel has a reference line
        finding = sentences.curve_finding(points, kind, score.name)
        figure.nothing = finding.startswith(sentences.NOTHING)
        counts = points.groupby(["arm", "nominal"])["seed"].nunique().groupby("arm").nunique()
        uneven = " Lines: the seeds that all points of a curve have." if (counts > 1).any() else ""
        look.title(figure, finding, note or _seeds(found) + uneven)
    return figure


def class_bars(
    records: pd.DataFrame,
    classes: Sequence[str] | None = None,
    *,
    prefix: str = "funmatch-seg",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Score of each class for teacher and the three ways; by the teacher's score, or as given.

    A class that is given and absent from the split has no marks and is named as absent.
    """
    records = arms.one_scale(records, scale)
    names = ("teacher", *ARMS)
    score = measure.of(records, prefix)
    table = {name: class_scores(records, f"{prefix}-{name}", score) for name in names}
    means = pd.DataFrame({name: rows.mean() for name, rows in table.items()}, columns=names)
    if classes is None:
        # The records' other data sets bring classes of their own, which are empty here.
        means = means.dropna(how="all")
        classes = list(means.sort_values("teacher", ascending=False, kind="stable").index)
    means = means.reindex(classes)
    with style():
        figure = look.figure(max(6.5, 1.6 + 0.52 * len(classes)), 4.6)
        axis = figure.subplots()
        middle = np.arange(len(classes))
        width = 0.26
        for i, name in enumerate(ARMS):
            shift = (i - 1) * width
            axis.bar(middle + shift, means[name], width * 0.9, color=look.COLOURS[name], zorder=2)
            seeds = dict(color=look.INK, ms=2.5, alpha=0.7, zorder=3)
            for _, row in table[name].iterrows():
                axis.plot(middle + shift, row.reindex(classes), ".", **seeds)
        line = dict(color=look.INK, lw=1.6)
        axis.hlines(means["teacher"], middle - 0.42, middle + 0.42, zorder=4, **line)
        labels = [c if means.loc[c].notna().any() else f"{c} (absent)" for c in classes]
        axis.set_xticks(middle, labels, rotation=40, ha="right", rotation_mode="anchor")
        axis.set_xlim(-0.6, len(classes) - 0.4)
        axis.set_ylabel(f"{score.each} on the reported split, %")
        handles = [mpl.lines.Line2D([], [], label="teacher", **line)]
        handles += [mpl.patches.Patch(color=look.COLOURS[n], label=SHORT[n]) for n in ARMS]
        look.legend_above(axis, handles, 4)
        sns.despine(ax=axis)
        look.empty(axis, len(classes) > 0)
        seeds = "Small points: single seeds; bars: their mean; black lines: the teacher's mean."
        n = len(table["matching"].index.intersection(table["supervised"].index))
        both = (table[name].reindex(columns=classes) for name in ("matching", "supervised"))
        finding = sentences.class_finding(*both, score.each) + arms.seeds_note(n)
        look.title(figure, finding, note or seeds)
    return figure


def agreement_scatter(
    records: pd.DataFrame,
    *,
    prefix: str = "funmatch-seg",
    scale: str | None = None,
    column: str | None = None,
    note: str = "",
) -> Picture:
    """Score against agreement with the teacher, a point for each student of the prefix and seed.

    column: of the agreement; None = the one that the other figures show.
    """
    records = arms.one_scale(records, scale)
    score = measure.of(records, prefix)
    column = column or f"val.{score.alike}"
    points = _students(records, prefix, column)
    found = arms.scores(records, prefix)
    with style():
        figure = look.figure(7.2, 4.9)
        axis = figure.subplots()
        axis.grid(True, axis="both")
        for arm, rows in points.groupby("arm", sort=False):
            own = rows["main"]
            for part, face in ((rows[own], look.COLOURS[arm]), (rows[~own], "white")):
                axis.scatter(
                    part["agreement"],
                    part["score"],
                    s=46,
                    marker=look.MARKERS[arm],
                    facecolor=face,
                    edgecolor=look.COLOURS[arm],
                    linewidth=1.3,
                    zorder=3,
                )
        look.reference(axis, found["teacher"], "teacher", look.COLOURS["teacher"])
        axis.set_xlabel(_agreement_label(score, column))
        axis.set_ylabel(f"{score.name} on the reported split, %")
        handles = [look.handle(arm) for arm in ("start", *ARMS) if (points["arm"] == arm).any()]
        if len(points) and not points["main"].all():
            label = "other pool or length"
            hollow = dict(marker="o", ls="", mfc="white", mec=look.QUIET, label=label)
            handles.append(mpl.lines.Line2D([], [], **hollow))
        if handles:
            look.legend_above(axis, handles, 3)
        sns.despine(ax=axis)
        look.empty(axis, len(points) > 0)
        finding = sentences.scatter_finding(points, score.name)
        look.title(figure, finding, note or "One mark for each student and seed.")
    return figure


def _agreement_label(score: Measure, column: str) -> str:
    if column == f"val.{score.alike}":
        return f"{score.alike_axis}, reported split, %"
    return score.agreement[column][0]


def _seeds(found: Mapping[str, pd.Series]) -> str:
    counts = [len(found[name]) for name in ARMS if len(found[name])]
    if not counts:
        return ""
    if max(counts) == 1:
        return "One seed: no spread can be shown."
    return f"Small points: single seeds (n = {max(counts)}); bars and bands: standard deviation."


# Data --------------------------------------------------------------------------------------------


def class_scores(records: pd.DataFrame, run: str, score: Measure) -> pd.DataFrame:
    """Scores of the classes in percent, a row for each seed, a column for each class.

    Where a class has several (KITTI's difficulties), their mean.
    """
    rows = records[records["run"] == run].set_index("seed")
    columns = [column for column in rows if column.startswith(score.classes)]
    named = 100 * rows[columns].astype(float)
    classes = [column.removeprefix(score.classes).split(".")[0] for column in columns]
    if len(set(classes)) == len(columns):
        return named.set_axis(classes, axis=1)
    return named.T.groupby(classes, sort=False).mean().T


def _students(records: pd.DataFrame, prefix: str, column: str) -> pd.DataFrame:
    """Every student of the prefix that has both numbers: arm, main, agreement, score."""
    rows = []
    for record in records.to_dict("records"):
        name = str(record["run"]).removeprefix(f"{prefix}-")
        arm = next((arm for arm in ("start", *ARMS) if name.split("-")[0] == arm), None)
        if arm is None or name == record["run"]:
            continue
        agreement, score = record.get(column, math.nan), record.get("score", math.nan)
        rows.append(
            {"arm": arm, "main": name == arm, "agreement": 100 * agreement, "score": 100 * score}
        )
    table = pd.DataFrame(rows, columns=["arm", "main", "agreement", "score"])
    return table.dropna().astype({"main": bool})
