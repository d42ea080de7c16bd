"""Which run the rows of a table start from, by the settings in params.yaml.

A record doesn't tell it, and a record of `<prefix>-start` doesn't mean that the rows use it: at
scale `paper` some start from ImageNet weights and the pipeline makes the run all the same.
"""

from collections.abc import Iterable, Mapping

import pandas as pd

from kdlib import config
from kdlib.report import notes


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
