"""Which kdlib modules a notebook's code really uses, found without running it, and their hashes.

    python -m kdlib.notebook code notebooks/py/PAPER kdlib/notebook/inputs.py --out FOLDER

writes FOLDER/<page>.json: the modules that the page's text imports, directly or not, each with the
hash of its content. It is the first stage of a paper's pipeline, takes a second, and runs again
when anything under kdlib/ changes; a stage depends on its page's file, so it runs again only when a
module changed that it uses. A missing module would hide a change; one too many would retrain a
network for a docstring. The import closure is neither.
"""

import ast
import functools
import json
from collections.abc import Iterator
from pathlib import Path

from kdlib import files
from kdlib.notebook import NotebookError

PIPELINES = ("dvc.yaml", "evidence/dvc.yaml", "evidence/camvid/dvc.yaml")


def closure(start: Path, root: Path) -> list[str]:
    """Files under kdlib/ that `start` imports, directly or not, as paths relative to the root.

    Imports inside functions count, those under `if TYPE_CHECKING` do not. A package's `__init__.py`
    counts only where it holds more than a docstring and names such as `__version__`.
    """
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        for path in _imported(waiting.pop(), root):
            if path not in found:
                found.add(path)
                waiting.append(path)
    kept = (p for p in found if p.name != "__init__.py" or not _is_empty(p))
    return sorted(p.relative_to(root).as_posix() for p in kept)


def _imported(path: Path, root: Path) -> list[Path]:
    return _imported_as_of(path, root, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1024)  # fifty stages import much the same hundred files
def _imported_as_of(path: Path, root: Path, changed: int) -> list[Path]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return list(_named(tree, path, root))


def _named(tree: ast.AST, path: Path, root: Path) -> Iterator[Path]:
    for node in _outside_type_checking(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield from _files(name.name, root)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.relative_to(root).with_suffix("").parts[: -node.level]
                base = ".".join((*package, base)).rstrip(".")
            for name in node.names:
                # `from package import name`: a module of that name, or something inside package.
                yield from _files(f"{base}.{name.name}", root)


def _outside_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _outside_type_checking(node)


def _files(name: str, root: Path) -> Iterator[Path]:
    """The files that importing a dotted name runs, as far as they lie in kdlib."""
    parts = name.split(".")
    if parts[0] != "kdlib":
        return
    for end in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:end])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                yield file


def _is_empty(path: Path) -> bool:
    """Whether a file holds only a docstring and dunder names."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        targets = getattr(node, "targets", None) or [None]
        if all(getattr(t, "id", "").startswith("__") for t in targets):
            continue
        return False
    return True


def write(starts: list[Path], out: Path, root: Path) -> list[Path]:
    """A file per text: out/<place below its start>.json, {module: hash of its content}.

    `starts` are folders, searched for *.py, or single files. Raises NotebookError for a start that
    is not there or holds no text.
    """
    written = []
    for start in starts:
        base, texts = start.parent, [start]
        if start.is_dir():
            base, texts = start, sorted(start.rglob("*.py"))
        if not texts or not texts[0].is_file():
            raise NotebookError(f"{start}: no text there. Name a folder of texts, or one of them.")
        for text in texts:
            hashes = {name: files.content_hash(root / name) for name in closure(text, root)}
            path = out / text.relative_to(base).with_suffix(".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.atomic(path) as temporary:
                Path(temporary).write_text(json.dumps(hashes, indent=1) + "\n")
            written.append(path)
    return written
