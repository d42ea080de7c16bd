"""A table in three forms: numbers, text for readers, and footnotes that travel with both."""

import html
import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kdlib import files


@dataclass(frozen=True, repr=False)
class Table:
    """frame: numbers, one row each; shown: the same as text; notes: footnotes, provenance last."""

    title: str
    frame: pd.DataFrame
    shown: pd.DataFrame
    notes: tuple[str, ...] = ()

    def to_markdown(self) -> str:
        """GitHub's Markdown: title, table, one footnote a line."""
        header = [str(column) for column in self.shown.columns]
        lines = [_row(header), _row(_rule(self.shown[c]) for c in self.shown.columns)]
        lines += [_row(row) for row in self.shown.itertuples(index=False)]
        notes = "".join(f"\n\n<sub>{_inline(note)}</sub>" for note in self.notes)
        return f"**{_inline(self.title)}**\n\n" + "\n".join(lines) + notes + "\n"

    def to_csv(self) -> str:
        """The numbers with all their digits; title and footnotes as lines that begin with #."""
        text = io.StringIO()
        for line in (self.title, *self.notes):
            text.write(f"# {' '.join(line.split())}\n")
        self.frame.to_csv(text, index=False, lineterminator="\n")
        return text.getvalue()

    def to_html(self) -> str:
        """An HTML fragment; every text is escaped."""
        body = self.shown.to_html(index=False, escape=True, border=0)
        notes = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in self.notes)
        return f"<p><b>{html.escape(self.title)}</b></p>\n{body}\n{notes}"

    def save(self, path: Path | str) -> tuple[Path, Path]:
        """Write `<path>.md` and `<path>.csv`; returns both."""
        path = Path(path)
        written = (path.with_name(path.name + ".md"), path.with_name(path.name + ".csv"))
        for target, text in zip(written, (self.to_markdown(), self.to_csv()), strict=True):
            files.write(target, text.encode())
        return written

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        return self.to_markdown()


def _row(cells) -> str:
    return "| " + " | ".join(_inline(cell) for cell in cells) + " |"


def _rule(column: pd.Series) -> str:
    """Numbers to the right: a column whose filled cells all hold a digit and are short."""
    filled = [str(cell) for cell in column if any(c.isalnum() for c in str(cell))]
    digits = [cell for cell in filled if cell[:1] in "0123456789+−-"]
    return "---:" if digits and all(len(cell) <= 20 for cell in filled) else "---"


def _inline(cell: object) -> str:
    """Text that can't end a cell, start a tag or open a list of its own."""
    text = " ".join(str(cell).split())
    for mark, safe in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), (">", "&gt;"), ("*", "\\*")):
        text = text.replace(mark, safe)
    return text
