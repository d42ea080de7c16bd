"""Notebook and text, paired: notebooks/py/<paper>/<n>.py is the source, notebooks/<paper>/<n>.ipynb
what a reader opens.

The text holds code, prose and tags. A notebook made from it is the same bytes every time: cell ids
come from the cells' content, and no metadata of tools is kept. Outputs stay in the notebook only.
"""

import ast
import hashlib
import re
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from kdlib.notebook import NOTEBOOKS, TEXT, NotebookError

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CHECKED = "nbval-check-output"
CELL_LINES = 15
# What only one machine has: /home/x, /mnt/x, C:\x, ~/x. Package-relative paths are fine.
_ABSOLUTE = re.compile(
    r"""(?:^|["'\s=(])(?:/(?:home|Users|mnt|media|root|tmp|opt|srv|var|work)/|[A-Z]:\\|~/)"""
)


def texts(root: Path) -> list[Path]:
    """The text of every notebook, sorted."""
    return sorted((root / TEXT).rglob("*.py"))


def notebook_of(text: Path, root: Path) -> Path:
    """Where the notebook of a text lies."""
    return (
        root / NOTEBOOKS / text.resolve().relative_to((root / TEXT).resolve()).with_suffix(".ipynb")
    )


def read_text(text: Path) -> NotebookNode:
    """A notebook without outputs from its text; the same bytes on every call."""
    try:
        source = text.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotebookError(f"{text}: no such file; texts lie under {TEXT}/") from None
    notebook = jupytext.reads(source, fmt="py:percent")
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = NotebookNode(tags=list(tags)) if tags else NotebookNode()
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return notebook


def as_text(notebook: NotebookNode) -> str:
    """The text of a notebook, as jupytext writes it when JupyterLab saves (see jupytext.toml)."""
    bare = NotebookNode(notebook)
    bare.metadata = NotebookNode(
        jupytext={"notebook_metadata_filter": "-all", "cell_metadata_filter": "tags,-all"}
    )
    return jupytext.writes(bare, fmt="py:percent")


def parameters(notebook: NotebookNode, name: str) -> dict[str, object]:
    """Names and defaults in the cell tagged `parameters`. Raises NotebookError without one."""
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise NotebookError(f"{name}: {len(tagged)} cells are tagged `parameters`; one must be")
    found: dict[str, object] = {}
    for line in ast.parse(tagged[0].source).body:
        try:
            (target,) = line.targets  # type: ignore[attr-defined]
            found[target.id] = ast.literal_eval(line.value)  # type: ignore[attr-defined]
        except (AttributeError, ValueError):
            said = ast.unparse(line)
            raise NotebookError(
                f"{name}: `{said}` in the parameters cell; only `name = constant` may stand there"
            ) from None
    return found


def only_reads(notebook: NotebookNode) -> bool:
    """Whether a notebook trains nothing: its parameters cell is tagged `reads-records`."""
    return any("reads-records" in cell.metadata.get("tags", []) for cell in notebook.cells)


def dump(notebook: NotebookNode) -> str:
    """A notebook as it is stored: validated, one space of indent, a last newline."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def with_outputs(notebook: NotebookNode, stored: NotebookNode) -> NotebookNode:
    """`notebook` with the outputs and counts of the cells that `stored` has unchanged."""
    known = {cell.get("id"): cell for cell in stored.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id in known:
            cell.outputs = known[cell.id].outputs
            cell.execution_count = known[cell.id].execution_count
    return notebook


def sync(text: Path, root: Path) -> bool:
    """Bring the notebook up to its text; the text itself into the form that jupytext keeps.

    Returns whether a file changed.
    """
    notebook, target = read_text(text), notebook_of(text, root)
    tidy = as_text(notebook)
    changed = tidy != text.read_text(encoding="utf-8")
    if changed:
        text.write_text(tidy, encoding="utf-8")
    if target.is_file():
        notebook = with_outputs(notebook, nbformat.read(target, as_version=4))
    wanted = dump(notebook)
    if not target.is_file() or target.read_text(encoding="utf-8") != wanted:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(wanted, encoding="utf-8")
        changed = True
    return changed


def problems(text: Path, root: Path) -> list[str]:
    """What is wrong with a text and its notebook; empty when nothing is."""
    name, target = text.resolve().relative_to(root.resolve()), notebook_of(text, root)
    notebook, found = read_text(text), []
    cure = "run `python -m kdlib.notebook sync`"
    if as_text(notebook) != text.read_text(encoding="utf-8"):
        found.append(f"{name}: not in the form that jupytext keeps; {cure}")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not code or "parameters" not in code[0].metadata.get("tags", []):
        found.append(f"{name}: the first code cell must be tagged `parameters`")
    else:
        try:
            parameters(notebook, str(name))
        except NotebookError as error:
            found.append(str(error))
    for number, cell in enumerate(notebook.cells, 1):
        lines = len(cell.source.splitlines())
        if cell.cell_type == "code" and lines > CELL_LINES:
            found.append(f"{name}: cell {number} has {lines} lines; {CELL_LINES} at most")
        if _ABSOLUTE.search(cell.source):
            found.append(f"{name}: cell {number} holds an absolute path; start from the root")
    if not target.is_file():
        return [*found, f"{target.relative_to(root)}: missing; {cure}"]
    return found + _stored_problems(notebook, target, root)


def _stored_problems(notebook: NotebookNode, target: Path, root: Path) -> list[str]:
    """What is wrong with the notebook file, given what its text says."""
    name, found = target.relative_to(root), []
    stored = nbformat.read(target, as_version=4)
    mine = [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]
    theirs = [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in stored.cells]
    if mine != theirs:
        found.append(f"{name}: differs from its text; run `python -m kdlib.notebook sync`")
    if stored.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append(f"{name}: the kernel must be called python3")
    cure = "run `python -m kdlib.notebook store`"
    for number, cell in enumerate(stored.cells, 1):
        if cell.cell_type != "code":
            continue
        # nbval compares nothing, and passes, where a reference was never run.
        if is_checked(cell) and not (cell.execution_count and cell.outputs):
            found.append(f"{name}: checked cell {number} has no stored output; {cure}")
        if any(output.output_type == "error" for output in cell.outputs):
            found.append(f"{name}: cell {number} stores an error; {cure}")
        if _ABSOLUTE.search("\n".join(map(str, cell.outputs))):
            found.append(f"{name}: the output of cell {number} holds an absolute path; {cure}")
    return found


def is_checked(cell: NotebookNode) -> bool:
    """Whether nbval compares this cell's output."""
    return CHECKED in cell.metadata.get("tags", []) or "# NBVAL_CHECK_OUTPUT" in cell.source
