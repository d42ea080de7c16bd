"""Around the notebooks: run one by the name of its run, keep text and notebook paired, list deps.

    python -m kdlib.notebook run notebooks/py/funmatch/3_student.py --run NAME --scale S --seed K
    python -m kdlib.notebook sync      text -> notebook, keeping stored outputs
    python -m kdlib.notebook store     run at the default parameters, store the checked outputs
    python -m kdlib.notebook check     what the tests demand of every notebook
    python -m kdlib.notebook deps      the kdlib modules behind a text
    python -m kdlib.notebook code      the hashes of those modules, as files that DVC compares
    python -m kdlib.notebook inputs    settings and data of each run, as files that DVC compares

Stands apart, as `simulate` does: no other room imports it, so no result depends on it.
"""

from pathlib import Path

import kdlib

TEXT, NOTEBOOKS = Path("notebooks/py"), Path("notebooks")


class NotebookError(Exception):
    """A notebook, its text or its parameters are not as they must be; the message says the cure."""


def root_of(path: Path) -> Path:
    """The repository that holds `path`: nearest folder upwards with dvc.yaml and params.yaml."""
    start = path.resolve()
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise NotebookError(
        f"{path}: no folder above it holds dvc.yaml and params.yaml. "
        "Name a file inside a clone of the workbook."
    )


def check_tree(root: Path | None = None) -> None:
    """Refuse a kdlib that does not belong to the working tree in use (None: the current folder).

    An installed copy, or another clone's editable one, would run other code than DVC has hashed.
    """
    root = (root or Path.cwd()).resolve()
    used = Path(kdlib.__file__).resolve()
    if not used.is_relative_to(root) or used.relative_to(root).parts[0] != "kdlib":
        raise NotebookError(
            f"{used}: this kdlib lies outside the working tree {root}. "
            "Start from the root of the tree, with its own environment (`make setup`)."
        )
