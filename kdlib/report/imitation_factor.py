"""Feature imitation with factors of any size: the sweep over lambda, its finding, its table.

Fact sheet feature_imitation, section 2: the paper does not give its factor, the released ones do
not carry over to other networks, and their author advises to bring both losses to a similar level
first. `<prefix>-i-weight05` imitates the region with lambda = 0.5, `<prefix>-f-weight05` the whole
map; `-weight20` would mean 20. Scores are percentages, differences are points over the student
alone and paired by seed.
"""

import math
import re
from collections.abc import Mapping

import pandas as pd

from kdlib.report import arms, measure, notes
from kdlib.report.arms import Spread, spread_text
from kdlib.report.render import Table
from kdlib.report.rows import BASELINE
from kdlib.report.tables import NOT_RUN

LETTERS = {"i": "region", "f": "whole map"}
COLUMNS = ["letter", "factor", "run", "seed", "score", "points"]


def factor_points(
    records: pd.DataFrame,
    own: float,
    *,
    prefix: str = "imitation-kitti",
    scale: str | None = None,
) -> pd.DataFrame:
    """One row for each letter, factor and seed that was run: `COLUMNS`.

    own: the factor of `<prefix>-i` and `<prefix>-f`. Points are over the baseline of the same seed.
    """
    records = arms.one_scale(records, scale)
    baseline = 100 * arms.by_seed(records, f"{prefix}-{BASELINE}")
    found = []
    for run in sorted(set(records["run"])):
        named = re.fullmatch(re.escape(prefix) + r"-([if])(?:-weight(\d+))?", run)
        if not named:
            continue
        factor = _factor(named[2]) if named[2] else own
        for seed, score in (100 * arms.by_seed(records, run)).items():
            row = {"letter": named[1], "factor": factor, "run": run, "seed": seed, "score": score}
            found.append(row | {"points": score - baseline.get(seed, math.nan)})
    found = pd.DataFrame(found, columns=COLUMNS)
    return found.sort_values(["letter", "factor", "seed"], ignore_index=True)


def _factor(digits: str) -> float:
    """`20` is 20; `05` is 0.5, as in the names of the sweep over psi."""
    return float(f"0.{digits[1:]}" if digits.startswith("0") else digits)


def leads(points: pd.DataFrame, letter: str) -> tuple[dict[float, pd.Series], list[int]]:
    """By factor the points of each seed, where there are any; the seeds that all factors have."""
    ran = points[points["letter"] == letter].dropna(subset="points")
    by_factor = {factor: own.set_index("seed")["points"] for factor, own in ran.groupby("factor")}
    return by_factor, arms.common_seeds(ran, "factor")


def factor_finding(points: pd.DataFrame, own: float) -> str:
    """What the region's highest factor is worth beside the run's own, and the whole map with it.

    Highest on the seeds that all factors of the region have: others would favour one of them.
    """
    (region, seeds), (whole, _) = leads(points, "i"), leads(points, "f")
    if len(region) < 2:
        return "λ: nothing to compare yet, fewer than two values were run"
    if not seeds:
        return "λ: nothing to compare yet, no seed has all values"
    best = max(region, key=lambda factor: region[factor][seeds].mean())
    lead = region[best]
    if len(lead) < arms.VERDICT:
        told = f"the region {_listed(region, seeds)}"
        if known := _listed(whole, seeds):
            told += f"; the whole map {known}"
        return f"λ on {arms.named_seeds(seeds)}: {told} points (no verdict)"
    text = f"With λ = {best:g} the region "
    if arms.compare(lead, 0 * lead) < 1:
        text += f"does not clearly lift the student ({spread_text(lead)} points)"
    else:
        text += f"lifts the student by {spread_text(lead, sign=False)} points"
    if best != own and own in region:
        text += f"; λ = {own:g} changes it by {_change(region[own], len(lead))}"
    if best in whole:
        text += f"; the whole map with λ = {best:g} changes it by {_change(whole[best], len(lead))}"
    return text


def _listed(found: Mapping[float, pd.Series], seeds: list[int]) -> str:
    """`0.5 −1.1, 15 +3.3`: the points of each factor over these seeds."""
    own = {factor: lead[lead.index.isin(seeds)] for factor, lead in found.items()}
    return ", ".join(f"{factor:g} {spread_text(lead)}" for factor, lead in own.items() if len(lead))


def _change(lead: pd.Series, n: int) -> str:
    return arms.change_text(lead, 0 * lead, n, " points")


def factor_table(
    records: pd.DataFrame,
    own: float,
    *,
    prefix: str = "imitation-kitti",
    scale: str | None = None,
) -> Table:
    """The sweep over lambda: region and whole map, each beside the student alone, lambda = 0."""
    records = arms.one_scale(records, scale)
    points = factor_points(records, own, prefix=prefix)
    score = measure.of(records, prefix)
    alone = 100 * arms.by_seed(records, f"{prefix}-{BASELINE}")
    numbers = [{"factor": 0.0, "baseline": alone.mean(), "n": len(alone)}]
    first = spread_text(alone, sign=False) if len(alone) else NOT_RUN
    shown = [{"λ": "0 (student alone)", f"region: {score.name} %": first, "n": str(len(alone))}]
    for factor in sorted({own, *points["factor"]}):
        row, text = {"factor": factor}, {"λ": f"{factor:g}"}
        for letter, label in LETTERS.items():
            here = points[(points["letter"] == letter) & (points["factor"] == factor)]
            reached, lead = Spread.of(here["score"]), Spread.of(here["points"])
            row |= {letter: reached.mean, f"{letter}_sd": reached.sd, f"{letter}_n": reached.n}
            row |= {f"{letter}_points": lead.mean, f"{letter}_points_sd": lead.sd}
            ran = spread_text(reached, sign=False) if reached.n else NOT_RUN
            text |= {f"{label}: {score.name} %": ran, f"{label}: points": spread_text(lead)}
        text["n"] = " / ".join(str(row[f"{letter}_n"]) for letter in LETTERS)
        numbers.append(row)
        shown.append(text)
    columns = [key for key in shown[-1] if key != "n"]
    shown = pd.DataFrame(shown)[[*columns, "n"]].fillna("–")
    lines = ["Points are over the student alone, taken seed by seed; n: seeds, region / whole map."]
    used = records[records["run"].isin({*points["run"], f"{prefix}-{BASELINE}"})]
    counts = [row[f"{letter}_n"] for row in numbers[1:] for letter in LETTERS]
    lines.append(notes.levels([len(alone), *counts]))
    title = "Factor of the imitation, λ"
    return Table(title, pd.DataFrame(numbers), shown, notes.footnotes(lines, shown, used))
