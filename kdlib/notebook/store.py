"""Run a notebook as a reader would and store what its checked cells print.

nbval compares these outputs; the others would only be noise in a diff, and a reader finds them, for
the real parameters, in the executed notebook under runs/.
"""

import os
from pathlib import Path

from nbclient import NotebookClient

from kdlib.notebook import launch, pairs


def store(text: Path, root: Path) -> None:
    """Execute at the default parameters, in the notebook's folder; write the notebook.

    Counts are kept everywhere, outputs in checked cells only. A failing cell raises and nothing is
    written.
    """
    os.environ.update({k: v for k, v in launch.ENVIRONMENT.items() if k not in os.environ})
    notebook, target = pairs.read_text(text), pairs.notebook_of(text, root)
    target.parent.mkdir(parents=True, exist_ok=True)
    NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(target.parent)}},
        extra_arguments=["--log-level=40"],
    ).execute()
    bare = pairs.read_text(text)
    for cell, executed in zip(bare.cells, notebook.cells, strict=True):
        if cell.cell_type == "code":
            cell.execution_count = executed.execution_count
            if pairs.is_checked(cell):
                cell.outputs = executed.outputs
    target.write_text(pairs.dump(bare), encoding="utf-8")
