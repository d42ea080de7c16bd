"""Which kdlib modules a notebook's code really uses, found without running it.

DVC re-runs a stage when a file in its `deps` changes. A missing module would hide a change; one too
many would retrain a network for a docstring. The import closure is neither.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

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


def start_of(command: str) -> Path | None:
    """The file whose imports decide a stage: the notebook's text, or a module run by its name."""
    words = command.split()
    if "kdlib.notebook" in words:
        after = words[words.index("kdlib.notebook") + 1 :]
        return Path(after[1]) if after[0] == "run" else Path(f"kdlib/notebook/{after[0]}.py")
    return None


def stages(root: Path) -> Iterator[tuple[str, str, dict]]:
    """(pipeline file, stage, definition) of every stage, not yet templated."""
    for name in PIPELINES:
        for stage, body in YAML(typ="safe").load((root / name).read_text())["stages"].items():
            yield name, stage, body


def wanted(command: str, root: Path) -> list[str] | None:
    """The kdlib files that the stage with this command must name; None for other commands."""
    start = start_of(command)
    if start is None:
        return None
    if not (root / start).is_file():
        raise NotebookError(f"{start}: a stage runs it, but there is no such file")
    return closure(root / start, root)


def listed(body: dict) -> list[str]:
    """The kdlib files that a stage names."""
    return [d for d in body.get("deps", []) if isinstance(d, str) and d.startswith("kdlib/")]


def differences(root: Path) -> list[str]:
    """Stages whose kdlib dependencies are not their import closure, one line each."""
    found = []
    for name, stage, body in stages(root):
        should = wanted(body["cmd"], root)
        if should is None:
            continue
        missing = sorted(set(should) - set(listed(body)))
        extra = sorted(set(listed(body)) - set(should))
        if missing or extra:
            found.append(f"{name}: {stage}: missing {missing}, too many {extra}")
    return found


def write(root: Path) -> list[str]:
    """Put the kdlib dependencies of every stage right, comments and order kept; files changed."""
    yaml, changed = YAML(), []
    yaml.width, yaml.preserve_quotes = 120, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    for name in PIPELINES:
        path = root / name
        before = path.read_text(encoding="utf-8")
        document = yaml.load(before)
        for body in document["stages"].values():
            should = wanted(body["cmd"], root)
            if should is None or sorted(listed(body)) == should:
                continue
            deps = body["deps"]
            for old in listed(body):
                deps.remove(old)
            deps[1:1] = should  # after the notebook's text, which comes first
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(document, file)
        if path.read_text(encoding="utf-8") != before:
            changed.append(name)
    return changed
