"""Which run the rows of a table start from, by the settings in params.yaml.

A record doesn't tell it, and a record of `<prefix>-start` doesn't mean that the rows use it: at
scale `paper` some start from ImageNet weights and the pipeline makes the run all the same.
"""

from collections.abc import Iterable, Mapping

import pandas as pd

from kdlib import config
from kdlib.report import arms, notes

# A start below this share of what its labels alone then reach has not learnt the task yet.
EARLY = 0.5


def common(records: pd.DataFrame, prefix: str, names: Iterable[str]) -> str:
    """`<prefix>-start` where every `<prefix>-<name>` starts from it at the records' scale, else "".

    A name without a run in params.yaml does not count.
    """
    scales = records["scale"].unique()
    if len(scales) != 1:
        return ""
    found = set()
    for name in names:
        try:
            found.add(config.load_run(f"{prefix}-{name}", scale=scales[0]).init)
        except config.ConfigError:  # made up, or removed since
            continue
    return f"{prefix}-start" if found == {f"{prefix}-start"} else ""


def budget(
    records: pd.DataFrame,
    prefix: str,
    labels: Mapping[str, str] = notes.ARM_LABELS,
    noun: str = "All three ways",
) -> str:
    """`notes.budget`, with the steps of the start where the rows have one in common."""
    return notes.budget(records, prefix, labels, noun, common(records, prefix, labels))


def early(records: pd.DataFrame, prefix: str, names: Iterable[str], who: str = "") -> str:
    """A warning where the common start is far below what labels alone make of it, else "".

    Then the rows' own steps teach the task itself, and a row is first of all quick or slow at that.

    names: the rows, labels alone first.
    """
    names = list(names)
    start, alone = (
        100 * arms.by_seed(records, run)
        for run in (common(records, prefix, names), f"{prefix}-{names[0]}")
    )
    seeds = start.index.intersection(alone.index)
    if not len(seeds) or start[seeds].mean() >= EARLY * alone[seeds].mean():
        return ""
    return (
        f"{who + ': the' if who else 'The'} common start stands at {start[seeds].mean():.1f}, "
        f"labels alone then reach {alone[seeds].mean():.1f}: these rows tell first of all how soon "
        "a student learns the task."
    )
