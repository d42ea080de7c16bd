"""The shape of the house: which room may import which, and what a new paper costs."""

import ast
from pathlib import Path

import pytest

from kdlib import config
from kdlib.report import readme

ROOT = Path(__file__).parents[1]
FLOORS = {
    "files": 0, "blocks": 0, "config": 1, "runtime": 1, "checkpoint": 1, "progress": 1, "resize": 1,
    "detection": 1,
    "schedule": 2, "resuming": 2, "losses": 2, "metrics": 2, "models": 2, "data": 2,
    "methods": 3, "teacher": 3, "views": 3,
    "unlabelled": 4, "training": 4, "evaluation": 4,
    "preparing": 5,
    "experiment": 6,
    "report": 7, "__main__": 8,
    "simulate": 2, "notebook": 8,
}  # fmt: skip


def room(module: str) -> str:
    """The room of a module of kdlib, as "data" for kdlib.data.layouts."""
    return module.split(".")[1]


def imports(path: Path) -> set[str]:
    """The modules of kdlib that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "kdlib":
                found |= {f"kdlib.{name.name}" for name in node.names}
            else:
                found.add(node.module)
    return {name for name in found if name.startswith("kdlib.")}


def modules() -> list[Path]:
    return sorted(p for p in (ROOT / "kdlib").rglob("*.py") if p != ROOT / "kdlib/__init__.py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards(path):
    own = path.relative_to(ROOT / "kdlib").parts[0].removesuffix(".py")
    assert own in FLOORS, f"{own}: a new room needs a floor, here and in the README"
    for other in {room(name) for name in imports(path)} - {own}:
        assert FLOORS[other] < FLOORS[own], f"{own} (floor {FLOORS[own]}) imports {other}"


def test_a_method_is_known_in_one_place_only():
    """A new method costs its class and a line in `methods.build`: no other room asks its name."""
    names = ("supervised", "distil", "matching", "structured", "imitation", "affinity")
    for path in modules():
        if path.name == "config.py" or {"methods", "report"} & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                values = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
                assert not set(values) & set(names), f"{path}: line {node.lineno} asks for a method"


def test_every_paper_has_its_files():
    """One loss file, a test of it, a folder of notebooks, published figures: what a paper costs."""
    papers = {
        "funmatch": ("matching", "function_matching"),
        "structured": ("structured", "structured_kd"),
        "imitation": ("imitation", "feature_imitation"),
        "affinity": ("affinity", "inter_region_affinity"),
    }
    for paper, (loss, figures) in papers.items():
        assert (ROOT / f"kdlib/losses/{loss}.py").is_file()
        assert (ROOT / f"tests/test_{loss}.py").is_file()
        assert (ROOT / f"published/{figures}.yaml").is_file()
        assert list((ROOT / "notebooks/py" / paper).glob("*_results.py"))
        params = config.read_params(ROOT / "params.yaml")
        assert any(name.startswith(f"{paper}-") for name in params["runs"])


def test_the_readme_shows_what_the_results_hold():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.filled(text, readme.block(ROOT)) == text, "run python -m kdlib.report.readme"


def test_a_readme_without_markers_is_refused():
    with pytest.raises(ValueError, match="once each"):
        readme.filled("# no markers", "x")
