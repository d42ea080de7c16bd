"""Fills the README's first screen from the results: `python -m kdlib.report.readme`.

The block between the two markers is a copy of what the results stage wrote; a test holds the two
together, so that the README never shows a number that no record holds.
"""

import sys
from pathlib import Path

from kdlib import config, files

BEGIN = "<!-- results:begin (written by `python -m kdlib.report.readme`) -->"
END = "<!-- results:end -->"
SUMMARY = Path("results/funmatch/sample/summary")
REAL = {  # folder of the results -> the teacher
    Path("results/funmatch/sample/camvid-summary"): "a released ESPNet as the teacher",
    Path("results/funmatch/sample/camvidown-summary"): "a teacher of our own, same 30 labels",
}
MORE = {  # folder of the results -> what they are of
    Path("results/funmatch/sample/det-summary"): "Function matching with boxes",
    Path("results/structured/sample/summary"): "Structured distillation",
    Path("results/imitation/sample/summary"): "Feature imitation",
    Path("results/affinity/sample/summary"): "Inter-region affinity",
}


def block(root: Path) -> str:
    """Findings, a figure and short tables, as Markdown; links are relative to the root.

    Real images and what comes after masks have a part where their results are there.
    """
    folder = root / SUMMARY
    finding = (folder / "finding.md").read_text(encoding="utf-8").strip()
    table = (folder / "short.md").read_text(encoding="utf-8").strip()
    picture = f"![{finding.splitlines()[0]}]({SUMMARY}/headline.png)"
    parts = [f"**On simulated driving video: {finding.splitlines()[0]}**", picture, table]
    for place, teacher in REAL.items():
        if (root / place / "finding.md").is_file():
            real = (root / place / "finding.md").read_text(encoding="utf-8").splitlines()[0]
            words = f"CamVid, 30 labels of one drive, {teacher}"
            parts.append(f"**On real images** ({words}): {real} [Table and figures]({place}).")
    for place, what in MORE.items():
        if (root / place / "finding.md").is_file():
            said, *more = _lines(root / place / "finding.md")
            where = f"[Figures, full table, deviations]({place})"
            parts.append(f"**{what}, on simulated pictures: {said}** {where}.")
            table = (root / place / "short.md").read_text(encoding="utf-8").strip()
            parts.append(table)
            if (root / place / "clip.gif").is_file():
                parts.append(f"![{what} in motion]({place}/clip.gif)")
            if further := " ".join(line for line in more if line not in table):
                parts.append(f"Further: {further}")
    return "\n\n".join(parts)


def _lines(path: Path) -> list[str]:
    """The lines of a text that say something."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def filled(text: str, content: str) -> str:
    """The README's text with `content` between the markers. Raises ValueError without markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md: needs the lines {BEGIN!r} and {END!r} once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Rewrite README.md; the exit status."""
    root = config.repository()
    path = root / "README.md"
    files.write(path, filled(path.read_text(encoding="utf-8"), block(root)).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
