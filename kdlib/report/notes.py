"""Footnotes of tables: fair budget, validity of the recipe, and where the records come from."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import pandas as pd

from kdlib.report import arms
from kdlib.report.arms import ARMS, LABELS, spread_text
from kdlib.report.published import PublishedTable

WALL_HEADING = "wall, min"
WALL = "wall: as measured, other work beside it; no cost of a method."
LEVELS = (
    "Rows with different n compare over the seeds that they share only: points move with the seed, "
    "as scores do."
)
ARM_LABELS = MappingProxyType({name: LABELS[name] for name in ARMS})


def budget(
    records: pd.DataFrame,
    prefix: str,
    labels: Mapping[str, str] = ARM_LABELS,
    noun: str = "All three ways",
    start: str = "",
) -> str:
    """Whether the ways got the same steps and samples, and were made from the same data.

    labels: name of a way (its run is `<prefix>-<name>`) -> what it is called in the sentence.
    noun: all of them, as the subject of the sentence.
    start: the run that all of them continue from, see `starts`; its steps are told by its record.
    """
    rows = records[records["run"].isin([f"{prefix}-{name}" for name in labels])]
    if rows.empty:
        return ""
    wrong = []
    for column, unit in (("steps", "steps"), ("samples_seen", "samples")):
        found = {name: _values(rows, f"{prefix}-{name}", column) for name in labels}
        known = {name: values for name, values in found.items() if values}
        if len({value for values in known.values() for value in values}) > 1:
            listed = (f"{labels[n]} {' and '.join(map(str, v))}" for n, v in known.items())
            wrong.append(f"{unit} differ ({'; '.join(listed)})")
    if rows["data_hash"].nunique() > 1:
        wrong.append("data differ (see data_hash in the records)")
    if wrong:
        return f"Warning: the arms are not comparable: {'; '.join(wrong)}."
    ran = rows["run"].nunique()
    if ran < len(labels):
        return ""
    before = _values(records, start, "steps")
    after = f" after {before[0]:,} of the common start," if before else ""
    return f"{noun}: {int(rows['steps'].iloc[0]):,} steps{after} and the same number of samples."


def validity(found: dict[str, pd.Series]) -> str:
    """What two and three times the supervised steps close of the gap, and what follows from it."""
    gap, most = arms.control_gap(found), 100 * arms.LIMITED_BY_LABELS
    if gap is None:
        return "Not checked: whether longer supervised training alone closes the gap."
    share = gap.spread
    text = f"Longer supervised training closes {spread_text(share, 0, sign=False)} % of the gap"
    text += arms.seeds_note(share.n)
    if share.n < arms.VERDICT:
        return f"{text}; above {most:.0f} % the student would count as limited by training."
    verdict = "limited by labels, as the comparison needs it"
    if arms.limited_by_training(found):
        verdict = "limited by training: the gap recovered by the other arms is not a fair figure"
    text += f": the supervised student is {verdict}"
    if abs(share.mean - most) < share.sd:
        above = (gap.per_seed > most).sum()
        text += f". That holds on the mean only; seeds above {most:.0f} %: {above} of {share.n}"
    return f"{text}."


def _values(rows: pd.DataFrame, run: str, column: str) -> list[int]:
    return sorted({int(value) for value in rows.loc[rows["run"] == run, column]})


def levels(counts: Iterable[int]) -> str:
    """The caveat on scores where rows have different numbers of seeds; counts: of each row.

    Rows that were not run (0) don't count; nor should a teacher that was made once for all seeds.
    """
    return LEVELS if len({count for count in counts if count}) > 1 else ""


def origin(records: pd.DataFrame) -> str:
    """One line on the records behind a table: scale, seeds, commits, devices, versions, hashes."""
    if records.empty:
        return "No records."
    commits = sorted(
        {
            (c[:8] if isinstance(c, str) else "unknown") + (" + changes" if d is True else "")
            for c, d in zip(records["git_commit"], records["git_dirty"], strict=True)
        }
    )
    parts = [
        f"scale {_join(records['scale'])}",
        f"seeds {_join(records['seed'])}",
        f"{_plural('commit', commits)} {', '.join(commits)}",
        f"{_plural('device', records['device'].unique())} {_join(records['device'], between=' / ')}",
        f"lock {_join(records['lock_hash'], 8)}",
        f"data {_join(records['data_hash'], 8)}",
    ]
    for name in ("python", "torch"):
        if f"versions.{name}" in records:
            parts.append(f"{name} {_join(records[f'versions.{name}'])}")
    return "; ".join(parts) + "."


def footnotes(
    lines: Iterable[str],
    shown: pd.DataFrame,
    used: pd.DataFrame,
    published: PublishedTable | None = None,
    printed: Iterable[str] = (),
) -> tuple[str, ...]:
    """The lines, what is to be known of a table's columns and figures, and the records' origin.

    shown: the table; used: its records; printed: rows of the published table that it shows.
    """
    lines = [*lines, WALL if WALL_HEADING in shown else ""]
    if published is not None:
        lines += published.notes(printed)
        if not (used["scale"] == "paper").all():
            lines.append(
                "Published and ours differ in data, networks and length of training: compare the "
                "pattern, not the level."
            )
    lines.append(f"Records: {origin(used)}")
    return tuple(line for line in lines if line)


def _join(values: pd.Series, length: int | None = None, between: str = ", ") -> str:
    found = sorted(values.dropna().unique())
    return between.join(str(value)[:length] for value in found) or "none"


def _plural(noun: str, values: Any) -> str:
    return noun if len(values) == 1 else f"{noun}s"
