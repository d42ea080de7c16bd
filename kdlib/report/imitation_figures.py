"""Figures of feature imitation. Every title is a sentence computed from the records.

Scores are percentages, differences are points and paired by seed; see `look` for the marks.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from kdlib.report import ablation_figures as panels
from kdlib.report import arms, imitation, imitation_factor, look, measure
from kdlib.report.imitation import FAMILY
from kdlib.report.look import Picture, style
from kdlib.report.published import PublishedTable

WHOLE = -0.15  # where the whole map stands on the axis of psi


def imitation_figure(
    records: pd.DataFrame,
    published: Mapping[str, PublishedTable] | None = None,
    *,
    prefix: str = "imitation-kitti",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Scores of the letters under the teacher's line; points over the student, published ones
    hollow beside ours. The title is `imitation.finding`.

    published: name of a published student -> its table.
    """
    records = arms.one_scale(records, scale)
    found = imitation.scores(records, prefix)
    printed = published or {}
    score = measure.of(records, prefix, next(iter(printed.values()), None))
    with style():
        figure = look.figure(11.5, 4.7)
        axes = figure.subplots(1, 2, width_ratios=[1.0, 1.1])
        panels.score_panel(axes[0], found, FAMILY, score)
        panels.gain_panel(axes[1], found, printed, FAMILY)
        finding = imitation.finding(records, prefix=prefix)
        look.title(figure, finding, note or panels.seeds_note(found, FAMILY))
    return figure


def class_figure(
    records: pd.DataFrame,
    *,
    prefix: str = "imitation-kitti",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Points over the student alone in each class, seed by seed, a bar for each letter."""
    records = arms.one_scale(records, scale)
    score = measure.of(records, prefix)
    gains, means = panels.class_gains(records, prefix, FAMILY, score)
    return panels.class_bars(gains, means, FAMILY, score, class_finding(means), note)


def class_finding(means: pd.DataFrame) -> str:
    """In which classes the region is above the student alone; means: classes x letters, points."""
    gain = means["i"].dropna() if "i" in means else pd.Series(dtype=float)
    if gain.empty:
        return "Points in each class: not run yet"
    listed = ", ".join(f"{name} {value:+.1f}".replace("-", "−") for name, value in gain.items())
    above = int((gain > 0).sum())
    text = f"Imitating the region, {above} of {len(gain)} classes gain"
    return f"{text}: {listed} points" if len(gain) <= 5 else text


def psi_figure(
    records: pd.DataFrame,
    published: Mapping[str, PublishedTable] | None = None,
    *,
    prefix: str = "imitation-kitti",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Points over the student against psi: published, read off the paper's plot, and ours.

    The title is `imitation.psi_finding`.
    """
    records = arms.one_scale(records, scale)
    points = imitation.psi_points(records, prefix=prefix)
    printed = published or {}
    with style():
        figure = look.figure(10.0 if printed else 5.6, 4.2)
        axes = figure.subplots(1, 2 if printed else 1, squeeze=False)[0]
        if printed:
            _printed_panel(axes[0], printed)
        _own_panel(axes[-1], points, imitation.scores(records, prefix))
        text = "Small points: single seeds; marks: mean ± standard deviation."
        look.title(figure, imitation.psi_finding(points), note or text)
    return figure


def factor_figure(
    records: pd.DataFrame,
    own: float,
    *,
    prefix: str = "imitation-kitti",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Points over the student against the factor, for the region and the whole map.

    own: the factor of the table's rows. The title is `imitation_factor.factor_finding`.
    """
    records = arms.one_scale(records, scale)
    points = imitation_factor.factor_points(records, own, prefix=prefix)
    factors = sorted(points["factor"].unique())
    with style():
        figure = look.figure(7.6, 4.4)
        axis = figure.subplots()
        for k, (letter, label) in enumerate(imitation_factor.LETTERS.items()):
            ran = points[points["letter"] == letter].dropna(subset="points")
            means = ran.groupby("factor")["points"].mean()
            places = [factors.index(factor) + 0.16 * k for factor in means.index]
            for place, (_, seeds) in zip(places, ran.groupby("factor"), strict=True):
                look.mark(axis, place, seeds.set_index("seed")["points"], letter, jitter=0.04)
            axis.plot(places, means, color=look.COLOURS[letter], lw=1.2, zorder=1, label=label)
        axis.axhline(0, color=look.COLOURS["baseline"], lw=1.2, zorder=1)
        axis.set_xticks(range(len(factors)), [f"{factor:g}" for factor in factors])
        axis.set_xlabel("λ, factor of the imitation (the line at 0: the student alone)")
        axis.set_ylabel(f"{measure.of(records, prefix).name}, points over the student")
        axis.legend(fontsize=9)
        sns.despine(ax=axis)
        look.empty(axis, len(points) > 0)
        text = "Small points: single seeds; marks: mean ± standard deviation."
        look.title(figure, imitation_factor.factor_finding(points, own), note or text)
    return figure


def _printed_panel(axis: Axes, printed: Mapping[str, PublishedTable]) -> None:
    for k, (name, table) in enumerate(printed.items()):
        sweep = imitation.printed_psi(table)
        start = sweep[1.0].value
        values = [sweep[psi].value - start for psi in sorted(sweep)]
        line = dict(mfc="white", color=look.QUIET, ls=("-", "--")[k % 2], ms=6)
        axis.plot(sorted(sweep), values, panels.HOLLOW[k % len(panels.HOLLOW)], label=name, **line)
    axis.axhline(0, color=look.COLOURS["baseline"], lw=1.2, zorder=1)
    axis.legend(loc="lower center", fontsize=9)
    axis.set_title("Published (off a plot): points over the student\n(ψ = 0: the whole map)")
    _psi_axis(axis)


def _own_panel(axis: Axes, points: pd.DataFrame, found: Mapping[str, pd.Series]) -> None:
    ran = points[points["psi"] < 1].dropna(subset="points")
    for psi, own in ran.groupby("psi"):
        look.mark(axis, psi, own.set_index("seed")["points"], "i", jitter=0.015)
    means = ran.groupby("psi")["points"].mean()
    axis.plot([*means.index, 1.0], [*means, 0.0], color=look.COLOURS["i"], lw=1.2, zorder=1)
    whole = (found["f"] - found["baseline"]).dropna()
    if len(whole):
        look.mark(axis, WHOLE, whole, "f", filled=False, jitter=0.015)
    axis.axhline(0, color=look.COLOURS["baseline"], lw=1.2, zorder=1)
    axis.set_title(
        "Ours: points over the student\n(F: whole map; ψ = 0: cells whose anchors touch a box)"
    )
    _psi_axis(axis, ["F"] if len(whole) else [])
    look.empty(axis, len(ran) > 0)


def _psi_axis(axis: Axes, before: list[str] | None = None) -> None:
    """The axis of psi; before: the label of a tick at WHOLE."""
    ticks = np.linspace(0, 1, 6)
    named = [*(before or []), *(f"{psi:g}" for psi in ticks.round(1))]
    axis.set_xticks([*([WHOLE] if before else []), *ticks], named)
    axis.set_xlim(WHOLE - 0.07, 1.06)
    axis.set_xlabel("ψ, share of the best overlap (1: no imitation)")
    sns.despine(ax=axis)
