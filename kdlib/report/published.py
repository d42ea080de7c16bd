"""Published figures as data, each with a mark that says how far it can be trusted.

Files: `published/<paper>.yaml`. The head of a file explains its keys.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

TRUST = MappingProxyType(  # mark in tables, and the footnote that explains it
    {
        "verified": ("", ""),
        "slides": ("†", "read on the authors' slides; the paper's own tables could not be read"),
        "repository": ("§", "read in the authors' repository (readme, names of its files)"),
        "measured": ("✓", "in the name of a released file, and measured again from that file"),
        "pictures": ("◦", "read in pictures of the paper's tables, as a third party keeps them"),
        "derived": ("⁼", "derived: the student's printed figure and the printed change"),
        "plot": ("≈", "read off the paper's plot, good to 0.2 points"),
        "notes": (
            "¶",
            "unverified: read in issues of the authors' repository, in third-party notes or in "
            "quotations of the paper",
        ),
        "unverified": ("‡", "unverified: from memory or from a third party"),
    }
)
SHARED_KEYS = ("rows", "digits")  # of a table, kept with its figures
LEDGER_KEYS = ("topic", "paper", "code", "ours", "why")
TASK = "task"  # of a deviation that concerns one task only
CHANGED = "baseline"  # the row that a printed change starts from


class PublishedError(ValueError):
    """A file of published figures that can't be used."""


@dataclass(frozen=True)
class Figure:
    """One published number. value: percent; text: with the printed digits and the trust mark.

    parts: further printed numbers of the row by name, such as the scores of its classes.
    """

    value: float
    trust: str
    digits: int
    model: str = ""
    learns_from: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return f"{self.value:.{self.digits}f}{TRUST[self.trust][0]}"


@dataclass(frozen=True)
class PublishedTable:
    """One published table: rows by the names that our tables use."""

    title: str
    metric: str
    split: str
    selection: str
    spread: str
    rows: MappingProxyType[str, Figure]

    def gap_recovered(self, row: str) -> float | None:
        """(row - supervised) / (teacher - supervised) in percent, from the printed values."""
        wanted = [self.rows.get(name) for name in (row, "supervised", "teacher")]
        if any(figure is None for figure in wanted):
            return None
        student, supervised, teacher = (figure.value for figure in wanted)
        gap = teacher - supervised
        return 100 * (student - supervised) / gap if gap else None

    def notes(self, shown: Iterable[str] | None = None) -> tuple[str, ...]:
        """Footnotes: what each mark means, which split, how the runs were chosen.

        shown: rows whose figures a table shows, None for all; marks of others are left out.
        """
        names = self.rows if shown is None else shown
        figures = [self.rows[name] for name in names if name in self.rows]
        used = sorted({figure.trust for figure in figures} - {"verified"})
        marks = [f"{TRUST[name][0]} {TRUST[name][1]}." for name in used]
        facts = f"Published: split {self.split}; {self.selection}; spread: {self.spread}."
        return (*marks, facts)


@dataclass(frozen=True)
class Published:
    """All that is published on one paper: facts of the paper, tables, statements, deviations."""

    path: Path
    paper: MappingProxyType[str, Any]
    tables: MappingProxyType[str, PublishedTable]
    statements: tuple[MappingProxyType[str, str], ...]
    deviations: tuple[MappingProxyType[str, str], ...]


def load(path: Path | str) -> Published:
    """Read a file of published figures. Raises PublishedError naming file, place and cure."""
    path = Path(path)
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PublishedError(f"{path}: no such file; restore it from git") from None
    except YAMLError as error:
        raise PublishedError(f"{path}: not valid YAML: {error}") from None
    _keys(raw, ("paper", "tables", "statements", "deviations"), str(path))
    for i, statement in enumerate(raw["statements"]):
        _keys(statement, ("trust", "text"), f"{path}: statements[{i}]")
        _trust(statement["trust"], f"{path}: statements[{i}]")
    for i, deviation in enumerate(raw["deviations"]):
        wanted = LEDGER_KEYS + ((TASK,) if TASK in deviation else ())
        _keys(deviation, wanted, f"{path}: deviations[{i}]")
    tables = {
        name: _table(block, f"{path}: tables.{name}") for name, block in raw["tables"].items()
    }
    return Published(
        path=path,
        paper=MappingProxyType(raw["paper"]),
        tables=MappingProxyType(tables),
        statements=tuple(MappingProxyType(s) for s in raw["statements"]),
        deviations=tuple(
            MappingProxyType({key: str(d.get(key, "")) for key in (*LEDGER_KEYS, TASK)})
            for d in raw["deviations"]
        ),
    )


def _table(block: Any, where: str) -> PublishedTable:
    _keys(block, ("title", "metric", "digits", "split", "selection", "spread", "rows"), where)
    rows: dict[str, Figure] = {}
    for name, figure in block["rows"].items():
        here = f"{where}.rows.{name}"
        optional = {key for key in ("digits", "parts") if key in figure}
        wanted = "change" if "change" in figure else "value"
        _keys(figure, (wanted, "trust", "model", "learns_from", *optional), here)
        _trust(figure["trust"], here)
        for key, value in {wanted: figure[wanted], **figure.get("parts", {})}.items():
            if not isinstance(value, float):
                raise PublishedError(f"{here}.{key}: expected a float, found {value!r}")
        if wanted == "change":
            figure = _changed(figure, rows.get(CHANGED), here)
        rows[name] = Figure(**{"digits": block["digits"]} | figure)
    facts = {key: str(value) for key, value in block.items() if key not in SHARED_KEYS}
    return PublishedTable(rows=MappingProxyType(rows), **facts)


def _changed(figure: dict[str, Any], start: Figure | None, where: str) -> dict[str, Any]:
    """The figure with values in place of changes, rounded to what was printed."""
    if start is None or figure["trust"] != "derived":
        raise PublishedError(
            f"{where}: a change needs the row {CHANGED!r} above it and the trust 'derived'"
        )
    parts = {name: start.parts[name] + by for name, by in figure.get("parts", {}).items()}
    rest = {key: value for key, value in figure.items() if key != "change"}
    return rest | {"value": start.value + figure["change"], "parts": parts}


def _keys(block: Any, expected: tuple[str, ...], where: str) -> None:
    if not isinstance(block, dict) or set(block) != set(expected):
        found = sorted(block) if isinstance(block, dict) else repr(block)
        raise PublishedError(f"{where}: expected the keys {sorted(expected)}, found {found}")


def _trust(mark: str, where: str) -> None:
    if mark not in TRUST:
        raise PublishedError(f"{where}: unknown trust {mark!r}; known: {', '.join(TRUST)}")
