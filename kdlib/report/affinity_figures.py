"""Figures of inter-region affinity distillation. Every title is a sentence from the records.

Scores are percentages, differences are points and paired by seed; see `look` for the marks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from kdlib.report import ablation_figures as panels
from kdlib.report import affinity, arms, look
from kdlib.report.affinity import (
    BENCHMARKS,
    FAMILY,
    STUDENTS,
    VARIANT_FAMILY,
    VARIANTS,
    Benchmark,
    of_student,
    published_of,
)
from kdlib.report.affinity_parts import NOUNS, parts
from kdlib.report.arms import spread_text
from kdlib.report.lane_stills import TINTS
from kdlib.report.look import Picture, style
from kdlib.report.published import Published
from kdlib.report.rows import BASELINE


def headline(
    records: pd.DataFrame,
    published: Published | None = None,
    *,
    benchmark: str = "culane",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Points over labels alone, a panel for each student that was run, under its teacher's line;
    published ones hollow. The title is `affinity.finding` of the first student.
    """
    records = arms.one_scale(records, scale)
    students = affinity.ran(records, benchmark)
    each = {name: affinity.scores(records, benchmark, name) for name in students}
    with style():
        figure = look.figure(max(6.5, 1.0 + 3.9 * len(students)), 4.6)
        axes = figure.subplots(1, len(students), sharey=True, squeeze=False)[0]
        for axis, (student, found) in zip(axes, each.items(), strict=True):
            table = published_of(published, benchmark, student)
            printed = {f"published, {STUDENTS[student]}": table} if table else {}
            _panel(axis, found, printed, STUDENTS[student], BENCHMARKS[benchmark])
        finding = affinity.finding(records, benchmark, students[0])
        look.title(figure, finding, note or _seeds_note(each))
    return figure


def _seeds_note(each: Mapping[str, Mapping[str, pd.Series]]) -> str:
    """`seeds_note`, with the students named where they have different numbers of seeds."""
    counts = {STUDENTS[name]: panels.seeds_text(found, FAMILY) for name, found in each.items()}
    if len(set(counts.values())) == 1:
        return panels.marks_note(next(iter(counts.values())))
    return panels.marks_note(", ".join(f"{name} {count}" for name, count in counts.items()))


def part_figure(
    records: pd.DataFrame,
    *,
    benchmark: str = "culane",
    student: str = "erfnet",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Points over labels alone in each scenario, lane or class; crossroads hold no lane and are
    left out.
    """
    records = arms.one_scale(records, scale)
    own, prefix = of_student(records, benchmark, student)
    found = {n: parts(own, f"{prefix}-{n}", benchmark) for n in FAMILY.rows}
    gains = {n: found[n] - found[BASELINE] for n in FAMILY.added}
    means = pd.DataFrame({n: gain.mean() for n, gain in gains.items()}, columns=list(gains))
    means = means.dropna(how="all")
    order = means["intra"].fillna(-1e9).sort_values(ascending=False, kind="stable").index
    means = means.loc[order]
    seeds = max(len(gain.dropna(how="all")) for gain in gains.values())
    text = part_finding(found["intra"], found[BASELINE], benchmark, student, n=seeds)
    short = {name: tick.replace("\n", "") for name, tick in FAMILY.ticks.items()}
    family = replace(FAMILY, rows=short)  # the legend has little room
    return panels.class_bars(gains, means, family, BENCHMARKS[benchmark].score, text, note)


def part_finding(
    intra: pd.DataFrame,
    alone: pd.DataFrame,
    benchmark: str = "culane",
    student: str = "erfnet",
    *,
    n: int = 0,
) -> str:
    """In how many scenarios, lanes or classes IntRA-KD is above labels alone, below, or neither, by
    the rule of `arms.compare`. Where no part has the seeds for it: the largest and the smallest
    mean.

    intra, alone: percent, a line for each seed, a column for each part. n: seeds of the sentence;
    where it has more, fewer of IntRA-KD are told.
    """
    noun = {"class": "classes"}.get(NOUNS[benchmark], f"{NOUNS[benchmark]}s")
    points = (intra - alone).dropna(axis=1, how="all")
    if points.empty:
        return f"Points in each {NOUNS[benchmark]}: not run yet"
    who, total = f"IntRA-KD on {STUDENTS[student]}", len(points.columns)
    if judged := arms.parts_text(intra, alone, "labels alone", noun):
        return f"{who}: {judged}"
    gain, seeds = points.mean(), len(points.dropna(how="all"))
    most, least = (f"{c} {arms.signed(gain[c])}" for c in (gain.idxmax(), gain.idxmin()))
    where = f"most in {most}, least in {least} points"
    if gain.idxmax() == gain.idxmin():  # one, or all alike
        where = f"{arms.signed(gain.max())} points"
    few = f" ({arms.FEW[seeds]})" if seeds < n and seeds in arms.FEW else ""
    return f"{who} over labels alone in {total} {noun}: {where}{few}"


def ablation_figure(
    records: pd.DataFrame,
    *,
    benchmark: str = "culane",
    student: str = "erfnet",
    scale: str | None = None,
    note: str = "",
) -> Picture:
    """Points over labels alone of IntRA-KD whole, of each term, and of each level."""
    records = arms.one_scale(records, scale)
    found = affinity.scores(records, benchmark, student, VARIANTS)
    with style():
        figure = look.figure(7.6, 4.4)
        axis = figure.subplots()
        panels.gain_panel(axis, found, {}, VARIANT_FAMILY)
        axis.set_title(
            f"{STUDENTS[student]}: points of {BENCHMARKS[benchmark].score.name} over labels alone"
        )
        text = note or panels.seeds_note(found, VARIANT_FAMILY)
        look.title(figure, ablation_finding(found), text)
    return figure


def ablation_finding(found: Mapping[str, pd.Series]) -> str:
    """Whether the whole of IntRA-KD is above each of its variants, by the rule of `arms.compare`.

    found: score in percent by seed. Of fewer than three seeds the numbers and no verdict.
    """
    named = {"intra-affinity": "affinity alone", "at": "attention alone"}
    named |= {"intra-high": "the high level alone", "intra-middle": "the middle level alone"}
    named |= {"intra-std": "the skewness by the deviation"}
    named |= {"intra-weight1": "a factor of 1", "intra-weight10": "a factor of 10"}
    changes = {name: (found["intra"] - found[name]).dropna() for name in named}
    changes = {name: change for name, change in changes.items() if len(change)}
    if not changes:
        return "What of IntRA-KD is it: not run yet"
    n = max(map(len, changes.values()))
    if n < arms.VERDICT:
        told = (f"{named[name]} {spread_text(change)}" for name, change in changes.items())
        return f"Points of the whole of IntRA-KD over {', '.join(told)}{arms.seeds_note(n)}"
    groups = {"is above": [], "ties with": [], "is below": [], "has too few seeds beside": []}
    for name, change in changes.items():
        order = ("ties with", "is above", "is below")[arms.compare(change, 0 * change)]
        verdict = order if len(change) >= arms.VERDICT else "has too few seeds beside"
        points = f" ({spread_text(change)} points)" if verdict in ("is above", "is below") else ""
        groups[verdict].append(named[name] + points)
    said = (f"{verdict} {', '.join(those)}" for verdict, those in groups.items() if those)
    return f"The whole of IntRA-KD {'; '.join(said)}"


def distance_figure(distances: pd.DataFrame, seed: int) -> Picture:
    """How far each row's student is from the teacher's graph and attention, in the units of the
    losses. The title is `distance_finding`.

    distances: a line for each row that was measured, columns "affinity" and "attention".
    """
    names = list(distances.index)
    with style():
        figure = look.figure(8.2, 3.8)
        for axis, column in zip(figure.subplots(1, 2), distances, strict=True):
            bars = axis.bar(names, distances[column], 0.7, color=[look.COLOURS[n] for n in names])
            axis.bar_label(bars, fmt="%.3g", fontsize=9, padding=2)
            axis.set_xticks(range(len(names)), [FAMILY.ticks[n] for n in names], fontsize=9)
            axis.set_title(f"{column} loss against the teacher")
            axis.margins(y=0.12)
            look.empty(axis, len(names) > 0)
        note = f"Smaller is nearer. Students of seed {seed}; stills that no network learnt from."
        look.title(figure, distance_finding(distances), note)
    return figure


def distance_finding(distances: pd.DataFrame) -> str:
    """How much nearer to the teacher IntRA-KD is than labels alone, in percent of the losses."""
    if not {BASELINE, "intra"} <= set(distances.index):
        return "Distance from the teacher: not measured"
    change = 100 * (distances.loc["intra"] / distances.loc[BASELINE] - 1)
    told = " and ".join(f"{name} by {arms.signed(change[name], 0)} %" for name in distances)
    return f"IntRA-KD against labels alone: it changes the distance from the teacher's {told}"


def stills_figure(
    shown: Mapping[str, Sequence[np.ndarray]],
    hits: Mapping[str, Sequence[np.ndarray]] | None = None,
    labelled: int = 0,
) -> Picture:
    """Stills as each network sees them, a line for each network. The title is `stills_finding`.

    shown: name of a network -> its pictures; lanes in them have `TINTS`. hits: of the same, for
    each picture which found lanes count; None where pixels are shown. labelled: all their lanes.
    """
    lines = max(len(shown), 1)
    columns = max((len(row) for row in shown.values()), default=1)
    with style():
        figure = look.figure(11, 1.0 + 1.1 * lines)
        axes = figure.subplots(lines, columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (name, row) in zip(axes, shown.items(), strict=False):
            for axis, picture in zip(line, row, strict=False):
                axis.imshow(picture)
            line[0].set_title(name)
        if hits is not None:
            tints = {name: np.array(tint) / 255 for name, tint in TINTS.items()}
            lanes = [mpl.lines.Line2D([], [], color=tint, label=n) for n, tint in tints.items()]
            dark = dict(frameon=True, facecolor="#4A4A4A", labelcolor="white", framealpha=1)
            figure.legend(handles=lanes, ncols=3, loc="outside lower left", fontsize=9, **dark)
        look.title(figure, stills_finding(shown, hits, labelled), "")
    return figure


def stills_finding(
    shown: Mapping[str, Sequence], hits: Mapping[str, Sequence] | None = None, labelled: int = 0
) -> str:
    """How many lanes each network finds in the stills, and how many that do not count."""
    if not hits:
        return f"The same stills as {len(shown)} networks see them"
    told = []
    for name, row in hits.items():
        counts = np.concatenate([np.asarray(one, bool) for one in row])
        told.append(f"{name.split(':')[0]} finds {counts.sum()}, adds {(~counts).sum()}")
    return f"Of {labelled} lanes in these stills: {'; '.join(told)}"


def _panel(
    axis: Axes,
    found: Mapping[str, pd.Series],
    printed: Mapping,
    who: str,
    known: Benchmark,
) -> None:
    panels.gain_panel(axis, found, printed, FAMILY)
    alone = arms.Spread.of(found[BASELINE])
    room = (found["teacher"] - found[BASELINE]).dropna()
    look.reference(axis, room, "teacher", look.COLOURS["teacher"])
    score = f"alone {spread_text(alone, sign=False)} %" if alone.n else "not run"
    axis.set_title(f"{who}, {score}\n(points of {known.score.name} over labels alone)")
