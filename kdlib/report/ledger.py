"""The deviation ledger: what the paper says, what its released code does, what we do, and why."""

import pandas as pd

from kdlib.report.published import TASK, Published
from kdlib.report.render import Table

HEADERS = {
    "topic": "topic",
    "paper": "the paper says",
    "code": "the released code does",
    "ours": "we do",
    "why": "why",
}


def ledger_table(published: Published, task: str = "segmentation") -> Table:
    """The deviations of a paper as a table: those that concern the task, and those of all tasks.

    Raises ValueError where a topic occurs twice.
    """
    rows = [dict(each) for each in published.deviations if each[TASK] in ("", task)]
    frame = pd.DataFrame(rows, columns=list(HEADERS))
    twice = frame.loc[frame["topic"].duplicated(), "topic"]
    if len(twice):
        raise ValueError(f"{published.path}: topic {twice.iloc[0]!r} occurs twice; merge the two")
    paper = published.paper
    note = f"What could be read of the paper ({paper['year']}, {paper['venue']}): {paper['read']}."
    shown = frame.rename(columns=HEADERS)
    return Table("Deviation ledger", frame, shown, (note,))
