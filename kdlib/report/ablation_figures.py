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
from kdlib.report.ablation import ADDED, FAMILY, ROWS
from kdlib.report.figures import class_scores
from kdlib.report.look import Picture, style
from kdlib.report.measure import MIOU, Measure
from kdlib.report.published import PublishedTable
from kdlib.report.rows import BASELINE, Family, published_points

SHORT = {name: text.replace("-\n", "-").replace("\n", " ") for name, text in ablation.TICKS.items()}
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
        score_panel(axes[0], found, FAMILY, MIOU)
        gain_panel(axes[1], found, published or {}, FAMILY)
        _agreement_panel(axes[2], records, prefix)
        text = seeds_note(found, FAMILY)
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
    gains, means = class_gains(records, prefix, FAMILY, MIOU)
    return class_bars(gains, means, FAMILY, MIOU, class_finding(gains), note)


def class_gains(
    records: pd.DataFrame, prefix: str, family: Family, score: Measure
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Points over the baseline in each class: per row (seeds x classes), and their means, classes
    by the points of the last row that was run.
    """
    baseline = class_scores(records, f"{prefix}-baseline", score)
    added = family.added
    gains = {n: class_scores(records, f"{prefix}-{n}", score) - baseline for n in added}
    means = pd.DataFrame({name: rows.mean() for name, rows in gains.items()}, columns=list(added))
    means = means.dropna(how="all")
    ran = [name for name in added if name in means and means[name].notna().any()]
    if ran:
        means = means.sort_values(ran[-1], ascending=False, kind="stable")
    return gains, means


def class_bars(
    gains: Mapping[str, pd.DataFrame],
    means: pd.DataFrame,
    family: Family,
    score: Measure,
    finding: str,
    note: str = "",
) -> Picture:
    """The bars of `class_gains`, a group for each class, under a finding."""
    with style():
        figure = look.figure(max(6.5, 1.6 + 0.52 * len(means)), 4.6)
        axis = figure.subplots()
        middle, width = np.arange(len(means)), 0.78 / len(family.added)
        for i, name in enumerate(family.added):
            x = middle + (i - (len(family.added) - 1) / 2) * width
            axis.bar(x, means[name], width * 0.9, color=look.COLOURS[name], zorder=2)
            for _, row in gains[name].iterrows():
                points = row.reindex(means.index)
                axis.plot(x, points, ".", color=look.INK, ms=2.5, alpha=0.7, zorder=3)
        axis.axhline(0, color=look.INK, lw=1.0, zorder=4)
        axis.set_xticks(middle, means.index, rotation=40, ha="right", rotation_mode="anchor")
        axis.set_xlim(-0.6, max(len(means), 1) - 0.4)
        axis.set_ylabel(f"{score.each}, points over {family.over}")
        patches = [
            mpl.patches.Patch(color=look.COLOURS[n], label=family.rows[n]) for n in family.added
        ]
        look.legend_above(axis, patches, 3)
        sns.despine(ax=axis)
        look.empty(axis, len(means) > 0)
        seeds = "Small points: single seeds; bars: their mean. Reported split."
        n = max((len(rows.dropna(how="all")) for rows in gains.values()), default=0)
        look.title(figure, finding + arms.seeds_note(n), note or seeds)
    return figure


def class_finding(gains: Mapping[str, pd.DataFrame]) -> str:
    """In how many classes the last row is above labels alone, below, or neither; where most, least.

    gains: of each row of the table points over labels alone, a line for each seed, a column for
    each class.
    """
    ran = [name for name in ADDED if name in gains and gains[name].notna().any(axis=None)]
    if not ran:
        return "Points in each class: not run yet"
    each = gains[ran[-1]].dropna(axis=1, how="all")
    gain, told = each.mean(), arms.parts_text(each, 0 * each, "labels alone")
    most, least = (f"{c} {arms.signed(gain[c])}" for c in (gain.idxmax(), gain.idxmin()))
    where = f"most in {most}, least in {least} points" if len(gain) > 1 else f"{most} points"
    who = ablation.WHO[ran[-1]]
    return f"{who} the student is {told}: {where}" if told else f"{who}, over labels alone: {where}"


# Panels ------------------------------------------------------------------------------------------


def score_panel(axis: Axes, found: Mapping[str, pd.Series], family: Family, score: Measure) -> None:
    """Scores of the rows under the teacher's line."""
    for i, name in enumerate(family.rows):
        look.mark(axis, i, found[name], name)
    look.reference(axis, found["teacher"], "teacher", look.COLOURS["teacher"])
    lead = (found["teacher"] - found[BASELINE]).dropna()
    text = f"Teacher over {family.over}: {arms.spread_text(lead)}\n" if len(lead) else ""
    axis.set_title(f"{text}({score.name} on the reported split, %)")
    _ticks(axis, family, list(family.rows))


def gain_panel(
    axis: Axes,
    found: Mapping[str, pd.Series],
    published: Mapping[str, PublishedTable],
    family: Family,
) -> None:
    """Points over the baseline: ours at the place of the row, the published ones hollow close to
    its left.
    """
    added, handles = family.added, []
    for k, (student, table) in enumerate(published.items()):
        figures = [published_points(table.rows, name) for name in added]
        x = np.arange(len(added)) - 0.12 * (len(published) - k)
        hollow = dict(mfc="white", mec=look.QUIET, mew=1.3, ms=6.5, ls="", zorder=2)
        axis.plot(x, figures, HOLLOW[k % len(HOLLOW)], **hollow)
        marker = HOLLOW[k % len(HOLLOW)]
        handles.append(mpl.lines.Line2D([], [], marker=marker, label=student, **hollow))
    for i, name in enumerate(added):
        gain = (found[name] - found[BASELINE]).dropna()
        look.mark(axis, i + 0.14, gain, name, jitter=0.08)
        if len(gain):
            place = (i + 0.14, gain.mean()), (9, 0)
            axis.annotate(arms.signed(gain.mean()), *place, weight="bold", **look.beside("left"))
    axis.axhline(0, color=look.COLOURS[BASELINE], lw=1.2, zorder=1)
    axis.set_title(f"Points over {family.over}\n(filled: ours; hollow: published)")
    if handles:
        below = dict(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=len(handles))
        axis.legend(handles=handles, fontsize=8, handletextpad=0.1, columnspacing=1.0, **below)
    _ticks(axis, family, list(added))
    axis.set_xlim(-0.5, len(added) - 0.15)


def seeds_note(found: Mapping[str, pd.Series], family: Family) -> str:
    """What the marks are, and of how many seeds."""
    return marks_note(seeds_text(found, family))


def seeds_text(found: Mapping[str, pd.Series], family: Family) -> str:
    """How many seeds the rows have: `3`, or `1 to 3`."""
    n = [len(found[name]) for name in family.rows if len(found[name])]
    return f"{min(n)} to {max(n)}" if n and min(n) < max(n) else f"{max(n, default=0)}"


def marks_note(seeds: str) -> str:
    """What the marks are, and what is known of the seeds."""
    return f"Small points: single seeds; marks: mean ± standard deviation. Seeds: {seeds}."


def _agreement_panel(axis: Axes, records: pd.DataFrame, prefix: str) -> None:
    column = "val.agreement.pixel"
    values = {name: 100 * arms.by_seed(records, f"{prefix}-{name}", column) for name in ROWS}
    for i, name in enumerate(ROWS):
        look.mark(axis, i, values[name], name)
    axis.set_title(f"{_agreement_finding(values)}\n(pixels equal to the teacher's, %)")
    _ticks(axis, FAMILY, list(ROWS))


def _agreement_finding(values: Mapping[str, pd.Series]) -> str:
    """Whether the last row agrees more with the teacher than labels alone, if the seeds tell."""
    ran = [name for name in ADDED if len(values[name])]
    if not ran or len((values[ran[-1]] - values["baseline"]).dropna()) < arms.VERDICT:
        return "Agreement with the teacher"
    sign = arms.compare(values[ran[-1]], values["baseline"])
    return {
        1: "The terms raise the agreement",
        0: "The terms do not clearly change agreement",
        -1: "The terms lower the agreement",
    }[sign]


def _ticks(axis: Axes, family: Family, names: list[str]) -> None:
    axis.set_xticks(range(len(names)), [family.ticks[name] for name in names], fontsize=9)
    axis.set_xlim(-0.6, len(names) - 0.4)
    sns.despine(ax=axis)
