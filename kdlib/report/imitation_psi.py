"""Feature imitation with regions of any width: the sweep over psi, its finding, its table.

Fact sheet feature_imitation, sections 3 and 6. `<prefix>-i-psi02` imitates with psi = 0.2. Scores
are percentages, differences are points over the student alone and paired by seed.
"""

import math
import re
from collections.abc import Mapping

import pandas as pd

from kdlib.report import arms, measure, notes
from kdlib.report.arms import Spread, spread_text
from kdlib.report.published import Figure, PublishedTable
from kdlib.report.render import Table
from kdlib.report.rows import BASELINE
from kdlib.report.tables import NOT_RUN

OWN_PSI = 0.5  # of the run `i`


def psi_points(
    records: pd.DataFrame, *, prefix: str = "imitation-kitti", scale: str | None = None
) -> pd.DataFrame:
    """One row for each psi and seed that was run: psi, run, seed, score, points.

    `<prefix>-i` stands at psi = 0.5, `<prefix>-baseline` at 1, where the region is empty; points
    are over the baseline of the same seed.
    """
    records = arms.one_scale(records, scale)
    runs = set(records["run"])
    places = {run: p for run, p in _own_places(prefix).items() if run in runs}
    for run in sorted(runs):
        named = re.fullmatch(re.escape(prefix) + r"-i-psi(\d)(\d)", run)
        psi = int(named[1]) + int(named[2]) / 10 if named else None
        if psi is not None and psi not in places.values():  # the rows of the table go first
            places[run] = psi
    baseline = 100 * arms.by_seed(records, f"{prefix}-{BASELINE}")
    found = []
    for run, psi in sorted(places.items(), key=lambda item: item[1]):
        for seed, score in (100 * arms.by_seed(records, run)).items():
            row = {"psi": psi, "run": run, "seed": seed, "score": score}
            found.append(row | {"points": score - baseline.get(seed, math.nan)})
    return pd.DataFrame(found, columns=["psi", "run", "seed", "score", "points"])


def _own_places(prefix: str) -> dict[str, float]:
    return {f"{prefix}-i": OWN_PSI, f"{prefix}-{BASELINE}": 1.0}


def compared(points: pd.DataFrame) -> tuple[pd.DataFrame, list[int]]:
    """The points below psi = 1, and the seeds that all of these widths have."""
    ran = points[points["psi"] < 1].dropna(subset="points")
    return ran, arms.common_seeds(ran, "psi")


def psi_finding(points: pd.DataFrame) -> str:
    """Which psi scores highest, and what it is worth, on the seeds that all widths have.

    Others would favour one of them. Of fewer than three seeds the points and no verdict.
    """
    ran, seeds = compared(points)
    if ran["psi"].nunique() < 2:
        return "ψ: nothing to compare yet, fewer than two values were run"
    if not seeds:
        return "ψ: nothing to compare yet, no seed has all values"
    leads = {psi: own.set_index("seed")["points"][seeds] for psi, own in ran.groupby("psi")}
    where = f"on {arms.named_seeds(seeds)}, which all widths have"
    if len(seeds) < arms.VERDICT:
        listed = ", ".join(f"{psi:g} {spread_text(lead)}" for psi, lead in leads.items())
        return f"ψ {where}: {listed} points (no verdict)"
    best, second = sorted(leads, key=lambda psi: leads[psi].mean(), reverse=True)[:2]
    lead = leads[best]
    few = "" if set(ran["seed"]) == set(seeds) else f" ({where})"
    if arms.compare(lead, 0 * lead) < 1:
        most = f"best ψ = {best:g}, {spread_text(lead)} points"
        return f"No ψ is clearly above the student alone: {most}{few}"
    clear = arms.compare(lead, leads[second]) == 1
    text = f"ψ = {best:g} is best with {spread_text(lead)} points over the student"
    return f"{text}, {'' if clear else 'not '}clearly above ψ = {second:g}{few}"


def printed_psi(table: PublishedTable) -> dict[float, Figure]:
    """A published sweep by psi; the student alone at 1. Its 0 is the whole map, unlike ours."""
    return {psi: table.rows[name] for name, psi in _printed_places(table).items()}


def _printed_places(table: PublishedTable) -> dict[str, float]:
    """Rows of a published sweep -> psi."""
    named = {name: re.fullmatch(r"psi(\d)(\d)", name) for name in table.rows}
    places = {name: int(m[1]) + int(m[2]) / 10 for name, m in named.items() if m}
    return places | ({BASELINE: 1.0} if BASELINE in table.rows else {})


def psi_table(
    records: pd.DataFrame,
    published: Mapping[str, PublishedTable] | None = None,
    *,
    prefix: str = "imitation-kitti",
    scale: str | None = None,
) -> Table:
    """The sweep over psi: published beside ours. published: name of a student -> its table."""
    records = arms.one_scale(records, scale)
    points, printed = psi_points(records, prefix=prefix), published or {}
    score = measure.of(records, prefix, next(iter(printed.values()), None))
    sweeps = {name: printed_psi(table) for name, table in printed.items()}
    places = {psi for sweep in sweeps.values() for psi in sweep} | set(points["psi"])
    numbers, shown = [], []
    for psi in sorted(places | {OWN_PSI, 1.0}):
        here = points[points["psi"] == psi]
        own, lead = Spread.of(here["score"]), Spread.of(here["points"])
        row = {"psi": psi}
        text = {"ψ": f"{psi:g}" + (" (student alone)" if psi == 1 else "")}
        for name, sweep in sweeps.items():
            figure = sweep.get(psi)
            row[f"published: {name}"] = figure.value if figure else math.nan
            text[f"published: {name}"] = figure.text if figure else "–"
        row |= {score.key: own.mean, f"{score.key}_sd": own.sd, "n": own.n}
        row |= {"points": lead.mean, "points_sd": lead.sd}
        ours = spread_text(own, sign=False) if own.n else NOT_RUN
        text |= {f"ours: {score.name} %": ours, "n": str(own.n)}
        text["points over the student"] = spread_text(lead) if psi < 1 else "–"
        numbers.append(row)
        shown.append(text)
    lines = ["Published at ψ = 0: the whole map. Ours: the cells of which an anchor touches a box."]
    lines.append(notes.levels(row["n"] for row in numbers))
    lines += [said for table in printed.values() for said in table.notes(_printed_places(table))]
    used, shown = records[records["run"].isin(set(points["run"]))], pd.DataFrame(shown)
    lines = notes.footnotes(dict.fromkeys(lines), shown, used)
    title = "Width of the region: share ψ of the best overlap"
    return Table(title, pd.DataFrame(numbers), shown, lines)
