"""Run a notebook by the name of its run, as DVC's stages do.

Names are all that a command line carries: `--run`, `--scale` and `--seed` reach the notebook as
typed values, and params.yaml says what they mean. papermill's own command line reads numbers with
YAML 1.1 rules and lets unknown names pass; its Python interface, used here, does neither.

Exit codes: 0, 1 for an error in the notebook or the call, 138 for a kernel that died.
"""

import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from kdlib.config import load_run
from kdlib.notebook import NotebookError, check_tree, pairs, root_of

OK, FAILED, DEAD_KERNEL = 0, 1, 138
OUTPUT = "notebook.ipynb"
# Tags of the parameters cell: this page trains nothing; or its run's folder is one out of DVC and
# has the same bytes whenever it is made, which an executed notebook has not.
APART = {"reads-records", "own-folder"}
# Read by the kernel's process when it starts; what the user has set stays.
ENVIRONMENT = {
    "KDLIB_HEADLESS": "1",  # progress as lines, see kdlib.progress
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no warning about frozen modules
    "JUPYTER_PLATFORM_DIRS": "1",  # no warning about the place of configuration files
    # glibc keeps and reuses the memory of large tensors, in huge pages, where it would hand it back
    # and have it zeroed again at every step: about a tenth of a training step on a CPU.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296"
    ":glibc.malloc.trim_threshold=4294967296",
}
_CHECK = "from kdlib.notebook import check_tree; check_tree(); del check_tree"


def run(text: Path, given: dict[str, Any]) -> int:
    """Execute the notebook of a text with parameters; the exit code.

    The executed notebook goes to runs/<scale>/<run>/seed-<k>/notebook.ipynb, whole also when a cell
    fails (see `folder_of`). Raises NotebookError and ConfigError before
    anything starts.
    """
    root = root_of(text)
    check_tree(root)
    notebook = pairs.read_text(text)
    values = checked(pairs.parameters(notebook, str(text)), given, str(text))
    apart = any(APART & set(cell.metadata.get("tags", [])) for cell in notebook.cells)
    place = folder_of(values, text, root, apart) / OUTPUT
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})

    title = " ".join(str(values[key]) for key in ("run", "scale") if key in values)
    title += f" seed {values['seed']}" if "seed" in values else ""
    log = _Log(title or text.stem, notebook)
    started = time.monotonic()
    code = _execute(notebook, values, text, root / place, log)
    said = "done" if code == OK else "FAILED"
    log.say(f"{said} in {time.monotonic() - started:.0f} s: {place}")
    return code


def checked(known: dict[str, object], given: dict[str, Any], notebook: str) -> dict[str, Any]:
    """The notebook's parameters after the given ones; NotebookError for an unknown name or type."""
    for name, value in given.items():
        if name not in known:
            raise NotebookError(
                f"{notebook}: has no parameter {name!r}; its parameters: {', '.join(known)}"
            )
        if type(value) is not type(known[name]):
            kind = type(known[name]).__name__
            raise NotebookError(f"{notebook}: parameter {name} must be {kind}, not {value!r}")
    return {**known, **given}


def folder_of(values: dict[str, Any], text: Path, root: Path, apart: bool) -> Path:
    """Where the executed notebook goes, relative to the root; checks the run's name and scale.

    A notebook that trains lies beside what it made; one that is tagged so has its own folder.
    """
    scale, seed = values.get("scale", "any"), values.get("seed", 0)
    own = Path("runs") / scale / f"{text.parent.name}-{text.stem}" / f"seed-{seed}"
    if "run" not in values:
        return own
    before = Path.cwd()
    os.chdir(root)
    try:
        folder = load_run(values["run"], scale=scale, seed=seed).folder
    finally:
        os.chdir(before)
    return own if apart else folder


def _execute(
    notebook: NotebookNode, values: dict[str, Any], text: Path, target: Path, log: "_Log"
) -> int:
    root = root_of(text)
    target.parent.mkdir(parents=True, exist_ok=True)
    source = target.with_name(".notebook-in.ipynb")
    partial = target.with_name(".notebook-out.ipynb")
    check = nbformat.v4.new_code_cell(_CHECK, id="injected-check")
    check.metadata["tags"] = ["injected-check"]
    notebook = NotebookNode(notebook)
    notebook.cells = [check, *notebook.cells]
    source.write_text(pairs.dump(notebook), encoding="utf-8")
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        papermill.execute_notebook(
            source,
            partial,
            parameters=values,
            kernel_name="python3",
            cwd=root,
            progress_bar=False,
            log_output=True,
            start_timeout=120,
            extra_arguments=["--log-level=40"],  # errors of the kernel itself, not its remarks
        )
        return OK
    except PapermillExecutionError as error:
        log.say(f"cell {error.exec_count} failed:\n{error.source}\n")
        log.say(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", "\n".join(error.traceback)))
        return FAILED
    except DeadKernelError:
        log.say(
            "the kernel died: most often the machine ran out of memory (smaller batch, fewer "
            "workers), else a crash in compiled code. Run again: training goes on where it stopped."
        )
        return DEAD_KERNEL
    finally:
        signal.signal(signal.SIGTERM, before)
        source.unlink(missing_ok=True)
        if partial.is_file():
            _publish(partial, target, text, root)


def _stop(*_: Any) -> None:
    """A polite kill: unwind, so that the kernel ends and what has run is kept."""
    sys.exit(128 + signal.SIGTERM)


def _publish(partial: Path, target: Path, text: Path, root: Path) -> None:
    """Drop the launcher's own cell and machine paths, then move the executed notebook in place."""
    notebook = nbformat.read(partial, as_version=4)
    failed = any(
        output.output_type == "error"
        for cell in notebook.cells[:2]
        for output in cell.get("outputs", [])
    )
    if not failed:
        notebook.cells = [c for c in notebook.cells if c.get("id") != "injected-check"]
    papermill_notes = notebook.metadata.setdefault("papermill", {})
    papermill_notes["input_path"] = text.resolve().relative_to(root).as_posix()
    papermill_notes["output_path"] = target.relative_to(root).as_posix()
    nbformat.write(notebook, partial)
    os.replace(partial, target)


class _Log(logging.Handler):
    """papermill's messages as a log worth reading: a line per section, and what the cells print."""

    _NOISE = re.compile(r"Ending Cell|Input Notebook|Output Notebook|Working directory|Executing n")
    _OBJECTS = re.compile(r"^<(Figure|IPython|Axes|matplotlib)|^(interactive|HBox|VBox)\(")

    def __init__(self, title: str, notebook: NotebookNode):
        super().__init__(logging.INFO)
        self.title, self.section = title, ""
        # The launcher puts one cell in front, papermill its own one after the parameters.
        self.headings, heading = [""], ""
        for cell in notebook.cells:
            if cell.cell_type == "markdown" and (found := re.match(r"#+ +(.+)", cell.source)):
                heading = found.group(1).strip()
            copies = 2 if "parameters" in cell.metadata.get("tags", []) else 1
            self.headings += [heading] * copies
        logger = logging.getLogger("papermill")
        logger.handlers[:], logger.propagate = [self], False
        logger.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if found := re.match(r"Executing Cell (\d+)-", message):
            number = int(found.group(1))
            heading = self.headings[min(number, len(self.headings)) - 1]
            if heading != self.section:
                self.section = heading
                self.say(f"cell {number} of {len(self.headings)}: {heading}")
        elif not self._NOISE.match(message) and not self._OBJECTS.match(message):
            for line in re.split(r"[\r\n]+", message):
                if line.strip():
                    print(f"    {line.rstrip()}", flush=True)

    def say(self, message: str) -> None:
        """One line of the launcher's own."""
        print(f"[{self.title}] {message}", flush=True)
