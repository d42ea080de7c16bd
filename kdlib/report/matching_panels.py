"""Panels of the figures of function matching: each fills axes that `kdlib.report.figures` lays out.

Scores are percentages; see `look` for the marks.
"""

import math
import textwrap
from collections.abc import Mapping

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from kdlib.report import arms, look, sentences
from kdlib.report.arms import ARMS, CONTROLS, LABELS, Spread
from kdlib.report.measure import Measure
from kdlib.report.published import PublishedTable

TICKS = {
    "supervised": "(1) supervised",
    "distil": "(2) distil,\nlabelled images",
    "matching": "(3) function\nmatching",
}


def score_panel(axis: Axes, found: Mapping[str, pd.Series], score: Measure) -> None:
    """The three ways between start and teacher; hollow: the mean of (1) and what longer training
    adds to it, seed by seed.
    """
    for i, name in enumerate(ARMS):
        look.mark(axis, i, found[name], name)
    alone = found["supervised"]
    added = {name: (found[name] - alone).dropna() for name in CONTROLS}
    added = {name: lead for name, lead in added.items() if len(lead)}
    for i, lead in enumerate(added.values()):
        x = 0.27 + 0.27 * i
        look.mark(axis, x, alone.mean() + lead, "supervised", filled=False, jitter=0.06)
    if added:
        times = " and ".join(LABELS[name].split()[2] for name in added)
        counts = [f"n = {len(lead)}" for lead in added.values() if len(lead) != len(alone)]
        text = f"hollow: what {times} the steps add to (1){', '.join(['', *counts])}"
        axis.set_xlabel(text, fontsize=8.5, color=look.QUIET)
    look.reference(axis, found["teacher"], "teacher", look.COLOURS["teacher"])
    look.reference(axis, found["start"], "start", look.QUIET, low=True)
    lead = Spread.of((found["teacher"] - found["supervised"]).dropna())
    text = f"Teacher over (1): {arms.spread_text(lead)} points\n" if lead.n else ""
    axis.set_title(f"{text}({score.name} on the reported split, %)")
    _arm_ticks(axis)


def gap_panel(axis: Axes, found: Mapping[str, pd.Series], published: PublishedTable) -> None:
    """Published as hollow diamonds, ours as marks; 0 is (1), 100 the teacher."""
    why = ""
    for i, name in enumerate(ARMS[1:]):
        gap = arms.gap_recovered(found["teacher"], found["supervised"], found[name])
        if gap.why == "not run":
            look.mark(axis, i + 0.2, gap.per_seed, name)
        else:
            why = why or gap.why
        theirs = published.gap_recovered(name)
        if theirs is not None:
            axis.plot(i - 0.24, theirs, "D", mfc="white", mec=look.INK, mew=1.4, ms=7, zorder=4)
            place = (-7, _off_lines(theirs))
            axis.annotate(f"{theirs:.0f}", (i - 0.24, theirs), place, **look.beside("right"))
        if gap.meaningful:
            look.mark(axis, i + 0.2, gap.per_seed, name)
            mean = gap.spread.mean
            text = arms.signed(mean, 0).removeprefix("+")
            place = (10, _off_lines(mean))
            axis.annotate(text, (i + 0.2, mean), place, weight="bold", **look.beside("left"))
    axis.axhline(0, color=look.COLOURS["supervised"], lw=1.2, zorder=1)
    axis.axhline(100, color=look.INK, lw=1.2, zorder=1)
    if why:
        text = textwrap.fill(f"ours: not meaningful, {why}", 28)
        quiet = dict(color=look.QUIET, fontsize=9)
        axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", **quiet)
    axis.set_title("Gap recovered; ◇ is published\n(%; 0 = supervised, 100 = teacher)")
    axis.set_xticks([0, 1], [TICKS[name] for name in ARMS[1:]])
    axis.set_xlim(-0.65, 1.65)
    bottom, top = axis.get_ylim()
    axis.set_ylim(min(bottom, -12), max(top, 112))
    sns.despine(ax=axis)


def _off_lines(share: float) -> float:
    """Points by which a number of the gap's panel evades the lines at 0 and 100, if it is near."""
    off = share - (100 if share > 50 else 0)
    return math.copysign(5, off) if abs(off) < 5 else 0


def agreement_panel(axis: Axes, records: pd.DataFrame, prefix: str, score: Measure) -> None:
    """Agreement: filled on the reported split, hollow on held-out unlabelled frames."""
    kinds = {f"val.{score.alike}": (-0.14, True), f"heldout.{score.alike}": (0.2, False)}
    val: dict[str, pd.Series] = {}
    hollow = False
    for column, (shift, filled) in kinds.items():
        for i, name in enumerate(ARMS):
            values = by_arm(records, prefix, name, column)
            if filled or len(values):
                look.mark(axis, i + shift, values, name, filled=filled, jitter=0.07)
            val |= {name: values} if filled else {}
            hollow |= len(values) > 0 and not filled
    if hollow:
        text = "filled: reported split, hollow: held-out frames"
        axis.set_xlabel(text, fontsize=8.5, color=look.QUIET)
    axis.set_title(f"{sentences.agreement_finding(val)}\n({score.alike_text})")
    _arm_ticks(axis)


def x_axis(axis: Axes, points: pd.DataFrame, kind: str) -> None:
    """The axis of a curve over kind "pool" or "schedule", with a tick at each nominal multiple.

    That of the pool is linear up to 1, so that it shows 0.
    """
    ticks = sorted(points.groupby("nominal")["x"].mean()) if len(points) else []
    if kind == "pool":
        axis.set_xscale("symlog", base=4, linthresh=1, linscale=0.5)
    else:
        axis.set_xscale("log", base=2)
    if ticks:
        axis.set_xlim(ticks[0] / 1.4 or -0.4, ticks[-1] * 1.4)
        axis.xaxis.set_major_locator(FixedLocator(ticks))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}×"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel(
        "unlabelled images, multiples of the labelled ones"
        if kind == "pool"
        else "optimisation steps, multiples of the arms' own"
    )


def _arm_ticks(axis: Axes) -> None:
    axis.set_xticks(range(len(ARMS)), [TICKS[name] for name in ARMS])
    axis.set_xlim(-0.6, len(ARMS) - 0.4)
    sns.despine(ax=axis)


def by_arm(records: pd.DataFrame, prefix: str, name: str, column: str) -> pd.Series:
    """A fraction of an arm's records in percent, by seed; `score` is that of the arm's task."""
    return 100 * arms.by_seed(records, f"{prefix}-{name}", column)
