"""The arms of the comparison, seed by seed: scores, differences, gap recovered.

All scores here are percentages (0..100); differences of scores are *points*. Spread is the sample
standard deviation over seeds, NaN for one seed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

SMALLEST_GAP = 1.0  # points; a ratio over a smaller gap says more about noise than about a method
LIMITED_BY_LABELS = 0.25  # share of the gap that two or three times the steps may close

VERDICT = 3  # seeds that a verdict takes; of fewer the numbers are told
FEW = {1: "one seed", 2: "two seeds"}  # what a sentence says that so few stand behind

LABELS = {
    "teacher": "teacher",
    "start": "start of the students",
    "supervised": "(1) supervised",
    "distil": "(2) distil",
    "matching": "(3) function matching",
    "supervised-double": "(1) with 2× the steps",
    "supervised-triple": "(1) with 3× the steps",
}
SHORT = {"supervised": "(1) supervised", "distil": "(2) distil", "matching": "(3) matching"}
ARMS = ("supervised", "distil", "matching")
CONTROLS = ("supervised-double", "supervised-triple")
SHARED = ("teacher", "start")  # may be made once, for all seeds


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over n seeds; NaN where there is nothing to take it of."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: pd.Series) -> "Spread":
        values = values.dropna()
        if not len(values):
            return cls(math.nan, math.nan, 0)
        return cls(values.mean(), values.std(ddof=1) if len(values) > 1 else math.nan, len(values))


@dataclass(frozen=True)
class Gap:
    """Gap recovered, (student - supervised) / (teacher - supervised), in percent, over seeds.

    per_seed and spread are empty where the ratio is not meaningful, and `why` says why.
    """

    per_seed: pd.Series
    spread: Spread
    why: str = ""

    @property
    def meaningful(self) -> bool:
        return not self.why


def one_scale(records: pd.DataFrame, scale: str | None = None) -> pd.DataFrame:
    """The records of one scale. Raises ValueError where several are there and none is named."""
    found = sorted(records["scale"].unique())
    if scale is None:
        if len(found) > 1:
            raise ValueError(f"records of several scales: {', '.join(found)}; name one by scale=")
        return records
    return records[records["scale"] == scale]


def by_seed(records: pd.DataFrame, run: str, column: str = "score") -> pd.Series:
    """One column of a run, indexed by seed, without missing values; empty where not run.

    The default is the score of the run's task, as a fraction.
    """
    rows = records[records["run"] == run]
    if column not in rows:
        return pd.Series(dtype=float)
    return rows.set_index("seed")[column].dropna().astype(float).sort_index()


def scores(records: pd.DataFrame, prefix: str) -> dict[str, pd.Series]:
    """The score in percent for each row of the comparison, indexed by seed.

    A teacher or a start that was made once stands for every seed of the arms.
    """
    found = {name: 100 * by_seed(records, f"{prefix}-{name}") for name in LABELS}
    seeds = sorted({seed for name in ARMS for seed in found[name].index})
    for name in SHARED:
        if len(found[name]) == 1 and seeds:
            found[name] = pd.Series(found[name].iloc[0], index=seeds)
    return found


def gap_recovered(teacher: pd.Series, supervised: pd.Series, student: pd.Series) -> Gap:
    """Gap recovered for each seed that all three have, from scores in percent."""
    gap = (teacher - supervised).dropna()
    both = gap.index.intersection(student.index)
    if not len(both):
        return Gap(pd.Series(dtype=float), Spread.of(pd.Series(dtype=float)), "not run")
    why = _no_gap(gap[both])
    if why:
        return Gap(pd.Series(dtype=float), Spread.of(pd.Series(dtype=float)), why)
    ratio = 100 * (student[both] - supervised[both]) / gap[both]
    return Gap(ratio, Spread.of(ratio))


def _no_gap(gap: pd.Series) -> str:
    """Why a ratio over this gap is not meaningful; empty where it is."""
    if len(gap) > 1 and (gap > 0).any() and (gap <= 0).any():
        return f"the gap changes its sign between seeds ({gap.min():+.1f} to {gap.max():+.1f})"
    if gap.mean() <= 0:
        return f"the teacher is not above the supervised student ({gap.mean():+.1f} points)"
    if gap.min() < SMALLEST_GAP:
        where = "in one seed " if gap.mean() >= SMALLEST_GAP else ""
        value = gap.min() if where else gap.mean()
        return f"the gap is {where}below 1 point ({value:.1f})"
    return ""


def compare(one: pd.Series, other: pd.Series) -> int:
    """+1 where `one` is above `other`, -1 where below, 0 where the seeds do not tell.

    Paired by seed. Above means: in every seed, and on average by more than the standard deviation
    of the differences. That is a weak rule: with no true difference it still answers 1 or -1 in
    about 21 % of cases with three seeds, and would in 39 % with two. Fewer than `VERDICT` tell
    nothing.
    """
    difference = (one - other).dropna()
    if len(difference) < VERDICT or not ((difference > 0).all() or (difference < 0).all()):
        return 0
    if abs(difference.mean()) <= difference.std(ddof=1):
        return 0
    return 1 if difference.mean() > 0 else -1


def parts_text(one: pd.DataFrame, other: pd.DataFrame, over: str, noun: str = "classes") -> str:
    """`above labels alone in 1 of 3 classes, below in 0, ties in 2`, by the rule of `compare`; and
    in how many there are too few seeds. Empty where that is all of them.

    one, other: a line for each seed, a column for each part; over: the other in words.
    """
    points = (one - other).dropna(axis=1, how="all")
    judged = [part for part in points if points[part].count() >= VERDICT]
    if not judged:
        return ""
    signs = [compare(one[part], other[part]) for part in judged]
    text = f"above {over} in {signs.count(1)} of {len(points.columns)} {noun}"
    text += f", below in {signs.count(-1)}, ties in {signs.count(0)}"
    few = len(points.columns) - len(judged)
    return text + (f", too few seeds in {few}" if few else "")


def seeds_note(n: int) -> str:
    """The end of a sentence on n seeds: ` (two seeds, no verdict)`; empty where they are enough."""
    return f" ({FEW[n]}, no verdict)" if n in FEW else ""


def common_seeds(points: pd.DataFrame, column: str) -> list[int]:
    """The seeds that every value of a column has; means over others would favour some values."""
    seeds = [set(own["seed"]) for _, own in points.groupby(column)]
    return sorted(set.intersection(*seeds)) if seeds else []


def named_seeds(seeds: Sequence[int]) -> str:
    """`seed 0`, `seeds 0, 1 and 2`."""
    *first, last = map(str, seeds)
    return f"seeds {', '.join(first)} and {last}" if first else f"seed {last}"


def change_text(one: pd.Series, other: pd.Series, n: int = 0, unit: str = "") -> str:
    """`+0.4 ± 0.6 (tie)`: one minus other, and whether `compare` finds no order between them.

    n: seeds of the sentence; where it has more, two seeds or one are told one by one. unit: behind
    the number.
    """
    change = (one - other).dropna()
    few = FEW.get(len(change), "") if len(change) < n else ""
    said = "tie" if len(change) >= VERDICT and compare(one, other) == 0 else few
    text = each_text(change) if few else spread_text(change)
    return text + unit + (f" ({said})" if said else "")


def control_gap(found: Mapping[str, pd.Series]) -> Gap | None:
    """Largest share of the gap that longer supervised training closes; None = unknown.

    It tells whether the supervised student was limited by labels (small) or by training (large).
    """
    gaps = [gap_recovered(found["teacher"], found["supervised"], found[c]) for c in CONTROLS]
    return max((g for g in gaps if g.meaningful), key=lambda g: g.spread.mean, default=None)


def limited_by_training(found: Mapping[str, pd.Series]) -> bool:
    """Whether longer supervised training closes so much of the gap that the recipe is invalid."""
    gap = control_gap(found)
    return gap is not None and gap.spread.mean > 100 * LIMITED_BY_LABELS


def spread_text(values: pd.Series | Spread, digits: int = 1, sign: bool = True) -> str:
    """`+2.1 ± 0.3`; without the spread for one seed; an en dash for nothing."""
    spread = values if isinstance(values, Spread) else Spread.of(values)
    if not spread.n:
        return "–"
    mean = signed(spread.mean, digits).removeprefix("" if sign else "+")
    return mean if math.isnan(spread.sd) else f"{mean} ± {spread.sd:.{digits}f}"


def each_text(values: pd.Series, digits: int = 1, sign: bool = True) -> str:
    """`+0.3 and +0.4`: two seeds one by one, as a deviation of two says little; else the spread."""
    known = values.dropna()
    if len(known) != 2:
        return spread_text(known, digits, sign)
    return " and ".join(spread_text(known.iloc[[i]], digits, sign) for i in (0, 1))


def signed(value: float, digits: int = 1) -> str:
    """`+0.4`, `−1.2`; what rounds to 0 is `+0.0`."""
    return f"{value:+z.{digits}f}".replace("-", "−")
