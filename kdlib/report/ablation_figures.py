"""Figures of structured distillation. Every title is a sentence computed from the records.

Scores are percentages, differences are points and paired by seed; see `look` for the marks.
"""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from kdlib.report import ablation, arms, look
from kdlib.report.ablation import ADDED, ROWS
from kdlib.report.look import Picture, style
from kdlib.report.published import PublishedTable

TICKS = {
    "baseline": "labels\nalone",
    "pi": "+ pixel-\nwise",
    "pi-pa": "+ pair-\nwise",
    "pi-pa-ho": "+ holistic",
}
SHORT = {name: text.replace("-\n", "-").replace("\n", " ") for name, text in TICKS.items()}
HOLLOW = ("v", "D", "s")  # of the published students, in the order given


def ablation_figure(
    records: pd.DataFrame,
    published: Mapping[str, PublishedTable] | None = None,
    *,
    prefix: str = "structured",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Scores of the rows under the teacher's line; points over labels alone, published ones hollow
    beside ours; agreement with the teacher. The title is `ablation.finding`.

    published: name of a published student -> its table.
    """
    records = arms.one_scale(records, scale)
    found = ablation.scores(records, prefix)
    with style():
        figure = look.figure(11.5, 4.7)
        axes = figure.subplots(1, 3, width_ratios=[1.1, 1.3, 1.0])
        _score_panel(axes[0], found)
        _gain_panel(axes[1], found, published or {})
        _agreement_panel(axes[2], records, prefix)
        n = [len(found[name]) for name in ROWS if len(found[name])]
        seeds = f"{min(n)} to {max(n)}" if n and min(n) < max(n) else f"{max(n, default=0)}"
        text = f"Small points: single seeds; marks: mean ± standard deviation. Seeds: {seeds}."
        if published:
            text += " Published figures are in part unverified, see the table's marks."
        look.title(figure, ablation.finding(records, prefix=prefix), note or text)
    return figure


def class_figure(
    records: pd.DataFrame,
    *,
    prefix: str = "structured",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Points over labels alone in each class, seed by seed; classes by the last row's points."""
    records = arms.one_scale(records, scale)
    baseline = _class_iou(records, f"{prefix}-baseline")
    gains = {name: _class_iou(records, f"{prefix}-{name}") - baseline for name in ADDED}
    means = pd.DataFrame({name: rows.mean() for name, rows in gains.items()}, columns=list(ADDED))
    means = means.dropna(how="all")
    ran = [name for name in ADDED if name in means and means[name].notna().any()]
    if ran:
        means = means.sort_values(ran[-1], ascending=False, kind="stable")
    with style():
        figure = look.figure(max(6.5, 1.6 + 0.52 * len(means)), 4.6)
        axis = figure.subplots()
        middle, width = np.arange(len(means)), 0.26
        for i, name in enumerate(ADDED):
            x = middle + (i - 1) * width
            axis.bar(x, means[name], width * 0.9, color=look.COLOURS[name], zorder=2)
            for _, row in gains[name].iterrows():
                points = row.reindex(means.index)
                axis.plot(x, points, ".", color=look.INK, ms=2.5, alpha=0.7, zorder=3)
        axis.axhline(0, color=look.INK, lw=1.0, zorder=4)
        axis.set_xticks(middle, means.index, rotation=40, ha="right", rotation_mode="anchor")
        axis.set_xlim(-0.6, max(len(means), 1) - 0.4)
        axis.set_ylabel("IoU, points over labels alone")
        patches = [mpl.patches.Patch(color=look.COLOURS[n], label=ROWS[n]) for n in ADDED]
        look.legend_above(axis, patches, 3)
        sns.despine(ax=axis)
        look.empty(axis, len(means) > 0)
        seeds = "Small points: single seeds; bars: their mean. Reported split."
        look.title(figure, class_finding(means), note or seeds)
    return figure


def class_finding(means: pd.DataFrame) -> str:
    """In how many classes the last row is above labels alone, and where most and least.

    means: points over labels alone, a row for each class, a column for each row of the table.
    """
    ran = [name for name in ADDED if name in means and means[name].notna().any()]
    if not ran:
        return "Points in each class: not run yet"
    gain = means[ran[-1]].dropna()
    most, least = (f"{c} {gain[c]:+.1f}".replace("-", "−") for c in (gain.idxmax(), gain.idxmin()))
    where = f"most in {most}, least in {least} points" if len(gain) > 1 else f"{most} points"
    who = ablation.WHO[ran[-1]]
    return f"{who} {int((gain > 0).sum())} of {len(gain)} classes gain: {where}"


# Panels ------------------------------------------------------------------------------------------


def _score_panel(axis: Axes, found: Mapping[str, pd.Series]) -> None:
    for i, name in enumerate(ROWS):
        look.mark(axis, i, found[name], name)
    look.reference(axis, found["teacher"], "teacher", look.COLOURS["teacher"])
    lead = (found["teacher"] - found["baseline"]).dropna()
    text = f"Teacher over labels alone: {arms.spread_text(lead)}\n" if len(lead) else ""
    axis.set_title(f"{text}(mIoU on the reported split, %)")
    _ticks(axis, list(ROWS))


def _gain_panel(
    axis: Axes, found: Mapping[str, pd.Series], published: Mapping[str, PublishedTable]
) -> None:
    """Ours at the place of the row, the published ones hollow to its left."""
    handles = []
    for k, (student, table) in enumerate(published.items()):
        figures = [table.rows[name].value - table.rows["baseline"].value for name in ADDED]
        x = np.arange(len(ADDED)) - 0.36 + 0.12 * k
        hollow = dict(mfc="white", mec=look.QUIET, mew=1.3, ms=6.5, ls="", zorder=2)
        axis.plot(x, figures, HOLLOW[k % len(HOLLOW)], **hollow)
        marker = HOLLOW[k % len(HOLLOW)]
        handles.append(mpl.lines.Line2D([], [], marker=marker, label=student, **hollow))
    for i, name in enumerate(ADDED):
        gain = (found[name] - found["baseline"]).dropna()
        look.mark(axis, i + 0.22, gain, name, jitter=0.08)
        if len(gain):
            text = f"{gain.mean():+.1f}".replace("-", "−")
            axis.annotate(
                text, (i + 0.22, gain.mean()), (9, 0), weight="bold", **look.beside("left")
            )
    axis.axhline(0, color=look.COLOURS["baseline"], lw=1.2, zorder=1)
    axis.set_title("Points over labels alone\n(filled: ours; hollow: published)")
    if handles:
        below = dict(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=len(handles))
        axis.legend(handles=handles, fontsize=8, handletextpad=0.1, columnspacing=1.0, **below)
    _ticks(axis, list(ADDED))
    axis.set_xlim(-0.6, len(ADDED) - 0.3)


def _agreement_panel(axis: Axes, records: pd.DataFrame, prefix: str) -> None:
    column = "val.agreement.pixel"
    values = {name: 100 * arms.by_seed(records, f"{prefix}-{name}", column) for name in ROWS}
    for i, name in enumerate(ROWS):
        look.mark(axis, i, values[name], name)
    axis.set_title(f"{_agreement_finding(values)}\n(pixels equal to the teacher's, %)")
    _ticks(axis, list(ROWS))


def _agreement_finding(values: Mapping[str, pd.Series]) -> str:
    """Whether the last row agrees more with the teacher than labels alone."""
    ran = [name for name in ADDED if len(values[name])]
    if not ran or not len(values["baseline"]):
        return "Agreement with the teacher"
    sign = arms.compare(values[ran[-1]], values["baseline"])
    return {
        1: "The terms raise the agreement",
        0: "The terms do not clearly change agreement",
        -1: "The terms lower the agreement",
    }[sign]


def _ticks(axis: Axes, names: list[str]) -> None:
    axis.set_xticks(range(len(names)), [TICKS[name] for name in names], fontsize=9)
    axis.set_xlim(-0.6, len(names) - 0.4)
    sns.despine(ax=axis)


def _class_iou(records: pd.DataFrame, run: str) -> pd.DataFrame:
    """IoU in percent, a row for each seed, a column for each class."""
    rows = records[records["run"] == run].set_index("seed")
    columns = [column for column in rows if column.startswith("val.iou.")]
    named = rows[columns].rename(columns=lambda name: name.removeprefix("val.iou."))
    return 100 * named.astype(float)
