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
    gain = gains["i"].reindex(columns=means.index)
    return panels.class_bars(gains, means, FAMILY, score, class_finding(gain), note)


def class_finding(gain: pd.DataFrame) -> str:
    """In how many classes the region is above the student alone, below, or neither.

    gain: points over the student alone, a line for each seed, a column for each class.
    """
    gain = gain.dropna(axis=1, how="all")
    if gain.empty:
        return "Points in each class: not run yet"
    listed = ", ".join(f"{name} {arms.spread_text(gain[name])}" for name in gain)
    told = arms.parts_text(gain, 0 * gain, "the student alone")
    if len(gain.columns) > 5 and told:
        return f"Imitating the region: {told}"
    text = f"Imitating the region: {told}" if told else "Imitating the region"
    return f"{text}: {listed} points"


def psi_figure(
    records: pd.DataFrame,
    published: Mapping[str, PublishedTable] | None = None,
    *,
    prefix: str = "imitation-kitti",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Points over the student against psi: published, read off the paper's plot, and ours.

    Ours over the seeds that all widths have, others hollow. The title is `imitation.psi_finding`.
    """
    records = arms.one_scale(records, scale)
    points = imitation.psi_points(records, prefix=prefix)
    printed = published or {}
    with style():
        figure = look.figure(10.0 if printed else 5.6, 4.2)
        axes = figure.subplots(1, 2 if printed else 1, squeeze=False)[0]
        if printed:
            _printed_panel(axes[0], printed)
        text = _own_panel(axes[-1], points, imitation.scores(records, prefix))
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

    Lines join means over the seeds that all factors of a letter have. own: the factor of the
    table's rows. The title is `imitation_factor.factor_finding`.
    """
    records = arms.one_scale(records, scale)
    points = imitation_factor.factor_points(records, own, prefix=prefix)
    factors = sorted(points["factor"].unique())
    with style():
        figure = look.figure(7.6, 4.4)
        axis = figure.subplots()
        joined = []
        for side, (letter, label) in zip((-1, 1), imitation_factor.LETTERS.items(), strict=True):
            found, seeds = imitation_factor.leads(points, letter)
            places = [factors.index(factor) + 0.03 * side for factor in found]
            for place, lead in zip(places, found.values(), strict=True):
                look.mark(axis, place, lead, letter, jitter=-0.03 * side)
            if seeds and len(found) > 1:
                means = [lead[seeds].mean() for lead in found.values()]
                axis.plot(places, means, ".-", color=look.COLOURS[letter], lw=1.2, zorder=1)
                joined.append(f"{label} {arms.named_seeds(seeds)}")
        axis.axhline(0, color=look.COLOURS["baseline"], lw=1.2, zorder=1)
        axis.set_xticks(range(len(factors)), [f"{factor:g}" for factor in factors])
        axis.set_xlim(-0.4, max(len(factors), 1) - 0.6)
        axis.set_xlabel("λ, factor of the imitation (the line at 0: the student alone)")
        axis.set_ylabel(f"{measure.of(records, prefix).name}, points over the student")
        labels = imitation_factor.LETTERS.items()
        look.legend_above(axis, [look.handle(letter, label) for letter, label in labels], 2)
        sns.despine(ax=axis)
        look.empty(axis, len(points) > 0)
        text = "Small points: single seeds; marks: mean ± standard deviation."
        text += f" Lines: seeds that all λ have ({'; '.join(joined)})." if joined else ""
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


def _own_panel(axis: Axes, points: pd.DataFrame, found: Mapping[str, pd.Series]) -> str:
    """Fills the panel of our own sweep; what is to be said of its marks."""
    ran, seeds = imitation.compared(points)
    by_psi = {psi: own.set_index("seed")["points"] for psi, own in ran.groupby("psi")}
    whole = (found["f"] - found["baseline"]).dropna()
    places = [(psi, lead, "i") for psi, lead in by_psi.items()]
    places += [(WHOLE, whole, "f")] if len(whole) else []
    beyond = False
    for x, lead, letter in places:
        shared = lead.index.isin(seeds or lead.index)
        if shared.any():
            look.mark(axis, x, lead[shared], letter, filled=letter == "i", jitter=0.015)
        further = dict(mfc="white", mec=look.COLOURS[letter], mew=1.0, ms=4, ls="", zorder=2)
        axis.plot([x + 0.03] * int((~shared).sum()), lead[~shared], "o", **further)
        beyond |= not shared.all()
    if seeds:
        means = [lead[seeds].mean() for lead in by_psi.values()]
        axis.plot([*by_psi, 1.0], [*means, 0.0], color=look.COLOURS["i"], lw=1.2, zorder=1)
    axis.axhline(0, color=look.COLOURS["baseline"], lw=1.2, zorder=1)
    axis.set_title(
        "Ours: points over the student\n(F: whole map; ψ = 0: cells whose anchors touch a box)"
    )
    _psi_axis(axis, ["F"] if len(whole) else [])
    look.empty(axis, len(ran) > 0)
    if beyond:
        who = f"Ours: marks and line on {arms.named_seeds(seeds)}, which all widths have"
        return f"{who}; small hollow points: further seeds, not to be compared."
    return "Small points: single seeds; marks: mean ± standard deviation."


def _psi_axis(axis: Axes, before: list[str] | None = None) -> None:
    """The axis of psi; before: the label of a tick at WHOLE."""
    ticks = np.linspace(0, 1, 6)
    named = [*(before or []), *(f"{psi:g}" for psi in ticks.round(1))]
    axis.set_xticks([*([WHOLE] if before else []), *ticks], named)
    axis.set_xlim(WHOLE - 0.07, 1.06)
    axis.set_xlabel("ψ, share of the best overlap (1: no imitation)")
    sns.despine(ax=axis)
